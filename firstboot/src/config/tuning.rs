//! `[tuning]`: settings of the kernel and of services' limits, each of which the node reads back.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::disk_values::Pattern;
use super::fields::Fields;
use super::problem::Findings;
use super::quantity::Share;
use super::tree::{Node, Value};
use super::values::{InterfaceName, Mac};

/// The keys of a `[[tuning.disk]]` besides `match`, in the order in which they are set: what may be set at all depends
/// on the scheduler.
pub const QUEUE_KEYS: &[&str] =
    &["scheduler", "nr_requests", "read_ahead_kb", "rq_affinity", "max_sectors_kb", "wbt_lat_usec"];
/// The keys of a `[[tuning.interface]]` besides `match`.
pub const INTERFACE_KEYS: &[&str] = &["rx_ring", "tx_ring", "combined", "rx_channels", "tx_channels"];
/// The limits of `tuning.limits`, by the names of `setrlimit(2)` in small letters.
pub const LIMITS: &[&str] = &["nofile", "nproc", "memlock", "core", "stack", "tasks"];
/// The sizes of huge pages that x86 has.
pub const PAGE_SIZES: &[(&str, u64)] = &[("2M", 2 << 20), ("1G", 1 << 30)];

/// The kernel's limit of files for one process, unless `fs.nr_open` says otherwise.
const DEFAULT_NR_OPEN: u64 = 1 << 20;

/// What is to be tuned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tuning {
    /// Settings of `/proc/sys`, by name.
    pub sysctl: BTreeMap<String, Vec<Amount>>,
    /// The frequency governor of all processors.
    pub governor: Option<String>,
    /// Huge pages, by the bytes of one page.
    pub hugepages: BTreeMap<u64, PageCount>,
    /// `always`, `madvise` or `never`.
    pub transparent_hugepages: Option<String>,
    /// Limits of services: soft and hard, `None` for infinity.
    pub limits: BTreeMap<String, (Option<u64>, Option<u64>)>,
    /// Settings of disks' queues.
    pub disks: Vec<DiskTuning>,
    /// Settings of network interfaces.
    pub interfaces: Vec<InterfaceTuning>,
}

/// A part of a setting's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Amount {
    /// As it stands.
    Plain(String),
    /// A share of the memory, in the setting's own unit.
    Share(Share, Unit),
}

/// What a setting counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// 1024 bytes.
    Kibibytes,
    /// Pages of 4096 bytes.
    Pages,
}

impl Unit {
    /// The unit of a setting whose name or documentation says it.
    fn of(name: &str) -> Option<Self> {
        match name {
            _ if name.ends_with("_kbytes") => Some(Self::Kibibytes),
            _ if name.ends_with("_bytes") => Some(Self::Bytes),
            "net.ipv4.tcp_mem" | "net.ipv4.udp_mem" | "kernel.shmall" => Some(Self::Pages),
            "kernel.shmmax" | "net.core.rmem_max" | "net.core.wmem_max" | "net.core.optmem_max" => Some(Self::Bytes),
            _ => None,
        }
    }

    /// How many bytes it is.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Bytes => 1,
            Self::Kibibytes => 1024,
            Self::Pages => 4096,
        }
    }
}

/// How many huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PageCount {
    /// This many.
    Count(u64),
    /// As many as this share of the memory.
    Share(Share),
}

/// Settings of some disks' queues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskTuning {
    /// Which.
    pub matches: QueueMatch,
    /// Names below `/sys/block/DISK/queue` and values, in the order of [`QUEUE_KEYS`].
    pub settings: Vec<(String, String)>,
}

/// Which disks' queues; what is not given does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct QueueMatch {
    /// By the kernel's name: `nvme*`.
    pub name: Option<Pattern>,
    /// By the model.
    pub model: Option<Pattern>,
    /// Whether it has turning disks.
    pub rotational: Option<bool>,
}

impl fmt::Display for QueueMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.rotational.map(|turns| if turns { "rotational" } else { "not rotational" }.to_owned());
        let name = self.name.as_ref().map(|name| format!("name {name}"));
        let parts = [name, self.model.as_ref().map(|model| format!("model {model}")), kind];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// Settings of some interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InterfaceTuning {
    /// Which.
    pub matches: LinkMatch,
    /// Descriptors of the receive ring.
    pub rx_ring: Option<u32>,
    /// Descriptors of the transmit ring.
    pub tx_ring: Option<u32>,
    /// Combined channels.
    pub combined: Option<Channels>,
    /// Channels that only receive.
    pub rx_channels: Option<u32>,
    /// Channels that only transmit.
    pub tx_channels: Option<u32>,
}

/// Which interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkMatch {
    /// By name or pattern.
    Name(InterfaceName),
    /// By hardware address.
    Mac(Mac),
    /// By the name of the driver.
    Driver(Pattern),
}

impl fmt::Display for LinkMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "name {name}"),
            Self::Mac(mac) => write!(f, "mac {mac}"),
            Self::Driver(driver) => write!(f, "driver {driver}"),
        }
    }
}

/// A number of channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channels {
    /// This many.
    Count(u32),
    /// One for each physical core of the machine.
    Cores,
}

/// Reads `[tuning]`.
pub fn read_tuning(node: &Node, findings: &mut Findings) -> Option<Tuning> {
    let fields = Fields::new(node, "tuning", findings)?;
    let mut tuning = Tuning::default();
    if let Some(entry) = fields.entry("sysctl") {
        read_sysctl(&entry.node, "", &mut tuning.sysctl, findings);
    }
    tuning.governor = word(&fields, "governor", findings);
    tuning.transparent_hugepages = one_of(&fields, "transparent_hugepages", &["always", "madvise", "never"], findings);
    if let Some(entry) = fields.entry("hugepages") {
        tuning.hugepages = read_hugepages(&entry.node, findings);
    }
    if let Some(entry) = fields.entry("limits") {
        tuning.limits = read_limits(&entry.node, findings);
    }
    let disks = fields.list("disk", findings).iter().enumerate();
    tuning.disks = disks.filter_map(|(at, node)| read_queue(node, &format!("tuning.disk[{at}]"), findings)).collect();
    let links = fields.list("interface", findings).iter().enumerate();
    tuning.interfaces =
        links.filter_map(|(at, node)| read_interface(node, &format!("tuning.interface[{at}]"), findings)).collect();
    check_together(&tuning, &fields, findings);
    Some(tuning)
}

/// What the settings mean only together.
fn check_together(tuning: &Tuning, fields: &Fields<'_>, findings: &mut Findings) {
    let plain = |name: &str| match tuning.sysctl.get(name).map(Vec::as_slice) {
        Some([Amount::Plain(text)]) => Some(text.as_str()),
        _ => None,
    };
    let nr_open = plain("fs.nr_open").and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_NR_OPEN);
    if let Some((soft, hard)) = tuning.limits.get("nofile")
        && [soft, hard].iter().any(|limit| limit.is_none_or(|limit| limit > nr_open))
    {
        let help = "the kernel refuses more, and systemd then takes less without a word; raise it under tuning.sysctl";
        fields.error("limits", format!("nofile is above fs.nr_open ({nr_open})"), help, findings);
    }
    for name in ["net.ipv4.tcp_low_latency", "net.ipv4.tcp_adv_win_scale"] {
        if tuning.sysctl.contains_key(name) {
            let place = fields.place("sysctl");
            findings.warning(
                place,
                &format!("tuning.sysctl.{name}"),
                "has no effect on present kernels",
                "leave it out",
            );
        }
    }
    if plain("net.ipv4.tcp_timestamps") == Some("0") && plain("net.ipv4.tcp_tw_reuse") == Some("1") {
        let text = "tcp_tw_reuse = 1 has no effect while tcp_timestamps is 0";
        findings.warning(fields.place("sysctl"), "tuning.sysctl", text, "leave net.ipv4.tcp_timestamps at 1");
    }
    let range = tuning.sysctl.get("net.ipv4.ip_local_port_range").and_then(|parts| match parts.first() {
        Some(Amount::Plain(first)) => first.split_whitespace().next()?.parse::<u32>().ok(),
        _ => None,
    });
    if range.is_some_and(|first| first < 32_768) && !tuning.sysctl.contains_key("net.ipv4.ip_local_reserved_ports") {
        let text = "net.ipv4.ip_local_port_range begins below 32768, where services listen";
        let help = "give their ports under net.ipv4.ip_local_reserved_ports, or a connection may take one first";
        findings.warning(fields.place("sysctl"), "tuning.sysctl", text, help);
    }
}

/// Reads settings; `vm.swappiness = 10` without quotes is a table in a table, and means the same.
fn read_sysctl(node: &Node, prefix: &str, into: &mut BTreeMap<String, Vec<Amount>>, findings: &mut Findings) {
    let Some(table) = node.as_table() else {
        let path = format!("tuning.sysctl{}{prefix}", if prefix.is_empty() { "" } else { "." });
        let text = format!("is {}, not a table", node.value.kind());
        findings.error(&node.origin, &path, text, "write [tuning.sysctl]");
        return;
    };
    for (key, entry) in table {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        let path = format!("tuning.sysctl.{name}");
        if let Value::Table(_) = entry.node.value {
            read_sysctl(&entry.node, &name, into, findings);
            continue;
        }
        let plain = |part: &str| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/'))
        };
        if !name.contains('.') || name.contains("//") || !name.split('.').all(plain) {
            let help = "a name has parts between dots, such as vm.swappiness";
            findings.error(&entry.key, &path, "is no name of a setting", help);
            continue;
        }
        let values = match &entry.node.value {
            Value::Array(items) if !items.is_empty() => items.iter().collect(),
            _ => vec![&entry.node],
        };
        let amounts: Vec<Amount> = values.iter().filter_map(|value| amount(value, &name, &path, findings)).collect();
        if amounts.len() == values.len() {
            into.insert(name, amounts);
        }
    }
}

fn amount(node: &Node, name: &str, path: &str, findings: &mut Findings) -> Option<Amount> {
    let mut refuse = |text: String, help: &str| {
        findings.error(&node.origin, path, text, help);
        None
    };
    match &node.value {
        Value::Integer(number) => Some(Amount::Plain(number.to_string())),
        Value::Text(text) if Share::is_meant(text) => match (text.parse(), Unit::of(name)) {
            (Ok(share), Some(unit)) => Some(Amount::Share(share, unit)),
            (Err(error), _) => refuse(format!("{text:?}: {error}"), ""),
            (_, None) => {
                refuse("a share of the memory: it is not known what this setting counts in".into(), "write a number")
            }
        },
        Value::Text(text) if text.contains(['"', '\'']) => refuse(
            "has quotes inside its quotes; the kernel would refuse the whole value".into(),
            "leave the inner ones out",
        ),
        Value::Text(text) if text.trim().is_empty() || text.len() > 1000 || text.chars().any(char::is_control) => {
            refuse("is no value of a setting".into(), "one line of text, a number, or a list of them")
        }
        Value::Text(text) => Some(Amount::Plain(text.split_whitespace().collect::<Vec<_>>().join(" "))),
        other => refuse(format!("is {}", other.kind()), "a number, a text, or a list of them"),
    }
}

fn word(fields: &Fields<'_>, key: &str, findings: &mut Findings) -> Option<String> {
    let text = fields.text(key, findings)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !text.is_empty() && text.len() <= 32 && text.chars().all(plain) {
        return Some(text.to_owned());
    }
    fields.error(key, format!("{text:?} is not one word"), "", findings);
    None
}

fn one_of(fields: &Fields<'_>, key: &str, known: &[&str], findings: &mut Findings) -> Option<String> {
    let text = fields.text(key, findings)?;
    if known.contains(&text) {
        return Some(text.to_owned());
    }
    fields.error(key, format!("{text:?} is not known"), known.join(", "), findings);
    None
}

fn read_hugepages(node: &Node, findings: &mut Findings) -> BTreeMap<u64, PageCount> {
    let mut pages = BTreeMap::new();
    let Some(fields) = Fields::new(node, "tuning.hugepages", findings) else { return pages };
    let mut hundredths = 0;
    for (name, bytes) in PAGE_SIZES {
        let Some(entry) = fields.entry(name) else { continue };
        let count = match &entry.node.value {
            Value::Text(_) => fields.parsed(name, findings).map(PageCount::Share),
            _ => fields.integer(name, 0..=1 << 32, findings).and_then(|n| u64::try_from(n).ok()).map(PageCount::Count),
        };
        if let Some(PageCount::Share(share)) = count {
            hundredths += share.hundredths;
        }
        pages.extend(count.map(|count| (*bytes, count)));
    }
    if hundredths > 9_000 {
        findings.error(&node.origin, "tuning.hugepages", "takes more than 90 % of the memory", "");
    }
    pages
}

fn read_limits(node: &Node, findings: &mut Findings) -> BTreeMap<String, (Option<u64>, Option<u64>)> {
    let mut limits = BTreeMap::new();
    let Some(fields) = Fields::new(node, "tuning.limits", findings) else { return limits };
    for name in LIMITS {
        let Some(entry) = fields.entry(name) else { continue };
        let text = match &entry.node.value {
            Value::Integer(number) => number.to_string(),
            Value::Text(text) => text.clone(),
            other => {
                let text = format!("is {}, not a number", other.kind());
                fields.error(name, text, "a number, \"infinity\" or \"SOFT:HARD\"", findings);
                continue;
            }
        };
        let one = |text: &str| match text.trim() {
            "infinity" => Some(None),
            number => number.parse::<u64>().ok().filter(|number| *number > 0).map(Some),
        };
        let (soft, hard) = text.split_once(':').unwrap_or((&text, &text));
        match (one(soft), one(hard)) {
            (Some(soft), Some(hard)) if soft.unwrap_or(u64::MAX) <= hard.unwrap_or(u64::MAX) => {
                limits.insert((*name).to_owned(), (soft, hard));
            }
            _ => {
                fields.error(
                    name,
                    format!("{text:?} is no limit"),
                    "a number, \"infinity\" or \"SOFT:HARD\"",
                    findings,
                );
            }
        }
    }
    limits
}

fn read_queue(node: &Node, path: &str, findings: &mut Findings) -> Option<DiskTuning> {
    let fields = Fields::new(node, path, findings)?;
    let Some(entry) = fields.entry("match") else {
        fields.missing("match", "say which disks: match = { rotational = true } or { name = \"nvme*\" }", findings);
        return None;
    };
    let inner = Fields::new(&entry.node, &fields.path_of("match"), findings)?;
    let matches = QueueMatch {
        name: inner.parsed("name", findings),
        model: inner.parsed("model", findings),
        rotational: inner.boolean("rotational", findings),
    };
    if matches == QueueMatch::default() {
        fields.error("match", "matches no disk", "give name, model or rotational", findings);
    }
    let mut settings = Vec::new();
    for key in QUEUE_KEYS {
        let value = match *key {
            "scheduler" => word(&fields, key, findings),
            _ => fields.integer(key, 0..=i64::from(u32::MAX), findings).map(|number| number.to_string()),
        };
        settings.extend(value.map(|value| ((*key).to_owned(), value)));
    }
    if settings.is_empty() {
        findings.error(&node.origin, path, "sets nothing", format!("give {}", QUEUE_KEYS.join(", ")));
    }
    Some(DiskTuning { matches, settings })
}

fn read_interface(node: &Node, path: &str, findings: &mut Findings) -> Option<InterfaceTuning> {
    let fields = Fields::new(node, path, findings)?;
    let Some(entry) = fields.entry("match") else {
        fields.missing("match", "say which: match = { driver = \"mlx5_core\" }, { name } or { mac }", findings);
        return None;
    };
    let inner = Fields::new(&entry.node, &fields.path_of("match"), findings)?;
    let matches = [
        inner.parsed("name", findings).map(LinkMatch::Name),
        inner.parsed("mac", findings).map(LinkMatch::Mac),
        inner.parsed("driver", findings).map(LinkMatch::Driver),
    ];
    let mut matches = matches.into_iter().flatten();
    let (Some(matches), None) = (matches.next(), matches.next()) else {
        fields.error("match", "needs one of name, mac, driver", "", findings);
        return None;
    };
    let mut number = |key| fields.integer(key, 1..=65_536, findings).and_then(|number| u32::try_from(number).ok());
    let (rx_ring, tx_ring) = (number("rx_ring"), number("tx_ring"));
    let (rx_channels, tx_channels) = (number("rx_channels"), number("tx_channels"));
    let combined = match fields.entry("combined").map(|entry| &entry.node.value) {
        Some(Value::Text(text)) if text == "cores" => Some(Channels::Cores),
        Some(Value::Text(_)) => {
            fields.error("combined", "is neither a number nor \"cores\"", "", findings);
            None
        }
        _ => number("combined").map(Channels::Count),
    };
    if INTERFACE_KEYS.iter().all(|key| fields.entry(key).is_none()) {
        findings.error(&node.origin, path, "sets nothing", format!("give {}", INTERFACE_KEYS.join(", ")));
    }
    Some(InterfaceTuning { matches, rx_ring, tx_ring, combined, rx_channels, tx_channels })
}

#[cfg(test)]
#[path = "tuning_tests.rs"]
mod tests;
