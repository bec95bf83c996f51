//! OpenStack's `vendor_data.json`: what it has for cloud-init.
//!
//! Takes the document as it lies on the medium, because that is what is signed; gives the tree of the vendor-data in it.

use std::sync::Arc;

use serde_json::Value;

use super::user_data;
use crate::config::problem::Findings;
use crate::config::tree::{Node, Origin};

/// The vendor-data in it: the text under the key `cloud-init`, or a text alone; `None` where it has none.
///
/// # Errors
/// What it is instead.
pub fn vendor_data(bytes: &[u8]) -> Result<Option<String>, &'static str> {
    let text = |value: Value| match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text).filter(|text| !text.trim().is_empty())),
        _ => Err("has something else than a text for cloud-init; it is not used"),
    };
    match serde_json::from_slice(bytes).map_err(|_| "is not valid JSON; it is not used")? {
        Value::Object(mut object) if object.is_empty() || object.contains_key("cloud-init") => {
            text(object.remove("cloud-init").unwrap_or_default())
        }
        Value::Object(_) => Err("has nothing under the key cloud-init; it is not used"),
        other => text(other),
    }
}

/// Reads a document. `None` after errors were added to `findings`; one that says nothing is an empty table.
pub fn vendor_data_json(document: &Arc<str>, bytes: &[u8], findings: &mut Findings) -> Option<Node> {
    match vendor_data(bytes) {
        Ok(Some(text)) => user_data(document, text.as_bytes(), findings),
        Ok(None) => Some(Node::table(Origin::document(document))),
        Err(wrong) => {
            findings.error(&Origin::document(document), "", wrong, "");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Document, Format, Machine, load};

    #[test]
    fn vendor_data_is_a_text_in_json() {
        assert_eq!(vendor_data(b"{\"cloud-init\": \"#cloud-config\\n\"}").unwrap().as_deref(), Some("#cloud-config\n"));
        assert_eq!(vendor_data(b"\"#cloud-config\"").unwrap().as_deref(), Some("#cloud-config"));
        assert_eq!((vendor_data(b"{}").unwrap(), vendor_data(b"null").unwrap()), (None, None));
        assert!(vendor_data(b"{\"cloud-init\": [1]}").is_err() && vendor_data(b"{\"static\": 1}").is_err());
        assert!(vendor_data(b"no json").is_err());
    }

    #[test]
    fn it_becomes_configuration_as_it_lies_there() {
        let name = |text: &str| {
            let bytes = text.as_bytes().to_vec();
            let document = Document { name: "config-2:vendor_data.json".into(), format: Format::VendorDataJson, bytes };
            load(&[document], &Machine::default()).map(|loaded| loaded.config.hostname.map(|name| name.to_string()))
        };
        assert_eq!(name("{\"cloud-init\": \"#cloud-config\\nhostname: a\\n\"}").unwrap().as_deref(), Some("a"));
        assert_eq!(name("{}").unwrap(), None);
        assert!(name("[]").unwrap_err().to_string().contains("has something else than a text"));
    }
}
