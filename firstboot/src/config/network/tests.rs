use super::*;
use crate::config::{Document, Format, Machine, check, load};

fn read(text: &str) -> Result<(Vec<Network>, Vec<String>), String> {
    let bytes = format!("version = 1\n{text}").into_bytes();
    let document = Document { name: "f".into(), format: Format::NodeToml, bytes };
    let loaded = load(&[document], &Machine::default()).map_err(|error| error.to_string())?;
    Ok((loaded.config.networks, loaded.warnings.iter().map(ToString::to_string).collect()))
}

fn good(text: &str) -> Vec<Network> {
    let (networks, warnings) = read(text).unwrap_or_else(|error| panic!("{text}\n{error}"));
    assert!(warnings.is_empty(), "{text}\n{warnings:?}");
    networks
}

fn refused(text: &str, expected: &[&str]) {
    let error = read(text).expect_err(text);
    for part in expected {
        assert!(error.contains(part), "{text}\n{error}\nlacks {part:?}");
    }
}

fn ethernet(name: &str, more: &str) -> String {
    format!("[[network]]\nmatch = {{ name = \"{name}\" }}\n{more}\n")
}

fn bond(members: &str, more: &str) -> String {
    format!("[[network]]\ntype = \"bond\"\nname = \"bond0\"\nmode = \"active-backup\"\nmembers = [{members}]\n{more}\n")
}

fn vlan(parent: &str, id: &str, more: &str) -> String {
    format!("[[network]]\ntype = \"vlan\"\nname = \"lan.{id}\"\nid = {id}\nparent = \"{parent}\"\n{more}\n")
}

#[test]
fn one_interface_with_everything() {
    let networks = good(
        "[[network]]\nmatch = { mac = \"52:54:00:00:00:01\", driver = \"virtio_net\" }\nname = \"lan0\"\ndhcp = \"v4\"\n\
         dhcp_options = { dns = false, metric = 50, client_id = \"duid\", hostname = \"w1\" }\n\
         addresses = [\"10.0.0.2/24\", \"fd00::2/64\"]\ngateway = [\"10.0.0.1\", \"fe80::1\"]\ndns = [\"10.0.0.1\"]\n\
         search = [\"lan\", \"~corp\"]\nmtu = 9000\nmac = \"52:54:00:00:00:09\"\naccept_ra = false\noptional = true\n\
         routes = [{ to = \"10.20.0.0/16\", via = \"10.0.0.254\", metric = 5, table = 7 }, \
         { to = \"192.0.2.0/24\", via = \"198.51.100.1\", on_link = true }, { to = \"10.9.0.0/16\", type = \"blackhole\" }]\n\
         rules = [{ from = \"10.0.0.2\", table = 7, priority = 10 }]\n",
    );
    let network = &networks[0];
    assert!(network.dhcp.v4 && !network.dhcp.v6 && network.optional);
    assert_eq!((network.dhcp.options.metric, network.dhcp.options.client_id), (Some(50), ClientId::Duid));
    assert_eq!((network.gateways.len(), network.routes.len(), network.rules.len()), (2, 3, 1));
    assert_eq!(network.interface.name().map(LinkName::as_str), Some("lan0"));
}

#[test]
fn references_are_resolved_and_members_ask_nobody() {
    let text = ethernet("enp1s0", "mtu = 9000")
        + &bond("\"enp1s0\", \"52:54:00:00:00:02\", { driver = \"ixgbe\" }", "mtu = 9000\nprimary = \"enp1s0\"")
        + &vlan("bond0", "42", "addresses = [\"10.42.0.2/24\"]\nmtu = 9000")
        + "[[network]]\ntype = \"bridge\"\nname = \"br0\"\nmembers = [\"lan.43\"]\n"
        + &vlan("bond0", "43", "");
    let networks = good(&text);
    assert!(!networks[0].dhcp.any(), "a member");
    assert!(networks[1].dhcp.any(), "a bond without addresses");
    assert!(!networks[2].dhcp.any() && networks[3].dhcp.any() && !networks[4].dhcp.any());
    let Interface::Bond(bond) = &networks[1].interface else { panic!() };
    assert_eq!(bond.members.iter().filter(|member| networks[0].is(member)).count(), 1);
    assert_eq!(bond.primary.as_ref(), bond.members.first());
    let Interface::Vlan(vlan) = &networks[2].interface else { panic!() };
    assert!(networks[1].is(&vlan.parent) && vlan.id == 42);
}

#[test]
fn each_key_has_its_place_and_its_type() {
    refused("[[network]]\naddresses = [\"10.0.0.1/24\"]\n", &["f:2:1: network[0].match: is missing"]);
    refused("[[network]]\nmatch = {}\n", &["matches no interface (give mac, name, driver or default_route"]);
    refused("[[network]]\nmatch = { default_route = true, name = \"x\" }\n", &["default_route stands alone"]);
    refused(
        &ethernet("en*", "adresses = []"),
        &["f:4:1: network[0].adresses: unknown key (did you mean \"addresses\"?)"],
    );
    refused(
        &ethernet("en*", "mode = \"802.3ad\""),
        &["f:4:1: network[0].mode: is a key of a bond; this is an ethernet"],
    );
    refused(
        &ethernet("en*", "type = \"bnod\""),
        &["network[0].type: \"bnod\" is not known here (did you mean \"bond\"?"],
    );
    refused(&bond("\"enp1s0\"", "match = { name = \"x\" }"), &["is a key of an ethernet; this is a bond"]);
    refused(&vlan("enp1s0", "42", "stp = true"), &["is a key of a bridge; this is a vlan"]);
    refused("[[network]]\ntype = \"vlan\"\n", &["name: is missing", "parent: is missing", "id: is missing"]);
    refused("[[network]]\ntype = \"bond\"\nname = \"b\"\n", &["members: is missing", "mode: is missing"]);
    refused(&vlan("enp1s0", "4095", ""), &["f:5:6: network[0].id: is 4095; it must be from 1 to 4094"]);
    refused(&ethernet("en*", "mtu = 70000"), &["network[0].mtu: is 70000"]);
    refused(&ethernet("en*", "dhcp = \"yes\""), &["network[0].dhcp: is neither true nor false"]);
    refused(&ethernet("en*", "dhcp_options = { dsn = true }"), &["did you mean \"dns\"?"]);
    refused(
        &ethernet("en*", "addresses = [\"10.0.0.2/24\"]\ndhcp_options = { dns = true }"),
        &["has no effect without dhcp"],
    );
    refused(&ethernet("en*", "mtu = 9000\ndhcp_options = { mtu = true }"), &["exclude each other"]);
    refused(
        &ethernet("en*", "routes = [{ to = \"10.1.2.3/16\" }]"),
        &["f:4:18: network[0].routes[0].to", "10.1.0.0/16"],
    );
    refused(&ethernet("en*", "routes = [{ to = \"default\" }]"), &["routes[0].via: is missing"]);
    refused(&ethernet("en*", "routes = [{ to = \"::/0\", via = \"10.0.0.1\" }]"), &["mixes IPv4 and IPv6"]);
    refused(&ethernet("en*", "rules = [{ table = 7 }]"), &["is for every packet"]);
    refused("[[network]]\ntype = \"bridge\"\nname = \"br0\"\nvlans = [10]\n", &["no effect without vlan_filtering"]);
    refused(
        "[[network]]\ntype = \"bridge\"\nname = \"br0\"\nvlan_filtering = true\nvlans = [10, \"20-15\", \"5000\"]\n",
        &["f:6:14: network[0].vlans: is neither", "f:6:23: "],
    );
}

#[test]
fn names_are_short_single_and_nobody_elses() {
    let named = |name: &str| format!("[[network]]\ntype = \"bridge\"\nname = \"{name}\"\n");
    refused(&named("a-bridge-too-long"), &["f:4:8: network[0].name: \"a-bridge-too-long\": has 17 characters"]);
    refused(&named("br-lan"), &["looks like an interface of a container engine"]);
    refused(&(named("br0") + &named("br0")), &["f:7:8: network[1].name: network[0] has this name already"]);
    refused(&(ethernet("en*", "") + &ethernet("en*", "")), &["network[1].match: is the same as in network[0]"]);
    refused(&ethernet("enp1s0", "name = \"lan0\""), &["cannot get another (match it by mac)"]);
}

#[test]
fn members_and_parents_must_be_there() {
    let lost = ethernet("en*", "") + &vlan("bnod0", "42", "") + &bond("\"enp1s0\"", "");
    refused(&lost, &["f:9:10: network[1].parent: no [[network]] has the name \"bnod0\" (did you mean \"bond0\"?)"]);
    refused(
        &bond("\"uplink\"", ""),
        &["network[0].members: no [[network]] has the name \"uplink\" (name a [[network]]"],
    );
    refused(&bond("7", ""), &["members: is a whole number, not the name"]);
    refused(&bond("", ""), &["members: is empty"]);
    let twice =
        bond("\"enp1s0\", \"enp2s0\"", "") + "[[network]]\ntype = \"bridge\"\nname = \"br0\"\nmembers = [\"enp2s0\"]\n";
    refused(&twice, &["f:11:12: network[1].members: name enp2s0 is a member of bond0 already"]);
    refused(&bond("\"enp1s0\", \"enp1s0\"", ""), &["is a member of bond0 already"]);
    let addressed = ethernet("enp1s0", "addresses = [\"10.0.0.2/24\"]\ndns = []") + &bond("\"enp1s0\"", "");
    refused(&addressed, &["f:4:13: network[0].addresses: does not belong to a member of bond0 (write it into"]);
    good(&(ethernet("enp1s0", "dhcp = false\naddresses = []") + &bond("\"enp1s0\"", "")));
    refused(&(bond("\"lan.42\"", "") + &vlan("enp1s0", "42", "")), &["lan.42 is a vlan (a bond is made of interfaces"]);
    refused(
        &(bond("\"enp1s0\"", "") + &vlan("enp1s0", "42", "")),
        &["parent: is a member of bond0", "lay the VLAN on the bond"],
    );
    refused(
        &(vlan("enp1s0", "42", "") + &vlan("enp1s0", "42", "").replace("\"lan.42\"", "\"x\"")),
        &["lan.42 is VLAN 42 of it already"],
    );
}

#[test]
fn what_lies_on_itself_is_refused() {
    let looped = vlan("br0", "42", "") + "[[network]]\ntype = \"bridge\"\nname = \"br0\"\nmembers = [\"lan.42\"]\n";
    refused(&looped, &["network[0].name: lies on itself", "network[1].name: lies on itself"]);
    refused("[[network]]\ntype = \"bridge\"\nname = \"br0\"\nmembers = [\"br0\"]\n", &["lies on itself"]);
    refused(&vlan("lan.42", "42", ""), &["lies on itself"]);
}

#[test]
fn a_packet_must_fit_what_carries_it() {
    refused(
        &vlan("enp1s0", "42", "mtu = 9000"),
        &["f:7:7: network[0].mtu: is larger than that of its parent, name enp1s0 with 1500"],
    );
    good(&(ethernet("enp1s0", "mtu = 9000") + &vlan("enp1s0", "42", "mtu = 9000")));
    refused(&(bond("\"enp1s0\"", "mtu = 4000") + &vlan("bond0", "42", "mtu = 9000")), &["bond0 with 4000"]);
    refused(&(ethernet("enp1s0", "mtu = 9000") + &bond("\"enp1s0\"", "")), &["network[0].mtu: is not that of bond0"]);
    let bridge = "[[network]]\ntype = \"bridge\"\nname = \"br0\"\nmembers = [\"enp1s0\"]\nmtu = 9000\n";
    refused(bridge, &["larger than that of its member name enp1s0 with 1500"]);
    refused(&ethernet("en*", "addresses = [\"fd00::2/64\"]\nmtu = 1000"), &["too small for IPv6, which needs 1280"]);
}

#[test]
fn addresses_and_gateways_must_fit_together() {
    let with = |more: &str| ethernet("en*", &format!("addresses = [\"10.0.0.2/24\"]\n{more}"));
    refused(
        &with("gateway = \"10.0.1.1\""),
        &["f:5:11: network[0].gateway: is in none of the networks", "on_link = true"],
    );
    // What hosters give: one address alone, and the gateway beside it on the link.
    for (addresses, gateway) in [
        ("\"203.0.113.7/32\"", "\"198.51.100.1\""),
        ("\"2001:db8::7/128\"", "\"2001:db8:1::1\""),
        ("\"203.0.113.7/32\", \"2001:db8::7/64\"", "[\"198.51.100.1\", \"2001:db8::1\"]"),
    ] {
        good(&ethernet("en*", &format!("addresses = [{addresses}]\ngateway = {gateway}")));
    }
    let mixed = ethernet("en*", "addresses = [\"203.0.113.7/32\", \"2001:db8::7/64\"]\ngateway = \"2001:db9::1\"");
    refused(&mixed, &["network[0].gateway: is in none of the networks"]);
    refused(&with("gateway = \"10.0.0.2\""), &["is this node's own address"]);
    refused(&with("gateway = [\"10.0.0.1\", \"10.0.0.3\"]"), &["has two of the same family"]);
    refused(
        &with("routes = [{ to = \"10.9.0.0/16\", via = \"10.0.1.1\" }]"),
        &["network[0].routes[0].via: is in none", "on_link = true"],
    );
    refused(&with("routes = [{ to = \"10.9.0.0/16\", via = \"10.0.0.2\" }]"), &["own address"]);
    refused(
        &(with("") + &ethernet("eth9", "addresses = [\"10.0.0.2/16\"]")),
        &["network[1].addresses: 10.0.0.2 is the address of network[0] already"],
    );
    refused(&ethernet("en*", "addresses = [\"10.0.0.2/24\", \"10.0.0.2/24\"]"), &["is there twice"]);
}

#[test]
fn what_is_probably_a_mistake_is_a_warning() {
    let both = ethernet("enp1s0", "addresses = [\"10.0.0.2/24\"]\ngateway = \"10.0.0.1\"")
        + &ethernet("enp2s0", "addresses = [\"10.0.0.3/24\"]\ngateway = \"10.0.0.1\"");
    let (_, warnings) = read(&both).unwrap();
    assert!(
        warnings[0].contains("f:8:13: network[1].addresses: 10.0.0.3/24 and network[0] are in one network"),
        "{warnings:?}"
    );
    assert!(warnings[1].contains("has a default gateway too"), "{warnings:?}");
    let (_, warnings) = read(&ethernet("enp1s0", "dhcp = false")).unwrap();
    assert!(warnings[0].starts_with("f:4:8: network[0].dhcp: is off, and there is no static address"), "{warnings:?}");
    good(&ethernet("enp1s0", "dhcp = false\naddresses = []"));
}

#[test]
fn keys_of_a_bond_fit_its_mode() {
    for (mode, key, wrong) in [
        ("active-backup", "lacp_rate = \"fast\"", "it is for 802.3ad"),
        ("802.3ad", "primary = \"enp1s0\"", "it is for active-backup"),
        ("802.3ad", "arp_interval = 100\narp_targets = [\"10.0.0.1\"]", "use miimon"),
        ("active-backup", "arp_interval = 100", "arp_targets: is missing"),
        ("active-backup", "arp_interval = 100\nmiimon = 100\narp_targets = [\"10.0.0.1\"]", "exclude each other"),
        ("active-backup", "arp_validate = \"all\"", "no effect without arp_interval"),
        ("active-backup", "hash_policy = \"layer3+4\"", "no effect with mode = \"active-backup\""),
        ("active-backup", "primary = \"enp9s0\"", "is not one of members"),
    ] {
        refused(&bond("\"enp1s0\", \"enp2s0\"", key).replace("\"active-backup\"", &format!("{mode:?}")), &[wrong]);
    }
    good(
        &bond("\"enp1s0\"", "lacp_rate = \"fast\"\nhash_policy = \"layer3+4\"\nmiimon = 50\nmin_links = 1")
            .replace("active-backup", "802.3ad"),
    );
}

#[test]
fn parts_for_one_machine_are_checked_too() {
    let text = b"version = 1\n[[machine]]\nmatch = { serial = \"x\" }\n[[machine.network]]\ntype = \"vlan\"\n\
                 name = \"v\"\nid = 1\nparent = \"bond7\"\n"
        .to_vec();
    let error = check(&[Document { name: "f".into(), format: Format::NodeToml, bytes: text }]).unwrap_err();
    assert!(error.to_string().contains("f:8:10: network[0].parent: no [[network]] has the name \"bond7\""), "{error}");
}

/// Tables of `[[network]]` from few words, so that they refer to each other.
pub fn some_networks() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let line = prop::sample::select(vec![
        "type = \"bond\"",
        "type = \"vlan\"",
        "type = \"bridge\"",
        "name = \"a\"",
        "name = \"b\"",
        "name = \"c\"",
        "match = { name = \"en*\" }",
        "match = { mac = \"52:54:00:00:00:01\" }",
        "match = { default_route = true }",
        "members = [\"a\", \"b\"]",
        "members = [\"enp1s0\"]",
        "members = [\"52:54:00:00:00:01\", \"c\"]",
        "parent = \"a\"",
        "parent = \"b\"",
        "parent = \"enp1s0\"",
        "id = 1",
        "id = 2",
        "mode = \"802.3ad\"",
        "mode = \"active-backup\"",
        "mtu = 9000",
        "addresses = [\"10.0.0.2/24\"]",
        "addresses = []",
        "gateway = \"10.0.0.1\"",
        "dhcp = true",
        "dhcp = \"v6\"",
        "primary = \"enp1s0\"",
        "vlan_filtering = true",
        "vlans = [7]",
        "optional = true",
        "mac = \"52:54:00:00:00:07\"",
        "routes = [{ to = \"default\", via = \"10.0.0.1\" }]",
        "rules = [{ from = \"10.0.0.2\", table = 7 }]",
    ]);
    let table = prop::collection::btree_set(line, 1..8).prop_map(|lines| {
        "[[network]]\n".to_owned() + &lines.into_iter().map(|line| line.to_owned() + "\n").collect::<String>()
    });
    prop::collection::vec(table, 0..5).prop_map(|tables| tables.concat())
}

proptest::proptest! {
    #[test]
    fn any_tables_are_read_or_refused(text in some_networks()) {
        if let Ok((networks, _)) = read(&text) {
            for (index, network) in networks.iter().enumerate() {
                for member in network.interface.members() {
                    proptest::prop_assert!(!network.is(member), "{text}");
                    let others = networks.iter().enumerate().filter(|(other, _)| *other != index);
                    proptest::prop_assert!(others.flat_map(|(_, other)| other.interface.members()).all(|m| m != member), "{text}");
                }
            }
        }
    }
}
