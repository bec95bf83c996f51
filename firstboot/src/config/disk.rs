//! `[[disk]]` and `[swap]`: which disks the node claims, and what it makes of them.

use serde::Serialize;

use super::disk_values::{DiskName, DiskPath, MountOption, MountPoint, Pattern, Serial, Wwn};
use super::fields::Fields;
use super::join::UnitName;
use super::problem::Findings;
use super::quantity::{Bytes, Share, SizeRange};
use super::tree::{Node, Value};

/// More disks than this are not in one machine.
const MOST_DISKS: i64 = 512;

/// Disks of one kind that the node claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// The rule's name; part of what makes a claimed disk recognisable.
    pub name: DiskName,
    /// Which disks.
    pub matches: DiskMatch,
    /// How many: the rule holds only where it matches exactly as many.
    pub count: usize,
    /// What is made on each.
    pub filesystem: Filesystem,
    /// The label, `{n}` for the disk's number.
    pub label: Option<String>,
    /// Arguments for the program that makes the filesystem.
    pub mkfs: Vec<String>,
    /// Where each is mounted.
    pub mount: MountPoint,
    /// Mount options.
    pub options: Vec<MountOption>,
    /// How it is encrypted, if at all.
    pub encrypt: Option<Encryption>,
    /// Serial numbers of disks whose content may be destroyed.
    pub wipe: Vec<Serial>,
    /// Serial numbers of disks that are taken over with the filesystem that they have.
    pub adopt: Vec<Serial>,
    /// Units that do not start without these disks.
    pub required_by: Vec<UnitName>,
}

/// Which disks are meant: all that is given must be the disk's. At least one thing is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DiskMatch {
    /// Serial numbers: each must be there.
    pub serials: Vec<Serial>,
    /// World wide names: each must be there.
    pub wwns: Vec<Wwn>,
    /// Links below `/dev/disk`, as patterns: each must be there.
    pub paths: Vec<DiskPath>,
    /// The size.
    pub size: Option<SizeRange>,
    /// The model, as a pattern.
    pub model: Option<Pattern>,
}

impl DiskMatch {
    /// Whether it names single disks, and not a kind of disk.
    pub fn names_disks(&self) -> bool {
        !(self.serials.is_empty() && self.wwns.is_empty() && self.paths.is_empty())
    }

    fn listed(&self) -> usize {
        self.serials.len().max(self.wwns.len()).max(self.paths.len())
    }
}

impl std::fmt::Display for DiskMatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        fn all<T: std::fmt::Display>(name: &str, items: &[T]) -> Option<String> {
            let list = items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
            (!items.is_empty()).then(|| format!("{name} {list}"))
        }
        let parts = [
            all("serial", &self.serials),
            all("wwn", &self.wwns),
            all("path", &self.paths),
            self.size.map(|size| format!("size {size}")),
            self.model.as_ref().map(|model| format!("model {model}")),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// A filesystem for data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Filesystem {
    /// XFS.
    Xfs,
    /// ext4.
    Ext4,
}

impl Filesystem {
    /// Its name, as mount(8) takes it.
    pub fn name(self) -> &'static str {
        match self {
            Filesystem::Xfs => "xfs",
            Filesystem::Ext4 => "ext4",
        }
    }

    /// How long a label may be, in bytes.
    fn label_bytes(self) -> usize {
        match self {
            Filesystem::Xfs => 12,
            Filesystem::Ext4 => 16,
        }
    }
}

/// What unlocks an encrypted disk (LUKS2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encryption {
    /// The machine's TPM 2.0. A disk that is taken out of the machine cannot be read.
    Tpm2,
    /// A key file on the state partition. A disk that leaves the machine without the system disk cannot be read.
    KeyFile,
}

/// Swap space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Swap {
    /// A file on the state partition.
    File(SwapSize),
    /// A disk of its own.
    Disk {
        /// Which.
        matches: DiskMatch,
        /// Serial numbers of disks whose content may be destroyed.
        wipe: Vec<Serial>,
    },
}

/// How large the swap file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwapSize {
    /// As many bytes.
    Bytes(Bytes),
    /// A share of the memory.
    Share(Share),
}

impl std::str::FromStr for SwapSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = if Share::is_meant(text) { Self::Share(text.parse()?) } else { Self::Bytes(text.parse()?) };
        match size {
            Self::Bytes(Bytes(bytes)) if bytes < 1 << 20 => Err("is less than 1 MiB; leave [swap] out for none".into()),
            size => Ok(size),
        }
    }
}

/// Reads all `[[disk]]`.
pub fn read_disks(fields: &Fields<'_>, findings: &mut Findings) -> Vec<Disk> {
    let nodes = fields.list("disk", findings).iter().enumerate();
    let disks: Vec<(usize, Disk)> = nodes
        .filter_map(|(index, node)| Some((index, read_disk(node, &format!("disk[{index}]"), findings)?)))
        .collect();
    for (at, (index, disk)) in disks.iter().enumerate() {
        for (other_index, other) in &disks[..at] {
            let path = format!("disk[{index}]");
            if disk.name == other.name {
                let text = format!("disk[{other_index}] has the same name");
                fields.error("disk", format!("{path}.name: {text}"), "give each rule its own name", findings);
            }
            if disk.mount == other.mount {
                let text = format!("disk[{other_index}] is mounted there too");
                fields.error("disk", format!("{path}.mount: {text}"), "", findings);
            }
        }
    }
    disks.into_iter().map(|(_, disk)| disk).collect()
}

fn read_disk(node: &Node, path: &str, findings: &mut Findings) -> Option<Disk> {
    let fields = Fields::new(node, path, findings)?;
    let before = findings.errors.len();
    let matches = read_match(&fields, findings);
    let name: Option<DiskName> = fields.parsed("name", findings);
    let mount: Option<MountPoint> = fields.parsed("mount", findings);
    for (key, help) in
        [("name", "a short word, such as name = \"data\""), ("mount", "where, such as mount = \"/data/{n}\"")]
    {
        if fields.entry(key).is_none() {
            fields.missing(key, help, findings);
        }
    }
    let count = fields.integer("count", 1..=MOST_DISKS, findings).and_then(|count| usize::try_from(count).ok());
    let filesystem = match fields.text("filesystem", findings) {
        None | Some("xfs") => Filesystem::Xfs,
        Some("ext4") => Filesystem::Ext4,
        Some(other) => {
            fields.error("filesystem", format!("{other:?} is not known"), "xfs or ext4", findings);
            return None;
        }
    };
    let encrypt = read_encryption(&fields, findings);
    let (wipe, adopt): (Vec<Serial>, Vec<Serial>) =
        (fields.parsed_list("wipe", findings), fields.parsed_list("adopt", findings));
    if let Some(both) = wipe.iter().find(|serial| adopt.contains(serial)) {
        fields.error("adopt", format!("{both} is listed under wipe too"), "either is meant, not both", findings);
    }
    let options: Vec<MountOption> = fields.parsed_list("options", findings);
    if filesystem == Filesystem::Xfs {
        for gone in options.iter().filter(|option| matches!(option.name(), "barrier" | "nobarrier")) {
            let text = format!("{gone}: XFS has had no such option since Linux 4.19; the mount would fail");
            fields.error("options", text, "leave it out", findings);
        }
    }
    let required_by = fields.parsed_list("required_by", findings);
    let (label, mkfs) = (read_label(&fields, findings), read_mkfs(&fields, findings));
    if findings.errors.len() > before {
        return None;
    }
    let matches = matches?;
    let listed = matches.listed();
    let disk = Disk {
        name: name?,
        count: count.unwrap_or(listed.max(1)),
        matches,
        filesystem,
        label,
        mkfs,
        mount: mount?,
        options,
        encrypt,
        wipe,
        adopt,
        required_by,
    };
    check_disk(&disk, listed, &fields, findings);
    Some(disk)
}

/// What the keys mean only together.
fn check_disk(disk: &Disk, listed: usize, fields: &Fields<'_>, findings: &mut Findings) {
    if listed > 0 && disk.count != listed {
        let text = format!("is {}, but match lists {listed}", disk.count);
        fields.error("count", text, "leave count out where single disks are listed", findings);
    }
    if disk.count > 1 && !disk.mount.is_numbered() {
        let help = format!("write mount = \"{}/{{n}}\": the disks are counted from 0", disk.mount);
        fields.error("mount", format!("{} disks cannot be mounted at one place", disk.count), help, findings);
    }
    if let Some(label) = &disk.label {
        let longest = label.replace("{n}", &disk.count.saturating_sub(1).to_string());
        let most = disk.filesystem.label_bytes();
        if longest.len() > most {
            let text = format!("a label of {} has at most {most} characters", disk.filesystem.name());
            fields.error("label", text, "", findings);
        }
        if disk.count > 1 && !label.contains("{n}") {
            fields.error("label", "several disks cannot have one label", "write {n} in it", findings);
        }
    }
    if !disk.adopt.is_empty() && disk.encrypt.is_some() {
        fields.error("adopt", "an encrypted disk cannot be taken over", "its key is not known here", findings);
    }
}

fn read_encryption(fields: &Fields<'_>, findings: &mut Findings) -> Option<Encryption> {
    match &fields.entry("encrypt")?.node.value {
        Value::Boolean(false) => None,
        Value::Text(text) if text == "tpm2" => Some(Encryption::Tpm2),
        Value::Text(text) if text == "key-file" => Some(Encryption::KeyFile),
        _ => {
            fields.error("encrypt", "is not known", "\"tpm2\", \"key-file\" or false", findings);
            None
        }
    }
}

fn read_label(fields: &Fields<'_>, findings: &mut Findings) -> Option<String> {
    let label = fields.text("label", findings)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '{' | '}');
    let good = !label.is_empty() && label.chars().all(plain) && !label.replace("{n}", "").contains(['{', '}']);
    // A data disk must never be taken for a medium with configuration.
    let reserved = ["ingot", "cidata", "config-2"].contains(&label.to_lowercase().as_str());
    if good && !reserved {
        return Some(label.to_owned());
    }
    let text = if reserved { "is the label of a configuration medium" } else { "is no label" };
    fields.error("label", text, "letters, digits, - _ . and {n}", findings);
    None
}

fn read_mkfs(fields: &Fields<'_>, findings: &mut Findings) -> Vec<String> {
    let mut arguments = Vec::new();
    for node in fields.list("mkfs", findings) {
        let Value::Text(text) = &node.value else {
            findings.error(&node.origin, &fields.path_of("mkfs"), "is not a text", "one argument each, in quotes");
            continue;
        };
        let taken = ["-U", "-L", "-N", "-n", "-F", "-f", "-V", "-T", "-t", "-p", "-d"].contains(&text.as_str())
            || text.contains("uuid=")
            || text.starts_with("--");
        let plain =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '=' | ',' | '.' | '^' | ':' | '+' | '%');
        if taken {
            let help = "the UUID, label and device are set by Ingot; -m, -i, -l, -s, -b, -O, -E are free";
            findings.error(&node.origin, &fields.path_of("mkfs"), format!("{text:?} is not for here"), help);
        } else if text.is_empty() || !text.chars().all(plain) {
            let help = "one argument each: mkfs = [\"-i\", \"size=512\"]";
            findings.error(&node.origin, &fields.path_of("mkfs"), format!("{text:?} is no argument"), help);
        } else {
            arguments.push(text.clone());
        }
    }
    arguments
}

/// A list of texts, or one text.
fn one_or_more<T>(fields: &Fields<'_>, key: &str, findings: &mut Findings) -> Vec<T>
where
    T: std::str::FromStr<Err = String>,
{
    match fields.entry(key).map(|entry| &entry.node.value) {
        Some(Value::Array(items)) => {
            if items.is_empty() {
                fields.error(key, "is an empty list", "leave it out, or name a disk", findings);
            }
            fields.parsed_list(key, findings)
        }
        Some(_) => fields.parsed(key, findings).into_iter().collect(),
        None => Vec::new(),
    }
}

fn read_match(outer: &Fields<'_>, findings: &mut Findings) -> Option<DiskMatch> {
    let Some(entry) = outer.entry("match") else {
        let help = "say which disk: match = { serial = \"...\" }, { wwn, path, size or model }";
        outer.missing("match", help, findings);
        return None;
    };
    let fields = Fields::new(&entry.node, &outer.path_of("match"), findings)?;
    let before = findings.errors.len();
    let matches = DiskMatch {
        serials: one_or_more(&fields, "serial", findings),
        wwns: one_or_more(&fields, "wwn", findings),
        paths: one_or_more(&fields, "path", findings),
        size: fields.parsed("size", findings),
        model: fields.parsed("model", findings),
    };
    if findings.errors.len() > before {
        return None;
    }
    if matches == DiskMatch::default() {
        findings.error(
            fields.origin,
            &outer.path_of("match"),
            "matches no disk",
            "give serial, wwn, path, size or model",
        );
        return None;
    }
    let lists = [matches.serials.len(), matches.wwns.len(), matches.paths.len()];
    if lists.iter().filter(|length| **length > 0).count() > 1 {
        findings.error(fields.origin, &outer.path_of("match"), "names disks in two ways", "give serial, wwn or path");
        return None;
    }
    for (key, length, unique) in [
        ("serial", matches.serials.len(), matches.serials.iter().collect::<std::collections::BTreeSet<_>>().len()),
        ("wwn", matches.wwns.len(), matches.wwns.iter().collect::<std::collections::BTreeSet<_>>().len()),
    ] {
        if unique < length {
            fields.error(key, "names a disk twice", "", findings);
        }
    }
    Some(matches)
}

/// Reads `[swap]`.
pub fn read_swap(node: &Node, findings: &mut Findings) -> Option<Swap> {
    let fields = Fields::new(node, "swap", findings)?;
    let size = fields.parsed("size", findings).map(Swap::File);
    let wipe: Vec<Serial> = fields.parsed_list("wipe", findings);
    if fields.entry("size").is_some() == fields.entry("match").is_some() {
        findings.error(
            &node.origin,
            "swap",
            "needs either size or match",
            "size = \"8GiB\" is a file on the state partition",
        );
        return None;
    }
    if fields.entry("match").is_none() {
        if !wipe.is_empty() {
            fields.error("wipe", "is for a disk, not for a file", "", findings);
        }
        return size;
    }
    let matches = read_match(&fields, findings)?;
    if matches.listed() > 1 {
        fields.error("match", "names more than one disk", "swap is one disk", findings);
    }
    Some(Swap::Disk { matches, wipe })
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
