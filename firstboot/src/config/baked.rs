//! Node configuration inside another document: the `[config]` of a role's profile, which becomes the role's defaults.
//!
//! The build checks it with the code that the node reads it with, where it is written: with file, line and column.

use std::sync::Arc;

use super::explain::explained;
use super::node::{Extent, read};
use super::parse::toml_tree;
use super::problem::{ConfigError, Findings, Problem};
use super::schema::{is_address, is_secret};
use super::tree::{Node, Value};

/// Checks the table at `path` in a TOML document as the defaults of a role; a table that is not there is right. Gives
/// the warnings.
///
/// # Errors
/// Everything that is wrong, each key with `path` before it. Also what an image must not hold: secrets, which everybody
/// who has the image could read, and `[[machine]]`.
pub fn check_within(name: &str, bytes: &[u8], path: &[&str]) -> Result<Vec<Problem>, ConfigError> {
    let mut findings = Findings::default();
    let Some(mut tree) = toml_tree(&Arc::from(name), bytes, &mut findings) else {
        return findings.into_result::<Vec<Problem>>(None).map(|(warnings, _)| warnings);
    };
    for key in path {
        match tree.remove(key) {
            Some(entry) => tree = entry.node,
            None => return Ok(Vec::new()),
        }
    }
    refuse_what_no_image_has(&mut tree, &mut findings);
    read(&tree, Extent::Part, &mut findings);
    let prefix = path.join(".");
    for problem in findings.errors.iter_mut().chain(&mut findings.warnings) {
        problem.key = if problem.key.is_empty() { prefix.clone() } else { format!("{prefix}.{}", problem.key) };
    }
    findings.into_result(Some(())).map(|((), warnings)| warnings)
}

fn refuse_what_no_image_has(tree: &mut Node, findings: &mut Findings) {
    for key in ["version", "machine"] {
        if let Some(entry) = tree.remove(key) {
            findings.error(&entry.key, key, "does not belong into a role's defaults", "it belongs into node.toml");
        }
    }
    for value in explained(tree).iter().filter(|value| is_secret(&value.key) && !is_open_address(tree, &value.key)) {
        let help = "everybody who has the image can read it; it belongs into node.toml";
        findings.error(&value.origin, &value.key, "is a secret, and an image must not hold one", help);
    }
}

/// True for the address of a proxy that has no user, so that there is nothing secret in it.
fn is_open_address(tree: &Node, key: &str) -> bool {
    let mut node = tree;
    for name in key.split('.') {
        let Value::Table(table) = &node.value else { return false };
        let Some(entry) = table.get(name) else { return false };
        node = &entry.node;
    }
    is_address(key) && matches!(&node.value, Value::Text(text) if !text.contains(['@', '?', '#']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        check_within("profiles/p.toml", text.as_bytes(), &["config"]).unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_checked_where_they_are_written() {
        let good = b"description = \"x\"\n[config.join]\ndriver = \"docker-swarm\"\nrole = \"worker\"\n";
        assert_eq!(check_within("p", good, &["config"]).unwrap(), []);
        assert_eq!(check_within("p", b"description = \"x\"\n", &["config"]).unwrap(), []);
        assert_eq!(
            refused("description = \"x\"\n\n[config.join]\ndrivr = \"docker-swarm\"\n"),
            "profiles/p.toml:4:1: config.join.drivr: unknown key (did you mean \"driver\"?)"
        );
        let error = refused("[config]\ntimezone = \"Mars/\\u0001\"\nntp = 3\n");
        assert!(error.contains("p.toml:2:12: config.timezone") && error.contains("p.toml:3:7: config.ntp"), "{error}");
        assert!(refused("config = 3\n").contains("p.toml:1:10: config: is a whole number"));
    }

    #[test]
    fn an_image_holds_no_secret() {
        let secret = "kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2fG9jLt4oMyB6s=";
        let error = refused(&format!("[config.join]\nsecret = \"{secret}\"\n"));
        assert!(error.starts_with("profiles/p.toml:2:10: config.join.secret: is a secret"), "{error}");
        assert!(!error.contains(secret));
        let proxy = |url: &str| format!("[config.proxy]\nhttp = \"{url}\"\n");
        let open = proxy("http://proxy.lan:3128");
        assert_eq!(check_within("p", open.as_bytes(), &["config"]).unwrap(), []);
        let error = refused(&proxy("http://user:c4n4ry@proxy.lan:3128"));
        assert!(error.contains("config.proxy.http: is a secret") && !error.contains("c4n4ry"), "{error}");
        let error = refused("[config]\nversion = 1\n[[config.machine]]\nmatch = { serial = \"x\" }\n");
        assert!(error.contains("config.version: does not belong") && error.contains("config.machine: does"), "{error}");
    }
}
