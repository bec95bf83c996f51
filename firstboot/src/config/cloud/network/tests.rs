use super::*;
use crate::config::network::{Interface, Network};
use crate::config::{Document, Format, Machine, load};
use crate::step::network::{Facts, render};

fn read(text: &str) -> Result<(Vec<Network>, Vec<String>), String> {
    let bytes = text.as_bytes().to_vec();
    let document = Document { name: "n".into(), format: Format::NetworkConfig, bytes };
    let loaded = load(&[document], &Machine::default()).map_err(|error| error.to_string())?;
    Ok((loaded.config.networks, loaded.warnings.iter().map(ToString::to_string).collect()))
}

fn good(text: &str) -> Vec<Network> {
    let (networks, warnings) = read(text).unwrap_or_else(|error| panic!("{text}\n{error}"));
    assert!(warnings.is_empty(), "{text}\n{warnings:?}");
    networks
}

/// What a node.toml makes.
fn toml(text: &str) -> Vec<Network> {
    let bytes = format!("version = 1\n{text}").into_bytes();
    let document = Document { name: "t".into(), format: Format::NodeToml, bytes };
    load(&[document], &Machine::default()).unwrap_or_else(|error| panic!("{error}")).config.networks
}

fn same(cloud: &str, node: &str) {
    let files = |networks: &[Network]| render(networks, &Facts::default());
    assert_eq!(files(&good(cloud)), files(&toml(node)), "{cloud}");
}

const V2: &str = r#"network:
  version: 2
  renderer: networkd
  ethernets:
    uplink:
      match: {macaddress: "52:54:00:00:00:01"}
      set-name: lan0
      dhcp4: yes
      dhcp4-overrides: {use-dns: false, route-metric: 50}
      wakeonlan: false
      optional: true
    enp2s0:
      addresses: [10.0.0.2/24, "fd00::2/64"]
      gateway4: 10.0.0.1
      nameservers: {addresses: [10.0.0.1], search: [lan]}
      mtu: "9000"
      routes:
        - {to: 10.20.0.0/16, via: 10.0.0.254, metric: 5, on-link: true}
        - {to: default, via: 10.0.0.253, table: "7"}
      routing-policy:
        - {from: 10.0.0.2, table: 7}
    ports:
      match: {driver: [ixgbe]}
  bonds:
    bond0:
      interfaces: [ports]
      macaddress: 52:54:00:00:00:09
      parameters: {mode: 802.3ad, lacp-rate: fast, mii-monitor-interval: 100, transmit-hash-policy: layer3+4}
      dhcp4: true
      dhcp6: true
  vlans:
    storage:
      id: 42
      link: bond0
      addresses: [10.42.0.2/24]
  bridges:
    br0:
      interfaces: [uplink, storage]
      parameters: {stp: no, forward-delay: 4}
"#;

#[test]
fn version_2_becomes_what_a_node_toml_says() {
    let error = read(V2).unwrap_err();
    assert!(error.contains("network-config") || error.contains("does not belong to a member of br0"), "{error}");
    let corrected = V2
        .replace("[uplink, storage]", "[uplink]")
        .replace("      dhcp4: yes\n      dhcp4-overrides: {use-dns: false, route-metric: 50}\n", "");
    same(
        &corrected,
        r#"
        [[network]]
        type = "bond"
        name = "bond0"
        members = [{ driver = "ixgbe" }]
        mac = "52:54:00:00:00:09"
        mode = "802.3ad"
        lacp_rate = "fast"
        miimon = 100
        hash_policy = "layer3+4"
        [[network]]
        type = "bridge"
        name = "br0"
        members = ["lan0"]
        forward_delay = 4
        dhcp = false
        addresses = []
        [[network]]
        match = { name = "enp2s0" }
        addresses = ["10.0.0.2/24", "fd00::2/64"]
        gateway = "10.0.0.1"
        dns = ["10.0.0.1"]
        search = ["lan"]
        mtu = 9000
        routes = [{ to = "10.20.0.0/16", via = "10.0.0.254", metric = 5, on_link = true }, { to = "default", via = "10.0.0.253", table = 7 }]
        rules = [{ from = "10.0.0.2", table = 7 }]
        [[network]]
        match = { mac = "52:54:00:00:00:01" }
        name = "lan0"
        optional = true
        [[network]]
        type = "vlan"
        name = "storage"
        id = 42
        parent = "bond0"
        addresses = ["10.42.0.2/24"]
        "#,
    );
}

#[test]
fn dhcp_and_its_overrides() {
    let networks = good(
        "version: 2\nethernets:\n  enp1s0:\n    dhcp4: on\n    dhcp6: true\n    dhcp-identifier: duid\n\
         \x20   dhcp4-overrides: {use-dns: no, hostname: w1}\n    dhcp6-overrides: {use-dns: false}\n    accept-ra: false\n",
    );
    let dhcp = &networks[0].dhcp;
    assert!(dhcp.v4 && dhcp.v6 && dhcp.options.dns == Some(false) && networks[0].accept_ra == Some(false));
    assert_eq!(dhcp.options.client_id, crate::config::network::ClientId::Duid);
    let error = read(
        "version: 2\nethernets:\n  enp1s0:\n    dhcp4: true\n    dhcp6: true\n    dhcp4-overrides: {use-dns: false}\n\
         \x20   dhcp6-overrides: {use-dns: true}\n",
    );
    assert!(error.unwrap_err().contains("n:7:23: dhcp6-overrides.use-dns: differs"));
    assert!(!good("version: 2\nethernets:\n  enp1s0: {dhcp4: false}\n")[0].dhcp.any());
    assert!(!good("version: 2\nethernets:\n  enp1s0:\n")[0].dhcp.any());
    assert!(
        read("version: 2\nethernets:\n  enp1s0: {dhcp4: perhaps}\n").unwrap_err().contains("n:3:19: dhcp4: is a text")
    );
}

#[test]
fn what_has_no_effect_is_named_and_what_would_be_missed_is_refused() {
    let (_, warnings) = read(
        "version: 2\nrenderer: NetworkManager\nethernets:\n  enp1s0:\n    dhcp4: true\n    wakeonlan: true\n    link-local: []\n\
         \x20   addresses:\n      - 10.0.0.2/24: {label: x}\n    nameservers: {adresses: []}\nbridges:\n  br0:\n    parameters: {max-age: 5}\nx: 1\n",
    )
    .unwrap();
    for expected in [
        "n:2:1: renderer: has no effect",
        "n:6:5: enp1s0.wakeonlan: is not supported",
        "n:7:5: enp1s0.link-local",
        "n:9:23: addresses.label",
        "n:10:19: nameservers.adresses",
        "n:13:18: parameters.max-age",
        "n:14:1: x: is not supported",
    ] {
        assert!(warnings.iter().any(|warning| warning.starts_with(expected)), "{expected} is not in {warnings:#?}");
    }
    for (text, expected) in [
        ("version: 2\nwifis: {w: {}}\n", "n:2:1: wifis: are not supported"),
        ("version: 3\n", "n:1:10: version: is neither 1 nor 2"),
        ("ethernets: {}\n", "version: is neither 1 nor 2"),
        ("version: 2\nethernets: []\n", "is a list, not a mapping"),
        (
            "version: 2\nvlans:\n  v:\n    id: 7\n    link: enpp\nbonds:\n  bond0: {interfaces: [x]}\n",
            "n:7:24: network[0].members: no [[network]] has the name \"x\"",
        ),
        ("version: 2\nvlans:\n  v: {id: 5000, link: enp1s0}\n", "n:3:11: network[0].id: is 5000"),
        ("version: 2\nethernets:\n  a: {match: {name: enp1s0}, set-name: lan0}\n", "match it by mac"),
        ("version: 2\nethernets:\n  enp1s0: {addresses: [10.0.0.2]}\n", "n:3:24: network[0].addresses"),
        ("version: 2\nethernets:\n  enp1s0: {adresses: [}\n", "is not valid YAML"),
        ("version: 1\nconfig: 7\n", "config: is not a list of devices"),
        ("version: 1\nconfig:\n  - type: infiniband\n", "\"infiniband\" is not supported"),
        ("version: 1\nconfig:\n  - type: physical\n", "config.name: is missing"),
        (
            "version: 1\nconfig:\n  - {type: physical, name: eth0, subnets: [{type: dchp}]}\n",
            "\"dchp\" is not supported",
        ),
        (
            "version: 1\nconfig:\n  - {type: physical, name: eth0, subnets: [{type: static}]}\n",
            "subnets.address: is missing",
        ),
        (
            "version: 1\nconfig:\n  - {type: route, destination: 10.0.0.0/8, gateway: 10.1.1.1}\n",
            "is in the network of no static address",
        ),
    ] {
        let error = read(text).expect_err(text);
        assert!(error.contains(expected), "{text}\n{error}\nlacks {expected:?}");
    }
}

#[test]
fn version_1_becomes_what_a_node_toml_says() {
    same(
        r#"
version: 1
config:
  - type: physical
    name: eth0
    mac_address: "52:54:00:00:00:01"
    subnets:
      - type: static
        address: 10.0.0.2
        netmask: 255.255.255.0
        gateway: 10.0.0.1
        dns_nameservers: [10.0.0.1]
        dns_search: lan corp
        routes:
          - {network: 10.20.0.0, netmask: 255.255.0.0, gateway: 10.0.0.254}
          - {destination: 10.30.1.1/16, gateway: 10.0.0.254, metric: 3}
      - {type: static6, address: "fd00::2/64"}
  - {type: physical, name: interface1, subnets: [{type: dhcp4}, {type: ipv6_slaac}]}
  - {type: physical, name: eth2}
  - type: bond
    name: bond0
    bond_interfaces: [eth2, eth3]
    params: {bond-mode: 4, bond_miimon: "50", bond-lacp-rate: 1, bond-xmit-hash-policy: layer2+3}
    mtu: 4000
    subnets: [{type: manual}]
  - {type: vlan, name: bond0.7, vlan_link: bond0, vlan_id: 7, mtu: 4000, subnets: [{type: dhcp6}]}
  - type: bridge
    name: br0
    bridge_interfaces: [bond0.7]
    params: {bridge_stp: "off", bridge_fd: 2, bridge_bridgeprio: 7}
  - {type: nameserver, address: [192.0.2.53], search: [x], interface: interface1}
  - {type: route, destination: 192.0.2.0/24, gateway: 10.0.0.9}
  - {type: loopback, name: lo}
"#
        .replace("subnets: [{type: dhcp6}]}", "subnets: []}")
        .as_str(),
        r#"
        [[network]]
        match = { mac = "52:54:00:00:00:01" }
        name = "eth0"
        addresses = ["10.0.0.2/24", "fd00::2/64"]
        gateway = "10.0.0.1"
        dns = ["10.0.0.1"]
        search = ["lan", "corp"]
        routes = [
          { to = "10.20.0.0/16", via = "10.0.0.254" }, { to = "10.30.0.0/16", via = "10.0.0.254", metric = 3 },
          { to = "192.0.2.0/24", via = "10.0.0.9" },
        ]
        [[network]]
        match = { name = "interface1" }
        dhcp = "v4"
        accept_ra = true
        dns = ["192.0.2.53"]
        search = ["x"]
        [[network]]
        match = { name = "eth2" }
        [[network]]
        type = "bond"
        name = "bond0"
        members = ["eth2", "eth3"]
        mode = "802.3ad"
        miimon = 50
        lacp_rate = "fast"
        hash_policy = "layer2+3"
        mtu = 4000
        dhcp = false
        addresses = []
        [[network]]
        type = "vlan"
        name = "bond0.7"
        parent = "bond0"
        id = 7
        mtu = 4000
        [[network]]
        type = "bridge"
        name = "br0"
        members = ["bond0.7"]
        forward_delay = 2
        priority = 7
        dhcp = false
        addresses = []
        "#,
    );
}

#[test]
fn version_1_refers_to_renamed_interfaces_by_their_new_names() {
    let networks = good(
        "version: 1\nconfig:\n  - {type: physical, name: lan7, mac_address: \"52:54:00:00:00:01\"}\n\
         \x20 - {type: bond, name: b, bond_interfaces: [lan7], params: {mode: active-backup}}\n",
    );
    let Interface::Bond(bond) = &networks[1].interface else { panic!() };
    assert!(networks[0].is(&bond.members[0]));
}

#[test]
fn nothing_may_be_said() {
    for text in [
        "",
        "\n\n",
        "network: {config: disabled}\n",
        "config: disabled\n",
        "version: 1\nconfig: disabled\n",
        "version: 2\n",
        "version: 1\nconfig: []\n",
    ] {
        assert!(good(text).is_empty(), "{text:?}");
    }
    let (_, warnings) = read("network: {version: 2}\nmore: 1\n").unwrap();
    assert!(warnings[0].starts_with("n:2:1: more: is not supported"), "{warnings:?}");
}

#[test]
fn later_documents_replace_the_list() {
    let cloud = Document {
        name: "n".into(),
        format: Format::NetworkConfig,
        bytes: b"version: 2\nethernets:\n  enp1s0: {dhcp4: true}\n  enp2s0: {dhcp4: true}\n".to_vec(),
    };
    let toml = Document {
        name: "t".into(),
        format: Format::NodeToml,
        bytes: b"version = 1\n[[network]]\nmatch = { name = \"enp3s0\" }\n".to_vec(),
    };
    let networks = load(&[cloud.clone(), toml], &Machine::default()).unwrap().config.networks;
    assert_eq!(networks.len(), 1);
    let origins = load(&[cloud], &Machine::default()).unwrap().origins;
    let dhcp = origins.iter().find(|value| value.key == "network[1].match.name").unwrap();
    assert_eq!((dhcp.value.as_str(), dhcp.origin.to_string().as_str()), ("\"enp2s0\"", "n:4:3"));
}

#[test]
fn a_configdrives_network_data_becomes_what_a_node_toml_says() {
    let json = r#"{
  "links": [
    {"id": "interface0", "type": "phy", "ethernet_mac_address": "52:54:00:00:00:01", "mtu": 1500, "vif_id": "x"},
    {"id": "interface1", "type": "phy", "ethernet_mac_address": "52:54:00:00:00:02", "mtu": null},
    {"id": "interface2", "type": "ovs", "ethernet_mac_address": "52:54:00:00:00:03"},
    {"id": "bond0", "type": "bond", "bond_links": ["interface1", "interface2"], "bond_mode": "802.1ad", "bond_miimon": 100,
     "bond_xmit_hash_policy": "layer3+4"},
    {"id": "vlan-x", "type": "vlan", "vlan_link": "bond0", "vlan_id": 101, "vlan_mac_address": "52:54:00:00:00:09"}
  ],
  "networks": [
    {"id": "n0", "type": "ipv4", "link": "interface0", "ip_address": "10.0.0.2", "netmask": "255.255.255.0", "network_id": "y",
     "routes": [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.0.0.1"}],
     "services": [{"type": "dns", "address": "10.0.0.53"}]},
    {"id": "n1", "type": "ipv6_slaac", "link": "interface0"},
    {"id": "n2", "type": "ipv4_dhcp", "link": "vlan-x"}
  ],
  "services": [{"type": "dns", "address": "192.0.2.53"}]
}"#;
    let load = |text: &str| {
        let document = Document { name: "n".into(), format: Format::NetworkData, bytes: text.as_bytes().to_vec() };
        crate::config::load(&[document], &Machine::default()).map_err(|error| error.to_string())
    };
    let loaded = load(json).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let expected = toml(
        r#"
        [[network]]
        match = { mac = "52:54:00:00:00:01" }
        mtu = 1500
        addresses = ["10.0.0.2/24"]
        accept_ra = true
        routes = [{ to = "0.0.0.0/0", via = "10.0.0.1" }]
        dns = ["10.0.0.53", "192.0.2.53"]
        [[network]]
        match = { mac = "52:54:00:00:00:02" }
        [[network]]
        match = { mac = "52:54:00:00:00:03" }
        [[network]]
        type = "bond"
        name = "bond0"
        members = ["52:54:00:00:00:02", "52:54:00:00:00:03"]
        mode = "802.3ad"
        miimon = 100
        hash_policy = "layer3+4"
        dhcp = false
        addresses = []
        [[network]]
        type = "vlan"
        name = "vlan101"
        parent = "bond0"
        id = 101
        mac = "52:54:00:00:00:09"
        dhcp = "v4"
        dns = ["192.0.2.53"]
        "#,
    );
    let files = |networks: &[Network]| render(networks, &Facts::default());
    assert_eq!(files(&loaded.config.networks), files(&expected));
    for (text, wanted) in [
        ("{\"links\": 7}", "links: is a whole number, not a list"),
        ("{\"links\": [{\"id\": \"a\", \"type\": \"phy\"}]}", "does not say which interface it is"),
        ("{\"networks\": [{\"link\": \"x\", \"type\": \"ipv4\"}]}", "n:1:15: networks.link: there is no link \"x\""),
        (&json.replace("ipv6_slaac", "ipv7"), "n:14:5: networks.type: \"ipv7\" is not supported"),
        ("[]", "is a list, not a mapping"),
    ] {
        let error = load(text).expect_err(text);
        assert!(error.contains(wanted), "{error}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[a-c:\\-\\[\\]{}&*!|>\"'#, \n0-9]{0,60}", version in 1..3) {
        let mut findings = Findings::default();
        let bytes = format!("version: {version}\n{text}");
        let tree = network_config(&Arc::from("n"), bytes.as_bytes(), &mut findings);
        proptest::prop_assert_eq!(tree.is_none(), !findings.errors.is_empty());
    }

    #[test]
    fn any_keys_with_any_values_are_read_or_refused(
        lines in proptest::collection::vec((0_usize..60, 0_usize..18), 1..12),
        version in 1..3,
    ) {
        const KEYS: &[&str] = &[
            "ethernets", "bonds", "bridges", "vlans", "match", "macaddress", "name", "driver", "set-name", "dhcp4", "dhcp6",
            "dhcp4-overrides", "dhcp6-overrides", "dhcp-identifier", "use-dns", "addresses", "gateway4", "nameservers", "search",
            "mtu", "routes", "to", "via", "on-link", "routing-policy", "from", "table", "interfaces", "parameters", "mode",
            "primary", "stp", "id", "link", "optional", "accept-ra", "renderer", "config", "type", "subnets", "address",
            "netmask", "gateway", "dns_nameservers", "bond_interfaces", "params", "bond-mode", "vlan_link", "vlan_id",
            "bridge_interfaces", "bridge_stp", "mac_address", "destination", "metric", "network", "interface", "e1", "e2", "bond0", "v7",
        ];
        const VALUES: &[&str] = &[
            "1", "7", "-1", "true", "yes", "x", "enp1s0", "bond0", "10.0.0.2/24", "10.0.0.1", "255.255.255.0", "default", "physical",
            "[e1, e2]", "[{type: static, address: 10.0.0.2}]", "{e1: {}}", "{a: [1]}", "[[]]",
        ];
        // Each line lies below the one before, or beside it.
        let mut text = format!("version: {version}\n");
        let mut depth = 0;
        for (key, value) in lines {
            let below = value % 3 == 0;
            let value = if below { "" } else { VALUES[value % VALUES.len()] };
            text += &format!("{}{}: {value}\n", "  ".repeat(depth), KEYS[key]);
            depth = if below { depth + 1 } else { depth };
        }
        let result = read(&text);
        proptest::prop_assert!(result.is_ok() || !result.unwrap_err().is_empty());
        let mut findings = Findings::default();
        let tree = network_data(&Arc::from("n"), text.as_bytes(), &mut findings);
        proptest::prop_assert_eq!(tree.is_none(), !findings.errors.is_empty());
    }
}
