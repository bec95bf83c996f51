use super::*;
use crate::config::network::tests::some_networks;
use crate::config::{Document, Format, Machine, load};
use crate::host::simulated::SimulatedHost;

fn networks(text: &str) -> Vec<Network> {
    let bytes = format!("version = 1\n{text}").into_bytes();
    let document = Document { name: "f".into(), format: Format::NodeToml, bytes };
    load(&[document], &Machine::default()).unwrap_or_else(|error| panic!("{error}")).config.networks
}

fn link(name: &str, mac: &str) -> Link {
    let mac = mac.parse().ok();
    Link {
        name: name.into(),
        mac,
        permanent: mac,
        physical: true,
        carrier: true,
        driver: Some("virtio_net".into()),
        ..Link::default()
    }
}

const HEADER: &str = "# Written by Ingot's first boot from the node's configuration.\n";

/// Every file after its name, without the header.
fn shown(files: &Files) -> String {
    files
        .iter()
        .map(|(name, text)| format!("== {name}\n{}", text.strip_prefix(HEADER).unwrap_or("NO HEADER")))
        .collect()
}

/// Every key that is ever written.
const EVERYTHING: &str = r#"
[[network]]
match = { mac = "52:54:00:00:00:01" }
name = "lan0"
mac = "52:54:00:00:00:91"
dhcp = true
dhcp_options = { dns = false, domains = true, routes = true, ntp = false, mtu = false, send_hostname = true, hostname = "w1", client_id = "duid", metric = 50 }
addresses = ["10.0.0.2/24", "fd00::2/64"]
gateway = ["10.0.0.1", "fe80::1"]
dns = ["10.0.0.1", "fd00::1"]
search = ["site.example", "~corp"]
mtu = 4000
accept_ra = true
optional = true
routes = [
  { to = "default", via = "10.0.0.254", metric = 500, table = 7, source = "10.0.0.2", mtu = 1400 },
  { to = "192.0.2.0/24", via = "198.51.100.1", on_link = true },
  { to = "10.9.0.0/16", type = "blackhole" },
  { to = "10.8.0.0/16", scope = "link" },
]
rules = [{ from = "10.0.0.2", to = "10.8.0.0/16", table = 7, priority = 10 }, { mark = 3, table = 8 }]

[[network]]
type = "bond"
name = "bond0"
mode = "802.3ad"
members = ["52:54:00:00:00:02", "52:54:00:00:00:03"]
lacp_rate = "fast"
hash_policy = "layer3+4"
ad_select = "bandwidth"
min_links = 1
miimon = 50
up_delay = 100
down_delay = 200
mtu = 9000

[[network]]
type = "bond"
name = "bond1"
mode = "active-backup"
members = ["enp5s0", { driver = "ixgbe*" }]
primary = "enp5s0"
primary_reselect = "better"
fail_over_mac = "active"
arp_interval = 500
arp_targets = ["10.1.0.1", "10.1.0.2"]
arp_validate = "all"

[[network]]
type = "vlan"
name = "storage"
parent = "bond0"
id = 42
mtu = 9000
addresses = ["10.42.0.2/24"]

[[network]]
type = "bridge"
name = "br0"
members = ["bond1", "eth*"]
stp = true
forward_delay = 4
priority = 100
ageing_time = 60
vlan_filtering = true
vlans = [10, "20-30"]
pvid = 5
dhcp = "v6"
"#;

#[test]
fn files_for_a_bond_with_a_vlan() {
    let text = "[[network]]\ntype = \"bond\"\nname = \"bond0\"\nmode = \"active-backup\"\n\
                members = [\"enp1s0\", \"52:54:00:00:00:02\"]\nprimary = \"enp1s0\"\n\
                [[network]]\ntype = \"vlan\"\nname = \"lan\"\nparent = \"bond0\"\nid = 7\naddresses = [\"10.0.0.2/24\"]\n\
                gateway = \"10.0.0.1\"\n[[network]]\nmatch = { name = \"en*\" }\noptional = true\n";
    let links = [link("enp1s0", "52:54:00:00:00:01"), link("enp2s0", "52:54:00:00:00:02")];
    let files = render(&networks(text), &Facts { links: &links, default_route: None });
    assert_eq!(
        shown(&files),
        "== 10-ingot-000-bond0.link\n[Match]\nOriginalName=bond0\n\n[Link]\nMACAddressPolicy=none\n\
         == 10-ingot-000-bond0.netdev\n[NetDev]\nName=bond0\nKind=bond\nMACAddress=52:54:00:00:00:01\n\n\
         [Bond]\nMode=active-backup\nMIIMonitorSec=100ms\n\
         == 10-ingot-000-bond0.network\n[Match]\nName=bond0\n\n[Network]\nDHCP=yes\nVLAN=lan\n\n\
         [DHCPv4]\nClientIdentifier=mac\n\
         == 10-ingot-001-lan.netdev\n[NetDev]\nName=lan\nKind=vlan\n\n[VLAN]\nId=7\n\
         == 10-ingot-001-lan.network\n[Match]\nName=lan\n\n[Network]\nDHCP=no\nAddress=10.0.0.2/24\nGateway=10.0.0.1\n\
         == 10-ingot-002-525400000002.network\n[Match]\nPermanentMACAddress=52:54:00:00:00:02\n\n\
         [Network]\nDHCP=no\nLinkLocalAddressing=no\nIPv6AcceptRA=no\nBond=bond0\n\
         == 10-ingot-003-enp1s0.network\n[Match]\nName=enp1s0\n\n\
         [Network]\nDHCP=no\nLinkLocalAddressing=no\nIPv6AcceptRA=no\nBond=bond0\nPrimarySlave=yes\n\
         == 10-ingot-004-en_.network\n[Match]\nName=en*\n\n[Link]\nRequiredForOnline=no\n\n[Network]\nDHCP=yes\n\n\
         [DHCPv4]\nClientIdentifier=mac\n"
    );
}

#[test]
fn files_for_one_interface() {
    let text = "[[network]]\nmatch = { mac = \"52:54:00:00:00:01\" }\naddresses = [\"10.77.0.10/24\", \"fd00::10/64\"]\n\
                gateway = \"10.77.0.1\"\ndns = [\"10.77.0.1\"]\n";
    let expected = |key: &str| {
        format!(
            "== 10-ingot-000-525400000001.network\n[Match]\n{key}\n\n[Network]\nDHCP=no\nAddress=10.77.0.10/24\n\
             Address=fd00::10/64\nGateway=10.77.0.1\nDNS=10.77.0.1\n"
        )
    };
    let networks = networks(text);
    assert_eq!(shown(&render(&networks, &Facts::default())), expected("PermanentMACAddress=52:54:00:00:00:01"));
    // A device that the kernel knows no permanent address of.
    let links = [Link { permanent: None, ..link("eth0", "52:54:00:00:00:01") }];
    let facts = Facts { links: &links, default_route: None };
    assert_eq!(shown(&render(&networks, &facts)), expected("MACAddress=52:54:00:00:00:01\nType=ether"));
}

#[test]
fn options_hold_for_router_advertisements_too_and_a_gateway_may_be_outside() {
    let options = "dhcp_options = { routes = false, mtu = false }\n";
    let file = |text: &str| {
        let files =
            render(&networks(&format!("[[network]]\nmatch = {{ name = \"lan1\" }}\n{text}")), &Facts::default());
        files.into_values().next().unwrap()
    };
    let both = file(&format!("dhcp = true\n{options}"));
    assert!(both.contains("[DHCPv4]\nClientIdentifier=mac\nUseRoutes=no\nUseMTU=no\n"), "{both}");
    assert!(both.contains("[IPv6AcceptRA]\nUseGateway=no\nUseRoutePrefix=no\nUseMTU=no\n"), "{both}");
    assert!(!file("dhcp = true\n").contains("IPv6AcceptRA"));
    let outside =
        file("addresses = [\"203.0.113.7/32\", \"2001:db8::7/64\"]\ngateway = [\"198.51.100.1\", \"2001:db8::1\"]\n");
    assert!(outside.contains("\nGateway=2001:db8::1\n"), "{outside}");
    assert!(outside.contains("[Route]\nGateway=198.51.100.1\nGatewayOnLink=yes\n"), "{outside}");
}

#[test]
fn the_interface_with_the_default_route_is_matched_by_its_address_for_good() {
    let text = "[[network]]\nmatch = { default_route = true }\nmtu = 9000\n\
                [[network]]\ntype = \"vlan\"\nname = \"lan\"\nparent = { default_route = true }\nid = 7\n";
    let host = SimulatedHost::default();
    host.state().links = vec![link("enp1s0", "52:54:00:00:00:01"), link("enp2s0", "52:54:00:00:00:02")];
    host.put("/proc/net/route", "\nenp2s0 00000000 0100000A 0003 0 0 1024 00000000 0 0 0\n");
    apply(&host, &networks(text)).unwrap();
    let file = format!("{DIRECTORY}/10-ingot-000-525400000002.network");
    assert!(host.text(&file).contains("PermanentMACAddress=52:54:00:00:00:02\n"));
    assert!(host.text(&file).contains("VLAN=lan\n") && host.text(&file).contains("MTUBytes=9000\n"));
    assert_eq!(host.text("/var/lib/ingot/network/default-route"), "52:54:00:00:00:02\n");
    // What `plan` shows without a machine says so.
    let files = render(&networks(text), &Facts::default());
    assert!(files["10-ingot-001-default-route.network"].contains("Name=(the-one-with-the-default-route)"), "{files:?}");
}

#[test]
fn what_is_not_wanted_any_more_is_taken_away() {
    let host = SimulatedHost::default();
    let bond = "[[network]]\ntype = \"bond\"\nname = \"bond0\"\nmode = \"active-backup\"\nmembers = [\"en*\"]\n";
    let bridge = "[[network]]\ntype = \"bridge\"\nname = \"br0\"\n";
    host.put(&format!("{DIRECTORY}/50-mine.network"), "mine");
    apply(&host, &networks(&format!("{bond}{bridge}"))).unwrap();
    let both = present(&host).unwrap();
    assert_eq!(both.len(), 7, "{both:?}");
    let made = |name: &str| Link { name: name.into(), ..Link::default() };
    host.state().links = vec![made("bond0"), made("br0")];
    host.state().commands.clear();
    apply(&host, &networks(&(bond.replace("active-backup", "802.3ad") + bridge))).unwrap();
    assert_eq!(
        host.state().commands,
        ["ip link delete dev bond0", "udevadm control --reload", "systemctl restart systemd-networkd.service"],
        "what is made otherwise is made anew, and nothing else"
    );
    keep(&host).unwrap();
    let points = host.points();
    keep(&host).unwrap();
    assert_eq!(host.points(), points, "what is kept already is not written again");
    apply(&host, &[]).unwrap();
    assert!(present(&host).unwrap().is_empty() && host.exists(&format!("{DIRECTORY}/50-mine.network")));
    assert_ne!(kept(&host).unwrap().unwrap(), both);
    host.put("/var/lib/ingot/network/good.json", "{\"cut off");
    assert_eq!(kept(&host).unwrap(), None);
}

#[test]
fn an_interface_gets_its_name_at_once() {
    let host = SimulatedHost::default();
    host.state().links = vec![link("enp1s0", "52:54:00:00:00:01")];
    let text = "[[network]]\nmatch = { mac = \"52:54:00:00:00:01\" }\nname = \"lan0\"\n";
    apply(&host, &networks(text)).unwrap();
    let renamed = ["ip link set dev enp1s0 down", "ip link set dev enp1s0 name lan0"];
    assert_eq!(host.state().commands[1..3], renamed);
    assert!(
        host.text(&format!("{DIRECTORY}/10-ingot-000-lan0.link"))
            .contains("PermanentMACAddress=52:54:00:00:00:01\n\n[Link]\nName=lan0\n")
    );
    host.state().links = vec![link("lan0", "52:54:00:00:00:01")];
    host.state().commands.clear();
    apply(&host, &networks(text)).unwrap();
    assert_eq!(host.state().commands, ["systemctl restart systemd-networkd.service"]);
}

/// Runs udev's part and networkd itself on these files, in network and mount namespaces of their own, and gives what they
/// said and what `ip` then shows.
fn networkd(files: &Files, prepare: &str) -> Option<String> {
    let directory = tempfile::tempdir().ok()?;
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).ok()?;
    }
    let script = format!(
        "set -e\nmount -t tmpfs none /run\nmkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases \
         /run/systemd/netif/lldp\ncp {}/* /run/systemd/network/\nmount -t tmpfs none /etc/systemd/network\n\
         id systemd-network >/dev/null\nchown -R systemd-network:systemd-network /run/systemd/netif\n\
         mount -t sysfs sysfs /sys\nmount -o remount,ro /sys\nip link set lo up\n{prepare}\n\
         SYSTEMD_LOG_TARGET=console SYSTEMD_LOG_LEVEL=info udevadm test-builtin net_setup_link /sys/class/net/lo 2>&1 || true\n\
         SYSTEMD_LOG_TARGET=console SYSTEMD_LOG_LEVEL=info timeout 4 /lib/systemd/systemd-networkd 2>&1 || true\n\
         echo ==\nip -o addr\nip -o link\nip route\n",
        directory.path().display()
    );
    let arguments = ["--net", "--mount", "--propagation", "private", "sh", "-c", &script];
    match crate::process::run("unshare", &arguments, std::time::Duration::from_secs(30)) {
        Ok(output) => Some(String::from_utf8_lossy(&output).into_owned()),
        Err(error) => {
            println!("skipped: networkd cannot be run here: {error}");
            None
        }
    }
}

#[test]
fn networkd_knows_every_key() {
    let files = render(&networks(EVERYTHING), &Facts::default());
    let Some(said) = networkd(&files, "ip link add lan1 type veth peer name far") else { return };
    let complaints: Vec<&str> = said
        .lines()
        .take_while(|line| *line != "==")
        .filter(|line| line.contains("/10-ingot-") && !line.contains("Configuring with"))
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}\n{}", shown(&files));
    // The peer does complain of what it does not know.
    let wrong = Files::from([("10-ingot-x.network".to_owned(), "[Match]\nName=x\n[Network]\nNonsense=1\n".to_owned())]);
    let Some(said) = networkd(&wrong, "") else { return };
    assert!(said.contains("10-ingot-x.network:4: Unknown key"), "{said}");
    let wrong =
        Files::from([("10-ingot-x.link".to_owned(), "[Match]\nOriginalName=x\n[Link]\nNonsense=1\n".to_owned())]);
    let Some(said) = networkd(&wrong, "") else { return };
    assert!(said.contains("10-ingot-x.link:4: Unknown key"), "{said}");
}

#[test]
fn networkd_does_what_the_files_say() {
    let text = "[[network]]\nmatch = { name = \"lan1\" }\naddresses = [\"10.77.0.10/24\"]\ngateway = \"10.77.0.1\"\nmtu = 1400\n\
                routes = [{ to = \"10.9.0.0/16\", via = \"10.77.0.254\", metric = 77 }]\n\
                [[network]]\ntype = \"bridge\"\nname = \"br0\"\nmembers = [\"eth5\"]\naddresses = [\"10.78.0.1/24\"]\n\
                mac = \"52:54:00:00:00:77\"\n\
                [[network]]\nmatch = { name = \"eth6\" }\naddresses = [\"203.0.113.7/32\"]\ngateway = \"198.51.100.1\"\n";
    let files = render(&networks(text), &Facts::default());
    let prepare = "for n in lan1 eth5 eth6; do ip link add $n type veth peer name far-$n; ip link set far-$n up; done";
    let Some(said) = networkd(&files, prepare) else { return };
    let has = |parts: &[&str]| said.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    for parts in [
        &["lan1", "inet 10.77.0.10/24"][..],
        &["lan1@", "mtu 1400"],
        &["default via 10.77.0.1 dev lan1"],
        &["10.9.0.0/16 via 10.77.0.254", "metric 77"],
        &["br0", "inet 10.78.0.1/24"],
        &["eth5@", "master br0"],
        &["default via 198.51.100.1 dev eth6", "onlink"],
        &["br0", "52:54:00:00:00:77"],
    ] {
        assert!(has(parts), "{parts:?} is not there:\n{said}");
    }
}

proptest::proptest! {
    #[test]
    fn files_are_one_line_per_key_and_the_same_every_time(text in some_networks()) {
        let bytes = format!("version = 1\n{text}").into_bytes();
        let document = Document { name: "f".into(), format: Format::NodeToml, bytes };
        if let Ok(loaded) = load(&[document], &Machine::default()) {
            let files = render(&loaded.config.networks, &Facts::default());
            proptest::prop_assert_eq!(&files, &render(&loaded.config.networks, &Facts::default()));
            for (name, text) in &files {
                proptest::prop_assert!(name.starts_with("10-ingot-") && !name.contains('/'));
                let known = |line: &str| line.is_empty() || line.starts_with(['#', '[']) || line.contains('=');
                proptest::prop_assert!(text.lines().all(known), "{text}");
            }
        }
    }
}
