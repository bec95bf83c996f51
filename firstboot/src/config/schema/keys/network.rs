//! Interfaces and proxies.

use super::{CIDR, Form, HOSTNAME, INTERFACE, IP, Key, Kind, MAC, TEXT, URL};

const FAMILY: Form = Form { name: "`\"v4\"` or `\"v6\"`", pattern: "^v[46]$" };
const VLANS: Form = Form { name: "a VLAN or a range of them", pattern: "^[0-9]+(-[0-9]+)?$" };

const ETHERNET: &str = "network = [{ match = { name = \"enp1s0\" } }]";
const BOND: &str =
    "network = [{ type = \"bond\", name = \"bond0\", mode = \"active-backup\", members = [\"enp1s0\", \"enp2s0\"] }]";
const LACP: &str =
    "network = [{ type = \"bond\", name = \"bond0\", mode = \"802.3ad\", members = [\"enp1s0\", \"enp2s0\"] }]";
const ARP: &str = "network = [{ type = \"bond\", name = \"bond0\", mode = \"active-backup\", members = [\"enp1s0\"], \
     arp_interval = 1000, arp_targets = [\"10.77.0.1\"] }]";
const VLAN: &str = "network = [{ type = \"vlan\", name = \"storage\", parent = \"enp1s0\", id = 42 }]";
const BRIDGE: &str = "network = [{ type = \"bridge\", name = \"br0\", members = [\"enp1s0\"] }]";
const FILTERING: &str =
    "network = [{ type = \"bridge\", name = \"br0\", members = [\"enp1s0\"], vlan_filtering = true }]";

/// The keys, tables before what is in them.
pub const KEYS: &[Key] = &[
Key::new("network", Kind::Tables, "", "Interfaces that get something else than DHCP; bonds, VLANs and bridges."),
Key::new("network[].type", Kind::Choice(&["ethernet", "bond", "vlan", "bridge"]), "\"ethernet\"", "What it is: an interface of the machine, or one that is made.").default("`\"ethernet\"`").beside(ETHERNET),
Key::new("network[].match", Kind::Table, "", "Which interface of the machine; required for an ethernet."),
Key::new("network[].match.mac", Kind::Text(MAC), "\"52:54:00:12:34:56\"", "The one with this hardware address."),
Key::new("network[].match.name", Kind::Text(INTERFACE), "\"en*\"", "Those with this name; `*`, `?` and `[...]` are patterns."),
Key::new("network[].match.driver", Kind::Text(TEXT), "\"mlx5_core\"", "Those with this driver, or a pattern of one."),
Key::new("network[].match.default_route", Kind::Boolean, "true", "The one with the default route, found out on the node; stands alone."),
Key::new("network[].name", Kind::Text(INTERFACE), "\"lan0\"", "What it is called, at most 15 characters; required for what is made. An interface that is matched by `mac` or `driver` gets this name.").beside("network = [{ match = { mac = \"52:54:00:12:34:56\" } }]"),
Key::new("network[].dhcp", Kind::BooleanOrText(FAMILY), "true", "Ask a DHCP server, of one family with `\"v4\"` or `\"v6\"`; also beside static addresses.").default("`true` without addresses, else `false`").beside(ETHERNET),
Key::new("network[].dhcp_options", Kind::Table, "", "Which parts of the DHCP server's answer count, and what it is told."),
Key::new("network[].dhcp_options.dns", Kind::Boolean, "false", "Whether its name servers count.").beside(ETHERNET),
Key::new("network[].dhcp_options.domains", Kind::Boolean, "false", "Whether its search domains count.").beside(ETHERNET),
Key::new("network[].dhcp_options.routes", Kind::Boolean, "false", "Whether its routes count.").beside(ETHERNET),
Key::new("network[].dhcp_options.ntp", Kind::Boolean, "false", "Whether its time servers count.").beside(ETHERNET),
Key::new("network[].dhcp_options.mtu", Kind::Boolean, "false", "Whether its MTU counts.").beside(ETHERNET),
Key::new("network[].dhcp_options.send_hostname", Kind::Boolean, "false", "Whether it is told the host name.").beside(ETHERNET),
Key::new("network[].dhcp_options.hostname", Kind::Text(HOSTNAME), "\"w1\"", "Another host name that it is told.").beside(ETHERNET),
Key::new("network[].dhcp_options.client_id", Kind::Choice(&["mac", "duid"]), "\"duid\"", "What it knows the node by.").default("`\"mac\"`").beside(ETHERNET),
Key::new("network[].dhcp_options.metric", Kind::Integer(0, 4_294_967_295), "100", "The metric of its routes.").beside(ETHERNET),
Key::new("network[].addresses", Kind::Texts(CIDR), "[\"10.77.0.10/24\"]", "Static addresses, IPv4 and IPv6.").default("`[]`").beside(ETHERNET),
Key::new("network[].gateway", Kind::OneOrMore(IP), "\"10.77.0.1\"", "The default gateway, in one of the networks of `addresses`, or beside a single address (`/32`, `/128`); a list for one of each family.").beside("network = [{ match = { name = \"enp1s0\" }, addresses = [\"10.77.0.10/24\"] }]"),
Key::new("network[].dns", Kind::Texts(IP), "[\"10.77.0.1\"]", "Name servers.").default("`[]`").beside(ETHERNET),
Key::new("network[].search", Kind::Texts(TEXT), "[\"lan\"]", "Domains in which short names are looked up; with a leading `~`, domains whose names are asked of these servers.").default("`[]`").beside(ETHERNET),
Key::new("network[].mtu", Kind::Integer(576, 65535), "9000", "The largest packet in bytes.").default("the driver's").beside(ETHERNET),
Key::new("network[].mac", Kind::Text(MAC), "\"52:54:00:12:34:56\"", "Another hardware address.").default("its own").beside(ETHERNET),
Key::new("network[].accept_ra", Kind::Boolean, "true", "Whether IPv6 router advertisements count.").default("the kernel's").beside(ETHERNET),
Key::new("network[].optional", Kind::Boolean, "true", "The node does not wait for its addresses.").default("`false`").beside(ETHERNET),
Key::new("network[].routes", Kind::Tables, "", "Routes beside those that follow from the addresses."),
Key::new("network[].routes[].to", Kind::Text(TEXT), "\"10.20.0.0/16\"", "A network, or `\"default\"`.").required().beside(ETHERNET),
Key::new("network[].routes[].via", Kind::Text(IP), "\"10.77.0.1\"", "The router.").beside(ETHERNET),
Key::new("network[].routes[].metric", Kind::Integer(0, 4_294_967_295), "100", "Of several, the lowest counts.").beside(ETHERNET),
Key::new("network[].routes[].table", Kind::Integer(1, 4_294_967_295), "100", "The routing table.").default("the main one").beside(ETHERNET),
Key::new("network[].routes[].on_link", Kind::Boolean, "true", "The router is reached on the link, whatever the addresses say.").default("`false`").beside("network = [{ match = { name = \"enp1s0\" }, routes = [{ via = \"10.77.0.1\" }] }]"),
Key::new("network[].routes[].source", Kind::Text(IP), "\"10.77.0.10\"", "The own address that packets leave with.").beside(ETHERNET),
Key::new("network[].routes[].type", Kind::Choice(&["unicast", "blackhole", "unreachable", "prohibit", "throw"]), "\"blackhole\"", "What becomes of packets.").default("`\"unicast\"`").beside(ETHERNET),
Key::new("network[].routes[].scope", Kind::Choice(&["global", "link", "host"]), "\"link\"", "How far it reaches.").beside(ETHERNET),
Key::new("network[].routes[].mtu", Kind::Integer(68, 65535), "1400", "The largest packet on this way.").beside(ETHERNET),
Key::new("network[].rules", Kind::Tables, "", "Which routing table is asked for which packets."),
Key::new("network[].rules[].from", Kind::Text(TEXT), "\"10.77.0.0/24\"", "Packets from this network.").beside(ETHERNET),
Key::new("network[].rules[].to", Kind::Text(TEXT), "\"10.20.0.0/16\"", "Packets to this network.").beside(ETHERNET),
Key::new("network[].rules[].mark", Kind::Integer(1, 4_294_967_295), "7", "Packets with this firewall mark.").beside(ETHERNET),
Key::new("network[].rules[].table", Kind::Integer(1, 4_294_967_295), "100", "The table that is asked.").required().beside(ETHERNET),
Key::new("network[].rules[].priority", Kind::Integer(0, 4_294_967_295), "100", "Lower ones are asked first.").beside(ETHERNET),
Key::new("network[].members", Kind::References, "[\"enp1s0\", \"enp2s0\"]", "Of a bond or bridge: names, patterns or MAC addresses of interfaces, names of other `[[network]]`, or tables like `match`.").beside("network = [{ type = \"bridge\", name = \"br0\" }]"),
Key::new("network[].mode", Kind::Choice(&["balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"]), "\"active-backup\"", "Of a bond: how its members work together; `802.3ad` is LACP.").beside(BOND),
Key::new("network[].primary", Kind::Reference, "\"enp1s0\"", "Of a bond: the member that is used while it works.").beside(BOND),
Key::new("network[].primary_reselect", Kind::Choice(&["always", "better", "failure"]), "\"better\"", "Of a bond: when the primary comes back into use.").beside("network = [{ type = \"bond\", name = \"bond0\", mode = \"active-backup\", members = [\"enp1s0\", \"enp2s0\"], primary = \"enp1s0\" }]"),
Key::new("network[].lacp_rate", Kind::Choice(&["slow", "fast"]), "\"fast\"", "Of a bond with LACP: how often the partner is asked.").beside(LACP),
Key::new("network[].ad_select", Kind::Choice(&["stable", "bandwidth", "count"]), "\"bandwidth\"", "Of a bond with LACP: which group of links is used.").beside(LACP),
Key::new("network[].min_links", Kind::Integer(0, 64), "1", "Of a bond with LACP: with fewer links it has no carrier.").beside(LACP),
Key::new("network[].hash_policy", Kind::Choice(&["layer2", "layer2+3", "layer3+4", "encap2+3", "encap3+4"]), "\"layer3+4\"", "Of a bond: how packets are spread over its members.").default("the kernel's").beside(LACP),
Key::new("network[].miimon", Kind::Integer(1, 60_000), "100", "Of a bond: how often the carrier is looked at, in milliseconds.").default("`100`").beside(BOND),
Key::new("network[].up_delay", Kind::Integer(0, 600_000), "200", "Of a bond: how long a link must be up before it is used, in milliseconds.").beside(BOND),
Key::new("network[].down_delay", Kind::Integer(0, 600_000), "200", "Of a bond: how long a link must be down before it is left, in milliseconds.").beside(BOND),
Key::new("network[].fail_over_mac", Kind::Choice(&["none", "active", "follow"]), "\"active\"", "Of a bond: which hardware address it has after a change.").beside(BOND),
Key::new("network[].arp_interval", Kind::Integer(1, 60_000), "1000", "Of a bond: how often `arp_targets` are asked, in milliseconds; in place of `miimon`.").beside(ARP),
Key::new("network[].arp_targets", Kind::Texts(IP), "[\"10.77.0.1\"]", "Of a bond: the addresses that are asked.").beside(ARP),
Key::new("network[].arp_validate", Kind::Choice(&["none", "active", "backup", "all"]), "\"all\"", "Of a bond: which members' answers are checked.").beside(ARP),
Key::new("network[].parent", Kind::Reference, "\"enp1s0\"", "Of a VLAN: what it lies on, written like a member.").beside(VLAN),
Key::new("network[].id", Kind::Integer(1, 4094), "42", "Of a VLAN: its number.").beside(VLAN),
Key::new("network[].stp", Kind::Boolean, "true", "Of a bridge: the spanning tree protocol.").default("`false`").beside(BRIDGE),
Key::new("network[].forward_delay", Kind::Integer(0, 30), "4", "Of a bridge: seconds until a new port forwards.").beside(BRIDGE),
Key::new("network[].ageing_time", Kind::Integer(0, 1_000_000), "300", "Of a bridge: seconds until an address is forgotten.").beside(BRIDGE),
Key::new("network[].priority", Kind::Integer(0, 65535), "32768", "Of a bridge: the lowest becomes the root of the spanning tree.").beside(BRIDGE),
Key::new("network[].vlan_filtering", Kind::Boolean, "true", "Of a bridge: it tells VLANs apart.").default("`false`").beside(BRIDGE),
Key::new("network[].vlans", Kind::IntegersOrTexts(VLANS), "[10, \"20-29\"]", "Of a bridge: the VLANs that every port and the bridge itself carry tagged.").default("`[]`").beside(FILTERING),
Key::new("network[].pvid", Kind::Integer(1, 4094), "1", "Of a bridge: the VLAN of packets without a tag.").beside(FILTERING),
Key::new("proxy", Kind::Table, "", "Over which proxies services, logins and the node itself reach the world."),
Key::new("proxy.http", Kind::Text(URL), "\"http://user:password@proxy.lan:3128\"", "The proxy for `http` addresses, perhaps with user and password.").secret(),
Key::new("proxy.https", Kind::Text(URL), "\"http://user:password@proxy.lan:3128\"", "The proxy for `https` addresses, perhaps with user and password.").secret(),
Key::new("proxy.no_proxy", Kind::Texts(TEXT), "[\".lan\", \"10.0.0.0/8\"]", "What is reached directly: addresses, networks, names with all below them, or `\"*\"`.").default("`[]`").beside("proxy = { http = \"http://proxy.lan:3128\" }"),
];
