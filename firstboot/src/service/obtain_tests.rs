//! Sources that are named and do not answer, that come late, that go, and that break.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Duration;

use super::super::Service;
use super::super::tests::{Heard, SECRET, machine, medium, run};
use crate::config::{Document, Format, Machine, SourceKind};
use crate::host::Host;
use crate::host::simulated::SimulatedHost;
use crate::journal::Journal;
use crate::provider::{Found, Sources};
use crate::rendezvous::Refusal;
use crate::status::Code;

fn pending() -> Found {
    Found { pending: vec!["ingot.config:http://h/x: no connection".into()], ..Found::default() }
}

fn stick(name: &str) -> Found {
    medium(&format!(
        "version = 1\nhostname = \"{name}\"\n[join]\ndriver = \"docker-swarm\"\nrole = \"worker\"\n\
         managers = [\"10.77.0.10\"]\nsecret = \"{SECRET}\"\n"
    ))
}

#[test]
fn a_named_source_is_waited_for_without_end() {
    let host = machine();
    // The role alone would be enough; but somebody has said where more is.
    host.put("/usr/lib/ingot/role.toml", "hostname = \"alone\"\n");
    let media = [vec![pending(); 5000], vec![stick("n1")]].concat();
    let heard = run(&host, media);
    assert_eq!(heard.text(Code::WaitingForConfig), "ingot.config:http://h/x: no connection");
    assert_eq!(heard.codes().iter().filter(|code| **code == 110).count(), 83, "once a minute");
    assert_eq!(host.state().hostname, "n1");
    let host = machine();
    host.put("/usr/lib/ingot/role.toml", "hostname = \"alone\"\n");
    host.state().slept = std::time::Duration::from_hours(22);
    let result = catch_unwind(AssertUnwindSafe(|| run(&host, vec![pending()])));
    assert!(result.is_err() && host.state().hostname.is_empty());
}

#[test]
fn a_role_that_only_says_what_is_allowed_waits_for_a_medium() {
    let host = machine();
    host.put("/usr/lib/ingot/role.toml", "[run]\nallow_commands = true\n[seal]\nblock_usb = true\n");
    let nothing = vec![Found::default(); 300];
    let heard = run(&host, [nothing.clone(), vec![stick("n1")]].concat());
    assert!(heard.codes().contains(&Code::WaitingForConfig.number()));
    assert_eq!(host.state().hostname, "n1");
    // One that says what the node is needs none.
    let host = machine();
    host.put("/usr/lib/ingot/role.toml", "hostname = \"alone\"\n[run]\nallow_commands = true\n");
    run(&host, [nothing, vec![stick("n1")]].concat());
    assert_eq!(host.state().hostname, "alone");
}

#[test]
fn a_stick_that_is_enough_does_not_wait_for_ever_for_a_dead_server() {
    let host = machine();
    let both = |name: &str| Found { pending: pending().pending, ..stick(name) };
    run(&host, [vec![both("n1"); 30], vec![stick("n2")]].concat());
    assert_eq!(host.state().hostname, "n2", "the server has answered within the minute");
    let host = machine();
    run(&host, vec![both("n1")]);
    assert_eq!(host.state().hostname, "n1");
    assert!(host.slept() >= std::time::Duration::from_mins(1));
}

#[test]
fn a_credential_alone_is_no_reason_to_go_on_without_a_server() {
    let host = machine();
    let credential = |name: &str| {
        let mut found = stick(name);
        found.documents[0].name = "credential:ingot.node.toml".into();
        found
    };
    let both = Found { pending: pending().pending, ..credential("half") };
    let heard = run(&host, [vec![both; 500], vec![credential("whole")]].concat());
    assert_eq!(host.state().hostname, "whole");
    assert!(heard.text(Code::WaitingForConfig).contains("no connection"));
}

#[test]
fn what_was_read_before_is_enough_to_go_on_after_a_power_cut() {
    let host = machine();
    host.state().plug = Some(30);
    assert!(catch_unwind(AssertUnwindSafe(|| run(&host, vec![stick("n1")]))).is_err());
    host.reboot();
    host.state().slept = std::time::Duration::ZERO;
    assert_eq!(run(&host, vec![pending()]).codes().last(), Some(&500));
    assert!(host.slept() < std::time::Duration::from_mins(1));
}

/// A credential that would be enough by itself.
fn credential(name: &str) -> Found {
    let stick = stick(name);
    let document = Document { name: "credential:ingot.node.toml".into(), ..stick.documents[0].clone() };
    let media = vec!["credential ingot.node.toml (fw_cfg)".into()];
    Found { documents: vec![document], media, ..Found::default() }
}

fn both(below: &Found, above: &Found) -> Found {
    let mut found = below.clone();
    found.absorb(above.clone());
    found
}

/// A stick that is there and cannot be read.
fn broken() -> Found {
    let mut found = Found::default();
    found.is_broken(SourceKind::Ingot, "INGOT (/dev/sdb1): cannot read node.toml: Input/output error".into());
    found
}

/// Sources of which each look takes time, and media that may not be settled yet; the last look stays.
struct Slow<'a> {
    host: &'a SimulatedHost,
    looks: Mutex<Vec<(Found, bool)>>,
    settled: Mutex<bool>,
    takes: Duration,
}

impl<'a> Slow<'a> {
    fn new(host: &'a SimulatedHost, looks: Vec<(Found, bool)>) -> Self {
        Self { host, looks: Mutex::new(looks), settled: Mutex::new(false), takes: Duration::ZERO }
    }
}

impl Sources for Slow<'_> {
    fn look(&self, _: &Machine) -> Found {
        self.host.sleep(self.takes);
        let mut looks = self.looks.lock().unwrap();
        let (found, settled) = if looks.len() > 1 { looks.remove(0) } else { looks[0].clone() };
        *self.settled.lock().unwrap() = settled;
        found
    }

    fn are_settled(&self) -> bool {
        *self.settled.lock().unwrap()
    }
}

fn run_slow(host: &SimulatedHost, sources: &Slow<'_>) -> Heard {
    let heard = Heard::default();
    Service::new(host, &heard, sources).run();
    heard
}

#[test]
fn pulling_one_source_takes_nothing_out_while_another_stays() {
    let stick = stick("stick");
    // What stays is valid by itself, is not, or would be another node.
    let url = |text: &str| Found {
        documents: vec![Document {
            name: "ingot.config:http://h/x".into(),
            format: Format::NodeToml,
            bytes: text.as_bytes().to_vec(),
        }],
        media: vec!["ingot.config:http://h/x".into()],
        ..Found::default()
    };
    for rest in [credential("credential"), url("version = 1\n"), url("version = 1\n[join]\nrole = \"manager\"\n")] {
        let host = machine();
        host.state().rendezvous = vec![Err(Refusal::NotReady), Ok(("SWMTKN-1-w", 1_790_000_000))];
        let heard = run(&host, vec![both(&rest, &stick), rest.clone()]);
        assert_eq!(heard.codes(), [100, 200, 210, 300, 310, 400, 410, 500], "{rest:?}");
        assert_eq!(host.state().hostname, "stick");
        assert_eq!(host.disk().joined, 1);
        // The same over a power cut.
        let host = machine();
        host.state().plug = Some(30);
        assert!(catch_unwind(AssertUnwindSafe(|| run(&host, vec![both(&rest, &stick)]))).is_err());
        host.reboot();
        let heard = run(&host, vec![rest.clone()]);
        assert_eq!((heard.codes().last(), host.state().hostname.as_str()), (Some(&500), "stick"), "{rest:?}");
        let kept: super::Kept = serde_json::from_str(&host.text(super::KEPT)).unwrap();
        assert_eq!(kept.documents, both(&rest, &stick).documents);
        assert_eq!(kept.media.len(), 2, "{:?}", kept.media);
    }
}

#[test]
fn what_comes_late_and_wins_is_waited_for_where_something_may_still_come() {
    let below = credential("credential");
    // The stick takes five seconds.
    let host = machine();
    let looks = [vec![(below.clone(), false); 5], vec![(both(&below, &stick("stick")), true)]].concat();
    let heard = run_slow(&host, &Slow::new(&host, looks));
    assert_eq!(heard.codes().iter().filter(|code| **code == 100).count(), 1, "nothing else was applied before");
    assert_eq!(host.state().hostname, "stick");
    // Nothing can come: nobody waits. A stick that is there already wins over whatever may come.
    for looks in [vec![(below.clone(), true)], vec![(both(&below, &stick("stick")), false)]] {
        let host = machine();
        run_slow(&host, &Slow::new(&host, looks));
        assert_eq!(host.slept(), Duration::ZERO);
    }
    // What never settles is waited for as long as the role or the command line says.
    for (role, line, seconds) in [
        ("", "quiet", 60),
        ("media_wait = 10\n", "quiet", 10),
        ("media_wait = 10\n", "quiet ingot.media_wait=3", 3),
        ("media_wait = 10\n", "ingot.media_wait=soon", 10),
        ("media_wait = 0\n", "quiet", 0),
    ] {
        let host = machine();
        host.put("/usr/lib/ingot/role.toml", role);
        host.put("/proc/cmdline", line);
        run_slow(&host, &Slow::new(&host, vec![(below.clone(), false)]));
        assert_eq!(
            (host.slept().as_secs(), host.state().hostname.as_str()),
            (seconds, "credential"),
            "{role:?} {line}"
        );
    }
}

#[test]
fn a_minute_is_a_minute_however_long_a_look_takes() {
    let host = machine();
    let mut sources = Slow::new(&host, vec![(both(&pending(), &stick("n1")), true)]);
    sources.takes = Duration::from_secs(10);
    run_slow(&host, &sources);
    let seconds = host.slept().as_secs();
    assert!((60..=90).contains(&seconds), "{seconds}");
}

#[test]
fn a_broken_medium_is_waited_for_before_anything_below_it_counts() {
    let below = credential("credential");
    let host = machine();
    let heard = run(&host, [vec![both(&below, &broken()); 30], vec![both(&below, &stick("stick"))]].concat());
    assert_eq!(heard.codes()[..2], [911, 100]);
    assert_eq!(host.state().hostname, "stick");
    assert!(Journal::says_sealed(&host).unwrap());
    // What is below the stick may be broken.
    let mut other = Found::default();
    other.is_broken(SourceKind::Url, "ingot.config:tftp://h/x: it must begin with http://".into());
    let host = machine();
    run(&host, vec![both(&other, &stick("stick"))]);
    assert!(host.slept() < Duration::from_secs(5) && Journal::says_sealed(&host).unwrap());
}

#[test]
fn a_configuration_that_was_good_goes_on_after_a_minute_where_a_server_says_nonsense() {
    let host = machine();
    host.state().plug = Some(30);
    assert!(catch_unwind(AssertUnwindSafe(|| run(&host, vec![credential("n1")]))).is_err());
    host.reboot();
    host.state().slept = Duration::ZERO;
    let mut wrong = credential("n1");
    wrong.documents[0].bytes = b"<html>".to_vec();
    let heard = run(&host, vec![wrong]);
    assert_eq!((heard.codes()[0], heard.codes().last()), (910, Some(&500)));
    assert!(host.slept() >= Duration::from_mins(1) && host.state().hostname == "n1");
    assert!(heard.text(Code::Joined).contains("not sealed until this is gone"), "{}", heard.text(Code::Joined));
    assert!(!Journal::says_sealed(&host).unwrap());
}
