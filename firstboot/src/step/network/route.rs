//! Which interface of the machine is the one with the default route.
//!
//! Every wired interface asks for addresses; once none with a link is still waiting, or a while after the first answer,
//! the one whose default route the kernel would take is the one. Its hardware address is kept before anything is made of
//! it, so that an answer holds for good: over boots, whichever server is the fastest, and while files are half written.

use std::time::Duration;

use super::{Files, StepError, install};
use crate::config::Mac;
use crate::host::{Host, Link};

/// The hardware address that was found.
const RECORD: &str = "/var/lib/ingot/network/default-route";
/// How long the first default route may take.
const SECONDS: u32 = 60;
/// How long after it the other interfaces' servers may take.
const SETTLE_SECONDS: u32 = 8;
const ROUTES: &str = "/proc/net/route";
const ROUTES_V6: &str = "/proc/net/ipv6_route";
const MAXIMUM_BYTES: u64 = 16 * 1024 * 1024;

/// The hardware address of the interface with the default route. Where it is not known yet, the node asks for addresses
/// on every wired interface.
///
/// # Errors
/// No interface gets a default route in time; files cannot be written.
pub fn resolve(host: &dyn Host) -> Result<Mac, StepError> {
    let known = host.read(RECORD, 64)?.and_then(|bytes| String::from_utf8_lossy(&bytes).trim().parse::<Mac>().ok());
    if let Some(mac) = known
        && host.links()?.iter().any(|link| link.physical && link.identity() == Some(mac))
    {
        return Ok(mac);
    }
    install(host, &Files::new())?;
    let mut since_first = 0;
    for _ in 0..SECONDS {
        host.sleep(Duration::from_secs(1));
        let links: Vec<Link> = host.links()?.into_iter().filter(|link| link.physical).collect();
        let routes = default_routes(host)?;
        let waiting = links.iter().any(|link| link.carrier && !routes.iter().any(|(_, name)| *name == link.name));
        let best = routes.iter().filter_map(|(metric, name)| {
            let link = links.iter().find(|link| link.name == *name)?;
            Some((metric, &link.name, link.identity()?))
        });
        let Some((_, _, mac)) = best.min() else { continue };
        since_first += 1;
        if !waiting || since_first >= SETTLE_SECONDS {
            host.write(RECORD, format!("{mac}\n").as_bytes(), 0o644)?;
            return Ok(mac);
        }
    }
    Err(StepError::Unfit(format!(
        "default_route = true: no interface got a default route by DHCP within {SECONDS} s; match the interface by mac or name"
    )))
}

/// The interface that was found is looked for anew.
///
/// # Errors
/// The record cannot be removed.
pub fn forget(host: &dyn Host) -> Result<(), StepError> {
    if host.exists(RECORD) {
        host.remove(RECORD)?;
    }
    Ok(())
}

/// The metric and interface of every default route (proc(5)).
fn default_routes(host: &dyn Host) -> Result<Vec<(u32, String)>, StepError> {
    let read = |path| -> Result<String, StepError> {
        Ok(host
            .read(path, MAXIMUM_BYTES)?
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default())
    };
    let mut routes = Vec::new();
    for line in read(ROUTES)?.lines().skip(1) {
        // Iface Destination Gateway Flags RefCnt Use Metric Mask: numbers in hex but for the metric.
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if let [name, "00000000", gateway, _, _, _, metric, "00000000", ..] = words[..]
            && gateway != "00000000"
        {
            routes.extend(metric.parse().ok().map(|metric| (metric, name.to_owned())));
        }
    }
    for line in read(ROUTES_V6)?.lines() {
        // destination length source length next-hop metric references use flags interface: all in hex.
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if let [destination, "00", _, _, gateway, metric, .., name] = words[..]
            && [destination, gateway].map(|word| word.bytes().all(|b| b == b'0')) == [true, false]
        {
            routes.extend(u32::from_str_radix(metric, 16).ok().map(|metric| (metric, name.to_owned())));
        }
    }
    Ok(routes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::simulated::SimulatedHost;

    const HEADER: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";

    fn link(name: &str, mac: &str) -> Link {
        let mac = mac.parse().ok();
        Link { name: name.into(), mac, permanent: mac, physical: true, carrier: true, ..Link::default() }
    }

    fn machine() -> SimulatedHost {
        let host = SimulatedHost::default();
        host.state().links = vec![link("enp1s0", "52:54:00:00:00:01"), link("enp2s0", "52:54:00:00:00:02")];
        host
    }

    fn route(name: &str, metric: u32) -> String {
        format!("{name}\t00000000\t0100000A\t0003\t0\t0\t{metric}\t00000000\t0\t0\t0\n")
    }

    #[test]
    fn the_lowest_metric_wins_and_stays_known() {
        let host = machine();
        host.put("/etc/systemd/network/10-ingot-000-x.network", "old");
        let near = "enp1s0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        host.put(ROUTES, &format!("{HEADER}{near}{}{}", route("enp1s0", 1024), route("enp2s0", 100)));
        assert_eq!(resolve(&host).unwrap().to_string(), "52:54:00:00:00:02");
        assert_eq!(host.slept(), Duration::from_secs(1), "nobody is waited for who has answered");
        assert!(host.text("/etc/systemd/network/10-ingot-000-x.network").is_empty(), "all wired interfaces ask");
        // At the next boot the other server is the only one that answers.
        host.put(ROUTES, &format!("{HEADER}{}", route("enp1s0", 1)));
        assert_eq!(resolve(&host).unwrap().to_string(), "52:54:00:00:00:02");
        // Another machine with this disk.
        host.state().links.pop();
        assert_eq!(resolve(&host).unwrap().to_string(), "52:54:00:00:00:01");
        forget(&host).unwrap();
        assert_eq!(host.text(RECORD), "");
    }

    #[test]
    fn the_slow_are_given_a_while_and_only_then_is_it_decided() {
        let host = machine();
        host.put(ROUTES, &format!("{HEADER}{}", route("enp2s0", 1024)));
        assert_eq!(resolve(&host).unwrap().to_string(), "52:54:00:00:00:02");
        assert_eq!(host.slept(), Duration::from_secs(u64::from(SETTLE_SECONDS)));
        // Equal routes: always the same one.
        let host = machine();
        host.put(ROUTES, &format!("{HEADER}{}{}", route("enp2s0", 1024), route("enp1s0", 1024)));
        assert_eq!(resolve(&host).unwrap().to_string(), "52:54:00:00:00:01");
    }

    #[test]
    fn ipv6_routes_count_and_routes_of_containers_do_not() {
        let host = machine();
        let zeros = "0".repeat(32);
        let gateway = format!("fe80{}1", "0".repeat(27));
        let v6 = format!("{zeros} 00 {zeros} 00 {gateway} 00000400 00000001 00000000 00450003   enp1s0\n");
        let unreachable = format!("{zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 00000000 00200200       lo\n");
        host.put(ROUTES_V6, &(v6 + &unreachable));
        host.put(ROUTES, &format!("{HEADER}{}", route("docker0", 0)));
        assert_eq!(resolve(&host).unwrap().to_string(), "52:54:00:00:00:01");
    }

    #[test]
    fn without_a_route_it_says_what_to_do() {
        let host = machine();
        let error = resolve(&host).unwrap_err().to_string();
        assert!(error.contains("within 60 s") && error.contains("by mac or name"), "{error}");
        assert!(!host.exists(RECORD));
    }

    #[test]
    fn the_kernels_own_tables_are_read_as_ip_reads_them() {
        let mut expected = Vec::new();
        for family in ["-4", "-6"] {
            let arguments = [family, "-o", "route", "show", "default"];
            let Ok(output) = crate::process::run("ip", &arguments, Duration::from_secs(10)) else {
                println!("skipped: there is no ip here");
                return;
            };
            let text = String::from_utf8_lossy(&output).into_owned();
            for line in text.lines().filter(|line| line.contains(" via ")) {
                let mut words = line.split_whitespace().skip_while(|word| *word != "dev");
                expected.extend(words.nth(1).map(str::to_owned));
            }
        }
        let mut found: Vec<String> =
            default_routes(&crate::host::RealHost::default()).unwrap().into_iter().map(|(_, name)| name).collect();
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
    }

    proptest::proptest! {
        #[test]
        fn any_table_is_read_without_a_panic(v4 in "[0-9a-f \t\nx]{0,80}", v6 in "[0-9a-f \t\nx]{0,80}") {
            let host = SimulatedHost::default();
            host.put(ROUTES, &format!("{HEADER}{v4}"));
            host.put(ROUTES_V6, &v6);
            default_routes(&host).unwrap();
        }
    }
}
