//! Version 1: a list of devices, each with its subnets, and of name servers and routes for all of them.

use std::net::IpAddr;

use super::{Device, at, entries, flag, is_null, list, number, text, text_at, unsupported, with_prefix};
use crate::config::network::Prefix;
use crate::config::problem::Findings;
use crate::config::tree::{Node, Origin, Table, Value};
use crate::config::values::Cidr;

/// Options of a bond without their `bond-`, as cloud-init and as `[[network]]` call them.
const BOND: &[(&str, &str)] = &[
    ("mode", "mode"),
    ("lacp-rate", "lacp_rate"),
    ("miimon", "miimon"),
    ("min-links", "min_links"),
    ("xmit-hash-policy", "hash_policy"),
    ("ad-select", "ad_select"),
    ("arp-interval", "arp_interval"),
    ("arp-ip-target", "arp_targets"),
    ("arp-validate", "arp_validate"),
    ("updelay", "up_delay"),
    ("downdelay", "down_delay"),
    ("fail-over-mac", "fail_over_mac"),
    ("primary-reselect", "primary_reselect"),
    ("primary", "primary"),
];
/// The kernel's numbers of the modes.
const MODES: [&str; 7] =
    ["balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"];
const BRIDGE: &[(&str, &str)] = &[
    ("stp", "stp"),
    ("fd", "forward_delay"),
    ("bridgeprio", "priority"),
    ("prio", "priority"),
    ("ageing", "ageing_time"),
];

/// A device with what subnets have said of it.
struct Begun {
    device: Device,
    v4: bool,
    v6: bool,
    name: String,
}

impl Begun {
    /// True where one of its static addresses is in one network with this one.
    fn reaches(&self, router: &str) -> bool {
        let Ok(router) = router.parse::<IpAddr>() else { return false };
        let addresses = self.device.table.as_table().and_then(|table| table.get("addresses"));
        let Some(Value::Array(items)) = addresses.map(|entry| &entry.node.value) else { return false };
        let mut texts =
            items.iter().filter_map(|item| if let Value::Text(text) = &item.value { Some(text) } else { None });
        texts.any(|text| text.parse::<Cidr>().is_ok_and(|cidr| cidr.contains(router)))
    }
}

/// The `[[network]]` tables of a document.
pub fn devices(yaml: Node, whole: &Origin, findings: &mut Findings) -> Vec<Node> {
    let mut items = Vec::new();
    for (key, place, node) in entries(yaml, whole, findings) {
        match (key.as_str(), node.value) {
            ("version", _) => {}
            ("config", Value::Array(list)) => items = list,
            ("config", Value::Text(text)) if text == "disabled" => return Vec::new(),
            ("config", _) => findings.error(&place, "config", "is not a list of devices", "write `- type: physical`"),
            _ => unsupported(&place, &key, findings),
        }
    }
    let mut begun: Vec<Begun> = Vec::new();
    let mut later: Vec<(String, Node)> = Vec::new();
    for item in items {
        let Some(table) = item.as_table() else {
            findings.error(&item.origin, "config", format!("is {}, not a mapping", item.value.kind()), "");
            continue;
        };
        match text(table, "type").unwrap_or_default() {
            kind @ ("physical" | "bond" | "bridge" | "vlan") => {
                let kind = kind.to_owned();
                begun.extend(device(&kind, &item, findings));
            }
            kind @ ("nameserver" | "route") => later.push((kind.to_owned(), item.clone())),
            "loopback" => {}
            other => {
                let help = "physical, bond, bridge, vlan, nameserver, route and loopback are known";
                findings.error(&item.origin, "config.type", format!("{other:?} is not supported"), help);
            }
        }
    }
    for (kind, item) in later {
        if kind == "route" {
            global_route(&mut begun, item, findings)
        } else {
            global_names(&mut begun, item, findings)
        }
    }
    begun.into_iter().map(|begun| begun.device.finish(begun.v4, begun.v6)).collect()
}

fn device(kind: &str, item: &Node, findings: &mut Findings) -> Option<Begun> {
    let place = &item.origin;
    let table = item.as_table()?;
    let Some(name) = table.get("name").map(|entry| &entry.node) else {
        findings.error(place, "config.name", "is missing", "every device has a name");
        return None;
    };
    let mut begun = Begun {
        device: Device::new(place),
        v4: false,
        v6: false,
        name: text(table, "name").unwrap_or_default().to_owned(),
    };
    let device = &mut begun.device;
    device.put("type", place, text_at(place, if kind == "physical" { "ethernet" } else { kind }));
    let mac = table.get("mac_address").filter(|entry| !is_null(&entry.node));
    if kind == "physical" {
        let mut matches = Device::new(place);
        match mac {
            // The name is what the interface with this address shall have.
            Some(entry) => {
                matches.put("mac", &entry.key, entry.node.clone());
                device.put("name", place, name.clone());
            }
            None => matches.put("name", place, name.clone()),
        }
        device.put("match", place, matches.table);
    } else {
        device.put("name", place, name.clone());
        if let Some(entry) = mac {
            device.put("mac", &entry.key, entry.node.clone());
        }
    }
    for (key, entry) in table.iter().filter(|(_, entry)| !is_null(&entry.node)) {
        let (at_key, node) = (&entry.key, &entry.node);
        match (key.as_str(), kind) {
            ("type" | "name" | "mac_address", _) => {}
            ("mtu", _) => begun.device.put("mtu", at_key, number(node)),
            ("accept-ra", _) => begun.device.put("accept_ra", at_key, flag(node)),
            ("subnets", _) => subnets(&mut begun, node, findings),
            ("bond_interfaces", "bond") | ("bridge_interfaces", "bridge") => {
                begun.device.put("members", at_key, list(node));
            }
            ("params", "bond") => parameters(&mut begun.device, node, "bond", BOND, findings),
            ("params", "bridge") => parameters(&mut begun.device, node, "bridge", BRIDGE, findings),
            ("vlan_link", "vlan") => begun.device.put("parent", at_key, node.clone()),
            ("vlan_id", "vlan") => begun.device.put("id", at_key, number(node)),
            _ => unsupported(at_key, &format!("{}.{key}", begun.name), findings),
        }
    }
    if kind == "bond" && !begun.device.has("mode") {
        begun.device.put("mode", place, text_at(place, "balance-rr"));
    }
    Some(begun)
}

fn parameters(device: &mut Device, node: &Node, prefix: &str, known: &[(&str, &str)], findings: &mut Findings) {
    for (key, place, node) in entries(node.clone(), &node.origin, findings) {
        let plain = key.replace('_', "-");
        let plain = plain.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-')).unwrap_or(&plain);
        let Some((_, ours)) = known.iter().find(|(theirs, _)| *theirs == plain) else {
            unsupported(&place, &format!("params.{key}"), findings);
            continue;
        };
        let value = match (*ours, &number(&node).value) {
            ("mode", Value::Integer(mode)) => {
                let mode = usize::try_from(*mode).ok().and_then(|mode| MODES.get(mode));
                mode.map_or_else(|| node.clone(), |mode| text_at(&node.origin, *mode))
            }
            ("lacp_rate", Value::Integer(0)) => text_at(&node.origin, "slow"),
            ("lacp_rate", Value::Integer(1)) => text_at(&node.origin, "fast"),
            ("stp", _) => flag(&node),
            ("arp_targets", _) => list(&node),
            (_, Value::Integer(number)) => at(&node.origin, Value::Integer(*number)),
            _ => node,
        };
        device.put(ours, &place, value);
    }
}

fn subnets(begun: &mut Begun, node: &Node, findings: &mut Findings) {
    let Value::Array(items) = &node.value else {
        findings.error(&node.origin, "subnets", format!("is {}, not a list", node.value.kind()), "");
        return;
    };
    for item in items {
        let Some(table) = item.as_table() else {
            findings.error(&item.origin, "subnets", format!("is {}, not a mapping", item.value.kind()), "");
            continue;
        };
        match text(table, "type").unwrap_or_default() {
            "dhcp" | "dhcp4" => begun.v4 = true,
            "dhcp6" => begun.v6 = true,
            "ipv6_dhcpv6-stateful" => {
                begun.v6 = true;
                begun.device.put("accept_ra", &item.origin, at(&item.origin, Value::Boolean(true)));
            }
            "ipv6_slaac" | "ipv6_dhcpv6-stateless" => {
                begun.device.put("accept_ra", &item.origin, at(&item.origin, Value::Boolean(true)));
            }
            "static" | "static6" => {
                if !table.contains_key("address") {
                    findings.error(&item.origin, "subnets.address", "is missing", "a static subnet has an address");
                }
            }
            "manual" => {}
            other => {
                let help = "dhcp, dhcp4, dhcp6, static, static6, manual, ipv6_slaac and ipv6_dhcpv6-* are known";
                findings.error(&item.origin, "subnets.type", format!("{other:?} is not supported"), help);
            }
        }
        subnet(&mut begun.device, table, findings);
    }
}

fn subnet(device: &mut Device, table: &Table, findings: &mut Findings) {
    for (key, entry) in table.iter().filter(|(_, entry)| !is_null(&entry.node)) {
        let (place, node) = (&entry.key, &entry.node);
        match key.as_str() {
            "type" | "netmask" => {}
            "address" => {
                let address = with_prefix(node, table.get("netmask").map(|entry| &entry.node));
                device.push("addresses", place, address);
            }
            "gateway" => device.push("gateway", place, node.clone()),
            "dns_nameservers" => device.extend("dns", place, node),
            "dns_search" => device.extend("search", place, node),
            "routes" => {
                let items = if let Value::Array(items) = &node.value { &items[..] } else { std::slice::from_ref(node) };
                for item in items {
                    if let Some(route) = route(item, findings) {
                        device.push("routes", place, route);
                    }
                }
            }
            // The network of an address says it already; and everything is brought up at boot.
            "broadcast" => {}
            "control" if matches!(&node.value, Value::Text(text) if text == "auto") => {}
            "ipv4" | "ipv6" => {}
            _ => unsupported(place, &format!("subnets.{key}"), findings),
        }
    }
}

/// A route of a subnet, or of the whole document.
pub(super) fn route(item: &Node, findings: &mut Findings) -> Option<Node> {
    let mut route = Device::new(&item.origin);
    let entries = entries(item.clone(), &item.origin, findings);
    let netmask = entries.iter().find(|(key, _, _)| key == "netmask").map(|(_, _, node)| node.clone());
    for (key, place, node) in entries {
        match key.as_str() {
            "type" | "netmask" => {}
            "destination" | "network" | "to" | "id" => {
                let network = with_prefix(&node, netmask.as_ref());
                let network = match &network.value {
                    // cloud-init takes any address of the network.
                    Value::Text(text) => {
                        match text.split_once('/').map(|(address, length)| (address.parse(), length.parse())) {
                            Some((Ok(address), Ok(length)))
                                if length <= 32 || (address as IpAddr).is_ipv6() && length <= 128 =>
                            {
                                text_at(&network.origin, Prefix::of(address, length).to_string())
                            }
                            _ => network.clone(),
                        }
                    }
                    _ => network,
                };
                route.put("to", &place, network);
            }
            "gateway" | "via" => route.put("via", &place, node),
            "metric" | "mtu" => route.put(&key, &place, number(&node)),
            _ => unsupported(&place, &format!("routes.{key}"), findings),
        }
    }
    (!route.table.as_table()?.is_empty()).then_some(route.table)
}

/// A route that names no device is that of the device that reaches its router.
fn global_route(begun: &mut [Begun], item: Node, findings: &mut Findings) {
    let Some(route) = route(&item, findings) else { return };
    let router = route.as_table().and_then(|table| text(table, "via")).unwrap_or_default().to_owned();
    match begun.iter_mut().find(|begun| begun.reaches(&router)) {
        Some(begun) => begun.device.push("routes", &item.origin, route),
        None => {
            let help = "write it below the subnet of its device";
            findings.error(&item.origin, "config.gateway", "is in the network of no static address", help);
        }
    }
}

/// Name servers are those of the device that they name, or of every one with subnets.
fn global_names(begun: &mut [Begun], item: Node, findings: &mut Findings) {
    let place = item.origin.clone();
    let wanted = item.as_table().and_then(|table| text(table, "interface")).map(str::to_owned);
    let mut used = false;
    let entries = entries(item, &place, findings);
    for begun in begun.iter_mut() {
        let carries = begun.v4 || begun.v6 || begun.device.has("addresses") || begun.device.has("accept_ra");
        if wanted.as_ref().map_or(carries, |wanted| *wanted == begun.name) {
            used = true;
            for (key, place, node) in &entries {
                match key.as_str() {
                    "address" | "addresses" => begun.device.extend("dns", place, node),
                    "search" => begun.device.extend("search", place, node),
                    _ => {}
                }
            }
        }
    }
    for (key, place, _) in &entries {
        if !matches!(key.as_str(), "type" | "address" | "addresses" | "search" | "interface") {
            unsupported(place, &format!("nameserver.{key}"), findings);
        }
    }
    if !used {
        findings.warning(&place, "config.nameserver", "belongs to no device with addresses and has no effect", "");
    }
}
