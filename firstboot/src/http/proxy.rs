//! Which proxy an address is asked through, by the variables that all programs know.
//!
//! There is no standard; this is what curl does, with networks (`10.0.0.0/8`) in `no_proxy` added, as Go has them.

use std::net::IpAddr;

use crate::config::Cidr;

/// Looks a variable up.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The proxy's address for a server, or `None` where it is asked directly.
pub fn proxy_for(scheme: &str, host: &str, port: u16, environment: Environment<'_>) -> Option<String> {
    let variable = |name: &str| {
        let value = environment(name).or_else(|| environment(&name.to_uppercase()))?;
        Some(value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    let proxy = variable(&format!("{scheme}_proxy")).or_else(|| variable("all_proxy"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_lowercase();
    let spared = variable("no_proxy").is_some_and(|list| {
        list.split([',', ' ']).map(str::trim).any(|entry| !entry.is_empty() && spares(entry, &host, port))
    });
    if spared {
        return None;
    }
    Some(if proxy.contains("://") { proxy } else { format!("http://{proxy}") })
}

/// Whether an entry of `no_proxy` means this server.
fn spares(entry: &str, host: &str, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    let address: Option<IpAddr> = host.parse().ok();
    if let Some(network) = network(entry) {
        return address.is_some_and(|address| network.contains(address));
    }
    if let Ok(entry) = entry.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return address == Some(entry);
    }
    let (name, wanted) = match entry.rsplit_once(':') {
        Some((name, wanted)) if wanted.parse::<u16>().is_ok() => (name, wanted.parse().ok()),
        _ => (entry, None),
    };
    let name = name.trim_start_matches('*').trim_start_matches('.').to_lowercase();
    let below = || host.strip_suffix(&name).is_some_and(|rest| rest.ends_with('.'));
    wanted.is_none_or(|wanted: u16| wanted == port) && !name.is_empty() && (host == name || below())
}

/// A network by its own address, which [`Cidr`] refuses for an interface.
fn network(entry: &str) -> Option<Cidr> {
    let (address, prefix) = entry.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.parse().ok().filter(|prefix| (1..=longest).contains(prefix))?;
    Some(Cidr { address, prefix })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(scheme: &str, host: &str, variables: &[(&str, &str)]) -> Option<String> {
        let get = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        proxy_for(scheme, host, 443, &get)
    }

    #[test]
    fn each_scheme_has_its_variable() {
        let both = [("https_proxy", "http://s:1"), ("HTTP_PROXY", "h:2")];
        assert_eq!(ask("https", "x", &both).as_deref(), Some("http://s:1"));
        assert_eq!(ask("http", "x", &both).as_deref(), Some("http://h:2"));
        assert_eq!(ask("http", "x", &[("https_proxy", "s")]), None);
        assert_eq!(ask("http", "x", &[("ALL_PROXY", "http://a")]).as_deref(), Some("http://a"));
        assert_eq!(ask("http", "x", &[("http_proxy", " "), ("all_proxy", "")]), None);
    }

    #[test]
    fn no_proxy_has_names_addresses_networks_and_ports() {
        let direct = |host: &str, list: &str| ask("https", host, &[("https_proxy", "p"), ("no_proxy", list)]).is_none();
        assert!(direct("anything", "*"));
        assert!(direct("a.site.example", "site.example") && direct("site.example", ".site.example"));
        assert!(direct("A.Site.Example", "x, *.site.example"));
        assert!(!direct("othersite.example", "site.example"));
        assert!(direct("10.1.2.3", "10.0.0.0/8") && !direct("11.1.2.3", "10.0.0.0/8"));
        assert!(direct("10.1.2.3", "10.1.2.3") && !direct("10.1.2.30", "10.1.2.3"));
        assert!(direct("[fd00::1]", "fd00::/8") && direct("[fd00::1]", "fd00::1"));
        assert!(direct("site.example", "site.example:443") && !direct("site.example", "site.example:80"));
        assert!(!direct("site.example", ""));
    }
}
