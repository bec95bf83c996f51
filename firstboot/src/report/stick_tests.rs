use rustix::io::Errno;

use super::*;
use crate::host::simulated::SimulatedHost;
use crate::host::simulated::stick::Stick;
use crate::report::{Moment, Settings};

fn node(serial: Option<&str>, mac: u8) -> Node {
    let macs = vec![format!("52:54:00:00:00:{mac:02x}")];
    Node { hostname: format!("w{mac}"), serial: serial.map(str::to_owned), macs, ..Node::default() }
}

fn status(node: Node, code: Code, text: &str) -> Status {
    let moment = Moment { code, name: code.name().into(), text: text.into(), at: 1_790_000_000, uptime_ms: 5 };
    Status {
        code,
        name: code.name().into(),
        text: text.into(),
        since: 1_790_000_000,
        history: vec![moment],
        next_try_uptime_ms: None,
        delivered: std::collections::BTreeMap::default(),
        node,
    }
}

fn snapshot(status: Status) -> Snapshot {
    let settings = Settings { medium: true, write_back: true, report: None };
    Snapshot { number: 1, status: Some(status), settings, closed: false, abandoned: false }
}

fn machine() -> SimulatedHost {
    let host = SimulatedHost::default();
    host.state().stick = Some(Stick::default());
    host.put("/proc/sys/kernel/random/boot_id", "boot-1\n");
    host
}

fn files(host: &SimulatedHost) -> Vec<String> {
    host.state().stick.as_ref().unwrap().files.keys().cloned().collect()
}

#[test]
fn forty_machines_with_one_stick_never_overwrite_each_others_results() {
    let host = machine();
    // Half of them have the serial number that their maker forgot to set; each comes twice.
    for _ in 0..2 {
        for mac in 0..40_u8 {
            let own = format!("SN-{mac}");
            let serial = if mac % 2 == 0 { own.as_str() } else { "Same/Serial" };
            let said = Writer::default().step(&snapshot(status(node(Some(serial), mac), Code::Joined, "x")), &host, 0);
            assert!(matches!(said, Step::Said(_)), "{said:?}");
        }
    }
    let stick = host.state().stick.take().unwrap();
    let results: Vec<Status> = stick
        .files
        .iter()
        .filter(|(_, bytes)| bytes.starts_with(b"{"))
        .map(|(_, bytes)| serde_json::from_slice(bytes).unwrap())
        .collect();
    let names: std::collections::BTreeSet<_> = results.iter().map(|status| status.node.hostname.clone()).collect();
    assert_eq!((results.len(), names.len(), stick.files.len()), (40, 40, 80));
    assert!(stick.files.contains_key("SN-0.json") && stick.files.contains_key("Same_Serial.log"));
    assert!(stick.files.contains_key("525400000003.json"), "{:?}", stick.files.keys());
}

#[test]
fn failures_are_written_too_and_each_state_once() {
    let host = machine();
    let mut writer = Writer::default();
    let failed = snapshot(status(node(None, 1), Code::ConfigInvalid, "node.toml:2:1"));
    assert_eq!(
        writer.step(&failed, &host, 0),
        Step::Said(
            "FB-910 is written to INGOT (/dev/sdb1) as ingot-results/525400000001.json; it may be pulled out".into()
        )
    );
    assert_eq!(writer.step(&failed, &host, 100_000), Step::Idle);
    let other = snapshot(status(node(None, 1), Code::ConfigInvalid, "node.toml:3:1"));
    assert_eq!(writer.step(&other, &host, 100_000), Step::Idle, "the same failure is not written every time");
    assert_eq!(writer.step(&other, &host, 400_000), Step::Idle, "written, and said before");
    assert_eq!(host.state().stick.as_ref().unwrap().written, 4);
    let working = snapshot(status(node(None, 1), Code::Joining, ""));
    assert_eq!(writer.step(&working, &host, 500_000), Step::Idle);
    let waiting = snapshot(status(node(None, 1), Code::WaitingForManager, ""));
    assert_eq!(writer.step(&waiting, &host, 401_000), Step::Idle, "not so soon after the last");
    assert!(matches!(writer.step(&waiting, &host, 500_000), Step::Said(_)));
    let joined = snapshot(status(node(None, 1), Code::Joined, ""));
    assert!(matches!(writer.step(&joined, &host, 500_001), Step::Said(_)), "the goal is written at once");
    assert_eq!(writer.step(&Snapshot { closed: true, ..joined }, &host, 500_002), Step::Over);
    assert_eq!(files(&host), ["525400000001.json", "525400000001.log"]);
}

#[test]
fn a_state_from_before_the_stick_was_read_does_not_delay_its_result() {
    let host = machine();
    let mut writer = Writer::default();
    let waiting = snapshot(status(node(None, 1), Code::WaitingForConfig, ""));
    let before = Snapshot { settings: Settings { medium: false, ..waiting.settings.clone() }, ..waiting.clone() };
    assert_eq!(writer.step(&before, &host, 100_000), Step::Idle);
    // The stick is put in: the node still says what it said before, and reads.
    assert_eq!(writer.step(&waiting, &host, 200_000), Step::Idle);
    let failed = snapshot(status(node(None, 1), Code::ConfigInvalid, "node.toml:2:12"));
    assert!(matches!(writer.step(&failed, &host, 201_000), Step::Said(_)), "the mistake is on it at once");
    // A stick with nothing for this machine says after a moment that the node still waits.
    let mut writer = Writer::default();
    assert_eq!(writer.step(&waiting, &host, 200_000), Step::Idle);
    assert!(matches!(writer.step(&waiting, &host, 205_000), Step::Said(_)));
}

#[test]
fn a_stick_that_cannot_be_written_is_said_once_and_tried_again() {
    for (fault, words) in
        [(Errno::ROFS, "write-protected"), (Errno::NOSPC, "is full"), (Errno::IO, "was it pulled out?")]
    {
        let host = machine();
        host.state().stick.as_mut().unwrap().fault = Some(fault);
        let mut writer = Writer::default();
        let joined = snapshot(status(node(Some("a"), 1), Code::Joined, ""));
        let Step::Said(said) = writer.step(&joined, &host, 0) else { panic!() };
        assert!(said.contains(words), "{said}");
        assert_eq!(writer.step(&joined, &host, 40_000), Step::Idle);
        assert!(files(&host).is_empty());
        host.state().stick.as_mut().unwrap().fault = None;
        assert!(matches!(writer.step(&joined, &host, 80_000), Step::Said(_)));
    }
}

#[test]
fn a_stick_that_is_pulled_out_in_between_is_written_when_it_comes_back() {
    let host = machine();
    host.state().stick.as_mut().unwrap().writes_left = Some(1);
    let mut writer = Writer::default();
    let joined = snapshot(status(node(Some("a"), 1), Code::Joined, ""));
    assert!(matches!(writer.step(&joined, &host, 0), Step::Said(said) if said.contains("pulled out")));
    assert_eq!(files(&host), ["a.log"]);
    let half = host.state().stick.take();
    let closed = Snapshot { closed: true, ..joined };
    assert_eq!(writer.step(&closed, &host, 60_000), Step::Idle, "it is waited for");
    host.state().stick = half.map(|stick| Stick { writes_left: None, ..stick });
    assert!(matches!(writer.step(&closed, &host, 120_000), Step::Said(_)));
    assert_eq!(files(&host), ["a.json", "a.log"]);
    // One that never comes back is not waited for without end.
    let host = machine();
    host.state().stick = None;
    let mut writer = Writer::default();
    assert_eq!(writer.step(&closed, &host, 0), Step::Idle);
    assert_eq!(writer.step(&closed, &host, 600_000), Step::Over);
}

#[test]
fn nothing_is_written_where_it_is_switched_off_or_no_medium_was_read() {
    let host = machine();
    let joined = snapshot(status(node(None, 1), Code::Joined, ""));
    for (medium, write_back) in [(true, false), (false, true)] {
        let settings = Settings { medium, write_back, report: None };
        let snapshot = Snapshot { settings, ..joined.clone() };
        assert_eq!(Writer::default().step(&snapshot, &host, 0), Step::Idle);
        assert_eq!(Writer::default().step(&Snapshot { closed: true, ..snapshot }, &host, 0), Step::Over);
    }
    assert!(files(&host).is_empty());
}

#[test]
fn a_log_keeps_earlier_boots_and_stays_small() {
    let one = merged_log("rubbish", &status(node(None, 1), Code::VarFull, "first"), "one");
    let two = merged_log(&one, &status(node(None, 1), Code::Joined, "second"), "two");
    assert_eq!(
        two,
        "=== boot one ===\n2026-09-21 14:13:20 UTC  ingot: FB-991 var-full: first\n\
         === boot two ===\n2026-09-21 14:13:20 UTC  ingot: FB-500 joined: second\n"
    );
    let again = merged_log(&two, &status(node(None, 1), Code::Joined, "third"), "two");
    assert!(again.contains("first") && again.contains("third") && !again.contains("second"));
    let mut log = String::new();
    for boot in 0..400 {
        log = merged_log(&log, &status(node(None, 1), Code::Joined, &"x".repeat(900)), &boot.to_string());
    }
    assert!(log.len() <= MAXIMUM_LOG_BYTES && log.contains("=== boot 399 ===") && !log.contains("=== boot 0 ==="));
}

proptest::proptest! {
    #[test]
    fn names_are_safe_on_every_filesystem(serial in ".{0,90}") {
        for name in names(&node(Some(&serial), 1)) {
            proptest::prop_assert!(!name.is_empty() && name.len() <= 64 && !name.starts_with('.'));
            proptest::prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)));
        }
    }

    #[test]
    fn any_log_is_merged_without_a_panic(old in "(=== boot |x|\n|=|\u{e4}){0,40}") {
        let merged = merged_log(&old, &status(node(None, 1), Code::Joined, "t"), "b");
        proptest::prop_assert!(merged.ends_with("joined: t\n"));
    }
}
