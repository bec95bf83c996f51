//! Making a disk: cleared where that is allowed, encrypted where that is wanted, formatted, read back.
//!
//! Nothing is mounted before the claim is recorded as finished, so until then there is nothing on the disk that could
//! be lost, and everything here may be begun again from its start.

use std::time::Duration;

use super::claim::{Action, Assignment, Purpose, luks_uuid};
use super::content::{Content, LOOKED_AT, inspect};
use super::record::{Record, State};
use super::{DiskError, HostError, PATIENCE, claim_of};
use crate::config::{Disk, Encryption, Filesystem};
use crate::host::Host;

/// Keys of encrypted disks; on the state partition.
const KEYS: &str = "/var/lib/ingot/disk-keys";
/// The key that only lives until the TPM has its own.
const PASSING_KEY: &str = "/run/ingot/disk.key";
/// How long a filesystem may take to be made: hours of discarding are left out, a slow array is not.
const FORMAT_PATIENCE: Duration = Duration::from_mins(15);

/// The name of the unlocked disk below `/dev/mapper`.
pub fn mapping(assignment: &Assignment<'_>) -> String {
    format!("ingot-{}-{}", assignment.rule.name, assignment.number)
}

/// Where a disk's key lies, if it has one in a file.
pub fn key_path(assignment: &Assignment<'_>) -> String {
    format!("{KEYS}/{}-{}.key", assignment.rule.name, assignment.number)
}

/// How a rule's disks are encrypted, for the record.
pub fn encryption_name(disk: &Disk) -> &'static str {
    match disk.encrypt {
        None => "",
        Some(Encryption::Tpm2) => "tpm2",
        Some(Encryption::KeyFile) => "key-file",
    }
}

/// Looks for the programs that a disk takes.
///
/// # Errors
/// The one that the image lacks.
pub fn tools_of(host: &dyn Host, disk: &Disk, action: Action) -> Result<(), &'static str> {
    let has = |program: &str| {
        ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|directory| host.exists(&format!("{directory}/{program}")))
    };
    let need = |program: &'static str| if has(program) { Ok(()) } else { Err(program) };
    let makes = matches!(action, Action::Make { .. });
    if makes {
        need(match disk.filesystem {
            Filesystem::Xfs => "mkfs.xfs",
            Filesystem::Ext4 => "mkfs.ext4",
        })?;
    }
    match disk.encrypt {
        None => Ok(()),
        Some(Encryption::KeyFile) => need("cryptsetup"),
        Some(Encryption::Tpm2) => need("cryptsetup").and_then(|()| need("systemd-cryptenroll")),
    }
}

/// The part of a profile that brings a program.
pub fn part_of(program: &str) -> &'static str {
    match program {
        "mkfs.xfs" => "parts/data-disks",
        "mkfs.ext4" => "parts/node",
        _ => "parts/disk-encryption",
    }
}

/// Whether the disk is in use by an earlier attempt of this boot.
pub fn is_own_mapping(host: &dyn Host, assignment: &Assignment<'_>) -> bool {
    assignment.rule.is_encrypted() && host.exists(&format!("/dev/mapper/{}", mapping(assignment)))
}

/// Makes a disk and records it as finished.
pub fn make(host: &dyn Host, record: &mut Record, assignment: &Assignment<'_>) -> Result<(), DiskError> {
    record.put(claim_of(assignment, State::Making));
    record.save(host)?;
    let node = assignment.disk.node();
    if is_own_mapping(host, assignment) {
        host.run("cryptsetup", &["close", &mapping(assignment)], PATIENCE)?;
    }
    if assignment.action == (Action::Make { destroy: true }) {
        let length = assignment.disk.bytes.min(LOOKED_AT);
        host.clear_device(&node, 0, length)?;
        host.clear_device(&node, assignment.disk.bytes - length, length)?;
        // The kernel forgets the partitions that were on it.
        host.run("blockdev", &["--rereadpt", &node], PATIENCE)?;
    }
    match assignment.rule.purpose {
        Purpose::Swap => {
            host.run("mkswap", &["-U", &assignment.uuid.to_string(), &node], FORMAT_PATIENCE)?;
            read_back(host, assignment, &node, assignment.disk.bytes)?;
        }
        Purpose::Data(disk) => match disk.encrypt {
            None => {
                format(host, assignment, disk, &node)?;
                read_back(host, assignment, &node, assignment.disk.bytes)?;
            }
            Some(encryption) => encrypt(host, assignment, disk, encryption)?,
        },
    }
    host.run("blockdev", &["--flushbufs", &node], PATIENCE)?;
    record.put(claim_of(assignment, State::Ready));
    record.given_up.remove(&assignment.identity);
    record.save(host)?;
    // The links below /dev/disk/by-uuid follow what was just made.
    host.run("udevadm", &["trigger", "--action=change", "--settle", &node], PATIENCE)?;
    Ok(())
}

/// The program that makes a disk's filesystem, with its arguments.
pub fn format_command(assignment: &Assignment<'_>, disk: &Disk, node: &str) -> Vec<String> {
    let uuid = assignment.uuid.to_string();
    let label = disk.label.as_ref().map(|label| label.replace("{n}", &assignment.number.to_string()));
    let mut own: Vec<String> = disk.mkfs.clone();
    let mut arguments: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
    // Discarding a whole disk takes minutes on some, and there is nothing on it.
    let program = match disk.filesystem {
        Filesystem::Xfs => {
            add(&["-q", "-f", "-K", "-m", &format!("uuid={uuid}")]);
            "mkfs.xfs"
        }
        Filesystem::Ext4 => {
            let mut extended = "nodiscard,lazy_itable_init=1,lazy_journal_init=1".to_owned();
            // Of several -E only the last would count.
            while let Some(at) = own.iter().position(|word| word == "-E") {
                own.remove(at);
                if at < own.len() {
                    extended = format!("{extended},{}", own.remove(at));
                }
            }
            add(&["-q", "-F", "-U", &uuid, "-E", &extended]);
            "mkfs.ext4"
        }
    };
    if let Some(label) = &label {
        add(&["-L", label]);
    }
    arguments.extend(own);
    arguments.push(node.to_owned());
    arguments.insert(0, program.to_owned());
    arguments
}

/// Runs a command to its end.
fn run(host: &dyn Host, command: &[String], patience: Duration) -> Result<(), HostError> {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let (program, arguments) = words.split_first().unwrap_or((&"", &[]));
    host.run(program, arguments, patience).map(drop)
}

fn format(host: &dyn Host, assignment: &Assignment<'_>, disk: &Disk, node: &str) -> Result<(), HostError> {
    run(host, &format_command(assignment, disk, node), FORMAT_PATIENCE)
}

/// Reads what was made, from the device.
fn read_back(host: &dyn Host, assignment: &Assignment<'_>, node: &str, bytes: u64) -> Result<(), DiskError> {
    let content = inspect(bytes, |offset, length| host.read_device(node, offset, length))?;
    match &content {
        Content::Marked { kind, uuid, .. } if *kind == assignment.rule.filesystem() && *uuid == assignment.uuid => {
            Ok(())
        }
        other => Err(DiskError::NotWritten { disk: assignment.disk.to_string(), content: other.to_string() }),
    }
}

/// The command that encrypts a disk; `key` is a file.
pub fn luks_command(node: &str, uuid: &str, key: &str) -> Vec<String> {
    let kind =
        ["luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let rest = ["--uuid", uuid, "--key-file", key, node];
    ["cryptsetup"].iter().chain(&kind).chain(&rest).map(|word| (*word).to_owned()).collect()
}

fn luks_format(host: &dyn Host, node: &str, uuid: &str, key: &str) -> Result<(), HostError> {
    run(host, &luks_command(node, uuid, key), FORMAT_PATIENCE)
}

/// The commands that give the key of an encrypted disk to the TPM and take away the one that it was made with.
pub fn enroll_commands(node: &str, key: &str) -> [Vec<String>; 2] {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let unlock = format!("--unlock-key-file={key}");
    [
        words(&["systemd-cryptenroll", &unlock, "--tpm2-device=auto", "--tpm2-pcrs=7", node]),
        words(&["systemd-cryptenroll", "--wipe-slot=password", node]),
    ]
}

/// Where the key of a disk lies while it is being made.
pub fn first_key(assignment: &Assignment<'_>, how: Encryption) -> String {
    match how {
        Encryption::KeyFile => key_path(assignment),
        Encryption::Tpm2 => PASSING_KEY.to_owned(),
    }
}

fn encrypt(host: &dyn Host, assignment: &Assignment<'_>, disk: &Disk, how: Encryption) -> Result<(), DiskError> {
    let node = assignment.disk.node();
    let uuid = luks_uuid(assignment.rule.name, assignment.number, &assignment.identity).to_string();
    let key = first_key(assignment, how);
    // A key of 64 random bytes needs no slow derivation, and a small machine has no memory for one.
    host.write(&key, &host.random_bytes(64)?, 0o600)?;
    luks_format(host, &node, &uuid, &key)?;
    let name = mapping(assignment);
    host.run("cryptsetup", &["open", "--type", "luks2", "--key-file", &key, &node, &name], PATIENCE)?;
    let inner = format!("/dev/mapper/{name}");
    format(host, assignment, disk, &inner)?;
    // The end of a fresh mapping is noise: only its beginning is looked at.
    read_back(host, assignment, &inner, LOOKED_AT)?;
    host.run("cryptsetup", &["close", &name], PATIENCE)?;
    if how == Encryption::Tpm2 {
        for command in enroll_commands(&node, &key) {
            run(host, &command, PATIENCE)?;
        }
        host.remove(&key)?;
    }
    Ok(())
}

/// Has systemd unlock a disk, and makes sure that what is inside is what was made.
pub fn unlock<F>(
    host: &dyn Host,
    assignment: &Assignment<'_>,
    disk: &Disk,
    failed: impl Fn(&str) -> F,
) -> Result<(), DiskError>
where
    F: FnOnce(HostError) -> DiskError,
{
    let key = key_path(assignment);
    if disk.encrypt == Some(Encryption::KeyFile) && !host.exists(&key) {
        let rule = assignment.rule.name.to_owned();
        let release = assignment.disk.release_command();
        return Err(DiskError::NoKey { rule, disk: assignment.disk.to_string(), path: key, release });
    }
    let name = mapping(assignment);
    let unit = format!("systemd-cryptsetup@{}.service", super::units::escape_path(&name));
    let started = host.run("systemctl", &["start", &unit], PATIENCE);
    if disk.encrypt == Some(Encryption::Tpm2) {
        let (rule, disk) = (assignment.rule.name.to_owned(), assignment.disk.to_string());
        let release = assignment.disk.release_command();
        started.map_err(|source| DiskError::Locked { rule, disk, unit, release, source: Box::new(source) })?;
    } else {
        started.map_err(failed(&unit))?;
    }
    read_back(host, assignment, &format!("/dev/mapper/{name}"), LOOKED_AT)
}

#[cfg(test)]
mod tests {
    use super::super::claim::Rule;
    use super::super::inventory::DiskInfo;
    use super::*;
    use crate::config::{Document, Format, Machine, load};
    use crate::host::RealHost;

    const BYTES: u64 = 400 << 20;

    /// The real programs, on files that stand for disks: what is made reads back with the UUID that it was to have.
    #[test]
    fn the_real_programs_take_these_arguments() {
        let directory = tempfile::tempdir().unwrap();
        let host = RealHost::default();
        let xfs = "filesystem = \"xfs\"\nlabel = \"d-{n}\"\nmkfs = [\"-i\", \"size=512\", \"-m\", \"reflink=0\"]\n";
        let ext4 = "filesystem = \"ext4\"\nlabel = \"d-{n}\"\nmkfs = [\"-m\", \"0\", \"-E\", \"stride=16\"]\n";
        for (more, kind) in [(xfs, "xfs"), (ext4, "ext4"), ("encrypt = \"key-file\"\n", "luks")] {
            let rule = "version = 1\n[[disk]]\nname = \"data\"\nmount = \"/data\"\nmatch = { serial = \"A\" }\n";
            let bytes = format!("{rule}{more}").into_bytes();
            let document = Document { name: "f".into(), format: Format::NodeToml, bytes };
            let config = load(&[document], &Machine::default()).unwrap().config;
            let disk = &config.disks[0];
            if let Err(program) = tools_of(&host, disk, Action::Make { destroy: false }) {
                println!("skipped: {program} is not installed");
                continue;
            }
            let path = directory.path().join(kind);
            std::fs::File::create(&path).unwrap().set_len(BYTES).unwrap();
            let node = path.to_str().unwrap();
            let assignment = assignment(&disk.matches, Purpose::Data(disk));
            if kind == "luks" {
                let key = directory.path().join("key");
                std::fs::write(&key, host.random_bytes(64).unwrap()).unwrap();
                luks_format(&host, node, &assignment.uuid.to_string(), key.to_str().unwrap()).unwrap();
            } else {
                // Twice: what a first time that was cut off has left is no hindrance.
                for _ in 0..2 {
                    format(&host, &assignment, disk, node).unwrap();
                    read_back(&host, &assignment, node, BYTES).unwrap();
                }
                let label = host.run("blkid", &["-p", "-s", "LABEL", "-o", "value", node], PATIENCE).unwrap();
                assert_eq!(label, b"d-0\n");
            }
            let content = inspect(BYTES, |offset, length| host.read_device(node, offset, length)).unwrap();
            assert_eq!(content, Content::Marked { kind, uuid: assignment.uuid, beside: None });
        }
    }

    fn assignment<'a>(matches: &'a crate::config::DiskMatch, purpose: Purpose<'a>) -> Assignment<'a> {
        Assignment {
            rule: Rule { name: "data", matches, count: 1, wipe: &[], adopt: &[], purpose },
            number: 0,
            disk: DiskInfo { name: "disk".into(), bytes: BYTES, ..DiskInfo::default() },
            identity: "serial A".to_owned(),
            uuid: super::super::claim::data_uuid("data", 0, "serial A"),
            action: Action::Make { destroy: false },
        }
    }

    #[test]
    fn what_was_not_written_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        std::fs::File::create(&path).unwrap().set_len(4 << 20).unwrap();
        let matches = crate::config::DiskMatch::default();
        let assignment = assignment(&matches, Purpose::Swap);
        let error = read_back(&RealHost::default(), &assignment, path.to_str().unwrap(), 4 << 20).unwrap_err();
        assert!(error.to_string().contains("does not read back: it has nothing"), "{error}");
    }
}
