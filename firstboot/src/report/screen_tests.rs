use super::*;
use crate::report::{Moment, Node};
use crate::status::Code;

fn status(code: Code, text: &str) -> Status {
    let moment =
        |code: Code, text: &str, at| Moment { code, name: code.name().into(), text: text.into(), at, uptime_ms: 1 };
    Status {
        code,
        name: code.name().into(),
        text: text.into(),
        since: 1_790_000_000,
        history: vec![
            moment(Code::ConfigFound, "INGOT", 1_789_999_900),
            moment(Code::NetworkFailed, "no interface has an address; is a cable in?", 1_789_999_950),
            moment(Code::RendezvousRefused, "10.77.0.10: it does not have the cluster secret", 1_790_000_000),
        ],
        next_try_uptime_ms: Some(100_000),
        delivered: [("stick".to_owned(), "FB-410 is written to INGOT (/dev/sdb1)".to_owned())].into(),
        node: Node {
            hostname: "w1".into(),
            role: "quickstart/worker".into(),
            version: "1.2".into(),
            image: "0f3c9a6e-1111-5222-8333-444444444444".into(),
            macs: vec!["52:54:00:12:34:10".into()],
            serial: Some("SN-17".into()),
            uuid: None,
        },
    }
}

fn addresses() -> Vec<InterfaceAddress> {
    vec![InterfaceAddress { interface: "enp1s0".into(), address: "10.77.0.11".parse().unwrap() }]
}

#[test]
fn a_person_at_the_rack_reads_what_it_is_and_what_it_waits_for() {
    let status = status(Code::WaitingForManager, "10.77.0.10: connection refused");
    let lines = render(Some(&status), &addresses(), 88_400);
    let rule = "-".repeat(79);
    let expected = [
        " Ingot  quickstart/worker 1.2             0f3c9a6e-1111-5222-8333-444444444444",
        &rule,
        " Host name   w1",
        " Serial      SN-17",
        " MAC         52:54:00:12:34:10",
        " Addresses   enp1s0 10.77.0.11",
        &rule,
        " WAITING: FB-410 waiting-for-manager",
        " no manager answers yet, or it has not founded the cluster yet",
        "   10.77.0.10: connection refused",
        " Since       2026-09-21 14:13:20 UTC",
        " Next try    in 12 s",
        " To do       start the manager; check the addresses under join.managers and",
        "             that TCP port 7390 reaches it",
        &rule,
        " Last failures",
        "   14:13:20  FB-941 rendezvous-refused: 10.77.0.10: it does not have the cluste",
        "   14:12:30  FB-920 network-failed: no interface has an address; is a cable in?",
        " Stick       FB-410 is written to INGOT (/dev/sdb1)",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn only_a_countdown_changes_it() {
    let mut status = status(Code::WaitingForManager, "x");
    let at = |status: &Status, uptime| render(Some(status), &addresses(), uptime);
    assert_eq!(at(&status, 88_400), at(&status, 88_900));
    assert_ne!(at(&status, 88_400), at(&status, 89_400));
    assert!(at(&status, 100_001).contains(&" Next try    now".to_owned()));
    status.next_try_uptime_ms = None;
    assert_eq!(at(&status, 1), at(&status, 999_999));
}

#[test]
fn before_anything_was_said() {
    assert!(render(None, &[], 0).iter().any(|line| line.contains("Starting")));
}

#[test]
fn a_frame_is_drawn_over_what_is_there() {
    assert_eq!(frame(&["a".into(), "b".into()]), b"\x1b[?25l\x1b[Ha\x1b[K\r\nb\x1b[K\r\n\x1b[J");
}

proptest::proptest! {
    #[test]
    fn it_always_fits_and_nothing_moves_the_cursor(
        text in ".{0,600}", name in ".{0,200}", code in 0..Code::ALL.len(), failures in 0_usize..40, cards in 0_usize..30,
    ) {
        let mut status = status(Code::ALL[code], &text);
        status.node.hostname = name.clone();
        status.node.macs = vec![name.clone(); cards];
        status.delivered.insert("report".into(), text.clone());
        status.history = vec![status.history[1].clone(); failures];
        let many = vec![InterfaceAddress { interface: name, address: "fd00::1".parse().unwrap() }; cards];
        let lines = render(Some(&status), &many, 5);
        proptest::prop_assert!(lines.len() <= 24, "{}", lines.len());
        for line in &lines {
            proptest::prop_assert!(line.len() <= 79 && line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{}", line);
        }
        let stick = lines.iter().any(|line| line.starts_with(" Stick"));
        proptest::prop_assert!(stick, "what the person waits for is never cut off");
    }
}
