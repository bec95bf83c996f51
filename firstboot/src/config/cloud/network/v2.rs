//! Version 2: netplan's format.

use std::collections::BTreeMap;

use super::{Device, at, entries, flag, is_null, is_true, list, number, text_at, unsupported};
use crate::config::problem::Findings;
use crate::config::tree::{Node, Origin, Value};

/// Options of a bond, as netplan and as `[[network]]` call them.
const BOND: &[(&str, &str)] = &[
    ("mode", "mode"),
    ("lacp-rate", "lacp_rate"),
    ("mii-monitor-interval", "miimon"),
    ("min-links", "min_links"),
    ("transmit-hash-policy", "hash_policy"),
    ("ad-select", "ad_select"),
    ("arp-interval", "arp_interval"),
    ("arp-ip-targets", "arp_targets"),
    ("arp-validate", "arp_validate"),
    ("up-delay", "up_delay"),
    ("down-delay", "down_delay"),
    ("fail-over-mac-policy", "fail_over_mac"),
    ("primary-reselect-policy", "primary_reselect"),
    ("primary", "primary"),
];
const BRIDGE: &[(&str, &str)] = &[
    ("stp", "stp"),
    ("forward-delay", "forward_delay"),
    ("priority", "priority"),
    ("ageing-time", "ageing_time"),
    ("aging-time", "ageing_time"),
];
const DHCP: &[(&str, &str)] = &[
    ("use-dns", "dns"),
    ("use-domains", "domains"),
    ("use-routes", "routes"),
    ("use-ntp", "ntp"),
    ("use-mtu", "mtu"),
    ("send-hostname", "send_hostname"),
    ("hostname", "hostname"),
    ("route-metric", "metric"),
];
const ROUTE: &[(&str, &str)] = &[
    ("to", "to"),
    ("via", "via"),
    ("metric", "metric"),
    ("table", "table"),
    ("on-link", "on_link"),
    ("from", "source"),
    ("type", "type"),
    ("scope", "scope"),
    ("mtu", "mtu"),
];
const RULE: &[(&str, &str)] =
    &[("from", "from"), ("to", "to"), ("table", "table"), ("priority", "priority"), ("mark", "mark")];

/// How the rest of a document refers to each device.
type References = BTreeMap<String, Node>;

/// The `[[network]]` tables of a document.
pub fn devices(yaml: Node, whole: &Origin, findings: &mut Findings) -> Vec<Node> {
    let mut kinds: Vec<(&'static str, String, Origin, Node)> = Vec::new();
    for (key, place, node) in entries(yaml, whole, findings) {
        let kind = match key.as_str() {
            "version" => continue,
            "renderer" => {
                if !matches!(&node.value, Value::Text(renderer) if renderer == "networkd") {
                    findings.warning(&place, &key, "has no effect: nodes have systemd-networkd", "");
                }
                continue;
            }
            "ethernets" => "ethernet",
            "bonds" => "bond",
            "bridges" => "bridge",
            "vlans" => "vlan",
            "wifis" | "modems" | "tunnels" | "vrfs" | "dummy-devices" | "virtual-ethernets" | "nm-devices"
            | "openvswitch" => {
                findings.error(&place, &key, "are not supported", "ethernets, bonds, bridges and vlans are");
                continue;
            }
            _ => {
                unsupported(&place, &key, findings);
                continue;
            }
        };
        for (id, place, node) in entries(node, whole, findings) {
            kinds.push((kind, id, place, node));
        }
    }
    let references: References =
        kinds.iter().map(|(kind, id, place, node)| (id.clone(), reference(kind, id, place, node))).collect();
    kinds
        .into_iter()
        .filter_map(|(kind, id, place, node)| device(kind, &id, &place, node, &references, findings))
        .collect()
}

fn reference(kind: &str, id: &str, place: &Origin, node: &Node) -> Node {
    let own_name = node.as_table().and_then(|table| table.get("set-name")).filter(|_| kind == "ethernet");
    match own_name {
        Some(entry) => entry.node.clone(),
        None if kind == "ethernet" => matches(id, place, node),
        None => text_at(place, id),
    }
}

/// The `match` of an Ethernet interface; without one, its id is its name.
fn matches(id: &str, place: &Origin, node: &Node) -> Node {
    let mut device = Device::new(place);
    match node.as_table().and_then(|table| table.get("match")) {
        None => device.put("name", place, text_at(place, id)),
        Some(entry) => {
            device.table.origin = entry.node.origin.clone();
            for (key, inner) in entry.node.as_table().into_iter().flatten() {
                let name = if key == "macaddress" { "mac" } else { key };
                // A list of one driver is one driver.
                let value = match &inner.node.value {
                    Value::Array(items) if items.len() == 1 => items[0].clone(),
                    _ => inner.node.clone(),
                };
                device.put(name, &inner.key, value);
            }
        }
    }
    device.table
}

fn device(
    kind: &str,
    id: &str,
    place: &Origin,
    node: Node,
    references: &References,
    findings: &mut Findings,
) -> Option<Node> {
    let mut device = Device::new(place);
    device.put("type", place, text_at(place, kind));
    if kind == "ethernet" {
        device.put("match", place, matches(id, place, &node));
    } else {
        device.put("name", place, text_at(place, id));
    }
    let (mut v4, mut v6) = (false, false);
    let mut options = Vec::new();
    let keys = if is_null(&node) { Vec::new() } else { entries(node, place, findings) };
    for (key, key_place, node) in keys.into_iter().filter(|(_, _, node)| !is_null(node)) {
        match (key.as_str(), kind) {
            ("match", "ethernet") => {}
            ("set-name", "ethernet") => device.put("name", &key_place, node),
            ("dhcp4", _) => v4 = switch(&node, &key, findings),
            ("dhcp6", _) => v6 = switch(&node, &key, findings),
            ("dhcp4-overrides" | "dhcp6-overrides" | "dhcp-identifier", _) => options.push((key, key_place, node)),
            ("gateway4" | "gateway6", _) => device.push("gateway", &key_place, node),
            ("addresses", _) => addresses(&mut device, &key_place, &node, findings),
            ("nameservers", _) => nameservers(&mut device, node, place, findings),
            ("mtu", _) => device.put("mtu", &key_place, number(&node)),
            ("macaddress", _) => device.put("mac", &key_place, node),
            ("routes", _) => translated_list(&mut device, "routes", &key_place, node, ROUTE, findings),
            ("routing-policy", _) => translated_list(&mut device, "rules", &key_place, node, RULE, findings),
            ("accept-ra", _) => device.put("accept_ra", &key_place, flag(&node)),
            ("optional", _) => device.put("optional", &key_place, flag(&node)),
            ("interfaces", "bond" | "bridge") => {
                let items = match list(&node).value {
                    Value::Array(items) => items.iter().map(|item| referred(item, references)).collect(),
                    other => vec![at(&node.origin, other)],
                };
                device.put("members", &key_place, at(&node.origin, Value::Array(items)));
            }
            ("parameters", "bond" | "bridge") => {
                let known = if kind == "bond" { BOND } else { BRIDGE };
                for (inner, inner_place, node) in entries(node, place, findings) {
                    match known.iter().find(|(theirs, _)| *theirs == inner) {
                        Some((_, "primary")) => device.put("primary", &inner_place, referred(&node, references)),
                        Some((_, "arp_targets")) => device.put("arp_targets", &inner_place, list(&node)),
                        Some((_, "stp")) => device.put("stp", &inner_place, flag(&node)),
                        Some((
                            _,
                            ours @ ("mode" | "hash_policy" | "ad_select" | "arp_validate" | "fail_over_mac"
                            | "primary_reselect" | "lacp_rate"),
                        )) => {
                            device.put(ours, &inner_place, node);
                        }
                        Some((_, ours)) => device.put(ours, &inner_place, number(&node)),
                        None => unsupported(&inner_place, &format!("parameters.{inner}"), findings),
                    }
                }
            }
            ("link", "vlan") => device.put("parent", &key_place, referred(&node, references)),
            ("id", "vlan") => device.put("id", &key_place, number(&node)),
            ("renderer", _) if matches!(&node.value, Value::Text(renderer) if renderer == "networkd") => {}
            // What these ask for is what a node does anyway.
            ("wakeonlan" | "critical" | "ignore-carrier" | "emit-lldp", _) if !is_true(&node) => {}
            _ => unsupported(&key_place, &format!("{id}.{key}"), findings),
        }
    }
    if kind == "bond" && !device.has("mode") {
        device.put("mode", place, text_at(place, "balance-rr"));
    }
    if kind == "bridge" && !device.has("stp") {
        device.put("stp", place, at(place, Value::Boolean(true)));
    }
    dhcp_options(&mut device, options, v4, v6, findings);
    Some(device.finish(v4, v6))
}

fn switch(node: &Node, key: &str, findings: &mut Findings) -> bool {
    let node = flag(node);
    if !matches!(node.value, Value::Boolean(_)) {
        findings.error(&node.origin, key, format!("is {}, not true or false", node.value.kind()), "");
    }
    matches!(node.value, Value::Boolean(true))
}

fn referred(node: &Node, references: &References) -> Node {
    let known = if let Value::Text(id) = &node.value { references.get(id) } else { None };
    // The place is the reference's: there a wrong one has to be corrected.
    known.map_or_else(|| node.clone(), |known| at(&node.origin, known.value.clone()))
}

fn addresses(device: &mut Device, key: &Origin, node: &Node, findings: &mut Findings) {
    let Value::Array(items) = &node.value else {
        device.put("addresses", key, node.clone());
        return;
    };
    device.put("addresses", key, at(&node.origin, Value::Array(Vec::new())));
    for item in items {
        match &item.value {
            // An address with options: `10.0.0.2/24: {label: x}`.
            Value::Table(table) => {
                for (address, entry) in table {
                    device.push("addresses", key, text_at(&entry.key, address.as_str()));
                    for (option, inner) in entry.node.as_table().into_iter().flatten() {
                        unsupported(&inner.key, &format!("addresses.{option}"), findings);
                    }
                }
            }
            _ => device.push("addresses", key, item.clone()),
        }
    }
}

fn nameservers(device: &mut Device, node: Node, whole: &Origin, findings: &mut Findings) {
    for (key, place, node) in entries(node, whole, findings) {
        match key.as_str() {
            "addresses" => device.extend("dns", &place, &node),
            "search" => device.extend("search", &place, &node),
            _ => unsupported(&place, &format!("nameservers.{key}"), findings),
        }
    }
}

fn translated_list(
    device: &mut Device,
    name: &str,
    key: &Origin,
    node: Node,
    known: &[(&str, &str)],
    findings: &mut Findings,
) {
    let Value::Array(items) = node.value else {
        device.put(name, key, node);
        return;
    };
    for item in items {
        let mut translated = Device::new(&item.origin);
        for (inner, place, node) in entries(item, key, findings) {
            match known.iter().find(|(theirs, _)| *theirs == inner) {
                Some((_, "on_link")) => translated.put("on_link", &place, flag(&node)),
                Some((_, ours @ ("metric" | "table" | "mtu" | "priority" | "mark"))) => {
                    translated.put(ours, &place, number(&node));
                }
                Some((_, ours)) => translated.put(ours, &place, node),
                None => unsupported(&place, &format!("{name}.{inner}"), findings),
            }
        }
        device.push(name, key, translated.table);
    }
}

fn dhcp_options(device: &mut Device, given: Vec<(String, Origin, Node)>, v4: bool, v6: bool, findings: &mut Findings) {
    let mut options: Option<Device> = None;
    for (key, place, node) in given {
        let asked = match key.as_str() {
            "dhcp4-overrides" => v4,
            "dhcp6-overrides" => v6,
            _ => v4 || v6,
        };
        if !asked {
            continue;
        }
        let into = options.get_or_insert_with(|| Device::new(&place));
        if key == "dhcp-identifier" {
            into.put("client_id", &place, node);
            continue;
        }
        for (inner, inner_place, node) in entries(node, &place, findings) {
            let path = format!("{key}.{inner}");
            let Some((_, ours)) = DHCP.iter().find(|(theirs, _)| *theirs == inner) else {
                unsupported(&inner_place, &path, findings);
                continue;
            };
            let value = match *ours {
                "hostname" => node,
                "metric" => number(&node),
                // `use-domains: route` asks only for names of these domains there.
                "domains" if matches!(&node.value, Value::Text(text) if text == "route") => {
                    unsupported(&inner_place, &path, findings);
                    continue;
                }
                _ => flag(&node),
            };
            let before = into.table.as_table().and_then(|table| table.get(*ours)).map(|entry| &entry.node.value);
            if before.is_some_and(|before| *before != value.value) {
                findings.error(&inner_place, &path, "differs from dhcp4-overrides", "write the same value into both");
            }
            into.put(ours, &inner_place, value);
        }
    }
    if let Some(options) = options {
        let origin = options.table.origin.clone();
        device.put("dhcp_options", &origin, options.table);
    }
}
