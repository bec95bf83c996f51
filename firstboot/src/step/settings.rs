//! Host name, time zone, time servers, SSH keys.

use std::fmt::Write as _;

use super::{PATIENCE, StepError};
use crate::config::{HostAddress, Hostname, SshKey, Timezone};
use crate::host::Host;

/// Where root's keys lie. `/root` is on the read-only root; the image's sshd reads this path
/// (`AuthorizedKeysFile` in `/etc/ssh/sshd_config.d/10-ingot.conf`).
pub const AUTHORIZED_KEYS: &str = "/etc/ssh/authorized_keys.d/root";
const TIMESYNCD: &str = "/etc/systemd/timesyncd.conf.d/10-ingot.conf";
const HOSTS_BEGIN: &str = "# ingot: begin";
const HOSTS_END: &str = "# ingot: end";
const HOSTS_DEFAULT: &str = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";

pub fn hostname(host: &dyn Host, name: &Hostname) -> Result<(), StepError> {
    let hosts = host.read("/etc/hosts", 1024 * 1024)?;
    let hosts = hosts.map_or_else(|| HOSTS_DEFAULT.to_owned(), |bytes| String::from_utf8_lossy(&bytes).into_owned());
    host.write("/etc/hosts", hosts_with(&hosts, name).as_bytes(), 0o644)?;
    host.write("/etc/hostname", format!("{name}\n").as_bytes(), 0o644)?;
    host.set_hostname(name.as_str())?;
    Ok(())
}

/// The file with the node's own name in a block that is replaced when it changes.
fn hosts_with(hosts: &str, name: &Hostname) -> String {
    let mut kept = String::new();
    let mut inside = false;
    for line in hosts.lines() {
        match line.trim() {
            HOSTS_BEGIN => inside = true,
            HOSTS_END => inside = false,
            _ if inside => {}
            _ => {
                kept.push_str(line);
                kept.push('\n');
            }
        }
    }
    let names = if name.short() == name.as_str() { name.to_string() } else { format!("{name} {}", name.short()) };
    format!("{kept}{HOSTS_BEGIN}\n127.0.1.1 {names}\n{HOSTS_END}\n")
}

pub fn timezone(host: &dyn Host, zone: &Timezone) -> Result<(), StepError> {
    let file = format!("/usr/share/zoneinfo/{zone}");
    // An image without the database knows UTC all the same: no file means UTC.
    if !host.exists(&file) && zone.as_str() != "UTC" {
        return Err(StepError::Unfit(format!("time zone {zone}: the image has no {file}; is tzdata in the profile?")));
    }
    host.link("/etc/localtime", &format!("..{file}"))?;
    host.write("/etc/timezone", format!("{zone}\n").as_bytes(), 0o644)?;
    Ok(())
}

pub fn ssh_keys(host: &dyn Host, keys: &[SshKey]) -> Result<(), StepError> {
    if keys.is_empty() {
        host.remove(AUTHORIZED_KEYS)?;
        return Ok(());
    }
    let text = keys.iter().fold(String::new(), |mut text, key| {
        let _ = writeln!(text, "{key}"); // writing to a String cannot fail
        text
    });
    host.write(AUTHORIZED_KEYS, text.as_bytes(), 0o600)?;
    Ok(())
}

pub fn ntp(host: &dyn Host, servers: &[HostAddress]) -> Result<(), StepError> {
    if servers.is_empty() {
        if host.exists(TIMESYNCD) {
            host.remove(TIMESYNCD)?;
            host.run("systemctl", &["try-restart", "systemd-timesyncd.service"], PATIENCE)?;
        }
        return Ok(());
    }
    let servers = servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let text = format!("# Written by Ingot's first boot from node.toml.\n[Time]\nNTP={servers}\nFallbackNTP=\n");
    host.write(TIMESYNCD, text.as_bytes(), 0o644)?;
    host.run("systemctl", &["restart", "systemd-timesyncd.service"], PATIENCE)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_file_keeps_what_others_wrote() {
        let name: Hostname = "w1.lan".parse().unwrap();
        let first = hosts_with("127.0.0.1 localhost\n10.0.0.9 registry\n", &name);
        assert_eq!(
            first,
            "127.0.0.1 localhost\n10.0.0.9 registry\n# ingot: begin\n127.0.1.1 w1.lan w1\n# ingot: end\n"
        );
        assert_eq!(hosts_with(&first, &name), first, "repeating changes nothing");
        let renamed = hosts_with(&first, &"w2".parse().unwrap());
        assert!(renamed.contains("127.0.1.1 w2\n") && !renamed.contains("w1") && renamed.contains("registry"));
    }
}
