use super::*;
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

fn show(status: &Status, uptime_ms: u64) -> Vec<String> {
    render(Some(status), &Node::default(), &addresses(), uptime_ms)
}

fn addresses() -> Vec<InterfaceAddress> {
    vec![InterfaceAddress { interface: "enp1s0".into(), address: "10.77.0.11".parse().unwrap() }]
}

#[test]
fn a_person_at_the_rack_reads_what_it_is_and_what_it_waits_for() {
    let status = status(Code::WaitingForManager, "10.77.0.10: connection refused");
    let lines = show(&status, 88_400);
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
        "   14:13:20  FB-941 rendezvous-refused: 10.77.0.10: it does not have the clu...",
        "   14:12:30  FB-920 network-failed: no interface has an address; is a cable in?",
        " Stick       FB-410 is written to INGOT (/dev/sdb1)",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn only_a_countdown_changes_it() {
    let mut status = status(Code::WaitingForManager, "x");
    assert_eq!(show(&status, 88_400), show(&status, 88_900));
    assert_ne!(show(&status, 88_400), show(&status, 89_400));
    assert!(show(&status, 100_001).contains(&" Next try    now".to_owned()));
    status.next_try_uptime_ms = None;
    assert_eq!(show(&status, 1), show(&status, 59_999));
}

#[test]
fn since_when_is_a_time_and_how_long_ago() {
    let mut status = status(Code::WaitingForManager, "x");
    let again =
        |at| Moment { code: Code::WaitingForManager, name: String::new(), text: String::new(), at, uptime_ms: at };
    status.history.extend([again(60_000), again(90_000)]);
    let since = |uptime| {
        let lines = show(&status, uptime);
        lines.iter().find_map(|line| line.strip_prefix(" Since       2026-09-21 14:13:20 UTC")).unwrap().to_owned()
    };
    assert_eq!(since(119_000), "");
    assert_eq!(since(120_000), ", 1 min ago", "the text changed meanwhile, the state did not");
    assert_eq!(since(60_000 + 119 * 60_000), ", 119 min ago");
    assert_eq!(since(60_000 + 150 * 60_000), ", 2 h ago");
}

#[test]
fn before_anything_was_said_the_machine_is_known_and_what_it_looks_for() {
    let node = status(Code::Joined, "").node;
    let lines = render(None, &node, &[], 0);
    assert_eq!(lines[3], " Serial      SN-17");
    assert!(lines.contains(&" WORKING: looking for the configuration".to_owned()), "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with(" To do       plug in")), "{lines:#?}");
}

#[test]
fn the_images_identity_does_not_run_into_its_version() {
    let mut status = status(Code::Joined, "");
    let first = |status: &Status| show(status, 1).remove(0);
    status.node.version = "20261120-5ac97e89".into();
    assert_eq!(first(&status), format!(" Ingot  quickstart/worker 20261120-5ac97e89{:>35}", "0f3c9a6e-1111-5222"));
    status.node.role = "a-site/a-role-with-a-name-that-is-long".into();
    assert!(first(&status).ends_with("-5ac97e89      0f3c9a6e"), "{}", first(&status));
    status.node.role = "a-site/a-role-with-a-name-that-is-very-much-too-long".into();
    assert!(first(&status).ends_with("-5ac97e89"), "{}", first(&status));
}

#[test]
fn a_failure_is_not_shown_twice_and_the_stick_may_be_pulled_out_is_not_cut_off() {
    let text = "INGOT:node.toml:2:12: hostname: \"rack_7\": '_' is not allowed";
    let mut status = status(Code::ConfigInvalid, text);
    let moment = Moment { code: status.code, name: status.name.clone(), text: text.into(), at: 0, uptime_ms: 0 };
    status.history = vec![moment];
    let said = "FB-910 is written to INGOT (/dev/sda) as ingot-results/a-serial-number.json; it may be pulled out";
    status.delivered.insert("stick".into(), said.into());
    let lines = show(&status, 1);
    assert!(!lines.contains(&" Last failures".to_owned()), "{lines:#?}");
    assert!(lines.last().unwrap().ends_with("it may be pulled out"), "{lines:#?}");
}

#[test]
fn a_frame_is_drawn_over_what_is_there_and_the_state_has_a_colour() {
    let start = "\x1b[m\x1b[9;0]\x1b[?25l\x1b[H";
    let drawn = frame(&["a".into(), " FAILED: FB-910 x".into()]);
    let expected = format!("{start}a\x1b[K\r\n\x1b[1;37;41m FAILED: FB-910 x\x1b[m\x1b[K\r\n\x1b[J");
    assert_eq!(String::from_utf8(drawn).unwrap(), expected);
    for code in Code::ALL {
        let lines = show(&status(*code, "x"), 1);
        let coloured = String::from_utf8(frame(&lines)).unwrap().matches("\x1b[m\x1b[K").count();
        assert_eq!(coloured, 1, "{code}: one line has a colour");
    }
}

#[test]
fn what_the_kernel_writes_over_it_is_wiped() {
    let drawn = (vec!["a".to_owned()], 1_000);
    assert!(!is_due(&drawn, &["a".to_owned()], 10_999));
    assert!(is_due(&drawn, &["a".to_owned()], 11_000));
    assert!(is_due(&drawn, &["b".to_owned()], 1_001));
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
        let lines = render(Some(&status), &Node::default(), &many, 5);
        proptest::prop_assert!(lines.len() <= 24, "{}", lines.len());
        for line in &lines {
            proptest::prop_assert!(line.len() <= 79 && line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{}", line);
        }
        let stick = lines.iter().any(|line| line.starts_with(" Stick"));
        proptest::prop_assert!(stick, "what the person waits for is never cut off");
    }
}
