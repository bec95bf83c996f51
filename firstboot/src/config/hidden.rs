//! What a data disk would hide.
//!
//! Takes the disks, files and users of a configuration; gives an error for each file and each home directory that lies
//! where a disk is going to be mounted. Users and files are written before the disks, so that a node whose disks are
//! wrong can be reached; what is written below a mount point would lie under the mount for good.

use super::disk::Disk;
use super::fields::Fields;
use super::problem::Findings;
use super::tree::{Node, Value};

/// The disks of a rule have the lowest free numbers, and others have been replaced: a few more than it wants.
const NUMBERS: usize = 512;

/// Adds an error for all that would be hidden.
pub fn refuse(fields: &Fields<'_>, disks: &[Disk], findings: &mut Findings) {
    if disks.is_empty() {
        return;
    }
    let text = |node: &Node, key: &str| match node.as_table().and_then(|table| table.get(key)) {
        Some(entry) => match &entry.node.value {
            Value::Text(text) => Some((text.clone(), entry.node.origin.clone())),
            _ => None,
        },
        None => None,
    };
    // One that is no list was named already.
    let list = |key: &str| match fields.entry(key).map(|entry| &entry.node.value) {
        Some(Value::Array(items)) => items.as_slice(),
        _ => &[],
    };
    for (index, node) in list("file").iter().enumerate() {
        let Some((path, place)) = text(node, "path") else { continue };
        if let Some((disk, mount)) = hiding(disks, &path) {
            let message = format!("{path} would be hidden: [[disk]] {} is mounted on {mount} after files", disk.name);
            let help =
                "put the file elsewhere, or have a command of run.first write it, which runs when disks are there";
            findings.error(&place, &format!("file[{index}].path"), message, help);
        }
    }
    for (index, node) in list("user").iter().enumerate() {
        let home = text(node, "home").or_else(|| text(node, "name").map(|(name, at)| (format!("/home/{name}"), at)));
        let Some((home, place)) = home else { continue };
        if let Some((disk, mount)) = hiding(disks, &home) {
            let message =
                format!("the home {home} would be hidden: [[disk]] {} is mounted on {mount} after users", disk.name);
            let help = "give the user a home that is not below a disk, such as /home/NAME";
            findings.error(&place, &format!("user[{index}].home"), message, help);
        }
    }
}

/// The disk that is mounted on a path, above it or below it.
fn hiding<'a>(disks: &'a [Disk], path: &str) -> Option<(&'a Disk, String)> {
    disks.iter().find_map(|disk| {
        let first = disk.mount.of(0);
        let numbers = if disk.mount.of(1) == first { 1 } else { NUMBERS };
        let mount = (0..numbers).map(|number| disk.mount.of(number)).find(|mount| is_within(path, mount))?;
        Some((disk, mount))
    })
}

/// Whether one of two paths lies in the other. A path with `.` or `..` in it is refused for that.
fn is_within(path: &str, mount: &str) -> bool {
    let below =
        |one: &str, other: &str| one.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    below(path, mount) || below(mount, path)
}

#[cfg(test)]
mod tests {
    use crate::config::{Document, Format, Machine, load};

    fn problems(text: &str) -> String {
        let bytes = format!("version = 1\n{text}").into_bytes();
        let loaded = load(&[Document { name: "f".into(), format: Format::NodeToml, bytes }], &Machine::default());
        loaded.err().map(|error| error.to_string()).unwrap_or_default()
    }

    const DISK: &str = "[[disk]]\nname = \"data\"\nmatch = { serial = \"A1\" }\nmount = \"/data\"\n";
    const DISKS: &str =
        "[[disk]]\nname = \"many\"\nmatch = { model = \"ST*\" }\ncount = 3\nmount = \"/srv/{n}/store\"\n";

    #[test]
    fn files_and_homes_that_a_disk_would_hide_are_refused() {
        for (disk, path) in [
            (DISK, "/data/x.conf"),
            (DISK, "/data/deep/er/x"),
            (DISK, "/data"),
            (DISKS, "/srv/2/store/x"),
            (DISKS, "/srv/17/store/x"),
            (DISKS, "/srv/0"),
        ] {
            let error = problems(&format!("{disk}[[file]]\npath = \"{path}\"\ncontent = \"\"\n"));
            assert!(error.contains("file[0].path") && error.contains(&format!("{path} would be hidden")), "{error}");
            assert!(error.contains("run.first"), "{error}");
        }
        let error = problems(&format!("{DISK}[[user]]\nname = \"ops\"\nhome = \"/data/ops\"\n"));
        assert!(error.contains("f:8:8: user[0].home: the home /data/ops would be hidden: [[disk]] data"), "{error}");
        let home = DISK.replace("\"/data\"", "\"/home/ops\"");
        let error = problems(&format!("{home}[[user]]\nname = \"ops\"\n"));
        assert!(error.contains("the home /home/ops would be hidden: [[disk]] data is mounted on /home/ops"), "{error}");
    }

    #[test]
    fn what_lies_beside_a_disk_is_not_touched() {
        for path in ["/database/x", "/srv/other", "/srv/x/store", "/srv/1/stores", "/etc/x"] {
            let text = format!("{DISK}{DISKS}[[file]]\npath = \"{path}\"\ncontent = \"\"\n[[user]]\nname = \"ops\"\n");
            assert_eq!(problems(&text), "", "{path}");
        }
        assert_eq!(problems("[[file]]\npath = \"/data/x\"\ncontent = \"\"\n"), "");
    }
}
