//! Certificate authorities: `[ca]`.
//!
//! The image's own `update-ca-certificates` makes the bundle and the links of `/etc/ssl/certs`, so every program that
//! trusts the system trusts them, the first boot's own HTTPS too. Its usual place for local ones, `/usr/local`, is
//! read-only, so it is given `/etc/ssl/ingot`. The step believes only the bundle: afterwards it must hold every
//! certificate.

use std::time::Duration;

use super::{Effect, StepError, layer};
use crate::config::{Ca, Certificate};
use crate::host::Host;

const DIRECTORY: &str = "/etc/ssl/ingot";
/// A list of the image's certificates that are trusted, which names none.
const NONE: &str = "/etc/ssl/ingot/none.conf";
/// Says that the bundle is not what the directory says; there from the first change until the bundle is right.
const PENDING: &str = "/etc/ssl/ingot/pending";
/// What the program makes: the bundle and links to each certificate.
const STORE: &str = "/etc/ssl/certs";
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
const PROGRAM: &str = "/usr/sbin/update-ca-certificates";
const MAXIMUM_BUNDLE_BYTES: u64 = 16 * 1024 * 1024;
const LIMIT: Duration = Duration::from_mins(2);

/// What it does, without a machine.
pub fn effects(ca: &Ca) -> Vec<Effect> {
    let mut effects: Vec<Effect> =
        named(ca).map(|(name, certificate)| Effect::text(format!("{DIRECTORY}/{name}"), certificate.pem())).collect();
    let argv = std::iter::once(PROGRAM).chain(arguments(ca)).map(str::to_owned).collect();
    effects.push(Effect::Run { argv });
    effects
}

fn named(ca: &Ca) -> impl Iterator<Item = (String, &Certificate)> {
    ca.certificates.iter().enumerate().map(|(index, certificate)| (format!("ingot-{index:02}.crt"), certificate))
}

fn arguments(ca: &Ca) -> impl Iterator<Item = &'static str> {
    let only: &[&str] = if ca.only { &["--certsconf", NONE] } else { &[] };
    ["--fresh", "--localcertsdir", DIRECTORY].into_iter().chain(only.iter().copied())
}

pub fn apply(host: &dyn Host, ca: &Ca) -> Result<(), StepError> {
    let there = host.list(DIRECTORY)?;
    if ca.certificates.is_empty() && there.is_empty() {
        return Ok(());
    }
    if !host.exists(PROGRAM) {
        let text =
            "[ca]: the image has no update-ca-certificates; add the package ca-certificates to the role's profile";
        return Err(StepError::Unfit(text.into()));
    }
    if !ca.certificates.is_empty() {
        layer::take(host, STORE)?;
    }
    let wanted: Vec<(String, &Certificate)> = named(ca).collect();
    host.write(PENDING, b"", 0o644)?;
    for (name, certificate) in &wanted {
        host.write(&format!("{DIRECTORY}/{name}"), certificate.pem().as_bytes(), 0o644)?;
    }
    for (name, _) in &there {
        let file = format!("{DIRECTORY}/{name}");
        if file != NONE && file != PENDING && !wanted.iter().any(|(wanted, _)| wanted == name) {
            host.remove(&file)?;
        }
    }
    if ca.only {
        host.write(NONE, b"# [ca] only = true: none of the image's certificates.\n", 0o644)?;
    } else {
        host.remove(NONE)?;
    }
    host.run(PROGRAM, &arguments(ca).collect::<Vec<_>>(), LIMIT)?;
    let bundle = host.read(BUNDLE, MAXIMUM_BUNDLE_BYTES)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bundle);
    // Between its lines a bundle may have other line ends; what counts is the certificate.
    let plain = |text: &str| text.split_ascii_whitespace().collect::<String>();
    let all = plain(&text);
    if let Some(missing) = ca.certificates.iter().position(|certificate| !all.contains(&plain(certificate.pem()))) {
        return Err(StepError::Unfit(format!("ca.certificates[{missing}]: {PROGRAM} has not taken it into {BUNDLE}")));
    }
    // The program does not flush what it writes.
    host.write(BUNDLE, &bundle, 0o644)?;
    if ca.certificates.is_empty() {
        // It is as the image's; from the next start on it is the image's own, and that of each later one.
        layer::give_back(host, STORE)?;
    }
    host.remove(PENDING)?;
    Ok(())
}

#[cfg(test)]
#[path = "ca_tests.rs"]
mod tests;
