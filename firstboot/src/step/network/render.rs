//! From `[[network]]` to the files of systemd-networkd: `.netdev` (what is made), `.network` (what it carries) and
//! `.link` (names and hardware addresses, which udev sets).
//!
//! Takes the configuration and what is known of the machine; gives names and contents of files, the same for the same
//! arguments. Without knowledge of a machine it gives what `plan` shows. networkd takes the first file that matches,
//! so files are numbered from the most exact match to the least.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::net::IpAddr;

use crate::config::Mac;
use crate::config::network::{
    Bond, Bridge, ClientId, Destination, Dhcp, Ethernet, Interface, InterfaceMatch, LinkRef, Network, Route, Rule,
};
use crate::glob;
use crate::host::Link;

/// How the names of the files begin.
pub const PREFIX: &str = "10-ingot-";
/// How often a bond looks at its members' carrier where nothing is said; the kernel's own default is never.
const MIIMON: u32 = 100;

/// What is known of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// Its interfaces.
    pub links: &'a [Link],
    /// The one that got the default route, where the configuration asks for it.
    pub default_route: Option<Mac>,
}

/// The files, by name.
pub fn render(networks: &[Network], facts: &Facts<'_>) -> BTreeMap<String, String> {
    let all = complete(networks, facts);
    let mut files = BTreeMap::new();
    for (number, network) in all.iter().enumerate() {
        let base = format!("{PREFIX}{number:03}-{}", slug(&network.interface));
        if let Some(text) = netdev(network, &all, facts) {
            files.insert(format!("{base}.netdev"), text);
        }
        if let Some(text) = link_file(&network.interface, facts) {
            files.insert(format!("{base}.link"), text);
        }
        files.insert(format!("{base}.network"), network_file(network, &all, facts));
    }
    files
}

/// The interface that a `.netdev` makes.
pub fn made_by(netdev: &str) -> Option<&str> {
    netdev.lines().find_map(|line| line.strip_prefix("Name="))
}

/// True where the match means this interface.
pub fn means(matches: &InterfaceMatch, link: &Link, facts: &Facts<'_>) -> bool {
    let matches = resolved(matches, facts);
    let glob = |wanted: &Option<String>, real: &str| wanted.as_ref().is_none_or(|wanted| glob::matches(wanted, real));
    link.physical
        && !matches.default_route
        && matches.mac.is_none_or(|mac| link.identity() == Some(mac))
        && glob(&matches.name.map(|name| name.to_string()), &link.name)
        && glob(&matches.driver.map(|driver| driver.to_string()), link.driver.as_deref().unwrap_or_default())
}

fn resolved(matches: &InterfaceMatch, facts: &Facts<'_>) -> InterfaceMatch {
    match facts.default_route {
        Some(mac) if matches.default_route => InterfaceMatch { mac: Some(mac), ..InterfaceMatch::default() },
        _ => matches.clone(),
    }
}

/// The entries in the order of their files, with one more for each interface that is only a member or a parent: it
/// carries no addresses of its own.
fn complete(networks: &[Network], facts: &Facts<'_>) -> Vec<Network> {
    let resolve = |reference: &LinkRef| match reference {
        LinkRef::Matching(matches) => LinkRef::Matching(resolved(matches, facts)),
        LinkRef::Named(_) => reference.clone(),
    };
    let mut all = networks.to_vec();
    for network in &mut all {
        match &mut network.interface {
            Interface::Ethernet(ethernet) => ethernet.matches = resolved(&ethernet.matches, facts),
            Interface::Bond(bond) => {
                bond.members = bond.members.iter().map(resolve).collect();
                bond.primary = bond.primary.as_ref().map(resolve);
            }
            Interface::Bridge(bridge) => bridge.members = bridge.members.iter().map(resolve).collect(),
            Interface::Vlan(vlan) => vlan.parent = resolve(&vlan.parent),
        }
    }
    let mut references: Vec<LinkRef> = Vec::new();
    for network in &all {
        references.extend(network.interface.members().iter().cloned());
        if let Interface::Vlan(vlan) = &network.interface {
            references.push(vlan.parent.clone());
        }
    }
    for reference in references {
        if let LinkRef::Matching(matches) = &reference
            && !all.iter().any(|network| network.is(&reference))
        {
            all.push(Network::bare(Interface::Ethernet(Ethernet { matches: matches.clone(), name: None })));
        }
    }
    all.sort_by_key(|network| rank(&network.interface));
    all
}

/// The most exact match first; what has a name of its own is matched by that.
fn rank(interface: &Interface) -> u8 {
    let Interface::Ethernet(Ethernet { matches, .. }) = interface else { return 0 };
    match (&matches.mac, &matches.name, &matches.driver) {
        (Some(_), _, _) => 0,
        (_, Some(name), _) if !is_pattern(&name.to_string()) => 1,
        (_, Some(_), Some(_)) => 2,
        (_, None, _) => 3,
        (_, Some(_), None) => 4,
    }
}

fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '['])
}

fn slug(interface: &Interface) -> String {
    let text = match interface {
        Interface::Ethernet(Ethernet { name: Some(name), .. }) => name.to_string(),
        Interface::Ethernet(Ethernet { matches, .. }) => match (&matches.mac, &matches.name, &matches.driver) {
            (Some(mac), _, _) => mac.digits(),
            (_, Some(name), _) => name.to_string(),
            (_, _, Some(driver)) => driver.to_string(),
            _ => "default-route".to_owned(),
        },
        made => made.name().map_or_else(String::new, ToString::to_string),
    };
    text.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}

/// The text of one file: sections in order, each a list of keys.
struct Ini(String);

impl Ini {
    fn new() -> Self {
        Self("# Written by Ingot's first boot from the node's configuration.\n".into())
    }

    fn section(&mut self, name: &str, lines: &[(&str, Option<String>)]) {
        let given: Vec<_> = lines.iter().filter_map(|(key, value)| Some((key, value.as_ref()?))).collect();
        if given.is_empty() {
            return;
        }
        let gap = if self.0.lines().count() > 1 { "\n" } else { "" };
        let _ = writeln!(self.0, "{gap}[{name}]"); // writing to a String cannot fail
        for (key, value) in given {
            let _ = writeln!(self.0, "{key}={value}");
        }
    }
}

fn text<T: Display>(value: Option<T>) -> Option<String> {
    value.map(|value| value.to_string())
}

fn yes(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

fn milliseconds(value: Option<u32>) -> Option<String> {
    value.map(|value| format!("{value}ms"))
}

fn netdev(network: &Network, all: &[Network], facts: &Facts<'_>) -> Option<String> {
    let name = network.interface.name()?;
    let kind = match &network.interface {
        Interface::Ethernet(_) => return None,
        made => made.kind(),
    };
    // networkd would make an address of the machine id, which is new after every flashing, so no reservation at a DHCP
    // server would hold. A VLAN takes its parent's by itself.
    let mac = match &network.interface {
        Interface::Vlan(_) => network.mac,
        _ => mac_of(network, all, facts, 8),
    };
    let mut ini = Ini::new();
    ini.section(
        "NetDev",
        &[
            ("Name", text(Some(name))),
            ("Kind", text(Some(kind))),
            ("MTUBytes", text(network.mtu)),
            ("MACAddress", text(mac)),
        ],
    );
    match &network.interface {
        Interface::Bond(bond) => bond_section(&mut ini, bond),
        Interface::Bridge(bridge) => bridge_section(&mut ini, bridge),
        Interface::Vlan(vlan) => ini.section("VLAN", &[("Id", text(Some(vlan.id)))]),
        Interface::Ethernet(_) => {}
    }
    Some(ini.0)
}

/// The hardware address of what is made: the configured one, or that of the first member that has one for good.
fn mac_of(network: &Network, all: &[Network], facts: &Facts<'_>, depth: u8) -> Option<Mac> {
    if network.mac.is_some() || depth == 0 {
        return network.mac;
    }
    match &network.interface {
        Interface::Ethernet(ethernet) => ethernet
            .matches
            .mac
            .or_else(|| facts.links.iter().find(|link| means(&ethernet.matches, link, facts))?.identity()),
        Interface::Vlan(vlan) => {
            all.iter().find(|other| other.is(&vlan.parent)).and_then(|other| mac_of(other, all, facts, depth - 1))
        }
        made => made.members().iter().find_map(|member| {
            all.iter().find(|other| other.is(member)).and_then(|other| mac_of(other, all, facts, depth - 1))
        }),
    }
}

fn bond_section(ini: &mut Ini, bond: &Bond) {
    let miimon = bond.miimon.or_else(|| bond.arp_interval.is_none().then_some(MIIMON));
    let targets: Vec<String> = bond.arp_targets.iter().map(ToString::to_string).collect();
    ini.section(
        "Bond",
        &[
            ("Mode", text(Some(bond.mode))),
            ("TransmitHashPolicy", text(bond.hash_policy)),
            ("LACPTransmitRate", text(bond.lacp_rate)),
            ("AdSelect", text(bond.ad_select)),
            ("MinLinks", text(bond.min_links)),
            ("MIIMonitorSec", milliseconds(miimon)),
            ("UpDelaySec", milliseconds(bond.up_delay)),
            ("DownDelaySec", milliseconds(bond.down_delay)),
            ("FailOverMACPolicy", text(bond.fail_over_mac)),
            ("PrimaryReselectPolicy", text(bond.primary_reselect)),
            ("ARPIntervalSec", milliseconds(bond.arp_interval)),
            ("ARPIPTargets", (!targets.is_empty()).then(|| targets.join(" "))),
            ("ARPValidate", text(bond.arp_validate)),
        ],
    );
}

fn bridge_section(ini: &mut Ini, bridge: &Bridge) {
    ini.section(
        "Bridge",
        &[
            ("STP", Some(yes(bridge.stp))),
            ("ForwardDelaySec", text(bridge.forward_delay)),
            ("Priority", text(bridge.priority)),
            ("AgeingTimeSec", text(bridge.ageing_time)),
            ("VLANFiltering", bridge.vlan_filtering.then(|| "yes".to_owned())),
            ("DefaultPVID", bridge.pvid.filter(|_| bridge.vlan_filtering).map(|pvid| pvid.to_string())),
        ],
    );
}

/// udev would give a bond or a bridge a hardware address of its own making too, and gives names.
fn link_file(interface: &Interface, facts: &Facts<'_>) -> Option<String> {
    let mut ini = Ini::new();
    match interface {
        Interface::Bond(Bond { name, .. }) | Interface::Bridge(Bridge { name, .. }) => {
            ini.section("Match", &[("OriginalName", text(Some(name)))]);
            ini.section("Link", &[("MACAddressPolicy", text(Some("none")))]);
        }
        Interface::Ethernet(Ethernet { matches, name: Some(name) }) => {
            // Not by its name: when udev looks, it still has the kernel's.
            let matches = InterfaceMatch { name: None, ..matches.clone() };
            ini.section("Match", &match_lines(&matches, None, facts));
            ini.section(
                "Link",
                &[
                    ("Name", text(Some(name))),
                    ("AlternativeNamesPolicy", text(Some("database onboard slot path mac"))),
                    ("MACAddressPolicy", text(Some("persistent"))),
                ],
            );
        }
        Interface::Ethernet(_) | Interface::Vlan(_) => return None,
    }
    Some(ini.0)
}

fn match_lines(
    matches: &InterfaceMatch,
    name: Option<&dyn Display>,
    facts: &Facts<'_>,
) -> Vec<(&'static str, Option<String>)> {
    // A bond, a bridge or a VLAN has the address of what it lies on, and the members of a bond all have the bond's: only
    // the address that the interface was made with tells them apart. A few devices have none; then the present one must do.
    let lacks = |mac: Mac| {
        facts.links.iter().any(|link| link.physical && link.permanent.is_none() && link.mac == Some(mac))
            && !facts.links.iter().any(|link| link.permanent == Some(mac))
    };
    let key = if matches.mac.is_some_and(lacks) { "MACAddress" } else { "PermanentMACAddress" };
    let wanted = matches.name.as_ref().map(ToString::to_string);
    let mut lines = vec![
        (key, text(matches.mac)),
        ("Type", (key == "MACAddress").then(|| "ether".to_owned())),
        ("Driver", text(matches.driver.as_ref())),
        // It is matched under either name, so that nothing depends on when it gets the new one.
        ("Name", wanted.map(|wanted| name.map_or(wanted.clone(), |name| format!("{wanted} {name}")))),
    ];
    if matches.default_route {
        lines.push(("Name", Some("(the-one-with-the-default-route)".into())));
    }
    lines
}

fn network_file(network: &Network, all: &[Network], facts: &Facts<'_>) -> String {
    let mut ini = Ini::new();
    match &network.interface {
        Interface::Ethernet(ethernet) => {
            let name = ethernet.name.as_ref().map(|name| name as &dyn Display);
            ini.section("Match", &match_lines(&ethernet.matches, name, facts));
        }
        made => ini.section("Match", &[("Name", text(made.name()))]),
    }
    let owner = all.iter().find(|other| other.interface.members().iter().any(|member| network.is(member)));
    let bond = owner.and_then(|owner| if let Interface::Bond(bond) = &owner.interface { Some(bond) } else { None });
    let bridge = owner.and_then(|owner| if let Interface::Bridge(it) = &owner.interface { Some(it) } else { None });
    let made = !matches!(network.interface, Interface::Ethernet(_));
    ini.section(
        "Link",
        &[
            ("MTUBytes", text(network.mtu)),
            ("MACAddress", text(network.mac.filter(|_| !made))),
            ("RequiredForOnline", network.optional.then(|| "no".to_owned())),
        ],
    );
    let mut lines = addressing(network, owner.is_some());
    lines.push(("Bond", text(bond.map(|bond| &bond.name))));
    let primary = bond.and_then(|bond| bond.primary.as_ref()).is_some_and(|primary| network.is(primary));
    lines.push(("PrimarySlave", primary.then(|| "yes".to_owned())));
    lines.push(("Bridge", text(bridge.map(|bridge| &bridge.name))));
    for other in all {
        if let Interface::Vlan(vlan) = &other.interface
            && network.is(&vlan.parent)
        {
            lines.push(("VLAN", text(Some(&vlan.name))));
        }
    }
    ini.section("Network", &lines);
    for gateway in network.gateways.iter().filter(|gateway| network.is_outside(**gateway)) {
        let route = [("Gateway", text(Some(gateway))), ("GatewayOnLink", Some("yes".to_owned()))];
        ini.section("Route", &route);
    }
    network.routes.iter().for_each(|route| route_section(&mut ini, route));
    network.rules.iter().for_each(|rule| rule_section(&mut ini, rule));
    dhcp_sections(&mut ini, &network.dhcp);
    let filtering = match &network.interface {
        Interface::Bridge(own) => Some(own),
        _ => bridge,
    };
    if let Some(bridge) = filtering.filter(|bridge| bridge.vlan_filtering) {
        for (first, last) in &bridge.vlans {
            let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
            ini.section("BridgeVLAN", &[("VLAN", Some(range))]);
        }
    }
    ini.0
}

fn addressing(network: &Network, is_member: bool) -> Vec<(&'static str, Option<String>)> {
    let dhcp = match (network.dhcp.v4, network.dhcp.v6) {
        (true, true) => "yes",
        (true, false) => "ipv4",
        (false, true) => "ipv6",
        (false, false) => "no",
    };
    let mut lines = vec![("DHCP", text(Some(dhcp)))];
    lines.extend(network.addresses.iter().map(|address| ("Address", text(Some(address)))));
    let plain = network.gateways.iter().filter(|gateway| !network.is_outside(**gateway));
    lines.extend(plain.map(|gateway| ("Gateway", text(Some(gateway)))));
    lines.extend(network.dns.iter().map(|server| ("DNS", text(Some(server)))));
    let search: Vec<String> = network.search.iter().map(ToString::to_string).collect();
    lines.push(("Domains", (!search.is_empty()).then(|| search.join(" "))));
    let silent = is_member || (!network.has_addresses() && network.accept_ra != Some(true));
    lines.push(("LinkLocalAddressing", silent.then(|| "no".to_owned())));
    let accept = if silent { Some(false) } else { network.accept_ra };
    lines.push(("IPv6AcceptRA", accept.map(yes)));
    lines
}

fn route_section(ini: &mut Ini, route: &Route) {
    let everywhere = |v6: bool| if v6 { "::/0" } else { "0.0.0.0/0" }.to_owned();
    let destination = match (route.to, route.via.or(route.source)) {
        (Destination::Prefix(prefix), _) => prefix.to_string(),
        (Destination::Default, address) => everywhere(address.is_some_and(|address: IpAddr| address.is_ipv6())),
    };
    ini.section(
        "Route",
        &[
            ("Destination", Some(destination)),
            ("Gateway", text(route.via)),
            ("GatewayOnLink", route.on_link.then(|| "yes".to_owned())),
            ("Metric", text(route.metric)),
            ("Table", text(route.table)),
            ("PreferredSource", text(route.source)),
            ("Type", text(route.kind)),
            ("Scope", text(route.scope)),
            ("MTUBytes", text(route.mtu)),
        ],
    );
}

fn rule_section(ini: &mut Ini, rule: &Rule) {
    // A rule that names no address holds for both families, which networkd must be told.
    let family = (rule.from.is_none() && rule.to.is_none()).then(|| "both".to_owned());
    ini.section(
        "RoutingPolicyRule",
        &[
            ("From", text(rule.from)),
            ("To", text(rule.to)),
            ("FirewallMark", text(rule.mark)),
            ("Table", text(Some(rule.table))),
            ("Priority", text(rule.priority)),
            ("Family", family),
        ],
    );
}

fn dhcp_sections(ini: &mut Ini, dhcp: &Dhcp) {
    let options = &dhcp.options;
    let choice = |value: Option<bool>| value.map(yes);
    if dhcp.v4 {
        ini.section(
            "DHCPv4",
            &[
                // Reservations at the DHCP server are by MAC address; the machine id is new after every flashing.
                ("ClientIdentifier", text(Some(if options.client_id == ClientId::Mac { "mac" } else { "duid" }))),
                ("SendHostname", choice(options.send_hostname)),
                ("Hostname", text(options.hostname.as_ref())),
                ("UseDNS", choice(options.dns)),
                ("UseDomains", choice(options.domains)),
                ("UseRoutes", choice(options.routes)),
                ("UseNTP", choice(options.ntp)),
                ("UseMTU", choice(options.mtu)),
                ("RouteMetric", text(options.metric)),
            ],
        );
    }
    if dhcp.v6 {
        ini.section(
            "DHCPv6",
            &[
                ("UseDNS", choice(options.dns)),
                ("UseDomains", choice(options.domains)),
                ("UseNTP", choice(options.ntp)),
            ],
        );
        // Over IPv6 routes and the MTU come with router advertisements, not with DHCP.
        ini.section(
            "IPv6AcceptRA",
            &[
                ("UseDNS", choice(options.dns)),
                ("UseDomains", choice(options.domains)),
                ("UseGateway", choice(options.routes)),
                ("UseRoutePrefix", choice(options.routes)),
                ("UseMTU", choice(options.mtu)),
                ("RouteMetric", text(options.metric)),
            ],
        );
    }
}
