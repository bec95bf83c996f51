//! The SSH service: whether root may log in, and host keys that the configuration brings.
//!
//! What sshd reads is one file that comes before the image's own, `10-ingot.conf`: sshd takes the first value of a key.
//! A host key of an earlier configuration is removed, and the node makes one of its own instead.

use std::collections::BTreeSet;

use super::{Content, Effect, PATIENCE, StepError};
use crate::config::{HostKey, HostKeyType, Ssh};
use crate::host::Host;

const SETTINGS: &str = "/etc/ssh/sshd_config.d/05-ingot-node.conf";
/// Which host keys are the configuration's, one kind a line.
const STATE: &str = "/var/lib/ingot/host-keys";

/// It makes a key only where there is none.
const RENEW: [&str; 3] = ["systemctl", "restart", "ingot-ssh-hostkeys.service"];
const RELOAD: [&str; 4] = ["systemctl", "--no-block", "try-reload-or-restart", "ssh.service"];

fn path(kind: HostKeyType) -> String {
    format!("/etc/ssh/ssh_host_{}_key", kind.name())
}

pub fn apply(host: &dyn Host, ssh: &Ssh) -> Result<(), StepError> {
    let state = host.read(STATE, 4096)?.unwrap_or_default();
    let state = String::from_utf8_lossy(&state).into_owned();
    let before: BTreeSet<HostKeyType> =
        HostKeyType::ALL.into_iter().filter(|kind| state.lines().any(|line| line == kind.name())).collect();
    let now: BTreeSet<HostKeyType> = ssh.host_keys.keys().copied().collect();
    let settings = settings(ssh);
    if settings.is_empty() && before.is_empty() && now.is_empty() && !host.exists(SETTINGS) {
        return Ok(());
    }
    keep(host, before.union(&now))?;
    for (kind, key) in &ssh.host_keys {
        write(host, *kind, key)?;
    }
    for kind in before.difference(&now) {
        for file in [path(*kind), format!("{}.pub", path(*kind)), format!("{}-cert.pub", path(*kind))] {
            host.remove(&file)?;
        }
    }
    if settings.is_empty() {
        host.remove(SETTINGS)?;
    } else {
        host.write(SETTINGS, settings.as_bytes(), 0o644)?;
    }
    host.run(RENEW[0], &RENEW[1..], PATIENCE)?;
    host.run(RELOAD[0], &RELOAD[1..], PATIENCE)?;
    keep(host, now.iter())
}

/// What it does, without a machine.
pub fn effects(ssh: &Ssh) -> Vec<Effect> {
    let mut effects = Vec::new();
    for (kind, key) in &ssh.host_keys {
        let file = path(*kind);
        let private = Content::Secret(key.private.clone());
        effects.push(Effect::File { path: file.clone(), mode: 0o600, content: private });
        let rest = beside(key).into_iter().filter_map(|(suffix, text)| Some((suffix, text?)));
        effects.extend(rest.map(|(suffix, text)| Effect::text(format!("{file}{suffix}"), text)));
    }
    let settings = settings(ssh);
    if settings.is_empty() {
        effects.push(Effect::Remove { path: SETTINGS.into() });
    } else {
        effects.push(Effect::text(SETTINGS, settings));
    }
    effects.push(Effect::run(RENEW));
    effects.push(Effect::run(RELOAD));
    effects
}

/// What stands beside a private key, by the endings of the files.
fn beside(key: &HostKey) -> [(&'static str, Option<String>); 2] {
    let line = |text: String| format!("{text}\n");
    [(".pub", key.public.as_ref().map(ToString::to_string).map(line)), ("-cert.pub", key.certificate.clone().map(line))]
}

fn keep<'a>(host: &dyn Host, kinds: impl Iterator<Item = &'a HostKeyType>) -> Result<(), StepError> {
    let text: String = kinds.map(|kind| format!("{}\n", kind.name())).collect();
    if text.is_empty() {
        host.remove(STATE)?;
    } else {
        host.write(STATE, text.as_bytes(), 0o600)?;
    }
    Ok(())
}

fn write(host: &dyn Host, kind: HostKeyType, key: &HostKey) -> Result<(), StepError> {
    let file = path(kind);
    host.write(&file, key.private.expose().as_bytes(), 0o600)?;
    if host.exists("/usr/bin/ssh-keygen") && host.run("ssh-keygen", &["-y", "-P", "", "-f", &file], PATIENCE).is_err() {
        // sshd would not start with it.
        host.remove(&file)?;
        let text = format!("ssh.host_keys.{}_private: ssh-keygen cannot read it; was it cut off?", kind.name());
        return Err(StepError::Unfit(text));
    }
    for (suffix, text) in beside(key) {
        match text {
            Some(text) => host.write(&format!("{file}{suffix}"), text.as_bytes(), 0o644)?,
            None => host.remove(&format!("{file}{suffix}"))?,
        }
    }
    Ok(())
}

fn settings(ssh: &Ssh) -> String {
    let mut lines = Vec::new();
    if !ssh.root_login {
        lines.push("PermitRootLogin no".to_owned());
    }
    for (kind, key) in &ssh.host_keys {
        // The image's own settings name the ed25519 key.
        if *kind != HostKeyType::Ed25519 {
            lines.push(format!("HostKey {}", path(*kind)));
        }
        if key.certificate.is_some() {
            lines.push(format!("HostCertificate {}-cert.pub", path(*kind)));
        }
    }
    if lines.is_empty() { String::new() } else { format!("# Written by Ingot's first boot.\n{}\n", lines.join("\n")) }
}

#[cfg(test)]
#[path = "ssh_tests.rs"]
mod tests;
