//! The machine's interfaces, asked of the kernel over netlink (`RTM_GETLINK`, rtnetlink(7)) and of sysfs.
//!
//! Netlink knows the hardware address that an interface was made with, which a bond's member and an interface with
//! another address do not show any more; sysfs knows what is behind it.

use std::collections::BTreeMap;
use std::path::Path;

use super::Link;
use super::addresses::{attributes, dump};
use crate::config::Mac;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_CARRIER: u16 = 33;
const IFLA_PERM_ADDRESS: u16 = 54;
/// The flag of an interface that was brought up (netdevice(7)).
const IFF_UP: u32 = 1;

/// All interfaces in the directory `sysfs`, sorted by name. Where the kernel does not answer, sysfs alone must do: a node
/// that did not know its own addresses would be another machine.
pub fn links(sysfs: &Path) -> Vec<Link> {
    let mut known = BTreeMap::new();
    // A tree that stands for another machine has nothing to do with this kernel's interfaces.
    if sysfs == Path::new("/sys/class/net") {
        let answered = dump(RTM_GETLINK, 16, RTM_NEWLINK, &mut |body| {
            if let Some(link) = link(body) {
                known.insert(link.name.clone(), link);
            }
        });
        if answered.is_err() {
            known.clear();
        }
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(sysfs).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let text = |file: &str| std::fs::read_to_string(entry.path().join(file)).ok();
        let mac = |file: &str| text(file).and_then(|text| text.trim().parse::<Mac>().ok());
        let flags = text("flags").and_then(|text| u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok());
        let link = known.remove(&name).unwrap_or_else(|| Link {
            mac: mac("address"),
            carrier: text("carrier").is_some_and(|text| text.trim() == "1"),
            name,
            ..Link::default()
        });
        // `bonding_masters` is a file in the same directory.
        if !entry.path().is_dir() {
            continue;
        }
        let driver = std::fs::read_link(entry.path().join("device/driver")).ok();
        found.push(Link {
            physical: entry.path().join("device").exists(),
            idle: flags.is_some_and(|flags| flags & IFF_UP == 0) && !entry.path().join("phy80211").exists(),
            permanent: link.permanent.or_else(|| mac("bonding_slave/perm_hwaddr")),
            driver: driver.and_then(|path| Some(path.file_name()?.to_str()?.to_owned())),
            ..link
        });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn link(body: &[u8]) -> Option<Link> {
    let mut link = Link::default();
    // An ifinfomsg stands before the attributes.
    attributes(body.get(16..)?, |kind, value| match kind {
        IFLA_IFNAME => {
            let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
            link.name = String::from_utf8_lossy(&value[..end]).into_owned();
        }
        IFLA_ADDRESS => link.mac = mac(value),
        IFLA_PERM_ADDRESS => link.permanent = mac(value),
        IFLA_CARRIER => link.carrier = value == [1],
        _ => {}
    })?;
    (!link.name.is_empty()).then_some(link)
}

fn mac(value: &[u8]) -> Option<Mac> {
    let bytes = <[u8; 6]>::try_from(value).ok()?;
    let text: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    // What is no address of one interface, such as the loopback's zeros, is none here either.
    text.join(":").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_and_sysfs_agree() {
        let found = links(Path::new("/sys/class/net"));
        assert!(found.iter().any(|link| link.name == "lo" && link.mac.is_none() && !link.physical), "{found:?}");
        for link in found {
            let text = std::fs::read_to_string(format!("/sys/class/net/{}/address", link.name)).unwrap_or_default();
            assert_eq!(link.mac, text.trim().parse().ok(), "{link:?}");
        }
    }

    #[test]
    fn a_member_of_a_bond_is_known_by_what_it_was_made_with() {
        let directory = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("enp1s0/address", "52:54:00:00:00:09\n");
        put("enp1s0/bonding_slave/perm_hwaddr", "52:54:00:00:00:01\n");
        put("enp1s0/carrier", "1\n");
        put("enp1s0/device/vendor", "x");
        put("enp1s0/flags", "0x1003\n");
        put("enp2s0/device/vendor", "x");
        put("enp2s0/flags", "0x1002\n");
        put("wlp1s0/flags", "0x1002\n");
        put("wlp1s0/phy80211/index", "0");
        put("bond0/address", "52:54:00:00:00:09\n");
        put("bonding_masters", "bond0\n");
        let found = links(directory.path());
        let names: Vec<_> = found.iter().map(|link| (link.name.as_str(), link.physical, link.carrier)).collect();
        assert_eq!(names[..2], [("bond0", false, false), ("enp1s0", true, true)]);
        let idle: Vec<_> = found.iter().filter(|link| link.idle).map(|link| &link.name).collect();
        assert_eq!(idle, ["enp2s0"]);
        assert_eq!(found[1].identity().unwrap().to_string(), "52:54:00:00:00:01");
    }

    proptest::proptest! {
        #[test]
        fn any_message_is_read_without_a_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
            let _ = link(&bytes);
        }
    }
}
