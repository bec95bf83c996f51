//! What is wrong only between keys or between tables of `[[network]]`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::read::gateway_is_reachable;
use super::{Bond, Interface, LinkRef, Network, Route};
use crate::config::fields::Fields;
use crate::config::problem::Findings;
use crate::config::tree::{Node, Origin};

/// What an Ethernet interface has that is told nothing.
const USUAL_MTU: u32 = 1500;
/// What IPv6 needs (RFC 8200).
const IPV6_MTU: u32 = 1280;

/// A table that was read, with its places.
pub struct Entry<'a> {
    pub index: usize,
    pub fields: Fields<'a>,
    pub network: Network,
}

impl<'a> Entry<'a> {
    fn title(&self) -> String {
        match self.network.interface.name() {
            Some(name) => name.to_string(),
            None => format!("network[{}]", self.index),
        }
    }

    /// Where a member stands in the list.
    fn place_of_member(&self, index: usize, findings: &mut Findings) -> &'a Origin {
        let nodes: &'a [Node] = self.fields.list("members", findings);
        nodes.get(index).map_or(self.fields.origin, |node| &node.origin)
    }

    fn error(&self, key: &str, message: impl Into<String>, help: impl Into<String>, findings: &mut Findings) {
        self.fields.error(key, message, help, findings);
    }
}

/// Checks entries that are right each on its own.
pub fn check(entries: &[Entry<'_>], findings: &mut Findings) {
    for entry in entries {
        check_alone(entry, findings);
    }
    check_names(entries, findings);
    let owners = check_members(entries, findings);
    for (index, entry) in entries.iter().enumerate() {
        match &entry.network.interface {
            Interface::Vlan(vlan) => {
                let parent = find(entries, &vlan.parent);
                if let Some(owner) = owners.get(&vlan.parent).filter(|owner| is_bond(&entries[**owner])) {
                    let message = format!("is a member of {}, which carries the VLANs", entries[*owner].title());
                    entry.error("parent", message, "lay the VLAN on the bond", findings);
                }
                let same = entries[..index].iter().find(|other| match &other.network.interface {
                    Interface::Vlan(known) => (&known.parent, known.id) == (&vlan.parent, vlan.id),
                    _ => false,
                });
                if let Some(same) = same {
                    entry.error("id", format!("{} is VLAN {} of it already", same.title(), vlan.id), "", findings);
                }
                let allowed = parent.map_or(USUAL_MTU, |parent| mtu_of(&entries[parent], &owners, entries));
                if entry.network.mtu.is_some_and(|mtu| mtu > allowed) {
                    let message = format!("is larger than that of its parent, {} with {allowed}", vlan.parent);
                    entry.error("mtu", message, "give the parent a [[network]] with at least this mtu", findings);
                }
            }
            Interface::Bridge(bridge) => {
                for member in &bridge.members {
                    let allowed =
                        find(entries, member).map_or(USUAL_MTU, |at| entries[at].network.mtu.unwrap_or(USUAL_MTU));
                    if entry.network.mtu.is_some_and(|mtu| mtu > allowed) {
                        let message = format!("is larger than that of its member {member} with {allowed}");
                        entry.error("mtu", message, "give the member a [[network]] with this mtu", findings);
                    }
                }
            }
            Interface::Bond(bond) => check_bond(entry, bond, findings),
            Interface::Ethernet(_) => {}
        }
        if has_loop(entries, index) {
            entry.error("name", "lies on itself in the end", "follow members and parents from here", findings);
        }
    }
    check_addresses(entries, findings);
}

fn check_alone(entry: &Entry<'_>, findings: &mut Findings) {
    let network = &entry.network;
    for (index, gateway) in network.gateways.iter().enumerate() {
        if network.gateways[..index].iter().any(|other| other.is_ipv4() == gateway.is_ipv4()) {
            entry.error("gateway", "has two of the same family", "use routes with a metric for the second", findings);
        }
        if !gateway_is_reachable(*gateway, &network.addresses) && !network.is_outside(*gateway) {
            let help = "check the prefix lengths; one on the link all the same is written as \
                        routes = [{ to = \"default\", via = \"...\", on_link = true }]";
            entry.error("gateway", "is in none of the networks of addresses", help, findings);
        }
        if network.addresses.iter().any(|cidr| cidr.address == *gateway) {
            entry.error("gateway", "is this node's own address", "", findings);
        }
    }
    for (index, route) in network.routes.iter().enumerate() {
        let Some(via) = route.via else { continue };
        let key = format!("routes[{index}].via");
        let place = entry.fields.list("routes", findings).get(index).map_or(entry.fields.origin, |node| &node.origin);
        let reachable = route.on_link || network.dhcp.any() || gateway_is_reachable(via, &network.addresses);
        if !reachable {
            let help = "check the prefix lengths, or set on_link = true";
            findings.error(place, &entry.fields.path_of(&key), "is in none of the networks of addresses", help);
        }
        if network.addresses.iter().any(|cidr| cidr.address == via) {
            findings.error(place, &entry.fields.path_of(&key), "is this node's own address", "");
        }
    }
    let v6 = network.addresses.iter().any(|cidr| cidr.address.is_ipv6());
    if v6 && network.mtu.is_some_and(|mtu| mtu < IPV6_MTU) {
        entry.error("mtu", format!("is too small for IPv6, which needs {IPV6_MTU}"), "", findings);
    }
    if network.mtu.is_some() && network.dhcp.options.mtu == Some(true) {
        entry.error("mtu", "and dhcp_options.mtu exclude each other", "keep one of them", findings);
    }
    if !network.dhcp.any() && entry.fields.entry("dhcp_options").is_some() {
        entry.error("dhcp_options", "has no effect without dhcp", "set dhcp = true", findings);
    }
    if let Interface::Ethernet(ethernet) = &network.interface
        && ethernet.name.is_some()
        && ethernet.matches.mac.is_none()
        && ethernet.matches.driver.is_none()
        && !ethernet.matches.default_route
    {
        // At the next boot it has the kernel's name first, and the name that it had is not known yet.
        entry.error("name", "an interface that is found by its name cannot get another", "match it by mac", findings);
    }
    // Whoever writes `dhcp = false` and no addresses either means an interface for others, or forgot something.
    if !network.has_addresses() && entry.fields.entry("dhcp").is_some() && entry.fields.entry("addresses").is_none() {
        let message = "is off, and there is no static address: the interface carries none";
        let place = entry.fields.place("dhcp");
        findings.warning(place, &entry.fields.path_of("dhcp"), message, "write addresses = [] if that is meant");
    }
}

/// A route's own keys.
pub fn check_route(route: &Route, fields: &Fields<'_>, findings: &mut Findings) {
    let families = [
        route.via.map(|via| via.is_ipv4()),
        route.source.map(|source| source.is_ipv4()),
        match route.to {
            super::Destination::Prefix(prefix) => Some(prefix.address.is_ipv4()),
            super::Destination::Default => None,
        },
    ];
    let mut given = families.into_iter().flatten();
    if let Some(first) = given.next()
        && given.any(|family| family != first)
    {
        fields.error("to", "mixes IPv4 and IPv6", "to, via and source are of one family", findings);
    }
    let discards = route.kind.is_some_and(|kind| kind != "unicast");
    if discards && route.via.is_some() {
        fields.error("via", "has no meaning for a route that leads nowhere", "leave via or type out", findings);
    }
    if route.on_link && route.via.is_none() {
        fields.error("on_link", "has no effect without via", "", findings);
    }
    if route.to == super::Destination::Default && route.via.is_none() && route.source.is_none() && !discards {
        fields.missing("via", "the router's address; or write to = \"0.0.0.0/0\" for the link itself", findings);
    }
}

fn check_names(entries: &[Entry<'_>], findings: &mut Findings) {
    for (index, entry) in entries.iter().enumerate() {
        for other in &entries[..index] {
            let (one, two) = (&entry.network.interface, &other.network.interface);
            if let (Some(a), Some(b)) = (one.name(), two.name())
                && a == b
            {
                entry.error("name", format!("network[{}] has this name already", other.index), "", findings);
            }
            if let (Interface::Ethernet(a), Interface::Ethernet(b)) = (one, two)
                && a.matches == b.matches
            {
                let help = "write all keys of one interface into one [[network]]";
                entry.error("match", format!("is the same as in network[{}]", other.index), help, findings);
            }
        }
    }
}

fn is_bond(entry: &Entry<'_>) -> bool {
    matches!(entry.network.interface, Interface::Bond(_))
}

fn find(entries: &[Entry<'_>], reference: &LinkRef) -> Option<usize> {
    entries.iter().position(|entry| entry.network.is(reference))
}

/// Checks members and gives the owner of each.
fn check_members(entries: &[Entry<'_>], findings: &mut Findings) -> BTreeMap<LinkRef, usize> {
    let mut owners: BTreeMap<LinkRef, usize> = BTreeMap::new();
    for (at, entry) in entries.iter().enumerate() {
        for (index, member) in entry.network.interface.members().iter().enumerate() {
            let place = entry.place_of_member(index, findings);
            let path = entry.fields.path_of("members");
            // Both ways of naming one entry are the same member.
            let found = find(entries, member);
            let earlier =
                owners.iter().find(|(known, _)| *known == member || found.is_some() && find(entries, known) == found);
            if let Some((_, owner)) = earlier {
                let message = format!("{member} is a member of {} already", entries[*owner].title());
                findings.error(place, &path, message, "an interface is a part of one bond or bridge");
                continue;
            }
            owners.insert(member.clone(), at);
            let Some(found) = found.map(|found| &entries[found]) else { continue };
            let kind = found.network.interface.kind();
            if is_bond(entry) && kind != "ethernet" {
                let help = "a bond is made of interfaces of the machine";
                findings.error(place, &path, format!("{member} is a {kind}"), help);
            }
            for key in ["dhcp", "addresses", "gateway", "dns", "search", "routes", "rules", "accept_ra", "dhcp_options"]
            {
                let given = found.fields.entry(key).is_some_and(|given| !says_nothing(&given.node));
                if given {
                    let message = format!("does not belong to a member of {}", entry.title());
                    found.error(key, message, format!("write it into the [[network]] of {}", entry.title()), findings);
                }
            }
            if is_bond(entry) && found.network.mtu.is_some_and(|mtu| entry.network.mtu.unwrap_or(USUAL_MTU) != mtu) {
                let message = format!("is not that of {}, which sets it for its members", entry.title());
                found.error("mtu", message, "write mtu into the bond's [[network]]", findings);
            }
        }
    }
    owners
}

/// `dhcp = false` and empty lists are what a member has anyway.
fn says_nothing(node: &Node) -> bool {
    use crate::config::tree::Value;
    match &node.value {
        Value::Boolean(value) => !value,
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// What an entry lies on.
fn below(entries: &[Entry<'_>], at: usize) -> Vec<usize> {
    let interface = &entries[at].network.interface;
    let parent = match interface {
        Interface::Vlan(vlan) => Some(&vlan.parent),
        _ => None,
    };
    interface.members().iter().chain(parent).filter_map(|reference| find(entries, reference)).collect()
}

fn has_loop(entries: &[Entry<'_>], start: usize) -> bool {
    let mut seen = vec![false; entries.len()];
    let mut waiting = below(entries, start);
    while let Some(at) = waiting.pop() {
        if at == start {
            return true;
        }
        if !std::mem::replace(&mut seen[at], true) {
            waiting.extend(below(entries, at));
        }
    }
    false
}

/// The MTU that an entry will have: a bond's member has the bond's.
fn mtu_of(entry: &Entry<'_>, owners: &BTreeMap<LinkRef, usize>, entries: &[Entry<'_>]) -> u32 {
    let owner = owners.iter().find(|(member, _)| entry.network.is(member)).map(|(_, owner)| &entries[*owner]);
    let bond = owner.filter(|owner| is_bond(owner)).and_then(|owner| owner.network.mtu);
    bond.or(entry.network.mtu).unwrap_or(USUAL_MTU)
}

fn check_bond(entry: &Entry<'_>, bond: &Bond, findings: &mut Findings) {
    let modes_of: [(&str, &[&str]); 7] = [
        ("lacp_rate", &["802.3ad"]),
        ("ad_select", &["802.3ad"]),
        ("min_links", &["802.3ad"]),
        ("primary", &["active-backup", "balance-tlb", "balance-alb"]),
        ("primary_reselect", &["active-backup", "balance-tlb", "balance-alb"]),
        ("fail_over_mac", &["active-backup"]),
        ("hash_policy", &["balance-xor", "802.3ad", "balance-tlb", "balance-alb"]),
    ];
    for (key, modes) in modes_of {
        if entry.fields.entry(key).is_some() && !modes.contains(&bond.mode) {
            let message = format!("has no effect with mode = {:?}", bond.mode);
            entry.error(key, message, format!("it is for {}", modes.join(", ")), findings);
        }
    }
    if bond.arp_interval.is_some() {
        if matches!(bond.mode, "802.3ad" | "balance-tlb" | "balance-alb") {
            let message = format!("does not work with mode = {:?}", bond.mode);
            entry.error("arp_interval", message, "use miimon", findings);
        }
        if bond.miimon.is_some() {
            entry.error("arp_interval", "and miimon exclude each other", "keep one of them", findings);
        }
        if bond.arp_targets.is_empty() {
            entry.fields.missing("arp_targets", "arp_interval needs at least one address to ask", findings);
        }
    } else {
        for key in ["arp_targets", "arp_validate"] {
            if entry.fields.entry(key).is_some() {
                entry.error(key, "has no effect without arp_interval", "", findings);
            }
        }
    }
    if bond.arp_targets.len() > 16 {
        entry.error("arp_targets", "has more than 16 addresses", "", findings);
    }
    if bond.primary.as_ref().is_some_and(|primary| !bond.members.contains(primary)) {
        entry.error("primary", "is not one of members", "write it as it stands there", findings);
    }
    for (key, delay) in [("up_delay", bond.up_delay), ("down_delay", bond.down_delay)] {
        if delay.is_some_and(|delay| delay > 0) && bond.arp_interval.is_some() {
            entry.error(key, "has no effect with arp_interval", "use miimon", findings);
        }
    }
}

fn check_addresses(entries: &[Entry<'_>], findings: &mut Findings) {
    let mut known: BTreeMap<IpAddr, usize> = BTreeMap::new();
    let mut gateways: Vec<(bool, usize)> = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        for cidr in &entry.network.addresses {
            if let Some(other) = known.insert(cidr.address, at) {
                let message = if other == at {
                    format!("{} is there twice", cidr.address)
                } else {
                    format!("{} is the address of {} already", cidr.address, entries[other].title())
                };
                entry.error("addresses", message, "", findings);
            }
            let overlaps = entries[..at].iter().find(|other| {
                other
                    .network
                    .addresses
                    .iter()
                    .any(|theirs| theirs.contains(cidr.address) || cidr.contains(theirs.address))
            });
            if let Some(other) = overlaps {
                let message = format!("{cidr} and {} are in one network", other.title());
                let help = "answers may leave over the other interface; use a bond, or separate networks";
                findings.warning(entry.fields.place("addresses"), &entry.fields.path_of("addresses"), message, help);
            }
        }
        for gateway in &entry.network.gateways {
            if let Some((_, other)) = gateways.iter().find(|(family, _)| *family == gateway.is_ipv4()) {
                let message = format!("{} has a default gateway too", entries[*other].title());
                let help = "keep one, or write routes with to = \"default\" and different metrics";
                findings.warning(entry.fields.place("gateway"), &entry.fields.path_of("gateway"), message, help);
            }
            gateways.push((gateway.is_ipv4(), at));
        }
    }
}
