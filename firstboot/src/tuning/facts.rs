//! What the machine has that settings depend on: memory, cores, interfaces.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::host::{Host, HostError};

const LIMIT: u64 = 1 << 20;

/// A text file of the kernel, without the blank space around it; `None` where there is none.
pub fn text(host: &dyn Host, path: &str) -> Result<Option<String>, HostError> {
    Ok(host.read(path, LIMIT)?.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
}

/// The bytes of the machine's memory; `None` where the kernel does not say.
///
/// # Errors
/// `/proc/meminfo` cannot be read.
pub fn memory(host: &dyn Host) -> Result<Option<u64>, HostError> {
    let text = text(host, "/proc/meminfo")?.unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = total.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    Ok(kibibytes.map(|kibibytes| kibibytes.saturating_mul(1024)))
}

/// The names in a directory that are `prefix` and a number, by number.
pub fn numbered(host: &dyn Host, directory: &str, prefix: &str) -> Result<Vec<String>, HostError> {
    let names = host.names(directory)?.into_iter();
    let mut numbered: Vec<(u32, String)> =
        names.filter_map(|name| Some((name.strip_prefix(prefix)?.parse().ok()?, name))).collect();
    numbered.sort();
    Ok(numbered.into_iter().map(|(_, name)| name).collect())
}

/// How many physical cores there are; at least 1.
///
/// # Errors
/// What cannot be read.
pub fn cores(host: &dyn Host) -> Result<u32, HostError> {
    const DIRECTORY: &str = "/sys/devices/system/cpu";
    let mut cores = BTreeSet::new();
    for cpu in numbered(host, DIRECTORY, "cpu")? {
        let of = |name: &str| text(host, &format!("{DIRECTORY}/{cpu}/topology/{name}"));
        cores.insert((of("physical_package_id")?, of("core_id")?));
    }
    Ok(u32::try_from(cores.len().max(1)).unwrap_or(u32::MAX))
}

/// A network interface with hardware behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: String,
    /// Its driver.
    pub driver: String,
    /// The largest packet that it has now, in bytes.
    pub mtu: Option<u32>,
}

/// All of them, sorted by name.
///
/// # Errors
/// What cannot be read.
pub fn interfaces(host: &dyn Host) -> Result<Vec<Interface>, HostError> {
    let mut found = Vec::new();
    for name in host.names("/sys/class/net")? {
        let of = |file: &str| text(host, &format!("/sys/class/net/{name}/{file}"));
        let Some(event) = of("device/uevent")? else { continue };
        let driver = event.lines().find_map(|line| line.strip_prefix("DRIVER=")).unwrap_or_default().to_owned();
        let (mac, mtu) = (of("address")?.unwrap_or_default(), of("mtu")?.and_then(|mtu| mtu.parse().ok()));
        found.push(Interface { name, mac, driver, mtu });
    }
    Ok(found)
}
