//! `fs_setup`, `mounts`, `swap` and `disk_setup` of cloud-init as `[[disk]]` and `[swap]`.
//!
//! Takes the table of a `#cloud-config`; gives a table with `disk` and `swap`. Carried over is what means the same here:
//! a filesystem on a whole disk that is named by a lasting link, mounted at one place; a swap file of a given size.
//! Everything else about disks is refused, because a node that mounts less than it was told loses data later. Two
//! things are stricter than in cloud-init: a disk with content is never overwritten, and never taken over by its label.

use crate::config::problem::Findings;
use crate::config::tree::{Entry, Node, Origin, Table, Value};

/// The keys that [`map`] takes care of.
pub const KEYS: [&str; 4] = ["disk_setup", "fs_setup", "mounts", "swap"];

const BY_HAND: &str = "write it as [[disk]] in node.toml";
/// Options that are there for fstab; here every data disk is as `nofail` says.
const FSTAB_ONLY: [&str; 5] = ["defaults", "auto", "nofail", "_netdev", "comment=cloudconfig"];

/// A filesystem of `fs_setup`.
struct Made<'a> {
    origin: &'a Origin,
    device: &'a Node,
    filesystem: &'a Node,
    label: Option<&'a Node>,
    options: Option<Node>,
    mounted: bool,
}

/// Carries the keys over. What cannot be is an error in `findings`.
pub fn map(cloud: &Node, findings: &mut Findings) -> Node {
    let mut tree = Node::table(cloud.origin.clone());
    let get = |key: &str| cloud.as_table().and_then(|table| table.get(key));
    if let Some(entry) = get("disk_setup") {
        partitions(&entry.node, findings);
    }
    let mut made = get("fs_setup").map_or_else(Vec::new, |entry| filesystems(&entry.node, findings));
    let mut disks = Vec::new();
    if let Some(entry) = get("mounts") {
        for (index, mount) in items(&entry.node, "mounts", findings).iter().enumerate() {
            disks.extend(disk(mount, &format!("mounts[{index}]"), &mut made, findings));
        }
    }
    for filesystem in made.iter().filter(|filesystem| !filesystem.mounted) {
        let text = "this filesystem is made and not mounted";
        findings.error(filesystem.origin, "fs_setup", text, "give it an entry under mounts, or leave it out");
    }
    if let (Some(first), false) = (get("mounts"), disks.is_empty()) {
        tree.set(&["disk"], Node { origin: first.node.origin.clone(), value: Value::Array(disks) });
    }
    if let Some(size) = get("swap").and_then(|entry| swap(&entry.node, findings)) {
        tree.set(&["swap", "size"], size);
    }
    tree
}

fn items<'a>(node: &'a Node, path: &str, findings: &mut Findings) -> &'a [Node] {
    match &node.value {
        Value::Array(items) => items,
        Value::Other(_) => &[],
        other => {
            findings.error(&node.origin, path, format!("is {}, not a list", other.kind()), "");
            &[]
        }
    }
}

fn text(node: &Node) -> Option<&str> {
    if let Value::Text(text) = &node.value { Some(text) } else { None }
}

/// `disk_setup` divides disks. Only what divides nothing means something here.
fn partitions(node: &Node, findings: &mut Findings) {
    let Some(table) = node.as_table() else {
        findings.error(&node.origin, "disk_setup", format!("is {}, not a mapping", node.value.kind()), "");
        return;
    };
    for (device, entry) in table {
        let layout = entry.node.as_table().and_then(|table| table.get("layout")).map(|layout| &layout.node.value);
        if !matches!(layout, Some(Value::Boolean(false))) {
            let help = "leave it out, and name the disk itself in fs_setup with `partition: none`";
            let path = format!("disk_setup.{device}");
            findings.error(&entry.key, &path, "disks are not divided into partitions here", help);
        }
    }
}

fn filesystems<'a>(node: &'a Node, findings: &mut Findings) -> Vec<Made<'a>> {
    let mut all = Vec::new();
    for (index, item) in items(node, "fs_setup", findings).iter().enumerate() {
        all.extend(filesystem(item, &format!("fs_setup[{index}]"), findings));
    }
    all
}

fn filesystem<'a>(node: &'a Node, path: &str, findings: &mut Findings) -> Option<Made<'a>> {
    let Some(table) = node.as_table() else {
        findings.error(&node.origin, path, format!("is {}, not a mapping", node.value.kind()), "");
        return None;
    };
    let before = findings.errors.len();
    let mut options = None;
    for (key, entry) in table {
        let (at, path) = (&entry.node.origin, format!("{path}.{key}"));
        match (key.as_str(), &entry.node.value) {
            ("device" | "filesystem" | "label", Value::Text(_))
            | ("overwrite" | "replace_fs", Value::Boolean(false)) => {}
            ("partition", Value::Text(partition)) if partition == "none" => {}
            ("partition", _) => {
                findings.error(at, &path, "only whole disks are used here", "write `partition: none`");
            }
            ("overwrite" | "replace_fs", _) => {
                let help = "write [[disk]] in node.toml, with the disk's serial number under wipe";
                findings.error(at, &path, "what is on a disk is not destroyed on the word of its place", help);
            }
            ("extra_opts", Value::Array(_)) => options = Some(entry.node.clone()),
            ("extra_opts", Value::Text(text)) => {
                let words =
                    text.split_whitespace().map(|word| Node { origin: at.clone(), value: Value::Text(word.into()) });
                options = Some(Node { origin: at.clone(), value: Value::Array(words.collect()) });
            }
            _ => findings.error(at, &path, "is not supported", BY_HAND),
        }
    }
    let (Some(device), Some(filesystem)) = (table.get("device"), table.get("filesystem")) else {
        findings.error(&node.origin, path, "needs device and filesystem", "");
        return None;
    };
    if !text(&device.node).is_some_and(is_lasting) {
        let help = "name it by a link below /dev/disk/by-id or /dev/disk/by-path";
        findings.error(&device.node.origin, &format!("{path}.device"), "may be another disk at the next boot", help);
    }
    if !matches!(text(&filesystem.node), Some("xfs" | "ext4")) {
        findings.error(&filesystem.node.origin, &format!("{path}.filesystem"), "is not known", "xfs or ext4");
    }
    let label = table.get("label").map(|entry| &entry.node).filter(|label| text(label) != Some("None"));
    let (device, filesystem) = (&device.node, &filesystem.node);
    let made = Made { origin: &node.origin, device, filesystem, label, options, mounted: false };
    (findings.errors.len() == before).then_some(made)
}

fn is_lasting(device: &str) -> bool {
    ["/dev/disk/by-id/", "/dev/disk/by-path/"].iter().any(|prefix| device.starts_with(prefix))
        && !device.contains(['*', '?', '['])
}

/// One entry of `mounts`: device, place, type, options, two numbers for programs that are not here.
fn disk(mount: &Node, path: &str, made: &mut [Made<'_>], findings: &mut Findings) -> Option<Node> {
    let fields = items(mount, path, findings);
    let mut refuse = |text: String, help: &str| {
        findings.error(&mount.origin, path, text, help);
        None
    };
    let Some(device) = fields.first().and_then(text) else { return refuse("names no device".into(), "") };
    let Some(place) = fields.get(1).filter(|place| !matches!(place.value, Value::Other(_))) else {
        // This form takes a default of cloud-init back, and there are none here.
        return None;
    };
    let found = made.iter_mut().find(|made| {
        let label = made.label.and_then(text).map(|label| format!("LABEL={label}"));
        text(made.device) == Some(device) || label.as_deref() == Some(device)
    });
    let Some(found) = found else {
        let help =
            "a new disk needs an entry in fs_setup; one with data is taken over by [[disk]] with adopt in node.toml";
        return refuse(format!("{device:?} is no filesystem of fs_setup"), help);
    };
    if found.mounted {
        return refuse(format!("{device:?} is mounted twice"), "");
    }
    found.mounted = true;
    let kind = fields.get(2).and_then(text);
    if kind.is_some_and(|kind| kind != "auto" && Some(kind) != text(found.filesystem)) {
        return refuse("has another type than its filesystem in fs_setup".into(), "");
    }
    let origin = mount.origin.clone();
    let new = |value: Value| Node { origin: origin.clone(), value };
    let mut table = Table::new();
    let mut add = |key: &str, node: Node| table.insert(key.to_owned(), Entry { key: origin.clone(), node });
    add("name", new(Value::Text(name_of(place))));
    let mut matches = Node::table(origin.clone());
    matches.set(&["path"], found.device.clone());
    add("match", matches);
    add("filesystem", found.filesystem.clone());
    add("mount", place.clone());
    if let Some(label) = found.label {
        add("label", label.clone());
    }
    if let Some(options) = &found.options {
        add("mkfs", options.clone());
    }
    let options = fields.get(3).and_then(text).unwrap_or_default().split(',');
    let options = options
        .filter(|option| !option.is_empty() && !FSTAB_ONLY.contains(option) && !option.starts_with("x-systemd."));
    let options: Vec<Node> = options.map(|option| new(Value::Text(option.to_owned()))).collect();
    if !options.is_empty() {
        add("options", new(Value::Array(options)));
    }
    Some(Node { origin: origin.clone(), value: Value::Table(table) })
}

/// A rule's name from its place: `/data/a` is `data-a`. One that does not fit is refused where it is read.
fn name_of(place: &Node) -> String {
    let text = text(place).unwrap_or_default().to_lowercase();
    let name: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let name = name.trim_matches('-');
    let name =
        if name.starts_with(|c: char| c.is_ascii_lowercase()) { name.to_owned() } else { format!("disk-{name}") };
    // The end tells places apart better than the beginning.
    let start = name.len().saturating_sub(15);
    let end = name[start..].trim_matches('-');
    if start == 0 { end.to_owned() } else { format!("d{end}") }
}

/// The size of the swap file, in the form of `swap.size`. cloud-init's units are powers of 1024.
fn swap(node: &Node, findings: &mut Findings) -> Option<Node> {
    let table = match &node.value {
        Value::Table(table) => table,
        Value::Other(_) => return None,
        other => {
            findings.error(&node.origin, "swap", format!("is {}, not a mapping", other.kind()), "");
            return None;
        }
    };
    for (key, entry) in table {
        match key.as_str() {
            "size" => {}
            "filename" => {
                let text = "the file's place is Ingot's own: /var/lib/ingot/swapfile";
                findings.warning(&entry.key, "swap.filename", text, "leave it out");
            }
            _ => findings.error(&entry.key, &format!("swap.{key}"), "is not supported", "give swap.size"),
        }
    }
    let size = &table.get("size")?.node;
    let help = "give a size, such as 4G, or [swap] size = \"50% of RAM\" in node.toml";
    let bytes = match &size.value {
        Value::Integer(0) => return None,
        Value::Integer(bytes) if *bytes > 0 => bytes.to_string(),
        Value::Text(text) => match text.strip_suffix('B').unwrap_or(text) {
            "0" => return None,
            number if number.chars().all(|c| c.is_ascii_digit()) && !number.is_empty() => number.to_owned(),
            amount if amount.ends_with(['K', 'M', 'G', 'T']) => format!("{amount}iB"),
            _ => {
                findings.error(&size.origin, "swap.size", format!("{text:?} is no size"), help);
                return None;
            }
        },
        _ => {
            findings.error(&size.origin, "swap.size", "is no size", help);
            return None;
        }
    };
    Some(Node { origin: size.origin.clone(), value: Value::Text(bytes) })
}

#[cfg(test)]
mod tests {
    use crate::config::{Document, Format, Loaded, Machine, Swap, load};

    fn read(text: &str) -> Result<Loaded, String> {
        let bytes = format!("#cloud-config\n{text}").into_bytes();
        let documents = [Document { name: "user-data".into(), format: Format::UserData, bytes }];
        load(&documents, &Machine::default()).map_err(|error| error.to_string())
    }

    const DISK: &str = "fs_setup:\n  - label: data\n    filesystem: xfs\n    device: /dev/disk/by-id/ata-ST4000-A1\n    \
                        partition: none\n    extra_opts: \"-i size=512\"\n";

    #[test]
    fn a_filesystem_and_its_mount_become_a_disk() {
        for device in ["LABEL=data", "/dev/disk/by-id/ata-ST4000-A1"] {
            let mounts = format!(
                "mounts:\n  - [ {device}, /data/a, auto, \"defaults,nofail,noatime,x-systemd.automount\", \"0\", \"2\" ]\n"
            );
            let loaded = read(&format!("{DISK}{mounts}swap:\n  size: 4G\n")).unwrap();
            assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
            let [disk] = &loaded.config.disks[..] else { panic!("{loaded:?}") };
            assert_eq!((disk.name.as_str(), disk.mount.as_str(), disk.count), ("data-a", "/data/a", 1));
            assert_eq!((disk.label.as_deref(), disk.mkfs.join(" ").as_str()), (Some("data"), "-i size=512"));
            assert_eq!(disk.options.iter().map(ToString::to_string).collect::<Vec<_>>(), ["noatime"]);
            assert_eq!(disk.matches.to_string(), "path /dev/disk/by-id/ata-ST4000-A1");
            let Some(Swap::File(size)) = loaded.config.swap else { panic!("{loaded:?}") };
            assert_eq!(serde_json::to_string(&size).unwrap(), "{\"bytes\":\"4GiB\"}");
        }
        let loaded =
            read("swap: {size: 0}\nmounts:\n  - [ ephemeral0, null ]\ndisk_setup:\n  /dev/sdb: {layout: false}\n")
                .unwrap();
        assert!(loaded.config.disks.is_empty() && loaded.config.swap.is_none());
        assert_eq!(read("swap: {size: 2147483648, filename: /swap.img}\n").unwrap().warnings.len(), 1);
    }

    #[test]
    fn what_does_not_mean_the_same_is_refused() {
        let mount = "mounts:\n  - [ LABEL=data, /data ]\n";
        for (text, expected) in [
            (DISK.to_owned(), "made and not mounted"),
            (mount.to_owned(), "\"LABEL=data\" is no filesystem of fs_setup"),
            ("mounts:\n  - [ ephemeral0, /mnt ]\n".to_owned(), "is no filesystem of fs_setup"),
            (format!("{DISK}mounts:\n  - [ LABEL=data, /data, ext4 ]\n"), "another type"),
            (format!("{DISK}{mount}  - [ LABEL=data, /other ]\n"), "is mounted twice"),
            (format!("{}{mount}", DISK.replace("/dev/disk/by-id/ata-ST4000-A1", "/dev/sdb")), "may be another disk"),
            (format!("{}{mount}", DISK.replace("none", "auto")), "only whole disks"),
            (format!("{DISK}    overwrite: true\n{mount}"), "serial number under wipe"),
            (format!("{DISK}    cmd: mkfs\n{mount}"), "fs_setup[0].cmd: is not supported"),
            (format!("{}{mount}", DISK.replace("xfs", "btrfs")), "xfs or ext4"),
            (format!("{DISK}mounts:\n  - [ LABEL=data, /etc ]\n"), "belongs to the system"),
            ("disk_setup:\n  /dev/sdb: {table_type: gpt, layout: true}\n".to_owned(), "not divided into partitions"),
            ("swap: {size: auto}\n".to_owned(), "\"auto\" is no size"),
            ("swap: {size: 1G, maxsize: 2G}\n".to_owned(), "swap.maxsize"),
            ("swap: 1G\n".to_owned(), "not a mapping"),
            ("mounts: x\n".to_owned(), "not a list"),
        ] {
            let error = read(&text).expect_err(&text);
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }

    #[test]
    fn names_come_from_places() {
        use super::*;
        let name = |place: &str| {
            name_of(&Node { origin: Origin::document(&std::sync::Arc::from("f")), value: Value::Text(place.into()) })
        };
        assert_eq!((name("/data"), name("/srv/1")), ("data".into(), "srv-1".into()));
        assert_eq!(name("/9"), "disk-9");
        for place in ["/var/lib/docker/volumes/a", "/a-very-long-place-/x-y", "/-", "/1234567890123456"] {
            assert!(name(place).parse::<crate::config::DiskName>().is_ok(), "{}", name(place));
        }
    }
}
