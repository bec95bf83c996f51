//! What keeps the seal open, and what closes it.

use std::sync::Mutex;

use super::super::tests::{Heard, Media, cabled, machine, medium, run, stick};
use super::*;
use crate::host::simulated::SimulatedHost;
use crate::provider::Found;

/// Another stick, or the same that nobody can read.
fn cannot_be_read() -> Found {
    let mut found = Found::default();
    found.is_broken(SourceKind::Ingot, "INGOT (/dev/sdb1): cannot read node.toml".into());
    found
}

fn below() -> Found {
    let mut found = stick("worker");
    found.documents[0].name = "CIDATA:node.toml".into();
    found.media = vec!["CIDATA (/dev/sr0)".into()];
    found
}

fn with_broken() -> Found {
    let mut found = below();
    found.absorb(cannot_be_read());
    found
}

/// Runs until the goal, and then until the seal is closed or the sources have changed.
fn run_and_close(host: &SimulatedHost, looks: Vec<Found>, then: Vec<Found>) -> (Heard, Option<Closing>) {
    let (heard, sources) = (Heard::default(), Media(Mutex::new(looks)));
    let mut service = Service::new(host, &heard, &sources);
    let open = service.run().open;
    *sources.0.lock().unwrap() = then;
    let closing = open.map(|open| service.close(&open).unwrap());
    (heard, closing)
}

#[test]
fn a_node_is_not_sealed_against_what_nobody_could_read() {
    let host = machine();
    let before = with_broken();
    let (heard, closing) = run_and_close(&host, vec![before.clone()], vec![before.clone(), before.clone(), below()]);
    let text = heard.text(Code::Joined);
    assert!(text.ends_with("not sealed until this is gone: INGOT (/dev/sdb1): cannot read node.toml"), "{text}");
    assert_eq!(closing, Some(Closing::Sealed), "the stick was pulled out");
    assert!(Journal::says_sealed(&host).unwrap());
    assert!(host.slept() >= Duration::from_mins(1), "it was waited for first");
    assert_eq!(heard.codes().iter().filter(|code| **code == 500).count(), 2);

    // Without anybody who looks, the next boot seals.
    let host = machine();
    run(&host, vec![before.clone()]);
    assert!(!Journal::says_sealed(&host).unwrap());
    let length = host.text(crate::journal::JOURNAL).len();
    run(&host, vec![before.clone()]);
    assert_eq!(host.text(crate::journal::JOURNAL).len(), length, "nothing new is recorded");
    host.reboot();
    run(&host, vec![below()]);
    assert!(Journal::says_sealed(&host).unwrap());
    assert_eq!(host.disk().joined, 1);
}

#[test]
fn what_becomes_readable_is_taken() {
    let host = machine();
    let text = String::from_utf8(stick("worker").documents[0].bytes.clone()).unwrap();
    let mut better = below();
    better.absorb(medium(&text.replace("\"n1\"", "\"n2\"")));
    let (_, closing) = run_and_close(&host, vec![with_broken()], vec![with_broken(), better.clone()]);
    assert_eq!(closing, Some(Closing::Changed));
    // The service begins again.
    run(&host, vec![better]);
    assert_eq!(host.state().hostname, "n2");
    assert_eq!(host.disk().joined, 1);
    assert!(Journal::says_sealed(&host).unwrap());
}

#[test]
fn a_stick_that_was_read_and_breaks_keeps_its_part_and_the_seal_open() {
    let host = machine();
    let (heard, closing) =
        run_and_close(&host, vec![stick("worker"), cannot_be_read()], vec![cannot_be_read(), stick("worker")]);
    assert_eq!(heard.codes()[..7], [100, 200, 210, 300, 310, 400, 500]);
    assert_eq!((closing, host.slept().as_secs()), (Some(Closing::Sealed), 10));
}

#[test]
fn a_source_that_stays_while_another_is_pulled_out_does_not_cut_the_wait_for_the_network() {
    let wrong = |found: &Found| {
        let mut found = found.clone();
        let text = String::from_utf8(found.documents[0].bytes.clone()).unwrap();
        found.documents[0].bytes = text.replace("10.77.0.11/24", "10.77.0.111/24").into_bytes();
        found
    };
    let mut all = below();
    all.absorb(wrong(&stick("worker")));
    let host = cabled();
    let good = [vec![all], vec![below(); 60], vec![stick("worker")]].concat();
    let heard = run(&host, good);
    assert_eq!(heard.codes(), [100, 200, 921, 920, 100, 200, 210, 300, 310, 400, 500]);
}
