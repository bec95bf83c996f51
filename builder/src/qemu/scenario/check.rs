//! From the text of a scenario to a checked [`Scenario`], or to the place where it is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use super::step::{Between, Check, Written};
use super::{Bus, Guest, Medium, SSH_NETWORK, Scenario, ScenarioError, Server};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    timeout_seconds: u64,
    #[serde(default)]
    networks: Vec<Spanned<String>>,
    #[serde(default, rename = "server")]
    servers: Vec<Spanned<Server>>,
    #[serde(default, rename = "guest")]
    guests: Vec<Spanned<Guest>>,
    #[serde(default, rename = "step")]
    steps: Vec<Spanned<Written>>,
}

/// Where systemd looks for credentials in QEMU's `fw_cfg`.
pub const FW_CFG: &str = "opt/io.systemd.credentials/";

type Problem = (Range<usize>, String);

pub(super) fn parse(text: &str, path: &Path) -> Result<Scenario, ScenarioError> {
    let invalid = |(span, problem): Problem| {
        let (line, column) = position(text, span.start);
        ScenarioError::Invalid { path: path.to_owned(), line, column, problem }
    };
    let file: File = toml::from_str(text)
        .map_err(|error| invalid((error.span().unwrap_or_default(), with_suggestion(error.message()))))?;
    check(file, path).map_err(invalid)
}

fn check(file: File, path: &Path) -> Result<Scenario, Problem> {
    if !is_name(&file.name) {
        return Err((0..0, format!("name {:?} has other characters than letters, digits and dashes", file.name)));
    }
    if file.timeout_seconds == 0 {
        return Err((0..0, "timeout_seconds must be at least 1".into()));
    }
    let mut networks = BTreeSet::new();
    for network in file.networks {
        let (span, network) = (network.span(), network.into_inner());
        if !is_name(&network) || network == SSH_NETWORK {
            return Err((span, format!("a network cannot be called {network:?}")));
        }
        if !networks.insert(network.clone()) {
            return Err((span, format!("network {network} is named twice")));
        }
    }
    if file.guests.is_empty() {
        return Err((0..0, "a scenario needs at least one [[guest]]".into()));
    }
    let base = path.parent().unwrap_or(Path::new("")).to_owned();
    let mut guests: Vec<Guest> = Vec::new();
    let mut addresses = BTreeMap::new();
    for guest in file.guests {
        let (span, mut guest) = (guest.span(), guest.into_inner());
        let fail = |problem: String| (span.clone(), format!("guest {}: {problem}", guest.name));
        check_guest(&guest, &networks).map_err(fail)?;
        if guests.iter().any(|other| other.name == guest.name) {
            return Err(fail("two guests have this name".into()));
        }
        for card in guest.cards().into_iter().map(|(_, card)| card).chain([SSH_NETWORK.to_owned()]) {
            let mac = guest.mac(&card).to_lowercase();
            if let Some(other) = addresses.insert(mac.clone(), guest.name.clone()) {
                return Err(fail(format!("hardware address {mac} is also one of guest {other}")));
            }
        }
        guest.image = guest.image.map(|image| base.join(image));
        guest.config_file = guest.config_file.map(|file| base.join(file));
        guests.push(guest);
    }
    let servers = check_servers(file.servers, &guests)?;
    let mut steps = Vec::new();
    for step in file.steps {
        let (span, step) = (step.span(), step.into_inner());
        let step = step.step().map_err(|problem| (span.clone(), problem))?;
        let (kind, names): (_, Vec<&str>) = if matches!(step.check, Check::Requests { .. }) {
            ("server", servers.iter().map(|server| server.name.as_str()).collect())
        } else {
            ("guest", guests.iter().map(|guest| guest.name.as_str()).collect())
        };
        if !names.contains(&step.guest.as_str()) {
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err((span, format!("there is no {kind} {}; there are: {there}", step.guest)));
        }
        let on_usb = |guest: &&Guest| guest.name == step.guest && guest.medium == Some(Medium::Usb);
        if matches!(step.check, Check::Stick { .. } | Check::OnStick { .. })
            && !guests.iter().any(|guest| on_usb(&guest))
        {
            return Err((span, format!("guest {} has no USB medium to put in or pull out", step.guest)));
        }
        let has_display = |guest: &Guest| guest.name == step.guest && guest.display.is_some();
        if matches!(step.check, Check::Screen(_)) && !guests.iter().any(has_display) {
            return Err((span, format!("guest {} has no display; say display = \"1280x800\"", step.guest)));
        }
        let has_tpm = |guest: &Guest| guest.name == step.guest && guest.tpm;
        if matches!(step.check, Check::Power { between: Between { new_tpm: true, .. }, .. })
            && !guests.iter().any(has_tpm)
        {
            return Err((span, format!("guest {} has no TPM to replace; say tpm = true", step.guest)));
        }
        steps.push(step);
    }
    Ok(Scenario {
        name: file.name,
        path: path.to_owned(),
        timeout_seconds: file.timeout_seconds,
        networks,
        servers,
        guests,
        steps,
    })
}

fn check_servers(written: Vec<Spanned<Server>>, guests: &[Guest]) -> Result<Vec<Server>, Problem> {
    let mut servers: Vec<Server> = Vec::new();
    for server in written {
        let (span, server) = (server.span(), server.into_inner());
        let fail = |problem: String| Err((span.clone(), format!("server {}: {problem}", server.name)));
        if !is_name(&server.name) {
            return fail("its name has other characters than letters, digits and dashes".into());
        }
        let mut taken = guests.iter().map(|guest| &guest.name).chain(servers.iter().map(|other| &other.name));
        if taken.any(|name| *name == server.name) {
            return fail("another server or a guest has this name".into());
        }
        let mut paths = server.files.keys().chain(server.bad.iter().map(|bad| &bad.path));
        if let Some(path) = paths.find(|path| !path.starts_with('/') || path.contains(['?', '#', ' '])) {
            return fail(format!("{path:?} is not a path that begins with a slash, without a query"));
        }
        for bad in &server.bad {
            if !(300..=599).contains(&bad.status) || bad.count == 0 {
                return fail(format!("bad: a status is from 300 to 599 and comes at least once, for {}", bad.path));
            }
            let one_line = |text: &String| !text.is_empty() && !text.contains(['\r', '\n']);
            if !bad.headers.iter().all(|(name, value)| one_line(name) && one_line(value) && !name.contains(':')) {
                return fail(format!("bad: a header for {} is empty or has several lines", bad.path));
            }
        }
        servers.push(server);
    }
    Ok(servers)
}

fn check_guest(guest: &Guest, networks: &BTreeSet<String>) -> Result<(), String> {
    if !is_name(&guest.name) {
        return Err("its name has other characters than letters, digits and dashes".into());
    }
    if guest.role.is_some() == guest.image.is_some() {
        return Err("needs one of role and image".into());
    }
    if !matches!(guest.sector, 512 | 4096) {
        return Err(format!("sector is 512 or 4096, not {}", guest.sector));
    }
    if guest.sector == 4096 && guest.bus == Bus::Ahci {
        return Err("QEMU's AHCI disks have 512-byte sectors only".into());
    }
    for (key, zero) in [
        ("memory_mib", guest.memory_mib == Some(0)),
        ("cpus", guest.cpus == Some(0)),
        ("disk_gib", guest.disk_gib == Some(0)),
    ] {
        if zero {
            return Err(format!("{key} must be at least 1"));
        }
    }
    let mut serials = BTreeSet::new();
    for disk in &guest.data_disks {
        let plain = disk.serial.bytes().all(|b| b.is_ascii_alphanumeric());
        if !plain || !(1..=20).contains(&disk.serial.len()) || !serials.insert(&disk.serial) {
            return Err(format!(
                "the serial {:?} of a data disk is not 1 to 20 letters and digits, or is taken",
                disk.serial
            ));
        }
        if disk.size_mib == 0 {
            return Err(format!("the data disk {} has no size", disk.serial));
        }
    }
    // What systemd takes for a credential's name.
    let is_credential = |name: &str| {
        !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'@'))
    };
    let mut names = guest.credentials.keys().chain(guest.fw_cfg.keys());
    if let Some(name) = names.find(|name| name.is_empty() || !is_credential(name)) {
        return Err(format!("{name:?} is not the name of a credential"));
    }
    // QEMU has 55 characters for the whole name.
    if let Some(name) = guest.fw_cfg.keys().find(|name| FW_CFG.len() + name.len() > 55) {
        return Err(format!("the credential {name} has too long a name for fw_cfg: {} characters", name.len()));
    }
    if let Some(text) = guest.kernel_arguments.iter().find(|text| text.is_empty() || text.contains(char::is_whitespace))
    {
        return Err(format!("{text:?} is not one kernel parameter"));
    }
    let sources = usize::from(guest.config.is_some()) + usize::from(guest.config_file.is_some());
    if sources > 1 {
        return Err("has both config and config_file".into());
    }
    let anything = sources > 0 || !guest.files.is_empty();
    if anything && guest.medium.is_none() {
        return Err("has configuration but no medium that brings it; say medium = \"usb\" or \"cidata\"".into());
    }
    if !guest.stick && guest.medium != Some(Medium::Usb) {
        return Err("stick = false is for a guest with medium = \"usb\"".into());
    }
    let taken = match guest.medium {
        Some(Medium::Usb) => "node.toml",
        _ => "user-data",
    };
    if sources > 0 && guest.files.contains_key(taken) {
        return Err(format!("files has {taken}, which the configuration is written to"));
    }
    file_names(guest.files.keys())?;
    if let Some(network) = guest.networks.iter().find(|network| !networks.contains(*network)) {
        return Err(format!("there is no network {network}; list it in networks at the top"));
    }
    for (card, mac) in &guest.macs {
        if card != SSH_NETWORK && !guest.cards().iter().any(|(_, known)| known == card) {
            return Err(format!("has a hardware address for network {card}, which it is not on"));
        }
        if !is_mac(mac) {
            return Err(format!("{mac:?} is not a hardware address of one card, such as 52:54:00:12:34:56"));
        }
    }
    Ok(())
}

/// Refuses what is no name of a file in the top directory of a medium.
pub(super) fn file_names<'a>(names: impl IntoIterator<Item = &'a String>) -> Result<(), String> {
    let wrong = |name: &&String| name.is_empty() || name.contains('/') || name.starts_with('.');
    names.into_iter().find(wrong).map_or(Ok(()), |name| Err(format!("{name:?} is not a plain file name")))
}

pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 40 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Six bytes, and not a group address.
fn is_mac(text: &str) -> bool {
    let bytes: Vec<Option<u8>> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2 && !part.starts_with('+')))
        .collect();
    bytes.len() == 6 && bytes.iter().all(Option::is_some) && bytes[0].is_some_and(|first| first & 1 == 0)
}

/// Line and column, both from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before: &str = text.get(..offset.min(text.len())).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Adds the nearest known key to "unknown field `x`, expected one of `a`, `b`".
fn with_suggestion(message: &str) -> String {
    let message = message.trim();
    let Some(rest) = message.strip_prefix("unknown field `") else { return message.to_owned() };
    let mut names = rest.split('`').step_by(2).filter(|name| !name.is_empty());
    let Some(given) = names.next() else { return message.to_owned() };
    let nearest = names.map(|known| (strsim::damerau_levenshtein(given, known), known)).min();
    match nearest {
        Some((distance, known)) if distance <= 3 => format!("unknown key {given}; did you mean {known}?"),
        _ => message.replacen("field", "key", 1),
    }
}
