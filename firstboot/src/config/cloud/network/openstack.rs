//! OpenStack's `network_data.json`, which a ConfigDrive has.
//!
//! Links (hardware, bonds, VLANs), networks on them (addresses, routes, DHCP) and services (name servers), after nova's
//! `doc/api_schemas/network_data.json`. Links have ids, not names: hardware is known by its address, a VLAN is called
//! `vlan` and its number, a bond as its id says.

use std::collections::BTreeMap;

use super::v1::route;
use super::{Device, at, entries, is_null, list, number, text, text_at, unsupported, with_prefix};
use crate::config::network::LinkName;
use crate::config::problem::Findings;
use crate::config::tree::{Node, Origin, Value};

/// A link with what its networks have said of it.
struct Link {
    id: String,
    device: Device,
    v4: bool,
    v6: bool,
    carries: bool,
}

/// The `[[network]]` tables of a document.
pub fn devices(json: Node, whole: &Origin, findings: &mut Findings) -> Vec<Node> {
    let (mut link_nodes, mut networks, mut services) = (Vec::new(), Vec::new(), Vec::new());
    for (key, place, node) in entries(json, whole, findings) {
        let into = match key.as_str() {
            "links" => &mut link_nodes,
            "networks" => &mut networks,
            "services" => &mut services,
            _ => {
                unsupported(&place, &key, findings);
                continue;
            }
        };
        match node.value {
            Value::Array(items) => *into = items,
            _ if is_null(&node) => {}
            other => findings.error(&place, &key, format!("is {}, not a list", other.kind()), ""),
        }
    }
    let references: BTreeMap<String, Node> = link_nodes.iter().filter_map(reference).collect();
    let mut links: Vec<Link> =
        link_nodes.into_iter().filter_map(|node| link(node, whole, &references, findings)).collect();
    for network in networks {
        let place = network.origin.clone();
        let id = network.as_table().and_then(|table| text(table, "link")).map(str::to_owned);
        match links.iter_mut().find(|link| Some(&link.id) == id.as_ref()) {
            Some(link) => on_link(link, network, findings),
            None => {
                let message = format!("there is no link {:?}", id.unwrap_or_default());
                findings.error(&place, "networks.link", message, "name the id of one of links");
            }
        }
    }
    for service in services {
        for link in links.iter_mut().filter(|link| link.carries) {
            name_server(&mut link.device, &service);
        }
    }
    links.into_iter().map(|link| link.device.finish(link.v4, link.v6)).collect()
}

/// How other links refer to one.
fn reference(node: &Node) -> Option<(String, Node)> {
    let table = node.as_table()?;
    let id = text(table, "id")?;
    let name = match text(table, "type")? {
        "vlan" => match number(&table.get("vlan_id")?.node).value {
            Value::Integer(number) => format!("vlan{number}"),
            _ => return None,
        },
        "bond" => id.parse::<LinkName>().map_or_else(|_| "bond0".to_owned(), |name| name.to_string()),
        _ => {
            let mac = table.get("ethernet_mac_address")?;
            let mut matches = Device::new(&node.origin);
            matches.put("mac", &mac.key, mac.node.clone());
            return Some((id.to_owned(), matches.table));
        }
    };
    Some((id.to_owned(), text_at(&node.origin, name)))
}

fn link(node: Node, whole: &Origin, references: &BTreeMap<String, Node>, findings: &mut Findings) -> Option<Link> {
    let place = node.origin.clone();
    let own = reference(&node);
    let kind = node.as_table().and_then(|table| text(table, "type")).unwrap_or_default().to_owned();
    let Some((id, own)) = own else {
        let help = "a link has id, type, and ethernet_mac_address or vlan_id";
        findings.error(&place, "links", "does not say which interface it is", help);
        return None;
    };
    let referred = |node: &Node| {
        let known = if let Value::Text(id) = &node.value { references.get(id) } else { None };
        known.map_or_else(|| node.clone(), |known| at(&node.origin, known.value.clone()))
    };
    let mut device = Device::new(&place);
    let made = matches!(kind.as_str(), "vlan" | "bond");
    device.put("type", &place, text_at(&place, if made { kind.as_str() } else { "ethernet" }));
    device.put(if made { "name" } else { "match" }, &place, own);
    for (key, at_key, node) in entries(node, whole, findings).into_iter().filter(|(_, _, node)| !is_null(node)) {
        match (key.as_str(), kind.as_str()) {
            ("id" | "type" | "vif_id" | "name", _) => {}
            ("ethernet_mac_address" | "vlan_mac_address", _) if made => device.put("mac", &at_key, node),
            ("ethernet_mac_address", _) => {}
            ("mtu", _) => device.put("mtu", &at_key, number(&node)),
            ("vlan_link", "vlan") => device.put("parent", &at_key, referred(&node)),
            ("vlan_id", "vlan") => device.put("id", &at_key, number(&node)),
            ("bond_links", "bond") => {
                let Value::Array(items) = list(&node).value else { continue };
                let items = items.iter().map(referred).collect();
                device.put("members", &at_key, at(&node.origin, Value::Array(items)));
            }
            ("bond_mode", "bond") => {
                // The schema's own example has this slip.
                let slip = matches!(&node.value, Value::Text(mode) if mode == "802.1ad");
                device.put("mode", &at_key, if slip { text_at(&node.origin, "802.3ad") } else { node });
            }
            ("bond_miimon", "bond") => device.put("miimon", &at_key, number(&node)),
            ("bond_xmit_hash_policy", "bond") => device.put("hash_policy", &at_key, node),
            _ => unsupported(&at_key, &format!("links.{key}"), findings),
        }
    }
    Some(Link { id, device, v4: false, v6: false, carries: false })
}

fn on_link(link: &mut Link, network: Node, findings: &mut Findings) {
    let place = network.origin.clone();
    let kind = network.as_table().and_then(|table| text(table, "type")).unwrap_or_default().to_owned();
    let netmask = network.as_table().and_then(|table| table.get("netmask")).map(|entry| entry.node.clone());
    link.carries = true;
    let accept = |link: &mut Link| link.device.put("accept_ra", &place, at(&place, Value::Boolean(true)));
    match kind.as_str() {
        "ipv4" | "ipv6" => {}
        "ipv4_dhcp" => link.v4 = true,
        "ipv6_dhcp" => link.v6 = true,
        "ipv6_dhcpv6-stateful" => {
            link.v6 = true;
            accept(link);
        }
        "ipv6_slaac" | "ipv6_dhcpv6-stateless" => accept(link),
        other => {
            let help = "ipv4, ipv4_dhcp, ipv6, ipv6_dhcp, ipv6_slaac and ipv6_dhcpv6-* are known";
            findings.error(&place, "networks.type", format!("{other:?} is not supported"), help);
        }
    }
    for (key, at_key, node) in entries(network, &place, findings).into_iter().filter(|(_, _, node)| !is_null(node)) {
        match key.as_str() {
            "id" | "type" | "link" | "netmask" | "network_id" => {}
            "ip_address" => link.device.push("addresses", &at_key, with_prefix(&node, netmask.as_ref())),
            "gateway" => link.device.push("gateway", &at_key, node),
            "dns_nameservers" => link.device.extend("dns", &at_key, &node),
            "services" | "routes" => {
                let Value::Array(items) = list(&node).value else { continue };
                for item in items {
                    if key == "services" {
                        name_server(&mut link.device, &item);
                    } else if let Some(route) = route(&item, findings) {
                        link.device.push("routes", &at_key, route);
                    }
                }
            }
            _ => unsupported(&at_key, &format!("networks.{key}"), findings),
        }
    }
}

fn name_server(device: &mut Device, service: &Node) {
    let Some(table) = service.as_table() else { return };
    if let (Some("dns"), Some(entry)) = (text(table, "type"), table.get("address")) {
        device.extend("dns", &entry.key, &entry.node);
    }
}
