//! The interfaces, as files of systemd.network(5).
//!
//! One file for each `[[network]]`, numbered so that they come before the image's `80-ingot-dhcp.network`, which
//! gives DHCP to every wired interface that none of them matches. Files of an earlier configuration are removed.

use std::fmt::Write as _;

use super::effect::{Effect, perform};
use super::{PATIENCE, StepError};
use crate::config::{InterfaceMatch, Network};
use crate::host::Host;

const DIRECTORY: &str = "/etc/systemd/network";
const PREFIX: &str = "10-ingot-";

pub fn effects(networks: &[Network]) -> Vec<Effect> {
    let name = |index: usize| format!("{PREFIX}{index:02}.network");
    let files = networks.iter().enumerate();
    let mut effects: Vec<Effect> =
        files.map(|(index, network)| Effect::text(format!("{DIRECTORY}/{}", name(index)), render(network))).collect();
    let keep = (0..networks.len()).map(name).collect();
    effects.push(Effect::Sweep { directory: DIRECTORY.into(), prefix: PREFIX.into(), keep });
    effects.push(Effect::run(["systemctl", "restart", "systemd-networkd.service"]));
    effects
}

pub fn apply(host: &dyn Host, networks: &[Network]) -> Result<(), StepError> {
    perform(host, &effects(networks), PATIENCE)
}

/// The file for one `[[network]]`.
fn render(network: &Network) -> String {
    let mut text = String::from("# Written by Ingot's first boot from node.toml.\n[Match]\n");
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "{key}={value}"); // writing to a String cannot fail
    };
    match &network.matches {
        // A bridge or a VLAN on top of the interface has the same address; only the real one is meant.
        InterfaceMatch::Mac(mac) => {
            line("MACAddress", mac);
            line("Type", &"ether");
        }
        InterfaceMatch::Name(name) => line("Name", name),
    }
    line("\n[Network]\nDHCP", if network.dhcp { &"yes" } else { &"no" });
    for address in &network.addresses {
        line("Address", address);
    }
    if let Some(gateway) = network.gateway {
        line("Gateway", &gateway);
    }
    for server in &network.dns {
        line("DNS", server);
    }
    if network.dhcp {
        // Reservations at the DHCP server are by MAC address; the machine id is new after every flashing.
        line("\n[DHCPv4]\nClientIdentifier", &"mac");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_networkds_form() {
        let network = Network {
            matches: InterfaceMatch::Mac("52:54:00:12:34:56".parse().unwrap()),
            dhcp: false,
            addresses: vec!["10.77.0.10/24".parse().unwrap(), "fd00::10/64".parse().unwrap()],
            gateway: Some("10.77.0.1".parse().unwrap()),
            dns: vec!["10.77.0.1".parse().unwrap()],
        };
        assert_eq!(
            render(&network),
            "# Written by Ingot's first boot from node.toml.\n[Match]\nMACAddress=52:54:00:12:34:56\nType=ether\n\n\
             [Network]\nDHCP=no\nAddress=10.77.0.10/24\nAddress=fd00::10/64\nGateway=10.77.0.1\nDNS=10.77.0.1\n"
        );
        let network = Network {
            matches: InterfaceMatch::Name("en*".parse().unwrap()),
            dhcp: true,
            addresses: vec![],
            gateway: None,
            dns: vec![],
        };
        assert!(render(&network).ends_with("Name=en*\n\n[Network]\nDHCP=yes\n\n[DHCPv4]\nClientIdentifier=mac\n"));
    }
}
