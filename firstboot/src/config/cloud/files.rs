//! `write_files` of cloud-config as `[[file]]`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::keys::applies;
use super::mime::base64_of;
use super::unpack::inflate;
use super::user_data::{boolean, is_null, list};
use super::yaml::{entries, items};
use crate::config::file::MAXIMUM_FILE_BYTES;
use crate::config::problem::Findings;
use crate::config::tree::{Node, Value};

/// Carries `write_files` over.
pub fn write_files(node: Node, tree: &mut Node, findings: &mut Findings) {
    let origin = node.origin.clone();
    let files: Vec<Node> =
        items(node, "write_files", findings).into_iter().filter_map(|item| file(item, findings)).collect();
    tree.set(&["file"], list(origin, files));
}

fn file(item: Node, findings: &mut Findings) -> Option<Node> {
    let origin = item.origin.clone();
    let mut file = Node::table(origin.clone());
    let (mut content, mut encoding) = (None, None);
    for (key, place, node) in entries(item, "write_files[]", &origin, findings) {
        if !applies("write_files[].", &key, &place, &node, findings) || is_null(&node) {
            continue;
        }
        match key.as_str() {
            "content" => content = Some(node),
            "encoding" => encoding = Some(node),
            "permissions" => file.set(&["mode"], mode(node, findings)?),
            "append" => {
                let value = Value::Boolean(boolean(&node, "write_files[].append", findings)?);
                file.set(&["append"], Node { origin: node.origin, value });
            }
            key => file.set(&[key], node),
        }
    }
    let place = content.as_ref().map_or_else(|| origin.clone(), |node| node.origin.clone());
    let bytes = match decoded(content.as_ref(), encoding.as_ref()) {
        Ok(bytes) => bytes,
        Err(what) => {
            findings.error(&place, "write_files[].content", what, "");
            return None;
        }
    };
    file.set(&["content_base64"], Node { origin: place, value: Value::Text(STANDARD.encode(bytes)) });
    Some(file)
}

fn decoded(content: Option<&Node>, encoding: Option<&Node>) -> Result<Vec<u8>, String> {
    let text = match content.map(|node| &node.value) {
        None => "",
        Some(Value::Text(text)) => text,
        Some(other) => return Err(format!("is {}, not a text", other.kind())),
    };
    let encoding = match encoding.map(|node| &node.value) {
        None => "text/plain".to_owned(),
        Some(Value::Text(encoding)) => encoding.trim().to_ascii_lowercase(),
        Some(other) => return Err(format!("has {} as its encoding", other.kind())),
    };
    let base64 = || base64_of(text).ok_or_else(|| "is not valid base64; was it cut off?".to_owned());
    match encoding.as_str() {
        "text/plain" | "" => Ok(text.as_bytes().to_vec()),
        "b64" | "base64" => base64(),
        // Compressed content is no text, so in YAML it is base64 in any case.
        "gz" | "gzip" | "gz+b64" | "gz+base64" | "gzip+b64" | "gzip+base64" => inflate(&base64()?, MAXIMUM_FILE_BYTES),
        _ => Err("has an encoding that cloud-init does not have; b64, gz+b64 and text/plain are known".to_owned()),
    }
}

/// Permissions as `node.toml` has them: octal digits. A number is what YAML makes of `0644`.
fn mode(node: Node, findings: &mut Findings) -> Option<Node> {
    let text = match &node.value {
        Value::Text(text) => text.trim().trim_start_matches("0o").to_owned(),
        Value::Integer(number @ 0..=0o7777) => format!("{number:04o}"),
        other => {
            let help = "write it in quotes: '0644'";
            findings.error(&node.origin, "write_files[].permissions", format!("is {}", other.kind()), help);
            return None;
        }
    };
    Some(Node { origin: node.origin, value: Value::Text(text) })
}
