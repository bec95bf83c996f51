//! Files below `/etc` that are the image's again.
//!
//! What a node writes below `/etc` lies in the upper layer and hides the image's file, that of a later image too. Nobody
//! can take it from there through the mounted layers. So a step that gives a file back writes the image's present
//! content, and leaves the path on a list; the next start takes the file out of the upper layer before the layer is laid
//! over (`stage1::shared`), and from then on the image's own shows.

use std::collections::BTreeSet;

use crate::host::{Host, HostError};

/// One path below `/etc` a line, relative to it.
const REVEAL: &str = "/var/lib/ingot/etc/reveal";
const MAXIMUM_BYTES: u64 = 1024 * 1024;

fn listed(host: &dyn Host) -> Result<BTreeSet<String>, HostError> {
    let bytes = host.read(REVEAL, MAXIMUM_BYTES)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
}

fn keep(host: &dyn Host, list: &BTreeSet<String>) -> Result<(), HostError> {
    if list.is_empty() {
        return host.remove(REVEAL);
    }
    let text: String = list.iter().map(|path| format!("{path}\n")).collect();
    host.write(REVEAL, text.as_bytes(), 0o600)
}

/// The file or directory is the image's from the next start on; one that is not below `/etc` has no layers.
pub fn give_back(host: &dyn Host, path: &str) -> Result<(), HostError> {
    let Some(below) = path.strip_prefix("/etc/") else { return Ok(()) };
    let mut list = listed(host)?;
    if list.insert(below.to_owned()) { keep(host, &list) } else { Ok(()) }
}

/// The node is about to write the file: it stays. To be said before it is written.
pub fn take(host: &dyn Host, path: &str) -> Result<(), HostError> {
    let Some(below) = path.strip_prefix("/etc/") else { return Ok(()) };
    let mut list = listed(host)?;
    if list.remove(below) { keep(host, &list) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::simulated::SimulatedHost;

    #[test]
    fn what_is_given_back_is_listed_until_it_is_taken_again() {
        let host = SimulatedHost::default();
        for path in ["/etc/motd", "/etc/ssl/certs", "/etc/motd", "/home/ops/x"] {
            give_back(&host, path).unwrap();
        }
        assert_eq!(host.text(REVEAL), "motd\nssl/certs\n");
        take(&host, "/etc/ssl/certs").unwrap();
        take(&host, "/etc/other").unwrap();
        assert_eq!(host.text(REVEAL), "motd\n");
        take(&host, "/etc/motd").unwrap();
        assert!(!host.exists(REVEAL));
    }
}
