//! `ingot.config=URL` on the kernel command line, as a PXE server gives it.
//!
//! | parameter | meaning |
//! |---|---|
//! | `ingot.config=URL` | `http` or `https`; `__dmi.NAME__` in it becomes the machine's own value |
//! | `ingot.config.sha256=HEX` | the document must have this hash |
//!
//! The document is a `node.toml`, or whatever a user-data may be, where it is known for one. For `https` the image's
//! authorities count. Over plain `http` whoever is on the way can change the document; a hash, or `require_signed` in
//! the role, prevents that, and the node says so where neither is there.

use sha2::{Digest, Sha256};

use super::fetch::{Failed, fetch};
use super::firmware::substitute;
use super::{Found, Surroundings, signature_of_url};
use crate::config::cloud::is_user_data;
use crate::config::{Document, Format, SourceKind};
use crate::http::shown;
use crate::rendezvous::to_hex;

/// The parameter.
pub const PARAMETER: &str = "ingot.config";

pub fn look(surroundings: &Surroundings<'_>, found: &mut Found) {
    let Some(url) = surroundings.parameter(PARAMETER) else { return };
    let (url, wrong) = substitute(surroundings.host, url);
    let name = format!("{PARAMETER}:{}", shown(&url));
    found.notes.extend(wrong.iter().map(|wrong| format!("{name}: {wrong}")));
    if !url.starts_with("http://") && !url.starts_with("https://") {
        found.is_broken(SourceKind::Url, format!("{name}: it must begin with http:// or https://"));
        return;
    }
    let hash = surroundings.parameter("ingot.config.sha256").map(str::to_lowercase);
    found.absorb(surroundings.fetcher.keep(surroundings.host, &name, || {
        let nothing = || Failed::from(format!("{}: there is no such document", shown(&url)));
        let bytes = fetch(surroundings.host, &url)?.ok_or_else(nothing)?;
        if let Some(hash) = &hash
            && to_hex(&Sha256::digest(&bytes)) != *hash
        {
            return Err(Failed::from(format!("{}: the hash is not that of ingot.config.sha256", shown(&url))));
        }
        let mut fetched = Found { media: vec![name.clone()], ..Found::default() };
        if surroundings.signed {
            let signature = fetch(surroundings.host, &signature_of_url(&url))?;
            fetched.signatures.extend(signature.map(|signature| (name.clone(), signature)));
        } else if hash.is_none() && url.starts_with("http://") {
            fetched
                .notes
                .push(format!("{name}: it came over plain http, and anybody on the way could have changed it"));
        }
        let format = if is_user_data(&bytes) { Format::UserData } else { Format::NodeToml };
        fetched.documents.push(Document { name: name.clone(), format, bytes });
        Ok(fetched)
    }));
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answers, look_with};
    use super::*;
    use crate::host::simulated::SimulatedHost;

    fn host(command_line: &str, body: &str) -> SimulatedHost {
        let host = SimulatedHost::default();
        host.put("/proc/cmdline", command_line);
        answers(&host, "http://h/node.toml", body);
        host
    }

    #[test]
    fn a_document_is_fetched_and_named_by_its_address() {
        let host = host("quiet ingot.config=http://u:p@h/node.toml", "");
        answers(&host, "http://u:p@h/node.toml", "version = 1");
        let found = look_with(&host, look);
        assert_eq!(found.documents[0].name, "ingot.config:http://h/node.toml");
        assert_eq!((found.documents[0].format, found.pending.len()), (Format::NodeToml, 0));
        assert!(found.notes[0].contains("plain http"));
        answers(&host, "http://u:p@h/node.toml", "#cloud-config\nhostname: a\n");
        assert_eq!(look_with(&host, look).documents[0].format, Format::UserData);
        let mime =
            "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"b\"\n\n--b\n\n#cloud-config\n\n--b--\n";
        answers(&host, "http://u:p@h/node.toml", mime);
        assert_eq!(look_with(&host, look).documents[0].format, Format::UserData);
    }

    #[test]
    fn a_hash_is_kept_to() {
        let right = to_hex(&Sha256::digest("version = 1"));
        let line = format!("ingot.config=http://h/node.toml ingot.config.sha256={}", right.to_uppercase());
        let found = look_with(&host(&line, "version = 1"), look);
        assert_eq!((found.documents.len(), found.notes.len()), (1, 0));
        let found = look_with(&host(&line, "version = 2"), look);
        assert!(found.documents.is_empty() && found.pending[0].contains("the hash is not"), "{found:?}");
    }

    #[test]
    fn what_cannot_be_asked_for_is_said() {
        let found = look_with(&host("ingot.config=tftp://h/node.toml", ""), look);
        assert!(found.unreadable[0].contains("must begin with http://"), "{found:?}");
        assert_eq!(look_with(&host("quiet", ""), look), Found::default());
        let host = host("ingot.config=http://h/__dmi.system-uuid__.toml", "");
        host.put("/sys/class/dmi/id/product_uuid", "ab");
        answers(&host, "http://h/ab.toml", "version = 1");
        assert_eq!(look_with(&host, look).documents[0].name, "ingot.config:http://h/ab.toml");
    }
}
