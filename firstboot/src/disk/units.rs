//! The units that mount the disks at every boot, as files of systemd.unit(5), and `/etc/crypttab`.
//!
//! There is no fstab: each disk has a `.mount` unit that `local-fs.target` wants and does not require, so that a
//! missing disk delays a boot by [`DEVICE_SECONDS`] and stops nothing but the units that need it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::claim::{Assignment, Purpose, luks_uuid};
use super::make::{key_path, mapping};
use super::record::Record;
use super::{DiskError, HostError};
use crate::config::{Disk, Encryption};
use crate::host::Host;

/// Where units and their drop-ins lie.
pub const DIRECTORY: &str = "/etc/systemd/system";
/// Which encrypted disks are unlocked at each boot: crypttab(5).
pub const CRYPTTAB: &str = "/etc/crypttab";
const BEGIN: &str = "# ingot: begin";
const END: &str = "# ingot: end";
const HEADER: &str = "# Written by Ingot's first boot from node.toml.\n";
/// How long a boot waits for a disk, in seconds.
pub const DEVICE_SECONDS: u32 = 60;
const LIMIT: u64 = 16 << 20;

/// There once all disks were mounted; its content is the rules for which that holds.
pub const SETTLED: &str = "/var/lib/ingot/disks-settled";

/// The rules in a form that changes when they do.
pub fn rules_text(disks: &[Disk]) -> String {
    disks.iter().map(|disk| format!("{} {} {} {}\n", disk.name, disk.count, disk.mount, disk.matches)).collect()
}

/// The drop-ins that keep the units that need disks from starting before [`SETTLED`] is there.
pub fn gates(disks: &[Disk]) -> BTreeMap<String, String> {
    let text = format!("{HEADER}[Unit]\nConditionPathExists={SETTLED}\n");
    let units = disks.iter().flat_map(|disk| &disk.required_by);
    units.map(|unit| (format!("{DIRECTORY}/{unit}.d/21-ingot-disks-settled.conf"), text.clone())).collect()
}

/// Lets those units start.
pub fn mark_settled(host: &dyn Host, disks: &[Disk]) -> Result<(), HostError> {
    let wanted = (!gates(disks).is_empty()).then(|| rules_text(disks).into_bytes());
    let old = host.read(SETTLED, LIMIT)?;
    match wanted {
        Some(text) if old.as_ref() != Some(&text) => host.write(SETTLED, &text, 0o644),
        None if old.is_some() => host.remove(SETTLED),
        _ => Ok(()),
    }
}

/// Escapes a path for a unit's name, as `systemd-escape --path` does (systemd.unit(5)).
pub fn escape_path(path: &str) -> String {
    let trimmed = path.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
    if trimmed.is_empty() {
        return "-".to_owned();
    }
    let mut escaped = String::new();
    for (index, byte) in trimmed.bytes().enumerate() {
        match byte {
            b'/' => escaped.push('-'),
            b'.' if index == 0 => escaped.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => escaped.push(char::from(byte)),
            other => {
                let _ = write!(escaped, "\\x{other:02x}"); // writing to a String cannot fail
            }
        }
    }
    escaped
}

/// The link by which the system finds a disk's filesystem.
pub fn device(assignment: &Assignment<'_>) -> String {
    format!("/dev/disk/by-uuid/{}", assignment.uuid)
}

/// All files for the disks, and for the swap file where there is one, by path.
pub fn files(
    host: &dyn Host,
    assignments: &[Assignment<'_>],
    swap_file: Option<&str>,
) -> Result<BTreeMap<String, String>, DiskError> {
    let mut files = unit_files(assignments, swap_file);
    if let Some(text) = crypttab(host, assignments)? {
        files.insert(CRYPTTAB.to_owned(), text);
    }
    Ok(files)
}

/// The units and their drop-ins alone.
pub fn unit_files(assignments: &[Assignment<'_>], swap_file: Option<&str>) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut needed: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let wants = |unit: &str, target: &str| {
        (format!("{DIRECTORY}/{target}.d/20-ingot-{unit}.conf"), format!("{HEADER}[Unit]\nWants={unit}\n"))
    };
    for assignment in assignments {
        let what = device(assignment);
        let timeout = format!("{HEADER}[Unit]\nJobRunningTimeoutSec={DEVICE_SECONDS}s\n");
        files.insert(format!("{DIRECTORY}/{}.device.d/20-ingot.conf", escape_path(&what)), timeout);
        match assignment.rule.purpose {
            Purpose::Data(disk) => {
                let path = disk.mount.of(assignment.number);
                let unit = escape_path(&path) + ".mount";
                files.insert(format!("{DIRECTORY}/{unit}"), mount_unit(assignment, disk, &what, &path));
                files.extend([wants(&unit, "local-fs.target")]);
                for service in &disk.required_by {
                    needed.entry(service.as_str()).or_default().push(path.clone());
                }
            }
            Purpose::Swap => {
                let unit = escape_path(&what) + ".swap";
                files.insert(format!("{DIRECTORY}/{unit}"), swap_unit(&what));
                files.extend([wants(&unit, "swap.target")]);
            }
        }
    }
    for (service, paths) in needed {
        let text = format!("{HEADER}[Unit]\nRequiresMountsFor={}\n", paths.join(" "));
        files.insert(format!("{DIRECTORY}/{service}.d/20-ingot-disks.conf"), text);
    }
    if let Some(path) = swap_file {
        let unit = escape_path(path) + ".swap";
        files.insert(format!("{DIRECTORY}/{unit}"), swap_unit(path));
        files.extend([wants(&unit, "swap.target")]);
    }
    files
}

fn mount_unit(assignment: &Assignment<'_>, disk: &Disk, what: &str, path: &str) -> String {
    let name = disk.filesystem.name();
    // `nofail` is what the unit says already; the kernel does not know the word.
    let options: Vec<&str> =
        disk.options.iter().map(crate::config::MountOption::as_str).filter(|option| *option != "nofail").collect();
    let options = if options.is_empty() { "defaults".to_owned() } else { options.join(",") };
    format!(
        "{HEADER}[Unit]\nDescription=Ingot: disk {} number {}\nBefore=local-fs.target umount.target\nConflicts=umount.target\n\n\
         [Mount]\nWhat={what}\nWhere={path}\nType={name}\nOptions={options}\nTimeoutSec=300\n",
        disk.name, assignment.number
    )
}

fn swap_unit(what: &str) -> String {
    format!("{HEADER}[Unit]\nDescription=Ingot: swap space\n\n[Swap]\nWhat={what}\nTimeoutSec=120\n")
}

/// The lines of the disks in `/etc/crypttab`; none where nothing is encrypted.
pub fn crypttab_lines(assignments: &[Assignment<'_>]) -> String {
    let mut block = String::new();
    for assignment in assignments {
        let Purpose::Data(Disk { encrypt: Some(encryption), .. }) = assignment.rule.purpose else { continue };
        let (key, option) = match encryption {
            Encryption::KeyFile => (key_path(assignment), ""),
            Encryption::Tpm2 => ("-".to_owned(), ",tpm2-device=auto,headless=true"),
        };
        let uuid = luks_uuid(assignment.rule.name, assignment.number, &assignment.identity);
        let name = mapping(assignment);
        block += &format!("{name} UUID={uuid} {key} luks,nofail,x-systemd.device-timeout={DEVICE_SECONDS}s{option}\n");
    }
    block
}

/// `/etc/crypttab` with the disks in a block of its own; `None` where nothing is encrypted and nothing was.
fn crypttab(host: &dyn Host, assignments: &[Assignment<'_>]) -> Result<Option<String>, HostError> {
    let block = crypttab_lines(assignments);
    let old = host.read(CRYPTTAB, LIMIT)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let (mut inside, mut had_block) = (false, false);
    let mut text = String::new();
    for line in old.lines() {
        match line.trim() {
            BEGIN => (inside, had_block) = (true, true),
            END => inside = false,
            _ if inside => {}
            _ => text += &format!("{line}\n"),
        }
    }
    if block.is_empty() {
        // What others wrote is theirs; without that, the file goes with the disks.
        return Ok((had_block && !text.is_empty()).then_some(text));
    }
    Ok(Some(format!("{text}{BEGIN}\n{block}{END}\n")))
}

/// Writes what differs and removes what is no longer wanted; true where something changed. What is written is in the
/// record before, so that a power cut leaves no file that nobody knows.
pub fn write(host: &dyn Host, record: &mut Record, wanted: &BTreeMap<String, String>) -> Result<bool, DiskError> {
    let stale: Vec<String> = record.files.iter().filter(|path| !wanted.contains_key(*path)).cloned().collect();
    let mut changed = Vec::new();
    for (path, text) in wanted {
        if host.read(path, LIMIT)?.as_deref() != Some(text.as_bytes()) {
            changed.push((path, text));
        }
    }
    let known: Vec<String> = wanted.keys().chain(&stale).cloned().collect();
    if record.files != known {
        record.files = known;
        record.save(host)?;
    }
    for path in &stale {
        if let Some(unit) = path.strip_prefix(&format!("{DIRECTORY}/")).filter(|unit| !unit.contains('/')) {
            // Not fatal: a disk that is in use stays where it is until the next boot.
            let _ = host.run("systemctl", &["stop", unit], super::MOUNT_PATIENCE);
        }
        host.remove(path)?;
    }
    for (path, text) in &changed {
        host.write(path, text.as_bytes(), 0o644)?;
    }
    if !stale.is_empty() {
        record.files = wanted.keys().cloned().collect();
        record.save(host)?;
    }
    Ok(!changed.is_empty() || !stale.is_empty())
}

/// Whether something is mounted at a path.
pub fn is_mounted(host: &dyn Host, path: &str) -> Result<bool, HostError> {
    let text = host.read("/proc/self/mountinfo", LIMIT)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&text).lines().any(|line| line.split(' ').nth(4) == Some(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_systemd_does() {
        assert_eq!(escape_path("/data/0"), "data-0");
        assert_eq!(escape_path("/srv/a-b/.x"), "srv-a\\x2db-.x");
        assert_eq!(escape_path("/.hidden//x/"), "\\x2ehidden-x");
        assert_eq!(escape_path("/"), "-");
        let mut tried = 0;
        for path in
            ["/data/0", "/ais/disk-7", "/a b/ü", "/.x/y.z", "/dev/disk/by-uuid/6b1f-2", "/x+y@z:1_2", "/", "//a///b/"]
        {
            let arguments = ["--path", path];
            match crate::process::run("systemd-escape", &arguments, std::time::Duration::from_secs(10)) {
                Ok(output) => {
                    assert_eq!(escape_path(path), String::from_utf8(output).unwrap().trim_end(), "{path}");
                    tried += 1;
                }
                Err(crate::process::ProcessError::Start { .. }) => {
                    println!("skipped: systemd-escape is not installed");
                    return;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(tried, 8);
    }
}
