//! Kill tests: the service is killed, or the machine loses its power, before, inside and after every step. Whatever
//! was not flushed is then lost, torn or reordered (see `host::simulated::power`). It always ends joined, exactly
//! once, with nothing half written.

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::*;
use crate::journal::Journal;

/// How the service ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The process dies; the machine runs on.
    Killed,
    /// The machine loses its power.
    PowerCut,
}

impl End {
    fn come_back(self, host: &SimulatedHost) {
        match self {
            End::Killed => host.restart(),
            End::PowerCut => host.reboot(),
        }
    }
}

/// Where the service was: the journal's last word and the action.
fn place(host: &SimulatedHost) -> (String, String) {
    let journal = host.text(JOURNAL);
    let last = journal.lines().rev().find_map(|line| {
        let record: serde_json::Value = serde_json::from_str(line.split_once(' ')?.1).ok()?;
        let step = record["step"].as_str().unwrap_or("join");
        Some(match record["event"].as_str()? {
            "begin" => format!("inside {step}"),
            "done" => format!("after {step}"),
            _ => "after the join".to_owned(),
        })
    });
    (last.unwrap_or_else(|| "before the first step".to_owned()), host.state().power.doing.clone())
}

/// Everything that must be true of a node that has arrived.
fn check_arrived(host: &SimulatedHost, heard: &Heard, reference: &SimulatedHost, what: &str) {
    assert_eq!(heard.codes().last(), Some(&500), "{what}");
    let (got, wanted) = (outcome(host), outcome(reference));
    assert_eq!(got.files.keys().collect::<Vec<_>>(), wanted.files.keys().collect::<Vec<_>>(), "{what}");
    assert!(got == wanted, "{what}: a file, an image or the membership differs");
    let disk = host.disk();
    assert_eq!((disk.founded + disk.joined, disk.left), (1, 0), "{what}: joined exactly once");
    let journal = Journal::open(host).unwrap();
    assert_eq!(journal.cut_off, 0, "{what}: the journal is whole");
    assert_eq!(journal.joined(), Some(("docker-swarm", "node1")), "{what}");
    assert_eq!(host.text(JOURNAL).matches("\"event\":\"joined\"").count(), 1, "{what}: sealed exactly once");
    let points = host.points();
    run(host, vec![Found::default()]);
    assert!(host.points() - points <= 3, "{what}: another start does nothing but start the engine");
}

fn reference(role: &str) -> SimulatedHost {
    let host = machine();
    run(&host, vec![stick(role)]);
    host
}

/// What is plugged in after the cut: where the content was read already, the stick may be gone.
fn media_after(host: &SimulatedHost, seed: u64) -> Vec<Found> {
    vec![if host.exists(obtain::KEPT) && seed.is_multiple_of(2) { Found::default() } else { stick_of(host) }]
}

fn stick_of(host: &SimulatedHost) -> Found {
    stick(if host.state().rendezvous.is_empty() { "manager" } else { "worker" })
}

fn machine_for(role: &str) -> SimulatedHost {
    let host = machine();
    if role == "manager" {
        host.state().rendezvous.clear();
    }
    host
}

#[test]
fn cut_at_every_point_with_many_draws_of_what_is_lost() {
    let mut by_step: BTreeMap<String, usize> = BTreeMap::new();
    let mut by_action: BTreeMap<String, usize> = BTreeMap::new();
    let mut all = 0;
    for role in ["manager", "worker"] {
        let reference = reference(role);
        for (end, seeds) in [(End::PowerCut, 0..4), (End::Killed, 0..1)] {
            for seed in seeds {
                for point in 0.. {
                    let host = machine_for(role);
                    {
                        let mut state = host.state();
                        state.plug = Some(point);
                        state.power.seed = point * 1000 + seed;
                    }
                    if !killed(&host, vec![stick(role)]) {
                        break;
                    }
                    let (step, action) = place(&host);
                    end.come_back(&host);
                    let heard = run(&host, media_after(&host, seed));
                    let what = format!("{role}, point {point} ({step}: {action}), {end:?}, seed {seed}");
                    check_arrived(&host, &heard, &reference, &what);
                    *by_step.entry(step).or_default() += 1;
                    *by_action.entry(format!("{end:?} before {}", action.split(' ').next().unwrap())).or_default() += 1;
                    all += 1;
                }
            }
        }
    }
    println!("{all} points at which the service was cut off; each time the node ended joined exactly once:");
    for (what, count) in by_step.iter().chain(&by_action) {
        println!("{count:6}  {what}");
    }
    assert!(all >= 300, "only {all} points");
    for step in ["hostname", "timezone", "ssh-keys", "network", "ntp", "load-images"] {
        assert!(by_step.contains_key(&format!("inside {step}")) || step == "ssh-keys", "no point inside {step}");
        assert!(by_step.contains_key(&format!("after {step}")), "no point after {step}");
    }
}

proptest::proptest! {
    #[test]
    fn cut_again_and_again_in_both_ways(
        cuts in proptest::collection::vec((0_u64..140, 0_u64.., proptest::bool::ANY), 1..12),
        worker: bool,
    ) {
        let role = if worker { "worker" } else { "manager" };
        let reference = reference(role);
        let host = machine_for(role);
        for (point, seed, power) in cuts {
            {
                let mut state = host.state();
                state.plug = Some(state.points + point);
                state.power.seed = seed;
            }
            killed(&host, media_after(&host, seed));
            if power { End::PowerCut } else { End::Killed }.come_back(&host);
        }
        let heard = run(&host, media_after(&host, 1));
        check_arrived(&host, &heard, &reference, role);
    }
}

#[test]
fn a_full_or_read_only_var_has_its_own_code_and_the_node_goes_on_when_it_can_be_written() {
    for (errno, code) in [(Errno::NOSPC, Code::VarFull), (Errno::ROFS, Code::VarReadOnly)] {
        let reference = reference("worker");
        let operations = reference.state().power.operations;
        let mut refused = 0;
        for from in 0..operations {
            let host = machine_for("worker");
            host.state().power.seed = from;
            host.refuse(errno, from, Duration::from_mins(5));
            let heard = run(&host, vec![stick("worker")]);
            let what = format!("{errno:?} from operation {from}");
            if host.slept() > reference.slept() + Duration::from_mins(1) {
                assert!(heard.codes().contains(&code.number()), "{what}: {:?}", heard.codes());
                assert!(heard.text(code).contains("/var/") || heard.text(code).contains("/etc/"), "{what}");
                refused += 1;
            }
            check_arrived(&host, &heard, &reference, &what);
        }
        println!("{errno:?} from each of {operations} operations on: reported {refused} times, always recovered");
        assert!(refused * 2 > operations, "{errno:?}: only {refused} of {operations}");
    }
}

#[test]
fn a_member_stays_one_on_a_read_only_disk() {
    const LEFT: &str = "/var/lib/ingot/.config.json.ingot-new";
    let host = reference("worker");
    host.reboot();
    host.refuse(Errno::ROFS, 0, Duration::MAX);
    assert_eq!(run(&host, vec![Found::default()]).codes().last(), Some(&500));
    // What a power cut left of a configuration that was being kept does not hold it up either, and is said.
    host.put(LEFT, "{");
    let heard = run(&host, vec![Found::default()]);
    assert_eq!(heard.codes().last(), Some(&500));
    assert!(heard.text(Code::VarReadOnly).contains(".config.json.ingot-new"), "{:?}", heard.codes());
    host.state().power.fault = None;
    assert_eq!(run(&host, vec![Found::default()]).text(Code::VarReadOnly), "");
    assert!(!host.exists(LEFT));
}

#[test]
fn a_full_var_that_loses_its_power_recovers_too() {
    let reference = reference("worker");
    // The last two operations take no space: the last record and its flush.
    let operations = reference.state().power.operations;
    for from in 0..operations - 2 {
        let host = machine_for("worker");
        {
            let mut state = host.state();
            state.power.seed = from;
            state.plug = Some(from * 2 + 20);
        }
        host.refuse(Errno::NOSPC, from, Duration::MAX);
        assert!(killed(&host, vec![stick("worker")]), "nobody arrives on a full disk: operation {from}");
        host.reboot();
        host.state().power.fault = None;
        let heard = run(&host, vec![stick("worker")]);
        check_arrived(&host, &heard, &reference, &format!("operation {from}"));
    }
}

#[test]
fn a_damaged_journal_costs_only_repetition() {
    let reference = reference("worker");
    let whole = host_bytes(&reference, JOURNAL);
    let mut damaged: Vec<(String, Vec<u8>)> = Vec::new();
    for length in 0..whole.len() {
        damaged.push((format!("cut at {length}"), whole[..length].to_vec()));
    }
    for position in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[position] ^= 1 << (position % 8);
        damaged.push((format!("bit flipped at {position}"), bytes));
    }
    for tail in [1, 50, 200, whole.len()] {
        let mut bytes = whole.clone();
        bytes.extend_from_slice(&whole[whole.len() - tail..]);
        damaged.push((format!("the last {tail} bytes twice"), bytes));
    }
    damaged.push(("zeros at the end".into(), [&whole[..], &[0; 4096]].concat()));
    for (what, bytes) in damaged {
        let host = machine_for("worker");
        host.state().disk = reference.disk();
        host.state().disk.files.insert(JOURNAL.into(), (bytes, 0o600));
        host.reboot();
        let heard = run(&host, vec![Found::default()]);
        check_arrived(&host, &heard, &reference, &what);
    }
}

fn host_bytes(host: &SimulatedHost, path: &str) -> Vec<u8> {
    host.state().disk.files[path].0.clone()
}
