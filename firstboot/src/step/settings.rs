//! Host name, time zone, time servers, SSH keys.

use super::effect::{Content, Effect, perform};
use super::{PATIENCE, StepError, layer};
use crate::config::{HostAddress, Hostname, SshKey, Timezone};
use crate::host::Host;

/// Where root's keys lie. `/root` is on the read-only root; the image's sshd reads this path
/// (`AuthorizedKeysFile` in `/etc/ssh/sshd_config.d/10-ingot.conf`).
pub const AUTHORIZED_KEYS: &str = "/etc/ssh/authorized_keys.d/root";
const TIMESYNCD: &str = "/etc/systemd/timesyncd.conf.d/10-ingot.conf";
const HOSTS_DEFAULT: &str = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";

pub fn hostname_effects(name: &Hostname) -> Vec<Effect> {
    let names = if name.short() == name.as_str() { name.to_string() } else { format!("{name} {}", name.short()) };
    vec![
        Effect::Block {
            path: "/etc/hosts".into(),
            text: format!("127.0.1.1 {names}\n"),
            otherwise: HOSTS_DEFAULT.into(),
        },
        Effect::text("/etc/hostname", format!("{name}\n")),
        Effect::setting("kernel.hostname", name.as_str()),
    ]
}

pub fn hostname(host: &dyn Host, name: &Hostname) -> Result<(), StepError> {
    perform(host, &hostname_effects(name), PATIENCE)?;
    host.set_hostname(name.as_str())?;
    Ok(())
}

/// What a zone is: localtime(5), and the file in which Debian has its name.
const ZONE: [&str; 2] = ["/etc/localtime", "/etc/timezone"];
/// Says that the zone is of a configuration.
const ZONE_IS_SET: &str = "/var/lib/ingot/timezone";
/// What holds from the moment that a configuration has no zone any more until the image's own shows.
const UNTIL_NEXT_START: &str = "Etc/UTC";

fn zone_effects(zone: &str) -> Vec<Effect> {
    let [link, name] = ZONE;
    vec![
        Effect::Link { path: link.into(), target: format!("../usr/share/zoneinfo/{zone}") },
        Effect::text(name, format!("{zone}\n")),
    ]
}

pub fn timezone_effects(zone: Option<&Timezone>) -> Vec<Effect> {
    zone.map(|zone| zone_effects(zone.as_str())).unwrap_or_default()
}

pub fn timezone(host: &dyn Host, zone: Option<&Timezone>) -> Result<(), StepError> {
    let Some(zone) = zone else { return image_timezone(host) };
    let file = format!("/usr/share/zoneinfo/{zone}");
    // An image without the database knows UTC all the same: no file means UTC.
    if !host.exists(&file) && zone.as_str() != "UTC" {
        return Err(StepError::Unfit(format!("time zone {zone}: the image has no {file}; is tzdata in the profile?")));
    }
    for path in ZONE {
        layer::take(host, path)?;
    }
    // Before what it says, so that a cut in between is undone too.
    host.write(ZONE_IS_SET, b"", 0o600)?;
    perform(host, &zone_effects(zone.as_str()), PATIENCE)
}

/// Gives the image's zone back, where an earlier configuration had set another.
fn image_timezone(host: &dyn Host) -> Result<(), StepError> {
    if !host.exists(ZONE_IS_SET) {
        return Ok(());
    }
    perform(host, &zone_effects(UNTIL_NEXT_START), PATIENCE)?;
    for path in ZONE {
        layer::give_back(host, path)?;
    }
    host.remove(ZONE_IS_SET)?;
    Ok(())
}

pub fn ssh_keys_effects(keys: &[SshKey]) -> Vec<Effect> {
    if keys.is_empty() {
        return vec![Effect::Remove { path: AUTHORIZED_KEYS.into() }];
    }
    let text: String = keys.iter().map(|key| format!("{key}\n")).collect();
    vec![Effect::File { path: AUTHORIZED_KEYS.into(), mode: 0o600, content: Content::Text(text) }]
}

pub fn ssh_keys(host: &dyn Host, keys: &[SshKey]) -> Result<(), StepError> {
    perform(host, &ssh_keys_effects(keys), PATIENCE)
}

pub fn ntp_effects(servers: &[HostAddress]) -> Vec<Effect> {
    if servers.is_empty() {
        return vec![
            Effect::Remove { path: TIMESYNCD.into() },
            Effect::run(["systemctl", "try-restart", "systemd-timesyncd.service"]),
        ];
    }
    let servers = servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let text = format!("# Written by Ingot's first boot from node.toml.\n[Time]\nNTP={servers}\nFallbackNTP=\n");
    vec![Effect::text(TIMESYNCD, text), Effect::run(["systemctl", "restart", "systemd-timesyncd.service"])]
}

pub fn ntp(host: &dyn Host, servers: &[HostAddress]) -> Result<(), StepError> {
    // Where no earlier configuration named servers, there is nothing to undo.
    if servers.is_empty() && !host.exists(TIMESYNCD) {
        return Ok(());
    }
    perform(host, &ntp_effects(servers), PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::simulated::SimulatedHost;

    #[test]
    fn the_hosts_file_has_both_names() {
        let host = SimulatedHost::default();
        hostname(&host, &"w1.lan".parse().unwrap()).unwrap();
        assert_eq!(
            host.text("/etc/hosts"),
            "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n# ingot: begin\n127.0.1.1 w1.lan w1\n# ingot: end\n"
        );
        assert_eq!(host.state().hostname, "w1.lan");
    }

    #[test]
    fn a_zone_that_is_taken_away_gives_way_to_the_images() {
        let host = SimulatedHost::default();
        timezone(&host, None).unwrap();
        assert!(!host.exists("/etc/timezone") && !host.exists("/var/lib/ingot/etc/reveal"));
        let zone: Timezone = "Europe/Berlin".parse().unwrap();
        host.write("/usr/share/zoneinfo/Europe/Berlin", b"TZif", 0o644).unwrap();
        timezone(&host, Some(&zone)).unwrap();
        assert_eq!(host.text("/etc/timezone"), "Europe/Berlin\n");
        timezone(&host, None).unwrap();
        assert_eq!(host.text("/etc/timezone"), "Etc/UTC\n");
        assert_eq!(host.text("/var/lib/ingot/etc/reveal"), "localtime\ntimezone\n");
        // Set by hand since then: it stays.
        host.write("/etc/timezone", b"Asia/Tokyo\n", 0o644).unwrap();
        timezone(&host, None).unwrap();
        assert_eq!(host.text("/etc/timezone"), "Asia/Tokyo\n");
        timezone(&host, Some(&zone)).unwrap();
        assert!(!host.exists("/var/lib/ingot/etc/reveal"));
    }

    #[test]
    fn nothing_is_restarted_where_there_was_nothing_to_undo() {
        let host = SimulatedHost::default();
        ntp(&host, &[]).unwrap();
        assert!(host.state().commands.is_empty());
        ntp(&host, &["10.0.0.1".parse().unwrap()]).unwrap();
        assert!(host.text(TIMESYNCD).contains("NTP=10.0.0.1\n"));
        ntp(&host, &[]).unwrap();
        assert_eq!(host.text(TIMESYNCD), "");
        assert_eq!(host.state().commands.len(), 2);
    }
}
