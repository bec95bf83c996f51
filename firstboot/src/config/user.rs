//! `[[user]]`: accounts of people beside root.
//!
//! They log in with keys; an appliance has no passwords. Users of services belong onto the image.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::fields::Fields;
use super::file::{NodePath, closed};
use super::problem::Findings;
use super::tree::{Node, Value};
use super::values::SshKey;

/// Numbers of people's accounts, as Debian's policy gives them.
const UIDS: std::ops::RangeInclusive<i64> = 1000..=59999;

/// An account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct User {
    /// Its name.
    pub name: AccountName,
    /// Whose it is, for people.
    pub comment: String,
    /// Its number; the first free one from 1000 on where it is not given.
    pub uid: Option<u32>,
    /// The groups it is in besides its own.
    pub groups: Vec<AccountName>,
    /// What it may do with sudo.
    pub sudo: Vec<SudoRule>,
    /// Its shell.
    pub shell: Option<NodePath>,
    /// Its home directory; below `/home` where it is not given.
    pub home: Option<NodePath>,
    /// The keys that may log in as it.
    pub authorized_keys: Vec<SshKey>,
}

impl User {
    /// Its home directory.
    pub fn home(&self) -> String {
        self.home.as_ref().map_or_else(|| format!("/home/{}", self.name), ToString::to_string)
    }
}

/// The name of a user or a group: a small letter or `_`, then small letters, digits, `_` and `-`, at most 32.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AccountName(String);

impl AccountName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for AccountName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl FromStr for AccountName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let begins = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
        if text.len() <= 32 && begins && text.chars().all(good) {
            return Ok(Self(text.to_owned()));
        }
        Err("is no name of a user or a group: small letters, digits, _ and -, a letter first, at most 32".into())
    }
}

/// A rule of sudoers(5) without the user: `ALL=(ALL) NOPASSWD:ALL`. Whether sudo takes it the node asks sudo itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SudoRule(String);

impl fmt::Display for SudoRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for SudoRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl FromStr for SudoRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.chars().any(char::is_control) || text.ends_with('\\') || text.len() > 1000 {
            return Err("is no rule of sudo: one line of at most 1000 characters".into());
        }
        if !text.contains('=') {
            return Err("is no rule of sudo, such as ALL=(ALL) NOPASSWD:ALL".into());
        }
        Ok(Self(text.trim().to_owned()))
    }
}

/// Reads the `[[user]]` parts.
pub fn read(nodes: &[Node], findings: &mut Findings) -> Vec<User> {
    let mut users: Vec<User> = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let path = format!("user[{index}]");
        let Some(user) = read_one(node, &path, findings) else { continue };
        if users.iter().any(|other| other.name == user.name) {
            findings.error(&node.origin, &path, format!("{} is there already", user.name), "give each user once");
        } else if user.uid.is_some() && users.iter().any(|other| other.uid == user.uid) {
            findings.error(&node.origin, &format!("{path}.uid"), "is another user's number", "");
        } else {
            users.push(user);
        }
    }
    users
}

fn read_one(node: &Node, path: &str, findings: &mut Findings) -> Option<User> {
    let fields = Fields::new(node, path, findings)?;
    let errors = findings.errors.len();
    let name: Option<AccountName> = fields.parsed("name", findings);
    match name.as_ref().map(AccountName::as_str) {
        Some("root") => {
            fields.error("name", "root is on every image", "its keys stand under [ssh] authorized_keys", findings);
        }
        None if fields.entry("name").is_none() => fields.missing("name", "give each user a name", findings),
        _ => {}
    }
    let comment = fields.text("comment", findings).unwrap_or_default().to_owned();
    if comment.contains(':') || comment.chars().any(char::is_control) || comment.len() > 200 {
        fields.error("comment", "has a colon or a control character, or more than 200 characters", "", findings);
    }
    let uid = fields.integer("uid", UIDS, findings).and_then(|uid| u32::try_from(uid).ok());
    let home: Option<NodePath> = fields.parsed("home", findings);
    if let Some(home) = &home {
        let elsewhere = ["/etc", "/var", "/root"].iter().any(|directory| home.is_below(directory));
        if let Some(why) = closed(home) {
            fields.error("home", why, "", findings);
        } else if elsewhere || home.as_str() == "/home" {
            fields.error("home", "is no place for a home directory", "choose one below /home", findings);
        } else if home.as_str().contains(':') {
            fields.error("home", "has a colon", "", findings);
        }
    }
    let shell: Option<NodePath> = fields.parsed("shell", findings);
    if shell.as_ref().is_some_and(|shell| shell.as_str().contains(':')) {
        fields.error("shell", "has a colon", "", findings);
    }
    let user = User {
        groups: fields.parsed_list("groups", findings),
        sudo: sudo(&fields, findings),
        authorized_keys: fields.parsed_list("authorized_keys", findings),
        name: name?,
        comment,
        uid,
        shell,
        home,
    };
    (findings.errors.len() == errors).then_some(user)
}

/// `true` for everything, or a list of rules.
fn sudo(fields: &Fields<'_>, findings: &mut Findings) -> Vec<SudoRule> {
    match fields.entry("sudo").map(|entry| &entry.node.value) {
        // There is no password that sudo could ask for.
        Some(Value::Boolean(true)) => vec![SudoRule("ALL=(ALL:ALL) NOPASSWD:ALL".into())],
        Some(Value::Boolean(false)) | None => Vec::new(),
        Some(Value::Array(_)) => fields.parsed_list("sudo", findings),
        Some(other) => {
            let help = "write true, or a list of rules: [\"ALL=(ALL) NOPASSWD:/usr/bin/systemctl\"]";
            fields.error("sudo", format!("is {}", other.kind()), help, findings);
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(text: &str) -> Result<Vec<User>, String> {
        let mut findings = Findings::default();
        let tree = crate::config::parse::toml_tree(&std::sync::Arc::from("f"), text.as_bytes(), &mut findings).unwrap();
        let Value::Array(nodes) = &tree.as_table().unwrap()["user"].node.value else { panic!() };
        let users = read(nodes, &mut findings);
        findings.into_result(Some(users)).map(|(users, _)| users).map_err(|error| error.to_string())
    }

    #[test]
    fn a_user_has_its_defaults() {
        let found =
            users("[[user]]\nname = \"ops\"\n[[user]]\nname = \"dev\"\nsudo = true\nhome = \"/srv/dev\"\n").unwrap();
        assert_eq!((found[0].home().as_str(), found[0].uid, found[0].sudo.len()), ("/home/ops", None, 0));
        assert_eq!(found[1].sudo[0].to_string(), "ALL=(ALL:ALL) NOPASSWD:ALL");
        assert_eq!(found[1].home(), "/srv/dev");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, expected) in [
            ("comment = \"x\"", "name: is missing"),
            ("name = \"root\"", "[ssh] authorized_keys"),
            ("name = \"Ops\"", "is no name of a user"),
            ("name = \"a:b\"", "is no name of a user"),
            ("name = \"ops\"\nuid = 7", "from 1000 to 59999"),
            ("name = \"ops\"\ncomment = \"a:b\"", "has a colon"),
            ("name = \"ops\"\nhome = \"/usr/x\"", "read-only"),
            ("name = \"ops\"\nhome = \"/etc\"", "no place for a home"),
            ("name = \"ops\"\nhome = \"/home/../etc\"", "the part \"..\""),
            ("name = \"ops\"\nshell = \"bash\"", "not an absolute path"),
            ("name = \"ops\"\nsudo = \"ALL\"", "write true, or a list"),
            ("name = \"ops\"\nsudo = [\"ALL\"]", "is no rule of sudo"),
            ("name = \"ops\"\nsudo = [\"ALL=ALL\\nroot ALL=ALL\"]", "one line"),
            ("name = \"ops\"\ngroups = [\"a b\"]", "is no name of a user or a group"),
            ("name = \"ops\"\nauthorized_keys = [\"x\"]", "must begin with a key type"),
            ("name = \"ops\"\npassword = \"x\"", "unknown key"),
            ("name = \"ops\"\n[[user]]\nname = \"ops\"", "is there already"),
            ("name = \"ops\"\nuid = 1000\n[[user]]\nname = \"dev\"\nuid = 1000", "another user's number"),
        ] {
            let error = users(&format!("[[user]]\n{text}\n")).expect_err(text);
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }
}
