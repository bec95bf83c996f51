//! `[[file]]`: files that the configuration brings, and where a node lets it put them.
//!
//! An image is read-only. A node writes below `/etc` and `/var`, and below what its role declares as `persist`
//! (`/home` and `/root` on every node). Places that are never written on any node are refused here, with the reason;
//! whether another place is writable only the node knows, and says. What the first boot writes itself has keys of its
//! own, and its own state is nobody's.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};

use super::fields::Fields;
use super::problem::Findings;
use super::secret::SAMPLE_SECRET;
use super::tree::{Node, Value};
use super::user::AccountName;

/// The most bytes that a file may have.
pub const MAXIMUM_FILE_BYTES: usize = 1024 * 1024;

/// A file that the configuration brings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeFile {
    /// Where.
    pub path: NodePath,
    /// Its content, or what is added to the file's own; it may hold secrets.
    pub content: Content,
    /// The permissions.
    pub mode: u32,
    /// Whose it is; root's where it is not given.
    pub owner: Option<Owner>,
    /// Whether the content is added to what the file has without this configuration.
    pub append: bool,
}

/// A file's content. It is never shown, but stands for itself where steps are compared.
#[derive(Clone, PartialEq, Eq)]
pub struct Content(pub Vec<u8>);

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({})", digest(&self.0))
    }
}

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("({} bytes)", self.0.len()))
    }
}

/// The SHA-256 of a content in hex.
fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    crate::rendezvous::to_hex(&sha2::Sha256::digest(bytes))
}

/// Whose a file is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// The user's name.
    pub user: AccountName,
    /// The group's; the user's own where it is not given.
    pub group: Option<AccountName>,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.group {
            Some(group) => write!(f, "{}:{group}", self.user),
            None => write!(f, "{}", self.user),
        }
    }
}

impl FromStr for Owner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        Ok(Self { user: user.parse()?, group: group.filter(|group| !group.is_empty()).map(str::parse).transpose()? })
    }
}

/// An absolute path on a node without `.`, `..` and empty parts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodePath(String);

impl NodePath {
    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True where it is this directory or lies below it.
    pub fn is_below(&self, directory: &str) -> bool {
        self.0.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for NodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for NodePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl FromStr for NodePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix('/') else { return Err("is not an absolute path".into()) };
        if text.len() > 4095 {
            return Err("is too long for a path".into());
        }
        if text.chars().any(char::is_control) {
            return Err("has control characters".into());
        }
        for part in rest.split('/') {
            match part {
                "" => return Err("has an empty part, or ends with a slash".into()),
                "." | ".." => return Err(format!("has the part {part:?}; write the path without it")),
                part if part.len() > 200 => return Err("has a part that is too long for a file name".into()),
                _ => {}
            }
        }
        Ok(Self(text.to_owned()))
    }
}

/// Directories that no configuration writes to, and why.
const CLOSED: &[(&str, &str)] = &[
    ("/usr", "the image's root is read-only; the file belongs into the role's profile"),
    ("/bin", "the image's root is read-only; the file belongs into the role's profile"),
    ("/sbin", "the image's root is read-only; the file belongs into the role's profile"),
    ("/lib", "the image's root is read-only; the file belongs into the role's profile"),
    ("/lib64", "the image's root is read-only; the file belongs into the role's profile"),
    ("/boot", "what boots is the image's"),
    ("/efi", "what boots is the image's"),
    ("/proc", "it is no file but the kernel"),
    ("/sys", "it is no file but the kernel"),
    ("/dev", "it is no file but a device"),
    ("/run", "it is empty after every start"),
    ("/tmp", "it is empty after every start"),
    ("/var/run", "it is empty after every start"),
    ("/var/lib/ingot", "it is the state of the first boot itself"),
    ("/var/lib/dpkg", "it describes the image"),
];

/// Files that the first boot writes from keys of its own.
const OWN: &[(&str, &str)] = &[
    ("/etc/hostname", "hostname"),
    ("/etc/hosts", "hostname; it keeps what the image has"),
    ("/etc/localtime", "timezone"),
    ("/etc/timezone", "timezone"),
    ("/etc/machine-id", "nothing: every node has its own"),
    ("/etc/passwd", "[[user]]"),
    ("/etc/shadow", "[[user]]"),
    ("/etc/group", "[[user]]"),
    ("/etc/gshadow", "[[user]]"),
    ("/etc/.pwd.lock", "[[user]]"),
    ("/etc/ssh/authorized_keys.d", "ssh.authorized_keys or user.authorized_keys"),
    ("/etc/ssl/ingot", "[ca]"),
    ("/etc/ssl/certs", "[ca]"),
];

/// Says why a configuration cannot put a file there, if it cannot.
pub fn closed(path: &NodePath) -> Option<String> {
    if let Some((directory, why)) = CLOSED.iter().find(|(directory, _)| path.is_below(directory)) {
        return Some(format!("{directory} cannot be written: {why}"));
    }
    if let Some((_, key)) = OWN.iter().find(|(own, _)| path.is_below(own)) {
        return Some(format!("the first boot writes it itself, from {key}"));
    }
    let name = path.as_str().rsplit('/').next().unwrap_or_default();
    let host_key = path.is_below("/etc/ssh") && name.starts_with("ssh_host_");
    if host_key {
        return Some("host keys are written from ssh.host_keys".into());
    }
    let of_ingot = path.is_below("/etc") && name.contains("-ingot");
    of_ingot.then(|| "names with -ingot are those that the first boot writes itself".into())
}

/// Reads the `[[file]]` parts.
pub fn read(nodes: &[Node], findings: &mut Findings) -> Vec<NodeFile> {
    let mut files: Vec<NodeFile> = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let path = format!("file[{index}]");
        let Some(file) = read_one(node, &path, findings) else { continue };
        let same = files.iter().find(|other| other.path == file.path);
        let within = files
            .iter()
            .find(|other| other.path.is_below(file.path.as_str()) || file.path.is_below(other.path.as_str()));
        if let Some(other) = same.or(within) {
            let message = format!("{} is there already, as {}", file.path, other.path);
            findings.error(&node.origin, &path, message, "give each file once");
            continue;
        }
        files.push(file);
    }
    files
}

fn read_one(node: &Node, path: &str, findings: &mut Findings) -> Option<NodeFile> {
    let fields = Fields::new(node, path, findings)?;
    let errors = findings.errors.len();
    let place: Option<NodePath> = fields.parsed("path", findings);
    if let Some(why) = place.as_ref().and_then(closed) {
        fields.error("path", why, "", findings);
    } else if fields.entry("path").is_none() {
        fields.missing("path", "say where: path = \"/etc/...\"", findings);
    }
    let content = content(&fields, findings);
    let mode = mode(&fields, findings);
    let owner = fields.parsed("owner", findings);
    let append = fields.boolean("append", findings).unwrap_or(false);
    if findings.errors.len() > errors {
        return None;
    }
    Some(NodeFile { path: place?, content: content?, mode: mode.unwrap_or(0o644), owner, append })
}

fn content(fields: &Fields<'_>, findings: &mut Findings) -> Option<Content> {
    let bytes = match (fields.entry("content"), fields.entry("content_base64")) {
        (Some(_), Some(_)) => {
            fields.error("content_base64", "stands beside content", "give one of them", findings);
            return None;
        }
        (None, None) => {
            fields.missing("content", "give the file's text, or its bytes as content_base64", findings);
            return None;
        }
        (Some(_), None) => fields.text("content", findings)?.as_bytes().to_vec(),
        (None, Some(_)) => {
            let text = fields.text("content_base64", findings)?;
            let digits: String = text.split_ascii_whitespace().collect();
            let Ok(bytes) = STANDARD.decode(digits) else {
                fields.error("content_base64", "is not valid base64; was it cut off?", "", findings);
                return None;
            };
            bytes
        }
    };
    let key = if fields.entry("content").is_some() { "content" } else { "content_base64" };
    if bytes.len() > MAXIMUM_FILE_BYTES {
        fields.error(key, "is larger than 1 MiB", "large files belong onto the image or into a registry", findings);
        return None;
    }
    if bytes.windows(SAMPLE_SECRET.len()).any(|window| window == SAMPLE_SECRET.as_bytes()) {
        fields.error(key, "holds the sample's secret", "make one with `openssl rand -base64 32`", findings);
        return None;
    }
    Some(Content(bytes))
}

fn mode(fields: &Fields<'_>, findings: &mut Findings) -> Option<u32> {
    let entry = fields.entry("mode")?;
    let Value::Text(text) = &entry.node.value else {
        let message = format!("is {}, not a text", entry.node.value.kind());
        fields.error("mode", message, "write octal digits in quotes: \"0644\"", findings);
        return None;
    };
    let octal = (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if octal && mode <= 0o777 => Some(mode),
        Ok(_) if octal => {
            fields.error("mode", "has set-user-id, set-group-id or sticky bits", "give three digits", findings);
            None
        }
        _ => {
            fields.error("mode", "is no mode", "write three or four octal digits in quotes: \"0644\"", findings);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse::toml_tree;

    fn files(text: &str) -> Result<Vec<NodeFile>, String> {
        let mut findings = Findings::default();
        let tree = toml_tree(&std::sync::Arc::from("f"), text.as_bytes(), &mut findings).unwrap();
        let Value::Array(nodes) = &tree.as_table().unwrap()["file"].node.value else { panic!() };
        let files = read(nodes, &mut findings);
        findings.into_result(Some(files)).map(|(files, _)| files).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_has_its_defaults() {
        let found = files("[[file]]\npath = \"/etc/motd\"\ncontent = \"hi\\n\"\n").unwrap();
        assert_eq!((found[0].mode, found[0].append, &found[0].owner), (0o644, false, &None));
        let found = files(
            "[[file]]\npath = \"/home/ops/x\"\ncontent_base64 = \"AP8=\"\nmode = \"0600\"\nowner = \"ops:ops\"\nappend = true\n",
        )
        .unwrap();
        assert_eq!((found[0].content.0.as_slice(), found[0].mode), (&[0, 255][..], 0o600));
        assert_eq!(found[0].owner.as_ref().unwrap().to_string(), "ops:ops");
    }

    #[test]
    fn places_that_are_not_written_are_refused_with_the_reason() {
        for (path, expected) in [
            ("etc/motd", "not an absolute path"),
            ("/etc/../var/lib/ingot/x", "the part \"..\""),
            ("/etc/./motd", "the part \".\""),
            ("/etc//motd", "an empty part"),
            ("/etc/", "ends with a slash"),
            ("/", "an empty part"),
            ("/etc/a\\nb", "control characters"),
            ("/usr/local/bin/x", "/usr cannot be written: the image's root is read-only"),
            ("/bin/sh", "read-only"),
            ("/run/x", "empty after every start"),
            ("/proc/sys/kernel/core_pattern", "the kernel"),
            ("/var/lib/ingot/journal", "state of the first boot"),
            ("/var/lib/ingot", "state of the first boot"),
            ("/etc/shadow", "from [[user]]"),
            ("/etc/hostname", "from hostname"),
            ("/etc/ssh/authorized_keys.d/root", "authorized_keys"),
            ("/etc/ssh/ssh_host_rsa_key", "ssh.host_keys"),
            ("/etc/systemd/network/10-ingot-00.network", "-ingot"),
        ] {
            let error = files(&format!("[[file]]\npath = \"{path}\"\ncontent = \"\"\n")).unwrap_err();
            assert!(error.contains(expected), "{path}: {error:?} lacks {expected:?}");
        }
        for path in [
            "/etc/usr",
            "/usrlocal/x",
            "/var/lib/ingots",
            "/srv/data/x",
            "/root/.bashrc",
            "/etc/ssh/sshd_config.d/x.conf",
        ] {
            files(&format!("[[file]]\npath = \"{path}\"\ncontent = \"\"\n")).unwrap_or_else(|e| panic!("{e}"));
        }
    }

    #[test]
    fn what_is_wrong_is_said_and_no_content_repeated() {
        for (text, expected) in [
            ("path = \"/etc/a\"", "content: is missing"),
            ("content = \"x\"", "path: is missing"),
            ("path = \"/etc/a\"\ncontent = \"hunter2\"\ncontent_base64 = \"\"", "stands beside content"),
            ("path = \"/etc/a\"\ncontent_base64 = \"hunter2\"", "not valid base64"),
            ("path = \"/etc/a\"\ncontent = \"\"\nmode = 644", "write octal digits in quotes"),
            ("path = \"/etc/a\"\ncontent = \"\"\nmode = \"4755\"", "set-user-id"),
            ("path = \"/etc/a\"\ncontent = \"\"\nmode = \"rwx\"", "is no mode"),
            ("path = \"/etc/a\"\ncontent = \"\"\nowner = \"Root\"", "owner"),
            ("path = \"/etc/a\"\ncontent = \"\"\nowners = \"root\"", "did you mean \"owner\"?"),
            ("path = \"/etc/a\"\ncontent = \"\"\n[[file]]\npath = \"/etc/a\"\ncontent = \"\"", "is there already"),
            ("path = \"/etc/a/b\"\ncontent = \"\"\n[[file]]\npath = \"/etc/a\"\ncontent = \"\"", "is there already"),
        ] {
            let error = files(&format!("[[file]]\n{text}\n")).unwrap_err();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{error:?} lacks {expected:?}");
        }
        let sample = format!("[[file]]\npath = \"/etc/a\"\ncontent = \"x {SAMPLE_SECRET}\"\n");
        assert!(files(&sample).unwrap_err().contains("sample's secret"));
        // The document would be refused before; a merged tree has no such bound.
        let mut findings = Findings::default();
        let origin = crate::config::Origin::document(&"f".into());
        let mut table = Node::table(origin.clone());
        let text = STANDARD.encode(vec![0; MAXIMUM_FILE_BYTES + 1]);
        for (key, text) in [("path", "/etc/a".to_owned()), ("content_base64", text)] {
            table.set(&[key], Node { origin: origin.clone(), value: Value::Text(text) });
        }
        assert!(read_one(&table, "file[0]", &mut findings).is_none());
        assert!(findings.errors[0].to_string().contains("larger than 1 MiB"), "{findings:?}");
    }

    proptest::proptest! {
        #[test]
        fn a_path_stays_where_it_points(text in "[a-c/.\u{0}-\u{2}]{0,12}") {
            if let Ok(path) = text.parse::<NodePath>() {
                proptest::prop_assert!(path.as_str().split('/').skip(1).all(|part| !part.is_empty() && part != ".." && part != "."));
                proptest::prop_assert_eq!(std::path::Path::new(path.as_str()).components().count(), text.split('/').count());
            }
        }
    }
}
