//! `network_data.json` of an OpenStack ConfigDrive, as `[[network]]`.
//!
//! Format: "Metadata service" of the Nova documentation (`links`, `networks`, `services`). Physical links with DHCP or
//! static addresses are carried over; a bond or a VLAN is refused, because a node with half of its network may be one
//! that nobody reaches. The document is made by a program, so errors name keys and no lines.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;

use super::parse::text_of;
use super::problem::Findings;
use super::tree::{Node, Origin, Value};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NetworkData {
    links: Vec<Link>,
    networks: Vec<Network>,
    services: Vec<Service>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Link {
    id: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    ethernet_mac_address: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Network {
    #[serde(rename = "type")]
    kind: String,
    link: String,
    ip_address: Option<String>,
    netmask: Option<String>,
    routes: Vec<Route>,
    services: Vec<Service>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Route {
    network: String,
    netmask: String,
    gateway: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Service {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

/// What one interface gets.
#[derive(Debug, Default)]
struct Interface {
    dhcp: bool,
    addresses: Vec<String>,
    gateways: Vec<String>,
    dns: Vec<String>,
}

/// Reads a `network_data.json`. `None` after errors were added to `findings`.
pub fn network_data(document: &Arc<str>, bytes: &[u8], findings: &mut Findings) -> Option<Node> {
    let whole = Origin::document(document);
    let text = text_of(document, bytes, findings)?;
    let data: NetworkData = match serde_json::from_str(text) {
        Ok(data) => data,
        Err(error) => {
            let line = u32::try_from(error.line()).unwrap_or(0);
            let at = Origin { line, column: u32::try_from(error.column()).unwrap_or(0), ..whole };
            findings.error(&at, "", "is not a network_data.json", "see OpenStack's format of network data");
            return None;
        }
    };
    let errors = findings.errors.len();
    let mut links: BTreeMap<&str, &str> = BTreeMap::new();
    for link in &data.links {
        let key = format!("links.{}", link.id);
        match (link.kind.as_deref().unwrap_or("phy"), &link.ethernet_mac_address) {
            (kind @ ("bond" | "vlan" | "vxlan"), _) => {
                findings.error(&whole, &key, format!("is a {kind}, which is not read from here"), "write [[network]]");
            }
            (_, Some(mac)) => {
                links.insert(&link.id, mac);
            }
            (_, None) => findings.error(&whole, &key, "has no ethernet_mac_address", ""),
        }
    }
    let mut interfaces: BTreeMap<&str, Interface> = BTreeMap::new();
    for network in &data.networks {
        let Some(mac) = links.get(&*network.link) else {
            findings.error(
                &whole,
                "networks",
                format!("one names the link {:?}, which is none of links", network.link),
                "",
            );
            continue;
        };
        add(interfaces.entry(mac).or_default(), network, &data.services, &whole, findings);
    }
    if findings.errors.len() > errors {
        return None;
    }
    let mut tree = Node::table(whole.clone());
    let items: Vec<Node> = interfaces.into_iter().map(|(mac, interface)| node(mac, interface, &whole)).collect();
    if !items.is_empty() {
        tree.set(&["network"], Node { origin: whole, value: Value::Array(items) });
    }
    Some(tree)
}

fn add(interface: &mut Interface, network: &Network, shared: &[Service], whole: &Origin, findings: &mut Findings) {
    match &*network.kind {
        "ipv4_dhcp" | "ipv6_dhcp" | "ipv6_slaac" | "ipv6_dhcpv6-stateful" | "ipv6_dhcpv6-stateless" => {
            interface.dhcp = true;
        }
        "ipv4" | "ipv6" => match with_prefix(network.ip_address.as_deref(), network.netmask.as_deref()) {
            Some(address) => interface.addresses.push(address),
            None => findings.error(whole, "networks", "has a static network without ip_address and netmask", ""),
        },
        other => findings.error(whole, "networks", format!("has the unknown type {other:?}"), ""),
    }
    for route in &network.routes {
        match &*prefix_of(&route.netmask).map_or_else(String::new, |prefix| format!("{}/{prefix}", route.network)) {
            "0.0.0.0/0" | "::/0" => interface.gateways.push(route.gateway.clone()),
            _ => findings.warning(
                whole,
                "networks",
                format!("has a route to {} that is not read from here", route.network),
                "write [[network]]",
            ),
        }
    }
    let servers = network.services.iter().chain(shared).filter(|service| service.kind == "dns");
    for server in servers {
        if !interface.dns.contains(&server.address) {
            interface.dns.push(server.address.clone());
        }
    }
}

fn node(mac: &str, interface: Interface, whole: &Origin) -> Node {
    let text = |text: String| Node { origin: whole.clone(), value: Value::Text(text) };
    let list =
        |items: Vec<String>| Node { origin: whole.clone(), value: Value::Array(items.into_iter().map(text).collect()) };
    let mut node = Node::table(whole.clone());
    node.set(&["match", "mac"], text(mac.to_owned()));
    node.set(&["dhcp"], Node { origin: whole.clone(), value: Value::Boolean(interface.dhcp) });
    if !interface.addresses.is_empty() {
        node.set(&["addresses"], list(interface.addresses));
    }
    if let Some(gateway) = interface.gateways.into_iter().next() {
        node.set(&["gateway"], text(gateway));
    }
    if !interface.dns.is_empty() {
        node.set(&["dns"], list(interface.dns));
    }
    node
}

fn with_prefix(address: Option<&str>, netmask: Option<&str>) -> Option<String> {
    let address = address?;
    if address.contains('/') {
        return Some(address.to_owned());
    }
    Some(format!("{address}/{}", prefix_of(netmask?)?))
}

/// The prefix length of `255.255.255.0`, `ffff:ffff::` or `64`.
fn prefix_of(netmask: &str) -> Option<u32> {
    if let Ok(prefix) = netmask.parse() {
        return Some(prefix);
    }
    let (ones, length) = match netmask.parse().ok()? {
        IpAddr::V4(mask) => (mask.to_bits().leading_ones(), mask.to_bits().count_ones()),
        IpAddr::V6(mask) => (mask.to_bits().leading_ones(), mask.to_bits().count_ones()),
    };
    (ones == length).then_some(ones)
}

#[cfg(test)]
mod tests {
    use crate::config::{Document, Format, InterfaceMatch, Machine, load};

    fn read(text: &str) -> Result<crate::config::Loaded, String> {
        let document = Document { name: "n".into(), format: Format::NetworkData, bytes: text.as_bytes().to_vec() };
        load(&[document], &Machine::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn physical_links_become_networks() {
        let loaded = read(
            r#"{"links": [{"id": "tap1", "type": "ovs", "ethernet_mac_address": "FA:16:3E:00:00:01", "mtu": 1500},
                          {"id": "tap2", "type": "phy", "ethernet_mac_address": "fa:16:3e:00:00:02"}],
                "networks": [{"id": "n0", "type": "ipv4", "link": "tap1", "ip_address": "10.1.0.5",
                              "netmask": "255.255.255.0",
                              "routes": [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.1.0.1"},
                                         {"network": "10.9.0.0", "netmask": "255.255.0.0", "gateway": "10.1.0.2"}],
                              "services": [{"type": "dns", "address": "10.1.0.2"}]},
                             {"type": "ipv4_dhcp", "link": "tap2"}],
                "services": [{"type": "dns", "address": "10.1.0.3"}]}"#,
        )
        .unwrap();
        let networks = &loaded.config.networks;
        assert!(matches!(networks[0].matches, InterfaceMatch::Mac(mac) if mac.to_string() == "fa:16:3e:00:00:01"));
        assert_eq!(networks[0].addresses[0].to_string(), "10.1.0.5/24");
        assert_eq!(networks[0].gateway.unwrap().to_string(), "10.1.0.1");
        assert_eq!(networks[0].dns.len(), 2);
        assert!(!networks[0].dhcp && networks[1].dhcp);
        assert!(loaded.warnings[0].message.contains("a route to 10.9.0.0"), "{:?}", loaded.warnings);
        assert!(read("{}").unwrap().config.networks.is_empty());
    }

    #[test]
    fn what_cannot_be_carried_over_is_refused() {
        let refused = |text: &str, part: &str| {
            let error = read(text).expect_err(text);
            assert!(error.contains(part), "{error} lacks {part}");
        };
        refused(
            r#"{"links": [{"id": "b", "type": "bond", "ethernet_mac_address": "fa:16:3e:00:00:01"}]}"#,
            "links.b: is a bond",
        );
        refused(r#"{"networks": [{"type": "ipv4", "link": "x"}]}"#, "names the link");
        refused(r#"{"links": [{"id": "a"}]}"#, "no ethernet_mac_address");
        let link = r#""links": [{"id": "a", "ethernet_mac_address": "fa:16:3e:00:00:01"}]"#;
        refused(&format!(r#"{{{link}, "networks": [{{"type": "ipv4", "link": "a"}}]}}"#), "without ip_address");
        refused(&format!(r#"{{{link}, "networks": [{{"type": "ipx", "link": "a"}}]}}"#), "unknown type \"ipx\"");
        refused("{\"links\": 7}", "n:1:");
    }

    proptest::proptest! {
        #[test]
        fn anything_is_read_without_a_panic(text in ".{0,200}") {
            let _ = read(&text);
        }
    }
}
