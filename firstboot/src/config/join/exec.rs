//! `[join]` with `driver = "exec"`: a program of the image joins a cluster that has no driver of its own.

use std::time::Duration;

use serde::Serialize;

use super::credential;
use super::values::{AbsolutePath, ProgramName, UnitName};
use crate::config::fields::Fields;
use crate::config::node::Extent;
use crate::config::problem::Findings;
use crate::config::secret::Secret;
use crate::config::tree::{Node, Value};

/// Where the program finds its secrets.
pub const EXEC_SECRETS: &str = "/run/ingot/join-secrets";

/// A program that joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exec {
    /// Which.
    pub program: ProgramName,
    /// What it is told after its verb; public, as all arguments are.
    pub arguments: Vec<String>,
    /// Units that are started before it.
    pub units: Vec<UnitName>,
    /// How long one call may take.
    pub timeout: Duration,
    /// Files that it needs.
    pub files: Vec<ExecFile>,
    /// Secrets that it reads from files, by name.
    pub secrets: Vec<(String, Secret)>,
}

/// A file for the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExecFile {
    /// Where.
    pub path: AbsolutePath,
    /// Its text; it may hold secrets.
    pub content: Secret,
    /// Its permission bits.
    pub mode: u32,
}

pub fn read(fields: &Fields<'_>, extent: Extent, findings: &mut Findings) -> Option<Exec> {
    let errors_before = findings.errors.len();
    let program = fields.parsed("program", findings);
    let arguments: Vec<String> = fields.parsed_list("arguments", findings);
    if arguments.iter().any(|argument| argument.len() > 4000 || argument.contains('\0')) {
        fields.error("arguments", "has one that is too long or holds a zero byte", "", findings);
    }
    let units = fields.parsed_list("units", findings);
    let timeout = fields.integer("timeout", 1..=3600, findings).and_then(|seconds| u64::try_from(seconds).ok());
    let list = fields.list("file", findings);
    let files =
        list.iter().enumerate().filter_map(|(index, node)| file(node, &format!("join.file[{index}]"), findings));
    let files: Vec<ExecFile> = files.collect();
    let mut secrets = Vec::new();
    if let Some(entry) = fields.entry("secrets") {
        match &entry.node.value {
            Value::Table(_) => {
                if let Some((inner, names)) = Fields::free(&entry.node, "join.secrets", findings) {
                    for name in names {
                        if name.parse::<ProgramName>().is_err() {
                            inner.error(name, "is not a name for a file", "letters, digits, - and _", findings);
                        }
                        secrets.extend(credential(&inner, name, findings).map(|secret| (name.to_owned(), secret)));
                    }
                }
            }
            _ => fields.error("secrets", "is not a table", "[join.secrets] with NAME = \"...\"", findings),
        }
    }
    for (name, secret) in &secrets {
        if arguments.iter().any(|argument| argument.contains(secret.expose())) {
            let help = format!("the program reads it from its file: {EXEC_SECRETS}/{name}");
            fields.error("arguments", "holds a secret, and arguments can be seen by everyone", help, findings);
        }
    }
    if extent == Extent::Whole && fields.entry("program").is_none() {
        fields.missing("program", "the name of a program that the image brings in /usr/lib/ingot/join.d", findings);
    }
    if extent == Extent::Part || findings.errors.len() > errors_before {
        return None;
    }
    let timeout = Duration::from_secs(timeout.unwrap_or(300));
    Some(Exec { program: program?, arguments, units, timeout, files, secrets })
}

fn file(node: &Node, path: &str, findings: &mut Findings) -> Option<ExecFile> {
    let fields = Fields::new(node, path, findings)?;
    for key in ["path", "content"].into_iter().filter(|key| fields.entry(key).is_none()) {
        fields.missing(key, "a file has a path and a content", findings);
    }
    let place: Option<AbsolutePath> = fields.parsed("path", findings);
    let allowed = |path: &AbsolutePath| {
        let text = path.as_str();
        (text.starts_with("/etc/") || text.starts_with("/var/lib/"))
            && !["/etc/systemd/", "/var/lib/ingot", "/etc/ingot"].iter().any(|own| text.starts_with(own))
    };
    if place.as_ref().is_some_and(|path| !allowed(path)) {
        fields.error("path", "is not a place for a program's settings", "use /etc/NAME/ or /var/lib/NAME/", findings);
    }
    let mut mode = 0o600;
    if let Some(text) = fields.text("mode", findings) {
        match u32::from_str_radix(text, 8) {
            Ok(given) if given <= 0o777 && text.len() <= 4 => mode = given,
            _ => fields.error("mode", format!("{text:?} is no file mode"), "\"0600\"", findings),
        }
    }
    let content = fields.text("content", findings).map(Secret::new);
    Some(ExecFile { path: place?, content: content?, mode })
}
