//! The disks of the machine, as sysfs and udev's database show them.
//!
//! Takes `/sys/block`, `/run/udev/data`, the mounts and the swap areas; gives every whole disk with what it says of
//! itself, and why it must not be claimed where that is so.

use std::collections::BTreeSet;

use crate::config::{DiskMatch, Machine, Serial, Wwn};
use crate::glob;
use crate::host::{Host, HostError};

const SMALL: u64 = 64 * 1024;
const LARGE: u64 = 16 * 1024 * 1024;
/// Labels of media that carry configuration.
const MEDIA: [&str; 3] = ["ingot", "cidata", "config-2"];

/// A whole disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskInfo {
    /// The kernel's name: `sda`, `nvme0n1`.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its world wide name, in the form of [`Wwn`].
    pub wwn: Option<String>,
    /// Its model.
    pub model: Option<String>,
    /// Its links below `/dev/disk`, sorted.
    pub links: Vec<String>,
    /// Whether it turns.
    pub rotational: bool,
    /// Whether it hangs on USB.
    pub usb: bool,
    /// Why it must not be claimed, if so.
    pub taken: Option<String>,
}

/// All whole disks, sorted by name.
///
/// # Errors
/// What cannot be read.
pub fn disks(host: &dyn Host) -> Result<Vec<DiskInfo>, HostError> {
    const NO_DISKS: [&str; 9] = ["loop", "ram", "zram", "dm-", "md", "fd", "sr", "nbd", "mtdblock"];
    let used = Used::read(host)?;
    let mut disks = Vec::new();
    for name in host.names("/sys/block")? {
        if NO_DISKS.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        disks.extend(disk(host, &name, &used)?);
    }
    Ok(disks)
}

/// What the kernel has in use, by device number and by path.
struct Used {
    mounts: Vec<(String, String)>,
    swaps: Vec<String>,
}

impl Used {
    fn read(host: &dyn Host) -> Result<Self, HostError> {
        let text = |path| {
            Ok::<_, HostError>(String::from_utf8_lossy(&host.read(path, LARGE)?.unwrap_or_default()).into_owned())
        };
        let mounts = text("/proc/self/mountinfo")?;
        let mounts = mounts.lines().filter_map(|line| {
            let mut words = line.split(' ').skip(2);
            Some((words.next()?.to_owned(), words.nth(1)?.to_owned()))
        });
        let swaps = text("/proc/swaps")?;
        let swaps = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next().map(str::to_owned));
        Ok(Self { mounts: mounts.collect(), swaps: swaps.collect() })
    }
}

/// What a device says of itself. A driver that has no answer refuses to be read (a USB disk without a WWN: `ENXIO`), which
/// is no reason to fail.
fn own_word(host: &dyn Host, path: &str) -> Option<String> {
    attribute(host, path).ok().flatten()
}

fn attribute(host: &dyn Host, path: &str) -> Result<Option<String>, HostError> {
    let text =
        host.read(path, SMALL)?.map(|bytes| String::from_utf8_lossy(&bytes).trim_matches(['\0', ' ', '\n']).to_owned());
    Ok(text.filter(|text| !text.is_empty()))
}

/// What udev knows of a device.
struct Known {
    links: Vec<String>,
    properties: Vec<(String, String)>,
}

impl Known {
    fn property(&self, key: &str) -> Option<String> {
        self.properties.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    }
}

/// Reads udev's database (`/run/udev/data/b8:0`): `S:` is a link below `/dev`, `E:` a property.
fn udev(host: &dyn Host, number: &str) -> Result<Known, HostError> {
    let bytes = host.read(&format!("/run/udev/data/b{number}"), LARGE)?.unwrap_or_default();
    let (mut links, mut properties) = (Vec::new(), Vec::new());
    for line in String::from_utf8_lossy(&bytes).lines() {
        match line.split_once(':') {
            Some(("S", link)) => links.push(format!("/dev/{link}")),
            Some(("E", pair)) => properties.extend(pair.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))),
            _ => {}
        }
    }
    links.sort();
    Ok(Known { links, properties })
}

fn disk(host: &dyn Host, name: &str, used: &Used) -> Result<Option<DiskInfo>, HostError> {
    let directory = format!("/sys/block/{name}");
    let get = |file: &str| attribute(host, &format!("{directory}/{file}"));
    let bytes = get("size")?.and_then(|sectors| sectors.parse::<u64>().ok()).unwrap_or(0).saturating_mul(512);
    let hidden = get("hidden")?.is_some_and(|hidden| hidden == "1");
    let say = |file: &str| own_word(host, &format!("{directory}/{file}"));
    let (Some(number), false, true) = (get("dev")?, hidden, bytes > 0) else { return Ok(None) };
    let known = udev(host, &number)?;
    let property = |key: &str| known.property(key);
    let first = |values: [Option<String>; 3]| {
        values.into_iter().flatten().map(|value| value.trim().to_owned()).find(|value| !value.is_empty())
    };
    let wwn = first([property("ID_WWN_WITH_EXTENSION"), say("wwid"), say("device/wwid").or(property("ID_WWN"))]);
    let info = DiskInfo {
        name: name.replace('!', "/"),
        bytes,
        serial: first([property("ID_SERIAL_SHORT"), say("device/serial"), say("serial")]),
        wwn: wwn.and_then(|text| text.parse::<Wwn>().ok()).map(|wwn| wwn.as_str().to_owned()),
        model: first([say("device/model"), property("ID_MODEL"), None]),
        links: known.links.clone(),
        rotational: get("queue/rotational")?.is_some_and(|turns| turns == "1"),
        usb: property("ID_BUS").is_some_and(|bus| bus == "usb"),
        taken: None,
    };
    let taken = taken(host, name, &directory, &number, used)?;
    let taken = match taken {
        None if get("removable")?.is_some_and(|removable| removable == "1") => {
            Some("its medium can be taken out".to_owned())
        }
        None if get("ro")?.is_some_and(|only| only == "1") => Some("it is read-only".to_owned()),
        taken => taken,
    };
    Ok(Some(DiskInfo { taken, ..info }))
}

/// Who uses the disk or a partition of it.
fn taken(host: &dyn Host, name: &str, directory: &str, number: &str, used: &Used) -> Result<Option<String>, HostError> {
    let mut devices = vec![(name.to_owned(), directory.to_owned(), number.to_owned())];
    for part in host.names(directory)? {
        let path = format!("{directory}/{part}");
        if part.starts_with(name) && host.exists(&format!("{path}/partition")) {
            let number = attribute(host, &format!("{path}/dev"))?.unwrap_or_default();
            devices.push((part, path, number));
        }
    }
    for (name, path, number) in &devices {
        if let Some((_, place)) = used.mounts.iter().find(|(mounted, _)| mounted == number) {
            return Ok(Some(format!("{name} is mounted on {place}")));
        }
        let node = format!("/dev/{}", name.replace('!', "/"));
        let known = udev(host, number)?;
        if used.swaps.iter().any(|swap| *swap == node || known.links.contains(swap)) {
            return Ok(Some(format!("{name} is swap space")));
        }
        let holders: BTreeSet<String> = host.names(&format!("{path}/holders"))?.into_iter().collect();
        if let Some(holder) = holders.first() {
            return Ok(Some(format!("{name} belongs to {holder}, which is in use")));
        }
        let label = known.property("ID_FS_LABEL").map(|label| label.to_lowercase());
        if label.is_some_and(|label| MEDIA.contains(&label.as_str())) {
            return Ok(Some(format!("{name} is a medium with configuration")));
        }
    }
    Ok(None)
}

impl DiskInfo {
    /// Its device node.
    pub fn node(&self) -> String {
        format!("/dev/{}", self.name)
    }

    /// What it is known by for ever, and whether that is the disk's own name and not only its place.
    pub fn identity(&self, machine: &Machine) -> (String, bool) {
        match (&self.wwn, &self.serial) {
            (Some(wwn), _) => (format!("wwn {wwn}"), true),
            (None, Some(serial)) => (format!("serial {} {serial}", self.model.as_deref().unwrap_or_default()), true),
            (None, None) => {
                let path = self.links.iter().find(|link| link.starts_with("/dev/disk/by-path/"));
                let place = path.unwrap_or(&self.name);
                let mac = machine.macs.first().map(ToString::to_string);
                let of = machine.uuid.clone().or_else(|| machine.serial.clone()).or(mac).unwrap_or_default();
                (format!("place {place} {} {of}", self.bytes), false)
            }
        }
    }

    /// Whether a rule means it.
    pub fn is_meant(&self, matches: &DiskMatch) -> bool {
        let path = |pattern: &str| self.links.iter().any(|link| glob::matches(pattern, link));
        let model = self.model.as_deref().unwrap_or_default();
        // A disk on a cable is never meant by its size alone.
        (matches.names_disks() || !self.usb)
            && (matches.serials.is_empty() || matches.serials.iter().any(|serial| self.has_serial(serial)))
            && (matches.wwns.is_empty() || matches.wwns.iter().any(|wwn| self.wwn.as_deref() == Some(wwn.as_str())))
            && (matches.paths.is_empty() || matches.paths.iter().any(|pattern| path(pattern.as_str())))
            && matches.size.is_none_or(|range| range.contains(self.bytes))
            && matches.model.as_ref().is_none_or(|pattern| glob::matches(pattern.as_str(), model))
    }

    /// What gives it up, for people: with its serial number, which stays, or its name of now.
    pub fn release_command(&self) -> String {
        format!("/usr/lib/ingot/firstboot release-disk {}", self.serial.as_deref().unwrap_or(&self.name))
    }

    /// Whether the serial number is its.
    pub fn has_serial(&self, serial: &Serial) -> bool {
        self.serial.as_deref() == Some(serial.as_str())
    }

    /// The place of the disk in the list that a rule gives, for a stable order.
    pub fn place_in(&self, matches: &DiskMatch) -> usize {
        let path = |pattern: &str| self.links.iter().any(|link| glob::matches(pattern, link));
        let listed = matches.serials.iter().position(|serial| self.has_serial(serial));
        let listed = listed.or_else(|| matches.wwns.iter().position(|wwn| self.wwn.as_deref() == Some(wwn.as_str())));
        listed.or_else(|| matches.paths.iter().position(|pattern| path(pattern.as_str()))).unwrap_or(usize::MAX)
    }
}

impl std::fmt::Display for DiskInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}", self.name, crate::config::Bytes(self.bytes).rounded())?;
        if let Some(model) = &self.model {
            write!(f, ", {model}")?;
        }
        match &self.serial {
            Some(serial) => write!(f, ", serial {serial})"),
            None => f.write_str(", no serial number)"),
        }
    }
}
