//! `[join]` with `driver = "nfs"`, and the mounts that `gluster` has too.

use std::collections::BTreeSet;

use serde::Serialize;

use super::values::AbsolutePath;
use crate::config::fields::Fields;
use crate::config::node::Extent;
use crate::config::problem::Findings;
use crate::config::tree::Node;
use crate::config::values::HostAddress;

/// What a client mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Nfs {
    /// The mounts.
    pub mounts: Vec<Mount>,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// The server; a mount of a gluster volume asks any of the pool's.
    pub server: Option<HostAddress>,
    /// What is mounted: the exported directory, or the volume's name.
    pub source: String,
    /// Where.
    pub target: AbsolutePath,
    /// Mount options.
    pub options: Vec<String>,
}

pub fn read(fields: &Fields<'_>, extent: Extent, findings: &mut Findings) -> Option<Nfs> {
    let errors_before = findings.errors.len();
    let mounts = mounts(fields, "source", findings);
    if extent == Extent::Whole && fields.entry("mount").is_none() {
        fields.missing("mount", "[[join.mount]] with source = \"10.77.0.10:/export\" and target = \"/data\"", findings);
    }
    (extent == Extent::Whole && findings.errors.len() == errors_before).then_some(Nfs { mounts })
}

/// Reads `[[join.mount]]`; `kind` is the key that says what is mounted.
pub fn mounts(fields: &Fields<'_>, kind: &str, findings: &mut Findings) -> Vec<Mount> {
    let list = fields.list("mount", findings);
    let read = |(index, node)| mount(node, &format!("join.mount[{index}]"), kind, findings);
    let mounts: Vec<Mount> = list.iter().enumerate().filter_map(read).collect();
    let targets: BTreeSet<&AbsolutePath> = mounts.iter().map(|mount| &mount.target).collect();
    if targets.len() < mounts.len() {
        fields.error("mount", "has one target twice", "", findings);
    }
    mounts
}

/// Directories of the image and of the node's state: a mount over them hides what the node runs on.
const OWN: &[&str] =
    &["/bin", "/boot", "/dev", "/efi", "/etc", "/lib", "/proc", "/root", "/run", "/sbin", "/sys", "/usr"];

fn mount(node: &Node, path: &str, kind: &str, findings: &mut Findings) -> Option<Mount> {
    let fields = Fields::of_driver(node, path, Some(if kind == "volume" { "gluster" } else { "nfs" }), findings)?;
    for key in [kind, "target"].into_iter().filter(|key| fields.entry(key).is_none()) {
        fields.missing(key, "a mount has what is mounted, and where", findings);
    }
    let text = fields.text(kind, findings)?;
    let (server, source) = if kind == "volume" {
        if !super::gluster::is_volume_name(text) {
            fields.error(kind, format!("{text:?} is not the name of a volume"), "", findings);
        }
        (None, text.to_owned())
    } else {
        let parsed = text.rsplit_once(":/").and_then(|(server, directory)| {
            let server = server.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(server);
            // NFSv4 has a root of its own: `server:/`.
            let directory = format!("/{directory}");
            let good = directory == "/" || directory.parse::<AbsolutePath>().is_ok();
            Some((server.parse::<HostAddress>().ok()?, directory)).filter(|_| good)
        });
        let Some((server, directory)) = parsed else {
            fields.error(kind, format!("{text:?} is no export"), "write it as 10.77.0.10:/export", findings);
            return None;
        };
        (Some(server), directory)
    };
    let target: AbsolutePath = fields.parsed("target", findings)?;
    if OWN.iter().any(|own| target.as_str() == *own || target.as_str().starts_with(&format!("{own}/")))
        || ["/var", "/home"].contains(&target.as_str())
        || target.as_str().starts_with("/var/lib/ingot")
    {
        fields.error("target", "lies in a directory that the node itself needs", "use /data, /srv or /mnt", findings);
    }
    let options: Vec<String> = fields.parsed_list("options", findings);
    for option in options.iter().filter(|option| !is_option(option)) {
        fields.error("options", format!("{option:?} is not a mount option"), "one option for each entry", findings);
    }
    Some(Mount { server, source, target, options })
}

/// A word that can stand in a list of options: no comma, blank or quote.
pub fn is_option(text: &str) -> bool {
    (1..=200).contains(&text.len())
        && !text.starts_with('-')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "=_-.:/@+".contains(c))
}
