//! What only a role's image can say, in the `[config]` of its profile.
//!
//! These keys say how a node comes by its configuration, or what a configuration may do. A configuration that said so
//! itself would come too late or decide about itself, so they are errors anywhere but in the role's defaults.

use super::problem::Findings;
use super::tree::Node;

/// The keys, and where they belong.
const KEYS: [(&str, &str); 3] = [
    ("run.allow_commands", "write it as [config.run] in the role's profile"),
    ("seal.require_signed", "write it as [config.seal] in the role's profile"),
    ("media_wait", "write it as [config] in the role's profile, or ingot.media_wait= on the kernel command line"),
];

/// Refuses them in a document that is not the role's defaults.
pub fn refuse_what_only_roles_say(document: &Node, findings: &mut Findings) {
    for (key, help) in KEYS {
        let mut node = Some(document);
        let mut place = None;
        for name in key.split('.') {
            let entry = node.and_then(Node::as_table).and_then(|table| table.get(name));
            (node, place) = (entry.map(|entry| &entry.node), entry.map(|entry| &entry.key));
        }
        if let Some(place) = place {
            findings.error(place, key, "can only be said by the role's image", help);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Document, Format, Machine, load, media_wait_of};

    fn document(format: Format, text: &str) -> Document {
        Document { name: "f".into(), format, bytes: text.as_bytes().to_vec() }
    }

    #[test]
    fn only_a_role_says_what_is_its_own() {
        let said = [
            ("media_wait = 5\n", "f:2:1: media_wait: can only be said"),
            ("[seal]\nrequire_signed = true\n", "f:3:1: seal.require_signed: can only be said"),
            ("[run]\nallow_commands = true\n", "f:3:1: run.allow_commands: can only be said"),
        ];
        for (text, expected) in said {
            assert!(load(&[document(Format::RoleToml, text)], &Machine::default()).is_ok(), "{text}");
            for part in [format!("version = 1\n{text}"), format!("hostname = \"a\"\n{text}")] {
                let format = if part.starts_with('v') { Format::NodeToml } else { Format::PartToml };
                let error = load(&[document(format, &part)], &Machine::default()).unwrap_err().to_string();
                assert!(error.starts_with(expected), "{error}");
            }
        }
        let machine = "[[machine]]\nmatch = { serial = \"x\" }\nseal.require_signed = true\n";
        let error = load(&[document(Format::PartToml, machine)], &Machine::default()).unwrap_err().to_string();
        assert!(error.contains("seal.require_signed: can only be said by the role's image"), "{error}");
    }

    #[test]
    fn how_long_media_are_waited_for_is_known_whatever_else_a_role_lacks() {
        let wait = |text: &str| media_wait_of(&[document(Format::RoleToml, text)]).map(|wait| wait.as_secs());
        assert_eq!(wait("media_wait = 5\n[join]\ndriver = \"docker-swarm\"\n"), Some(5));
        assert_eq!(
            (wait("media_wait = 0\n"), wait("hostname = \"a\"\n"), wait("media_wait = \"x\"\n")),
            (Some(0), None, None)
        );
        assert_eq!(media_wait_of(&[]), None);
    }
}
