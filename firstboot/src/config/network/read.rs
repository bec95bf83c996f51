//! Reads the tables of `[[network]]` one by one.

use std::net::IpAddr;
use std::str::FromStr;

use super::check::{Entry, check};
use super::values::{LinkName, is_container_interface};
use super::{
    BOND_KEYS, BRIDGE_KEYS, Bond, Bridge, ClientId, Dhcp, DhcpOptions, ETHERNET_KEYS, Ethernet, Interface,
    InterfaceMatch, LinkRef, Network, Route, Rule, VLAN_KEYS, Vlan,
};
use crate::config::fields::Fields;
use crate::config::problem::{Findings, nearest};
use crate::config::tree::{Node, Value};
use crate::config::values::{Cidr, Mac};

const MODES: &[&str] =
    &["balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"];
const HASH_POLICIES: &[&str] = &["layer2", "layer2+3", "layer3+4", "encap2+3", "encap3+4"];
const KINDS: &[(&str, &[&str])] =
    &[("ethernet", ETHERNET_KEYS), ("bond", BOND_KEYS), ("vlan", VLAN_KEYS), ("bridge", BRIDGE_KEYS)];
/// How the names of real interfaces begin (systemd.net-naming-scheme(7), and the kernel's own `eth0`).
const REAL_NAMES: &[&str] = &["en", "eth", "ib", "sl", "wl", "ww"];

/// Reads the key `network` of a document. What is wrong is added to `findings`.
pub fn read_networks(document: &Fields<'_>, findings: &mut Findings) -> Vec<Network> {
    let nodes = document.list("network", findings);
    let names: Vec<&str> = nodes
        .iter()
        .filter_map(|node| match &node.as_table()?.get("name")?.node.value {
            Value::Text(name) => Some(name.as_str()),
            _ => None,
        })
        .collect();
    // The exact names by which entries find interfaces of the machine are known too.
    let matched: Vec<&str> = nodes
        .iter()
        .filter_map(|node| match &node.as_table()?.get("match")?.node.as_table()?.get("name")?.node.value {
            Value::Text(name) => Some(name.as_str()),
            _ => None,
        })
        .collect();
    let mut entries: Vec<Entry<'_>> = Vec::new();
    let errors_before = findings.errors.len();
    for (index, node) in nodes.iter().enumerate() {
        let reader = Reader { names: &names, matched: &matched, index };
        entries.extend(reader.entry(node, findings));
    }
    // Asking for addresses is what an interface does that is told nothing else and is no part of another.
    let parts: Vec<LinkRef> = entries.iter().flat_map(|entry| entry.network.interface.members()).cloned().collect();
    for entry in &mut entries {
        let network = &mut entry.network;
        let alone = network.addresses.is_empty() && !parts.iter().any(|part| network.is(part));
        if entry.fields.entry("dhcp").is_none() && alone {
            (network.dhcp.v4, network.dhcp.v6) = (true, true);
        }
    }
    if findings.errors.len() == errors_before {
        check(&entries, findings);
    }
    entries.into_iter().map(|entry| entry.network).collect()
}

/// What reading one table needs to know of the others.
struct Reader<'a> {
    names: &'a [&'a str],
    matched: &'a [&'a str],
    index: usize,
}

impl Reader<'_> {
    fn entry<'a>(&self, node: &'a Node, findings: &mut Findings) -> Option<Entry<'a>> {
        let fields = Fields::new(node, &format!("network[{}]", self.index), findings)?;
        let errors_before = findings.errors.len();
        let words: Vec<&'static str> = KINDS.iter().map(|(kind, _)| *kind).collect();
        let kind = if fields.entry("type").is_some() { one_of(&fields, "type", &words, findings)? } else { "ethernet" };
        for (other, keys) in KINDS {
            let own = KINDS.iter().find(|(word, _)| *word == kind).map_or(&[][..], |(_, keys)| keys);
            for key in keys.iter().filter(|key| !own.contains(key)) {
                if let Some(entry) = fields.entry(key) {
                    let message =
                        format!("is a key of a {other}; this is a {kind}").replace("a ethernet", "an ethernet");
                    findings.error(&entry.key, &fields.path_of(key), message, "set type, or leave the key out");
                }
            }
        }
        if findings.errors.len() > errors_before {
            return None;
        }
        let interface = match kind {
            "bond" => self.bond(&fields, findings).map(Interface::Bond),
            "vlan" => self.vlan(&fields, findings).map(Interface::Vlan),
            "bridge" => self.bridge(&fields, findings).map(Interface::Bridge),
            _ => ethernet(&fields, findings).map(Interface::Ethernet),
        };
        let network = Network {
            dhcp: dhcp(&fields, findings),
            addresses: fields.parsed_list("addresses", findings),
            gateways: gateways(&fields, findings),
            dns: fields.parsed_list("dns", findings),
            search: fields.parsed_list("search", findings),
            routes: routes(&fields, findings),
            rules: rules(&fields, findings),
            mtu: number(&fields, "mtu", 576..=65535, findings),
            mac: fields.parsed("mac", findings),
            accept_ra: fields.boolean("accept_ra", findings),
            optional: fields.boolean("optional", findings).unwrap_or(false),
            interface: interface?,
        };
        (findings.errors.len() == errors_before).then_some(Entry { index: self.index, fields, network })
    }

    fn bond(&self, fields: &Fields<'_>, findings: &mut Findings) -> Option<Bond> {
        let name = made_name(fields, findings);
        let members = self.members(fields, findings);
        if fields.entry("members").is_none() {
            fields.missing("members", "say which interfaces act as one: members = [\"enp1s0\", \"enp2s0\"]", findings);
        } else if fields.list("members", findings).is_empty() {
            fields.error("members", "is empty", "a bond needs at least one member", findings);
        }
        if fields.entry("mode").is_none() {
            fields.missing("mode", "active-backup works with every switch; 802.3ad is LACP", findings);
        }
        Some(Bond {
            mode: one_of(fields, "mode", MODES, findings)?,
            members,
            primary: fields
                .entry("primary")
                .and_then(|entry| self.link(&entry.node, &fields.path_of("primary"), findings)),
            lacp_rate: one_of(fields, "lacp_rate", &["slow", "fast"], findings),
            hash_policy: one_of(fields, "hash_policy", HASH_POLICIES, findings),
            miimon: number(fields, "miimon", 1..=60_000, findings),
            up_delay: number(fields, "up_delay", 0..=600_000, findings),
            down_delay: number(fields, "down_delay", 0..=600_000, findings),
            min_links: number(fields, "min_links", 0..=64, findings),
            ad_select: one_of(fields, "ad_select", &["stable", "bandwidth", "count"], findings),
            fail_over_mac: one_of(fields, "fail_over_mac", &["none", "active", "follow"], findings),
            primary_reselect: one_of(fields, "primary_reselect", &["always", "better", "failure"], findings),
            arp_interval: number(fields, "arp_interval", 1..=60_000, findings),
            arp_targets: fields.parsed_list("arp_targets", findings),
            arp_validate: one_of(fields, "arp_validate", &["none", "active", "backup", "all"], findings),
            name: name?,
        })
    }

    fn vlan(&self, fields: &Fields<'_>, findings: &mut Findings) -> Option<Vlan> {
        let name = made_name(fields, findings);
        if fields.entry("parent").is_none() {
            fields.missing("parent", "say what it lies on: parent = \"enp1s0\"", findings);
        }
        if fields.entry("id").is_none() {
            fields.missing("id", "the number of the VLAN, 1 to 4094", findings);
        }
        let id = number(fields, "id", 1..=4094, findings);
        let parent =
            fields.entry("parent").and_then(|entry| self.link(&entry.node, &fields.path_of("parent"), findings));
        Some(Vlan { name: name?, parent: parent?, id: u16::try_from(id?).ok()? })
    }

    fn bridge(&self, fields: &Fields<'_>, findings: &mut Findings) -> Option<Bridge> {
        let name = made_name(fields, findings);
        let vlans = fields.list("vlans", findings).iter();
        let vlans = vlans.filter_map(|node| vlan_range(node, &fields.path_of("vlans"), findings)).collect::<Vec<_>>();
        let pvid = number(fields, "pvid", 1..=4094, findings).and_then(|pvid| u16::try_from(pvid).ok());
        let vlan_filtering = fields.boolean("vlan_filtering", findings).unwrap_or(false);
        for key in ["vlans", "pvid"] {
            if fields.entry(key).is_some() && !vlan_filtering {
                fields.error(key, "has no effect without vlan_filtering", "set vlan_filtering = true", findings);
            }
        }
        let stp = fields.boolean("stp", findings).unwrap_or(false);
        let forward_delay = number(fields, "forward_delay", 0..=30, findings);
        if stp && forward_delay.is_some_and(|seconds| seconds < 2) {
            fields.error("forward_delay", "is at least 2 with the spanning tree protocol", "", findings);
        }
        Some(Bridge {
            members: self.members(fields, findings),
            stp,
            forward_delay,
            priority: number(fields, "priority", 0..=65535, findings),
            ageing_time: number(fields, "ageing_time", 0..=1_000_000, findings),
            vlan_filtering,
            vlans,
            pvid,
            name: name?,
        })
    }

    fn members(&self, fields: &Fields<'_>, findings: &mut Findings) -> Vec<LinkRef> {
        let path = fields.path_of("members");
        fields.list("members", findings).iter().filter_map(|node| self.link(node, &path, findings)).collect()
    }

    /// A reference: a table like `match`, a MAC address, a pattern, the name of another entry or a real interface's.
    fn link(&self, node: &Node, path: &str, findings: &mut Findings) -> Option<LinkRef> {
        let text = match &node.value {
            Value::Table(_) => return read_match(node, path, findings).map(LinkRef::Matching),
            Value::Text(text) => text.as_str(),
            other => {
                let message = format!("is {}, not the name of an interface", other.kind());
                findings.error(&node.origin, path, message, "write \"enp1s0\", a MAC address or { driver = \"...\" }");
                return None;
            }
        };
        if let Ok(mac) = text.parse::<Mac>() {
            return Some(LinkRef::Matching(InterfaceMatch { mac: Some(mac), ..InterfaceMatch::default() }));
        }
        if self.names.contains(&text) {
            return parse_at(node, text, path, findings).map(LinkRef::Named);
        }
        let name = parse_at(node, text, path, findings)?;
        if !text.contains(['*', '?', '[']) {
            parse_at::<LinkName>(node, text, path, findings)?;
            let real = REAL_NAMES.iter().any(|beginning| text.starts_with(beginning));
            if !real && !self.matched.contains(&text) {
                let help = match nearest(text, self.names.iter().copied()) {
                    Some(near) => format!("did you mean {near:?}?"),
                    None => "name a [[network]], or an interface of the machine as the system calls it".into(),
                };
                findings.error(&node.origin, path, format!("no [[network]] has the name {text:?}"), help);
                return None;
            }
        }
        Some(LinkRef::Matching(InterfaceMatch { name: Some(name), ..InterfaceMatch::default() }))
    }
}

fn parse_at<T: FromStr<Err = String>>(node: &Node, text: &str, path: &str, findings: &mut Findings) -> Option<T> {
    text.parse().map_err(|error| findings.error(&node.origin, path, format!("{text:?}: {error}"), "")).ok()
}

fn ethernet(fields: &Fields<'_>, findings: &mut Findings) -> Option<Ethernet> {
    let name: Option<LinkName> = fields.parsed("name", findings);
    let Some(entry) = fields.entry("match") else {
        fields.missing("match", "say which interface: match = { name = \"en*\" } or { mac = \"...\" }", findings);
        return None;
    };
    let matches = read_match(&entry.node, &fields.path_of("match"), findings)?;
    refuse_container_name(fields, name.as_ref(), findings);
    Some(Ethernet { matches, name })
}

fn made_name(fields: &Fields<'_>, findings: &mut Findings) -> Option<LinkName> {
    if fields.entry("name").is_none() {
        fields.missing("name", "say what it is called", findings);
    }
    let name: Option<LinkName> = fields.parsed("name", findings);
    refuse_container_name(fields, name.as_ref(), findings);
    name
}

fn refuse_container_name(fields: &Fields<'_>, name: Option<&LinkName>, findings: &mut Findings) {
    if name.is_some_and(|name| is_container_interface(name.as_str())) {
        fields.error("name", "looks like an interface of a container engine", "call it lan0 or br0, say", findings);
    }
}

pub(super) fn read_match(node: &Node, path: &str, findings: &mut Findings) -> Option<InterfaceMatch> {
    let fields = Fields::like(node, path, "network[].match", findings)?;
    let errors_before = findings.errors.len();
    let matches = InterfaceMatch {
        mac: fields.parsed("mac", findings),
        name: fields.parsed("name", findings),
        driver: fields.parsed("driver", findings),
        default_route: fields.boolean("default_route", findings).unwrap_or(false),
    };
    if findings.errors.len() > errors_before {
        return None;
    }
    if matches == InterfaceMatch::default() {
        findings.error(&node.origin, path, "matches no interface", "give mac, name, driver or default_route = true");
        return None;
    }
    if matches.default_route && matches != (InterfaceMatch { default_route: true, ..InterfaceMatch::default() }) {
        let help = "leave out mac, name and driver";
        findings.error(&node.origin, path, "default_route stands alone: it finds the interface itself", help);
        return None;
    }
    Some(matches)
}

fn one_of(fields: &Fields<'_>, key: &str, known: &[&'static str], findings: &mut Findings) -> Option<&'static str> {
    let text = fields.text(key, findings)?;
    let found = known.iter().copied().find(|word| *word == text);
    if found.is_none() {
        let help = match nearest(text, known.iter().copied()) {
            Some(near) => format!("did you mean {near:?}? known: {}", known.join(", ")),
            None => format!("known: {}", known.join(", ")),
        };
        fields.error(key, format!("{text:?} is not known here"), help, findings);
    }
    found
}

fn number(
    fields: &Fields<'_>,
    key: &str,
    range: std::ops::RangeInclusive<i64>,
    findings: &mut Findings,
) -> Option<u32> {
    fields.integer(key, range, findings).and_then(|number| u32::try_from(number).ok())
}

fn dhcp(fields: &Fields<'_>, findings: &mut Findings) -> Dhcp {
    let mut dhcp = Dhcp::default();
    match fields.entry("dhcp").map(|entry| &entry.node.value) {
        None => {}
        Some(Value::Boolean(both)) => (dhcp.v4, dhcp.v6) = (*both, *both),
        Some(Value::Text(text)) if text == "v4" => dhcp.v4 = true,
        Some(Value::Text(text)) if text == "v6" => dhcp.v6 = true,
        Some(_) => {
            fields.error("dhcp", "is neither true nor false nor a family", "true, false, \"v4\" or \"v6\"", findings);
        }
    }
    let Some(entry) = fields.entry("dhcp_options") else { return dhcp };
    let Some(options) = Fields::new(&entry.node, &fields.path_of("dhcp_options"), findings) else {
        return dhcp;
    };
    let client_id = one_of(&options, "client_id", &["mac", "duid"], findings);
    dhcp.options = DhcpOptions {
        dns: options.boolean("dns", findings),
        domains: options.boolean("domains", findings),
        routes: options.boolean("routes", findings),
        ntp: options.boolean("ntp", findings),
        mtu: options.boolean("mtu", findings),
        send_hostname: options.boolean("send_hostname", findings),
        hostname: options.parsed("hostname", findings),
        client_id: if client_id == Some("duid") { ClientId::Duid } else { ClientId::Mac },
        metric: number(&options, "metric", 0..=i64::from(u32::MAX), findings),
    };
    dhcp
}

fn gateways(fields: &Fields<'_>, findings: &mut Findings) -> Vec<IpAddr> {
    match fields.entry("gateway").map(|entry| &entry.node.value) {
        None => Vec::new(),
        Some(Value::Array(_)) => fields.parsed_list("gateway", findings),
        Some(_) => fields.parsed("gateway", findings).into_iter().collect(),
    }
}

fn routes(fields: &Fields<'_>, findings: &mut Findings) -> Vec<Route> {
    let mut routes = Vec::new();
    for (index, node) in fields.list("routes", findings).iter().enumerate() {
        let path = fields.path_of(&format!("routes[{index}]"));
        let Some(route) = Fields::new(node, &path, findings) else { continue };
        if route.entry("to").is_none() {
            route.missing("to", "a network such as 10.20.0.0/16, or \"default\"", findings);
        }
        let kinds = ["unicast", "blackhole", "unreachable", "prohibit", "throw"];
        let read = Route {
            via: route.parsed("via", findings),
            metric: number(&route, "metric", 0..=i64::from(u32::MAX), findings),
            table: number(&route, "table", 1..=i64::from(u32::MAX), findings),
            on_link: route.boolean("on_link", findings).unwrap_or(false),
            source: route.parsed("source", findings),
            kind: one_of(&route, "type", &kinds, findings),
            scope: one_of(&route, "scope", &["global", "link", "host"], findings),
            mtu: number(&route, "mtu", 68..=65535, findings),
            to: match route.parsed("to", findings) {
                Some(to) => to,
                None => continue,
            },
        };
        super::check::check_route(&read, &route, findings);
        routes.push(read);
    }
    routes
}

fn rules(fields: &Fields<'_>, findings: &mut Findings) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (index, node) in fields.list("rules", findings).iter().enumerate() {
        let path = fields.path_of(&format!("rules[{index}]"));
        let Some(rule) = Fields::new(node, &path, findings) else {
            continue;
        };
        if rule.entry("table").is_none() {
            rule.missing("table", "the number of a table that routes name", findings);
        }
        let read = Rule {
            from: rule.parsed("from", findings),
            to: rule.parsed("to", findings),
            priority: number(&rule, "priority", 0..=i64::from(u32::MAX), findings),
            mark: number(&rule, "mark", 1..=i64::from(u32::MAX), findings),
            table: number(&rule, "table", 1..=i64::from(u32::MAX), findings).unwrap_or(254),
        };
        if (&read.from, &read.to, &read.mark) == (&None, &None, &None) {
            findings.error(rule.origin, &path, "is for every packet", "give from, to or mark");
        }
        rules.push(read);
    }
    rules
}

/// A VLAN, or a range of them: `10`, `"10"` or `"100-200"`.
fn vlan_range(node: &Node, path: &str, findings: &mut Findings) -> Option<(u16, u16)> {
    let whole = |text: &str| text.parse::<u16>().ok().filter(|id| (1..=4094).contains(id));
    let range = match &node.value {
        Value::Integer(id) => u16::try_from(*id).ok().filter(|id| (1..=4094).contains(id)).map(|id| (id, id)),
        Value::Text(text) => match text.split_once('-') {
            Some((first, last)) => whole(first).zip(whole(last)).filter(|(first, last)| first <= last),
            None => whole(text).map(|id| (id, id)),
        },
        _ => None,
    };
    if range.is_none() {
        findings.error(&node.origin, path, "is neither a VLAN nor a range of them", "10, or \"100-200\"; 1 to 4094");
    }
    range
}

/// The default gateways must be the routers of their networks.
pub(super) fn gateway_is_reachable(gateway: IpAddr, addresses: &[Cidr]) -> bool {
    // A link-local IPv6 gateway is reached on the link itself.
    let on_link = matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
    on_link || addresses.is_empty() || addresses.iter().any(|cidr| cidr.contains(gateway))
}
