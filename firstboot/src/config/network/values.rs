//! The values of network keys, each a type that can only hold a valid one.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Serialize, Serializer};

macro_rules! shown_as_text {
    ($($name:ident),+) => {
        $(impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        })+
    };
}

shown_as_text!(LinkName, Driver, SearchDomain, Prefix, Destination);

/// The exact name of one interface: 1 to 15 characters, what the kernel takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkName(String);

impl LinkName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for LinkName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > 15 {
            return Err(format!("has {} characters; the name of an interface has at most 15", text.chars().count()));
        }
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let starts = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !text.starts_with(starts) || !text.chars().all(good) || text.bytes().all(|b| b.is_ascii_digit()) {
            return Err("is not the name of an interface, such as bond0 or lan.42".into());
        }
        if matches!(text, "lo" | "all" | "default") {
            return Err("has a meaning of its own for the kernel; choose another name".into());
        }
        Ok(Self(text.into()))
    }
}

/// True for names that container engines and the networks of Kubernetes give to interfaces of their own: what has such
/// a name is no way to reach the machine.
pub fn is_container_interface(name: &str) -> bool {
    // Docker, Podman, nerdctl, libvirt, LXC and LXD; CNI's bridge and kubenet's; Flannel; Calico; Cilium; Weave; Antrea;
    // OVN and Open vSwitch; kube-proxy, kube-router and its like; Submariner; the node's own cache of DNS; Geneve.
    const BEGINNINGS: [&str; 28] = [
        "docker",
        "br-",
        "veth",
        "podman",
        "nerdctl",
        "virbr",
        "vnet",
        "lxc",
        "lxdbr",
        "cni",
        "cbr0",
        "flannel",
        "vxlan",
        "tunl",
        "wireguard.cali",
        "wg-v6.cali",
        "egress.calico",
        "cilium",
        "weave",
        "antrea",
        "ovn",
        "ovs-system",
        "kube-",
        "nodelocaldns",
        "vx-",
        "genev_sys_",
        "kindnet",
        "ip6tnl0",
    ];
    // Calico's ends of pods: others may begin so too.
    let calico =
        name.strip_prefix("cali").is_some_and(|hash| hash.len() == 11 && hash.bytes().all(|b| b.is_ascii_hexdigit()));
    calico || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// The name of a kernel module that serves interfaces: `mlx5_core`; `*` and `?` stand for others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Driver(String);

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Driver {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '*' | '?');
        if (1..=56).contains(&text.len()) && text.chars().all(good) {
            Ok(Self(text.into()))
        } else {
            Err("is not the name of a driver, such as mlx5_core".into())
        }
    }
}

/// A domain in which short names are looked up, or with a leading `~` one whose names these servers know; `~.` is
/// every name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchDomain(String);

impl fmt::Display for SearchDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SearchDomain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "is not a domain, such as site.example or ~corp.example".to_owned();
        let name = text.strip_prefix('~').unwrap_or(text);
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let whole = name.strip_suffix('.').unwrap_or(name);
        if text == "~." || (whole.len() <= 253 && whole.split('.').all(label)) {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        Err(wrong())
    }
}

/// A network: an address whose bits behind the prefix are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// Its first address.
    pub address: IpAddr,
    /// The prefix length in bits; 0 is everything.
    pub length: u8,
}

impl Prefix {
    /// The network of an address.
    pub fn of(address: IpAddr, length: u8) -> Self {
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
                IpAddr::V4((v4.to_bits() & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
                IpAddr::V6((v6.to_bits() & mask).into())
            }
        };
        Self { address, length }
    }

    /// True where the network holds this address.
    pub fn contains(&self, other: IpAddr) -> bool {
        self.address.is_ipv4() == other.is_ipv4() && Self::of(other, self.length).address == self.address
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr =
            address.parse().map_err(|_| "is not a network, such as 10.20.0.0/16 or fd00:1::/48".to_owned())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => longest,
            Some(length) => Some(length)
                .filter(|length| !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|length| length.parse().ok())
                .filter(|length| *length <= longest)
                .ok_or_else(|| format!("the prefix length is a number from 0 to {longest}"))?,
        };
        let prefix = Self::of(address, length);
        if prefix.address != address {
            return Err(format!("has bits behind its prefix; the network is {prefix}"));
        }
        Ok(prefix)
    }
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// Everywhere that no other route leads, in the family of its router.
    Default,
    /// To a network.
    Prefix(Prefix),
}

impl Destination {
    /// True where it is every address of a family.
    pub fn is_default(&self) -> bool {
        match self {
            Destination::Default => true,
            Destination::Prefix(prefix) => prefix.length == 0,
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Default => f.write_str("default"),
            Destination::Prefix(prefix) => write!(f, "{prefix}"),
        }
    }
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "default" { Ok(Self::Default) } else { text.parse().map(Self::Prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: FromStr<Err = String>>(texts: &[&str]) {
        for text in texts {
            assert!(T::from_str(text).is_err(), "{text:?} should be refused");
        }
    }

    #[test]
    fn names_are_what_the_kernel_takes() {
        for good in ["bond0", "lan.42", "_x", "a", "enp129s0f0np0"] {
            assert_eq!(good.parse::<LinkName>().unwrap().as_str(), good);
        }
        refused::<LinkName>(&["", "sixteen-letters-", "a b", "a/b", "..", "-a", "42", "lo", "default", "a\n[Network]"]);
        refused::<Driver>(&["", "a b", "a/b", "mlx5\nName=*"]);
    }

    #[test]
    fn interfaces_of_containers_are_told_from_those_of_the_machine() {
        for theirs in [
            "docker0",
            "docker_gwbridge",
            "br-1a2b3c4d5e6f",
            "veth1a2b3c4",
            "podman0",
            "nerdctl0",
            "virbr0",
            "cni0",
            "cni-podman0",
            "cbr0",
            "flannel.1",
            "flannel-v6.1",
            "flannel-wg",
            "vxlan.calico",
            "cali0123456789a",
            "tunl0",
            "wireguard.cali",
            "cilium_host",
            "cilium_net",
            "cilium_vxlan",
            "lxc0123456789ab",
            "lxc_health",
            "lxcbr0",
            "lxdbr0",
            "kube-ipvs0",
            "kube-bridge",
            "kube-dummy-if",
            "nodelocaldns",
            "weave",
            "antrea-gw0",
            "ovn-k8s-mp0",
            "ovs-system",
            "genev_sys_6081",
            "vx-submariner",
        ] {
            assert!(is_container_interface(theirs), "{theirs}");
        }
        for ours in
            ["enp1s0", "eth0", "bond0", "br0", "lan", "california", "cali-lan", "ib0", "storage", "tun0", "wlan0"]
        {
            assert!(!is_container_interface(ours), "{ours}");
        }
    }

    #[test]
    fn networks_have_no_bits_behind_their_prefix() {
        assert_eq!("10.20.0.0/16".parse::<Prefix>().unwrap().to_string(), "10.20.0.0/16");
        assert_eq!("10.20.0.1".parse::<Prefix>().unwrap().to_string(), "10.20.0.1/32");
        assert_eq!("::/0".parse::<Destination>().map(|d| d.is_default()), Ok(true));
        assert_eq!(
            "10.20.3.0/16".parse::<Prefix>().unwrap_err(),
            "has bits behind its prefix; the network is 10.20.0.0/16"
        );
        refused::<Prefix>(&["", "default", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "fe80::/129", "10/8"]);
        assert!("fd00::/8".parse::<Prefix>().unwrap().contains("fd00::1".parse().unwrap()));
        assert!(!"fd00::/8".parse::<Prefix>().unwrap().contains("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn search_domains_may_be_for_routing_only() {
        for good in ["site.example", "~corp.example", "~.", "_tcp.lan", "lan."] {
            assert_eq!(good.parse::<SearchDomain>().unwrap().to_string(), good);
        }
        refused::<SearchDomain>(&["", "~", "a..b", "-a", "a b", "a\nDNS=1.1.1.1", "~~a"]);
    }

    proptest::proptest! {
        #[test]
        fn values_never_panic_and_what_they_show_reads_back(text in "[a-z0-9.:/~_ -]{0,24}") {
            macro_rules! round_trip { ($($t:ty),+) => { $(if let Ok(value) = text.parse::<$t>() {
                proptest::prop_assert_eq!(value.to_string().parse::<$t>().ok(), Some(value));
            })+ } }
            round_trip!(LinkName, Driver, SearchDomain, Prefix, Destination);
        }
    }
}
