//! The wait for the disk: loads what the devices need as they appear, until a disk holds the root.

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
    load_for_all(modules);
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
        let news = uevents.wait(TICK);
        for alias in &news.aliases {
            modules.load_for_device(alias);
        }
        if news.lost {
            load_for_all(modules);
        }
    }
}

fn load_for_all(modules: &mut Modules) {
    for alias in devices::aliases_below(Path::new("/sys/devices")) {
        modules.load_for_device(&alias);
    }
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
