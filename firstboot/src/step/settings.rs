//! Host name, time zone, time servers, SSH keys.

use super::effect::{Content, Effect, perform};
use super::{PATIENCE, StepError};
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

pub fn timezone_effects(zone: &Timezone) -> Vec<Effect> {
    vec![
        Effect::Link { path: "/etc/localtime".into(), target: format!("../usr/share/zoneinfo/{zone}") },
        Effect::text("/etc/timezone", format!("{zone}\n")),
    ]
}

pub fn timezone(host: &dyn Host, zone: &Timezone) -> Result<(), StepError> {
    let file = format!("/usr/share/zoneinfo/{zone}");
    // An image without the database knows UTC all the same: no file means UTC.
    if !host.exists(&file) && zone.as_str() != "UTC" {
        return Err(StepError::Unfit(format!("time zone {zone}: the image has no {file}; is tzdata in the profile?")));
    }
    perform(host, &timezone_effects(zone), PATIENCE)
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
