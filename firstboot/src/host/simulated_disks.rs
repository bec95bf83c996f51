//! The simulated machine's disks: what programs write on them, and what the kernel says of them.

#![allow(missing_docs, clippy::missing_panics_doc)]

use std::collections::{BTreeMap, BTreeSet};

use super::simulated::{SimulatedHost, State};

/// Where a mounted disk gets data that must never be lost.
const PRECIOUS: u64 = 10 << 20;

/// A block device: its size, and what is not zero on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    pub bytes: u64,
    pub pieces: BTreeMap<u64, Vec<u8>>,
}

impl Device {
    pub fn read(&self, offset: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        for (start, piece) in &self.pieces {
            for (place, byte) in (*start..).zip(piece) {
                if (offset..offset + length).contains(&place) {
                    bytes[usize::try_from(place - offset).unwrap()] = *byte;
                }
            }
        }
        bytes
    }

    pub fn clear(&mut self, offset: u64, length: u64) {
        self.pieces.retain(|start, _| !(offset..offset + length).contains(start));
    }
}

/// What of the disks is lost at a reboot.
#[derive(Debug, Default)]
pub struct Volatile {
    pub mounts: Vec<(String, String)>,
    pub swaps: Vec<String>,
    pub mapped: BTreeSet<String>,
    pub busy: BTreeSet<String>,
    /// What cannot be made, because the root is read-only.
    pub read_only: Vec<&'static str>,
    pub directories: BTreeSet<String>,
    /// What is there and refuses to be read.
    pub unreadable: BTreeSet<&'static str>,
    /// The TPM is another one than when keys were given to it.
    pub new_tpm: bool,
}

impl SimulatedHost {
    /// Puts a disk into the machine.
    pub fn plug_in(&self, name: &str, bytes: u64, serial: &str, model: &str) {
        // As the kernel counts: sda is 8:16 here, sdb 8:32.
        let number = (u32::from(name.bytes().last().unwrap_or(b'a')) - 96) * 16;
        let directory = format!("/sys/block/{name}");
        self.put(&format!("{directory}/dev"), &format!("8:{number}\n"));
        self.put(&format!("{directory}/size"), &format!("{}\n", bytes / 512));
        self.put(&format!("{directory}/ro"), "0\n");
        self.put(&format!("{directory}/removable"), "0\n");
        self.put(&format!("{directory}/queue/rotational"), "1\n");
        self.put(&format!("{directory}/device/model"), &format!("{model}   \n"));
        let serial = if serial.is_empty() { String::new() } else { format!("E:ID_SERIAL_SHORT={serial}\n") };
        self.put(
            &format!("/run/udev/data/b8:{number}"),
            &format!("S:disk/by-path/pci-0-{name}\n{serial}E:ID_BUS=ata\n"),
        );
        self.state().disk.devices.insert(format!("/dev/{name}"), Device { bytes, ..Device::default() });
    }

    /// Takes a disk out.
    pub fn pull_out(&self, name: &str) -> Device {
        let mut state = self.state();
        let directory = format!("/sys/block/{name}/");
        state.disk.files.retain(|path, _| !path.starts_with(&directory));
        state.disk.devices.remove(&format!("/dev/{name}")).unwrap()
    }

    /// Puts content on a disk.
    pub fn scribble(&self, name: &str, offset: u64, bytes: &[u8]) {
        let mut state = self.state();
        state.disk.devices.get_mut(&format!("/dev/{name}")).unwrap().pieces.insert(offset, bytes.to_vec());
    }
}

/// The mounts that the kernel shows, after those that the test has put there.
pub fn mountinfo(state: &State) -> String {
    let mounts = state.volatile.mounts.iter().map(|(device, path)| {
        let directory = device.replace("/dev/", "/sys/block/");
        let number = state.disk.files.get(&format!("{directory}/dev"));
        let number = number.map_or("253:0".into(), |(bytes, _)| String::from_utf8_lossy(bytes).trim().to_owned());
        format!("30 1 {number} / {path} rw - xfs {device} rw\n")
    });
    mounts.collect()
}

/// The swap areas.
pub fn swaps(state: &State) -> String {
    let swaps = state.volatile.swaps.iter().map(|swap| format!("{swap} partition 1 0 -2\n"));
    format!("Filename Type Size Used Priority\n{}", swaps.collect::<String>())
}

/// The scope of an address, as networkd and the kernel set it.
pub fn is_global(found: &super::InterfaceAddress) -> bool {
    match found.address {
        std::net::IpAddr::V4(v4) => !v4.is_link_local(),
        std::net::IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    }
}

/// A driver that has rings and no channels; it takes powers of two up to its maximum.
pub fn ethtool(state: &mut State, interface: &str, request: &mut [u32; 9]) -> Result<(), std::io::ErrorKind> {
    let rings = state.rings.get_mut(interface).ok_or(std::io::ErrorKind::Unsupported)?;
    match request[0] {
        0x10 => *request = *rings,
        0x11 if request[5] > rings[1] || request[8] > rings[4] => return Err(std::io::ErrorKind::InvalidInput),
        0x11 => {
            rings[5] = request[5].next_power_of_two();
            rings[8] = request[8].next_power_of_two();
        }
        _ => return Err(std::io::ErrorKind::Unsupported),
    }
    Ok(())
}

fn uuid_of(arguments: &[&str]) -> Option<uuid::Uuid> {
    let after = |option: &str| arguments.iter().position(|word| *word == option).and_then(|at| arguments.get(at + 1));
    let plain = after("-U").or_else(|| after("--uuid")).copied();
    plain.or_else(|| arguments.iter().find_map(|word| word.strip_prefix("uuid="))).and_then(|text| text.parse().ok())
}

/// What a program does to the disks. `whole` is false where the power fails in the middle of it.
pub fn run(state: &mut State, program: &str, arguments: &[&str], whole: bool) -> Result<Vec<u8>, String> {
    let node = (*arguments.last().unwrap_or(&"")).to_owned();
    match (program, arguments) {
        ("mkfs.xfs", _) => {
            make(state, &node, arguments, whole, |uuid| vec![(0, b"XFSB".to_vec()), (32, uuid.to_vec())])
        }
        ("mkfs.ext4", _) => {
            make(state, &node, arguments, whole, |uuid| vec![(1080, vec![0x53, 0xef]), (1128, uuid.to_vec())])
        }
        ("mkswap", _) if node.starts_with("/dev/") => {
            make(state, &node, arguments, whole, |uuid| vec![(4086, b"SWAPSPACE2".to_vec()), (1036, uuid.to_vec())])
        }
        ("cryptsetup", ["luksFormat", ..]) => {
            make(state, &node, arguments, whole, |uuid| {
                let text = uuid::Uuid::from_bytes(*uuid).to_string().into_bytes();
                vec![(0, b"LUKS\xba\xbe".to_vec()), (168, text)]
            })?;
            // What decrypting an empty disk with a new key gives.
            state.disk.devices.retain(|name, _| !name.starts_with("/dev/mapper/"));
            Ok(Vec::new())
        }
        ("cryptsetup", ["open", ..]) => {
            map(state, &node);
            Ok(Vec::new())
        }
        ("cryptsetup", ["close", ..]) => {
            state.volatile.mapped.remove(&node);
            Ok(Vec::new())
        }
        ("df", _) => Ok(b"Avail\n100000000000\n".to_vec()),
        ("systemctl", ["start", unit]) if unit.starts_with("systemd-cryptsetup@") && state.volatile.new_tpm => {
            Err(format!("Job for {unit} failed because the control process exited with error code."))
        }
        ("systemctl", ["start", unit]) if unit.starts_with("systemd-cryptsetup@") => {
            let name =
                unit.trim_start_matches("systemd-cryptsetup@").trim_end_matches(".service").replace("\\x2d", "-");
            map(state, &name);
            Ok(Vec::new())
        }
        ("systemctl", ["start", unit]) if matches!(kind(unit), "mount" | "swap") => start(state, unit),
        ("systemctl", ["stop", unit]) if kind(unit) == "mount" => {
            let path = format!("/{}", unit.trim_end_matches(".mount").replace('-', "/"));
            state.volatile.mounts.retain(|(_, place)| *place != path);
            Ok(Vec::new())
        }
        _ => Ok(Vec::new()),
    }
}

fn kind(unit: &str) -> &str {
    unit.rsplit_once('.').map_or("", |(_, kind)| kind)
}

fn map(state: &mut State, name: &str) {
    state.volatile.mapped.insert(name.to_owned());
    let noise = Device { bytes: 1 << 30, pieces: [(0, vec![0xa5; 4096])].into() };
    state.disk.devices.entry(format!("/dev/mapper/{name}")).or_insert(noise);
}

fn make(
    state: &mut State,
    node: &str,
    arguments: &[&str],
    whole: bool,
    pieces: impl FnOnce(&[u8; 16]) -> Vec<(u64, Vec<u8>)>,
) -> Result<Vec<u8>, String> {
    assert!(!state.volatile.mounts.iter().any(|(device, _)| device == node), "{node} is mounted");
    let uuid = uuid_of(arguments).unwrap_or_else(|| panic!("no UUID in {arguments:?}"));
    let device = state.disk.devices.get_mut(node).ok_or_else(|| format!("{node}: no such device"))?;
    assert!(!device.pieces.contains_key(&PRECIOUS), "{node} held data and is made anew");
    device.pieces.clear();
    let mut pieces = pieces(uuid.as_bytes());
    if !whole {
        // The magic is there, the UUID is not.
        pieces.truncate(1);
    }
    device.pieces.extend(pieces);
    Ok(Vec::new())
}

fn start(state: &mut State, unit: &str) -> Result<Vec<u8>, String> {
    let file = state.disk.files.get(&format!("/etc/systemd/system/{unit}")).ok_or(format!("{unit}: not found"))?;
    let text = String::from_utf8_lossy(&file.0).into_owned();
    let get = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().to_owned();
    let (what, place) = (get("What="), get("Where="));
    if !what.starts_with("/dev/") {
        state.volatile.swaps.push(what);
        return Ok(Vec::new());
    }
    let uuid: uuid::Uuid = what.rsplit('/').next().unwrap_or_default().parse().map_err(|_| "no UUID".to_owned())?;
    let holds = |device: &Device| {
        [32, 1128, 1036].iter().any(|place| device.pieces.get(place).is_some_and(|piece| piece == uuid.as_bytes()))
    };
    let found = state.disk.devices.iter_mut().find(|(_, device)| holds(device));
    let (name, device) = found.ok_or_else(|| format!("{what}: no such device within 60 s"))?;
    if kind(unit) == "swap" {
        state.volatile.swaps.push(what);
    } else {
        device.pieces.insert(PRECIOUS, b"data".to_vec());
        state.volatile.mounts.push((name.clone(), place));
    }
    Ok(Vec::new())
}
