//! The wait for the disk: loads what the devices need as they appear, until a disk holds the root.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use super::cmdline::CommandLine;
use super::console;
use super::devices::{self, Uevents};
use super::dm::hex;
use super::failure::Failure;
use super::modules::Modules;
use super::slot::{self, Choice, Look, Patience, Slot, Verdict};
use crate::status::Code;

/// So long a disk that could be taken waits for a better one: the one that the firmware named, or, when its root is
/// corrupt, one whose root is not.
const SETTLED_AFTER: Duration = Duration::from_secs(20);
/// How often the disks are looked at when the kernel reports nothing.
const TICK: Duration = Duration::from_millis(250);
/// How often the console hears that the wait goes on.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Finds the slot to boot.
pub fn find_slot(modules: &mut Modules, line: &CommandLine) -> Result<Slot, Failure> {
    let loader = slot::loader_partition();
    if let Some(id) = loader {
        console::detail(&format!("the firmware booted from partition {id}"));
    }
    let uevents = Uevents::listen().map_err(Failure::of(Code::Stage1Failed))?;
    let mut aliases = aliases_of_all();
    let start = Instant::now();
    let (mut next_report, mut candidate_since) = (REPORT_EVERY, None);
    loop {
        let looks = slot::look_at_all(line.root_hash, loader);
        if looks.iter().any(|look| !matches!(look.verdict, Verdict::Other(_))) {
            candidate_since.get_or_insert_with(Instant::now);
        }
        let settled = candidate_since.is_some_and(|since| since.elapsed() >= SETTLED_AFTER);
        let over = start.elapsed() >= line.timeout;
        let patience = if settled || over { Patience::Settled } else { Patience::Waiting };
        match slot::choose(&looks, loader.is_some(), patience) {
            Choice::Boot(slot, warning) => {
                if let Some(warning) = warning {
                    console::note(&format!("warning: {warning}"));
                }
                return Ok(*slot);
            }
            Choice::Refuse(text) => return Err(Failure { code: Code::RootCorrupt, text }),
            Choice::LookAgain if over => {
                let text = format!(
                    "no disk with root hash {}... after {} s; {}",
                    &hex(&line.root_hash)[..16],
                    start.elapsed().as_secs(),
                    describe(&looks)
                );
                return Err(Failure { code: Code::NoDisk, text });
            }
            Choice::LookAgain => {}
        }
        if start.elapsed() >= next_report {
            console::note(&format!("waiting for the disk, {} s; {}", start.elapsed().as_secs(), describe(&looks)));
            next_report += REPORT_EVERY;
        }
        // One device at a time, and a look after each: what comes after the disk can wait for the system's udev.
        while let Some(alias) = aliases.pop_front() {
            if modules.load_for_device(&alias) {
                break;
            }
        }
        let news = uevents.wait(if aliases.is_empty() { TICK } else { Duration::ZERO });
        // A new device hangs off one whose driver was just loaded: it is nearer to the disk than the rest.
        news.aliases.into_iter().for_each(|alias| aliases.push_front(alias));
        if news.lost {
            aliases = aliases_of_all();
        }
    }
}

/// The aliases of all devices; virtual disks first, because nothing is faster to try.
fn aliases_of_all() -> VecDeque<String> {
    let mut aliases = devices::aliases_below(Path::new("/sys/devices"));
    aliases.sort_by_key(|alias| !alias.starts_with("virtio:"));
    aliases.into()
}

/// Which disks were seen, and what is on them.
fn describe(looks: &[Look]) -> String {
    if looks.is_empty() {
        return "no disk at all: is its controller's driver in the image?".to_owned();
    }
    let disks: Vec<String> = looks
        .iter()
        .map(|look| match &look.verdict {
            Verdict::Match(_) => format!("{}: has the root", look.title),
            Verdict::Corrupt { reason, .. } | Verdict::Other(reason) => format!("{}: {reason}", look.title),
        })
        .collect();
    format!("disks seen: {}", disks.join("; "))
}
