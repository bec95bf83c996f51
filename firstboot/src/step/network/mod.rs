//! The interfaces, as files of systemd-networkd.
//!
//! Takes the `[[network]]` entries; gives the machine with exactly their files in `/etc/systemd/network`, numbered so
//! that they come before the image's `80-ingot-dhcp.network`, which gives DHCP to every wired interface that none of
//! them matches. Files of an earlier configuration, and the bonds, bridges and VLANs that they made, are removed.
//! Modules: `render` (what the files say), `route` (which interface has the default route).
//!
//! What has worked once is kept ([`keep`]); the service falls back to it when something else does not work.

mod render;
mod route;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::{Effect, PATIENCE, StepError};
use crate::config::Network;
use crate::config::network::{Interface, LinkRef};
use crate::host::{Host, Link};

pub use render::{Facts, means, render};
pub use route::forget as forget_default_route;

/// Where networkd's files lie.
pub const DIRECTORY: &str = "/etc/systemd/network";
/// The files that worked last.
const GOOD: &str = "/var/lib/ingot/network/good.json";
const MAXIMUM_BYTES: u64 = 1024 * 1024;
/// Files by their names in [`DIRECTORY`].
pub type Files = BTreeMap<String, String>;

/// What [`apply`] does on any machine. On a machine it also finds out which interface has the default route and what
/// hardware addresses bonds and bridges get, takes away what is made no longer, and leaves alone what is there already.
pub fn effects(networks: &[Network]) -> Vec<Effect> {
    let files = render(networks, &Facts::default());
    let mut effects: Vec<Effect> =
        files.iter().map(|(name, text)| Effect::text(format!("{DIRECTORY}/{name}"), text.clone())).collect();
    let keep: Vec<String> = files.into_keys().collect();
    let links = keep.iter().any(|name| name.ends_with(".link"));
    effects.push(Effect::Sweep { directory: DIRECTORY.into(), prefix: render::PREFIX.into(), keep });
    if links {
        effects.push(Effect::run(["udevadm", "control", "--reload"]));
    }
    effects.push(Effect::run(["systemctl", "restart", "systemd-networkd.service"]));
    effects
}

/// Brings a configuration into effect.
///
/// # Errors
/// The files cannot be written; networkd cannot be started; no interface gets the default route.
pub fn apply(host: &dyn Host, networks: &[Network]) -> Result<(), StepError> {
    let default_route = match networks.iter().any(wants_default_route) {
        true => Some(route::resolve(host)?),
        false => None,
    };
    let links = host.links()?;
    let files = render(networks, &Facts { links: &links, default_route });
    write(host, &files)?;
    rename(host, networks, &links, &Facts { links: &links, default_route })?;
    start(host)
}

/// Puts exactly these files in place and starts networkd anew.
///
/// # Errors
/// As [`apply`].
pub fn install(host: &dyn Host, files: &Files) -> Result<(), StepError> {
    write(host, files)?;
    start(host)
}

/// The files that are in place.
///
/// # Errors
/// They cannot be read.
pub fn present(host: &dyn Host) -> Result<Files, StepError> {
    let mut files = Files::new();
    for (name, _) in host.list(DIRECTORY)?.into_iter().filter(|(name, _)| name.starts_with(render::PREFIX)) {
        let bytes = host.read(&format!("{DIRECTORY}/{name}"), MAXIMUM_BYTES)?.unwrap_or_default();
        files.insert(name, String::from_utf8_lossy(&bytes).into_owned());
    }
    Ok(files)
}

/// Remembers the files that are in place as ones that work.
///
/// # Errors
/// They cannot be read or kept.
pub fn keep(host: &dyn Host) -> Result<(), StepError> {
    let files = present(host)?;
    if kept(host)?.as_ref() != Some(&files) {
        // Plain data becomes JSON in any case.
        host.write(GOOD, &serde_json::to_vec(&files).unwrap_or_default(), 0o600)?;
    }
    Ok(())
}

/// The files that worked last; `None` where none has yet, or what was kept is damaged.
///
/// # Errors
/// They cannot be read.
pub fn kept(host: &dyn Host) -> Result<Option<Files>, StepError> {
    let bytes = host.read(GOOD, MAXIMUM_BYTES)?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

fn wants_default_route(network: &Network) -> bool {
    let wants = |reference: &LinkRef| matches!(reference, LinkRef::Matching(matches) if matches.default_route);
    match &network.interface {
        Interface::Ethernet(ethernet) => ethernet.matches.default_route,
        Interface::Vlan(vlan) => wants(&vlan.parent),
        made => made.members().iter().any(wants),
    }
}

/// Replaces the files. What they made and make no longer, or make otherwise, is taken away first: networkd neither
/// removes nor changes what exists.
fn write(host: &dyn Host, files: &Files) -> Result<(), StepError> {
    let before = present(host)?;
    let makes = |files: &Files| -> BTreeMap<String, String> {
        let netdevs = files.iter().filter(|(name, _)| name.ends_with(".netdev"));
        netdevs.filter_map(|(_, text)| Some((render::made_by(text)?.to_owned(), text.clone()))).collect()
    };
    let made = makes(files);
    let links = host.links()?;
    for (name, text) in makes(&before) {
        if made.get(&name) != Some(&text) && links.iter().any(|link| link.name == name && !link.physical) {
            host.run("ip", &["link", "delete", "dev", &name], PATIENCE)?;
        }
    }
    for (name, text) in files {
        if before.get(name) != Some(text) {
            host.write(&format!("{DIRECTORY}/{name}"), text.as_bytes(), 0o644)?;
        }
    }
    for name in before.keys().filter(|name| !files.contains_key(*name)) {
        host.remove(&format!("{DIRECTORY}/{name}"))?;
    }
    if before != *files && before.keys().chain(files.keys()).any(|name| name.ends_with(".link")) {
        host.run("udevadm", &["control", "--reload"], PATIENCE)?;
    }
    Ok(())
}

/// Gives interfaces the names that udev gives them from the next boot on.
fn rename(host: &dyn Host, networks: &[Network], links: &[Link], facts: &Facts<'_>) -> Result<(), StepError> {
    for network in networks {
        let Interface::Ethernet(ethernet) = &network.interface else { continue };
        let Some(name) = &ethernet.name else { continue };
        let found: Vec<&Link> = links.iter().filter(|link| means(&ethernet.matches, link, facts)).collect();
        let taken = links.iter().any(|link| link.name == name.as_str());
        if let ([link], false) = (&found[..], taken) {
            host.run("ip", &["link", "set", "dev", &link.name, "down"], PATIENCE)?;
            host.run("ip", &["link", "set", "dev", &link.name, "name", name.as_str()], PATIENCE)?;
        }
    }
    Ok(())
}

/// networkd is started by this where the node was held back, and takes every file anew where it runs: `networkctl
/// reload` would leave interfaces alone whose own file is the same while what lies on them is not.
fn start(host: &dyn Host) -> Result<(), StepError> {
    host.run("systemctl", &["restart", "systemd-networkd.service"], PATIENCE)?;
    Ok(())
}
