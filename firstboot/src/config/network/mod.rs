//! `[[network]]`: the interfaces of a node, and what lies on top of them.
//!
//! Takes the list of tables of the merged document; gives [`Network`]s whose references are resolved and which fit
//! together, or every mistake with its place. Modules: `values` (types of single values), `read` (one table), `check`
//! (what is wrong only between tables: loops, a port in two bonds, a VLAN larger than its parent).
//!
//! The order of the list has no meaning; where several entries match one interface, the more exact match wins.

mod check;
mod read;
#[cfg(test)]
pub(crate) mod tests;
mod values;

use std::net::IpAddr;

use serde::Serialize;

pub use read::read_networks;
pub use values::{Destination, Driver, LinkName, Prefix, SearchDomain, is_container_interface};

use super::values::{Cidr, InterfaceName, Mac};

/// The key that only an interface of the machine takes; like the next ones, a part of what the schema describes.
pub const ETHERNET_KEYS: &[&str] = &["match"];
/// The keys that only a bond takes, but for `members`, which a bridge takes too.
pub const BOND_KEYS: &[&str] = &[
    "members",
    "mode",
    "primary",
    "lacp_rate",
    "hash_policy",
    "miimon",
    "up_delay",
    "down_delay",
    "min_links",
    "ad_select",
    "fail_over_mac",
    "primary_reselect",
    "arp_interval",
    "arp_targets",
    "arp_validate",
];
/// The keys that only a VLAN takes.
pub const VLAN_KEYS: &[&str] = &["parent", "id"];
/// The keys that only a bridge takes, but for `members`.
pub const BRIDGE_KEYS: &[&str] =
    &["members", "stp", "forward_delay", "priority", "ageing_time", "vlan_filtering", "vlans", "pvid"];

/// One interface, or several alike, and what it carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Network {
    /// Which interface of the machine, or which one is made.
    pub interface: Interface,
    /// What is asked of DHCP servers.
    pub dhcp: Dhcp,
    /// Static addresses.
    pub addresses: Vec<Cidr>,
    /// The default gateways, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Domains in which short names are looked up; with a leading `~`, whose names are asked of these servers.
    pub search: Vec<SearchDomain>,
    /// Routes beside the default gateways.
    pub routes: Vec<Route>,
    /// Which table is asked for which packets.
    pub rules: Vec<Rule>,
    /// The largest packet in bytes; without it the driver's own value stays.
    pub mtu: Option<u32>,
    /// Another hardware address than its own.
    pub mac: Option<Mac>,
    /// Whether IPv6 router advertisements count; without it the kernel's default stays.
    pub accept_ra: Option<bool>,
    /// The node does not wait for it.
    pub optional: bool,
}

/// What kind of interface it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Interface {
    /// One of the machine.
    Ethernet(Ethernet),
    /// Several that act as one.
    Bond(Bond),
    /// One network of several on a wire.
    Vlan(Vlan),
    /// A switch in software.
    Bridge(Bridge),
}

/// Interfaces of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ethernet {
    /// Which.
    pub matches: InterfaceMatch,
    /// The name that it gets; its own without one.
    pub name: Option<LinkName>,
}

/// Which interfaces of the machine are meant: those for which everything holds that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct InterfaceMatch {
    /// The one with this hardware address, as it was made.
    pub mac: Option<Mac>,
    /// Those with this name, or a name that matches this pattern.
    pub name: Option<InterfaceName>,
    /// Those that this driver serves.
    pub driver: Option<Driver>,
    /// The one that gets the default route when all ask for addresses; stands alone.
    pub default_route: bool,
}

/// A reference to an interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkRef {
    /// The `[[network]]` with this `name`.
    Named(LinkName),
    /// Interfaces of the machine, whether a `[[network]]` matches them or not.
    Matching(InterfaceMatch),
}

/// Several interfaces that act as one. Times are in milliseconds; words are those of the kernel's bonding driver
/// (`Documentation/networking/bonding.rst`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bond {
    /// The interface's name.
    pub name: LinkName,
    /// What acts as one.
    pub members: Vec<LinkRef>,
    /// How: `active-backup`, `802.3ad` and so on.
    pub mode: &'static str,
    /// The member that carries everything while it works.
    pub primary: Option<LinkRef>,
    /// How often LACP packets are asked for: `slow` (30 s) or `fast` (1 s).
    pub lacp_rate: Option<&'static str>,
    /// What decides over which member a packet leaves.
    pub hash_policy: Option<&'static str>,
    /// How often the members' carrier is looked at.
    pub miimon: Option<u32>,
    /// How long a member's link must be there before it is used.
    pub up_delay: Option<u32>,
    /// How long a member's link must be gone before it is not.
    pub down_delay: Option<u32>,
    /// With how many working members the bond has a carrier.
    pub min_links: Option<u32>,
    /// Which group of LACP links is used: `stable`, `bandwidth`, `count`.
    pub ad_select: Option<&'static str>,
    /// Which hardware address members have: `none`, `active`, `follow`.
    pub fail_over_mac: Option<&'static str>,
    /// When the primary comes back into use: `always`, `better`, `failure`.
    pub primary_reselect: Option<&'static str>,
    /// How often the targets are asked by ARP, in place of `miimon`.
    pub arp_interval: Option<u32>,
    /// Who is asked by ARP.
    pub arp_targets: Vec<std::net::Ipv4Addr>,
    /// Which ARP answers count: `none`, `active`, `backup`, `all`.
    pub arp_validate: Option<&'static str>,
}

/// One network of several on a wire (IEEE 802.1Q).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vlan {
    /// The interface's name.
    pub name: LinkName,
    /// What it lies on.
    pub parent: LinkRef,
    /// Its number, 1 to 4094.
    pub id: u16,
}

/// A switch in software.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bridge {
    /// The interface's name.
    pub name: LinkName,
    /// Its ports.
    pub members: Vec<LinkRef>,
    /// Whether it speaks the spanning tree protocol.
    pub stp: bool,
    /// Seconds of listening and of learning before a port forwards.
    pub forward_delay: Option<u32>,
    /// Its priority in the spanning tree; the lowest becomes the root.
    pub priority: Option<u32>,
    /// Seconds after which an address that was not seen is forgotten.
    pub ageing_time: Option<u32>,
    /// Whether ports are in VLANs of the bridge.
    pub vlan_filtering: bool,
    /// The VLANs that every port and the bridge itself carry tagged, as first and last.
    pub vlans: Vec<(u16, u16)>,
    /// The VLAN of untagged packets.
    pub pvid: Option<u16>,
}

/// What is asked of DHCP servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Dhcp {
    /// IPv4 addresses.
    pub v4: bool,
    /// IPv6 addresses.
    pub v6: bool,
    /// How, and what of the answer counts.
    pub options: DhcpOptions,
}

impl Dhcp {
    /// True where any server is asked.
    pub fn any(&self) -> bool {
        self.v4 || self.v6
    }
}

/// How DHCP servers are asked, and what of their answer counts; `None` leaves it to systemd-networkd.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DhcpOptions {
    /// Whether its name servers are used.
    pub dns: Option<bool>,
    /// Whether its search domain is used.
    pub domains: Option<bool>,
    /// Whether its routes, the default route among them, are used.
    pub routes: Option<bool>,
    /// Whether its time servers are used.
    pub ntp: Option<bool>,
    /// Whether its MTU is used.
    pub mtu: Option<bool>,
    /// Whether the server is told a host name.
    pub send_hostname: Option<bool>,
    /// Which; the node's own without one.
    pub hostname: Option<super::values::Hostname>,
    /// Whether the node is known by its machine id instead of its MAC address. The machine id is new after flashing.
    pub client_id: ClientId,
    /// The metric of its routes; the lowest wins.
    pub metric: Option<u32>,
}

/// What a DHCP server knows the node by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientId {
    /// The interface's MAC address: what reservations are made for, and what stays when the node is flashed again.
    #[default]
    Mac,
    /// A DUID made of the machine id.
    Duid,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Where to.
    pub to: Destination,
    /// Over which router; without one the destination is on the link itself.
    pub via: Option<IpAddr>,
    /// The lowest wins.
    pub metric: Option<u32>,
    /// The number of its table; the main one without.
    pub table: Option<u32>,
    /// The router is reached on the link though it is in no network of this interface.
    pub on_link: bool,
    /// The own address that packets get.
    pub source: Option<IpAddr>,
    /// `unicast`, `blackhole`, `unreachable`, `prohibit`, `throw`.
    pub kind: Option<&'static str>,
    /// `global`, `link`, `host`.
    pub scope: Option<&'static str>,
    /// The largest packet on it.
    pub mtu: Option<u32>,
}

/// Which table is asked for which packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// From these addresses.
    pub from: Option<Prefix>,
    /// To these addresses.
    pub to: Option<Prefix>,
    /// The number of the table.
    pub table: u32,
    /// The lowest is asked first.
    pub priority: Option<u32>,
    /// With this firewall mark.
    pub mark: Option<u32>,
}

impl Network {
    /// A `[[network]]` that says nothing but which interface it is: no addresses, no DHCP.
    pub fn bare(interface: Interface) -> Self {
        Self {
            interface,
            dhcp: Dhcp::default(),
            addresses: Vec::new(),
            gateways: Vec::new(),
            dns: Vec::new(),
            search: Vec::new(),
            routes: Vec::new(),
            rules: Vec::new(),
            mtu: None,
            mac: None,
            accept_ra: None,
            optional: false,
        }
    }

    /// True for what `reference` means.
    pub fn is(&self, reference: &LinkRef) -> bool {
        match (reference, &self.interface) {
            (LinkRef::Named(name), _) => self.interface.name() == Some(name),
            (LinkRef::Matching(wanted), Interface::Ethernet(ethernet)) => ethernet.matches == *wanted,
            (LinkRef::Matching(_), _) => false,
        }
    }

    /// True where the gateway is in none of the networks of its addresses, but one of these is a single address (/32,
    /// /128), so that nothing is: hosters give such, and the gateway is on the link.
    pub fn is_outside(&self, gateway: IpAddr) -> bool {
        let single = |cidr: &Cidr| match (cidr.address, gateway) {
            (IpAddr::V4(_), IpAddr::V4(_)) => cidr.prefix == 32,
            (IpAddr::V6(_), IpAddr::V6(_)) => cidr.prefix == 128,
            _ => false,
        };
        let local = matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
        !local && self.addresses.iter().any(single) && !self.addresses.iter().any(|cidr| cidr.contains(gateway))
    }

    /// True where it gets an address of its own in any way.
    pub fn has_addresses(&self) -> bool {
        self.dhcp.any() || !self.addresses.is_empty()
    }
}

impl Interface {
    /// The name that is given to it: always for what is made, seldom for an interface of the machine.
    pub fn name(&self) -> Option<&LinkName> {
        match self {
            Interface::Ethernet(ethernet) => ethernet.name.as_ref(),
            Interface::Bond(bond) => Some(&bond.name),
            Interface::Vlan(vlan) => Some(&vlan.name),
            Interface::Bridge(bridge) => Some(&bridge.name),
        }
    }

    /// The interfaces that become a part of it.
    pub fn members(&self) -> &[LinkRef] {
        match self {
            Interface::Bond(bond) => &bond.members,
            Interface::Bridge(bridge) => &bridge.members,
            Interface::Ethernet(_) | Interface::Vlan(_) => &[],
        }
    }

    /// The word of `type`.
    pub fn kind(&self) -> &'static str {
        match self {
            Interface::Ethernet(_) => "ethernet",
            Interface::Bond(_) => "bond",
            Interface::Vlan(_) => "vlan",
            Interface::Bridge(_) => "bridge",
        }
    }
}

impl std::fmt::Display for InterfaceMatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mac = self.mac.map(|mac| format!("mac {mac}"));
        let name = self.name.as_ref().map(|name| format!("name {name}"));
        let driver = self.driver.as_ref().map(|driver| format!("driver {driver}"));
        let route = self.default_route.then(|| "the default route".to_owned());
        f.write_str(&[mac, name, driver, route].into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

impl std::fmt::Display for LinkRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LinkRef::Named(name) => write!(f, "{name}"),
            LinkRef::Matching(matches) => write!(f, "{matches}"),
        }
    }
}
