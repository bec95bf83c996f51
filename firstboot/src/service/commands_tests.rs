use super::*;

const ROLE: &str = "[run]\nallow_commands = true\n";

fn allowing() -> SimulatedHost {
    let host = machine();
    host.put("/usr/lib/ingot/role.toml", ROLE);
    host
}

fn with_commands(more: &str) -> Vec<Found> {
    let text = String::from_utf8(stick("worker").documents[0].bytes.clone()).unwrap();
    vec![medium(&format!("{text}[run]\n{more}\n"))]
}

fn scripts(host: &SimulatedHost) -> Vec<String> {
    host.disk().scripts
}

fn said(heard: &Heard) -> Vec<String> {
    let all = heard.0.lock().unwrap();
    all.iter().filter(|(code, _)| *code == Code::CommandFailed).map(|(_, text)| text.clone()).collect()
}

const BOTH: &str = "first = [\"echo hunter2\", [\"b\", \"c d\"]]\nboot = [\"at boot\"]";

#[test]
fn commands_run_before_the_join_and_those_of_first_never_again() {
    let host = allowing();
    let heard = run(&host, with_commands(BOTH));
    assert_eq!(heard.codes().last(), Some(&500));
    assert_eq!(scripts(&host), ["at boot\n", "echo hunter2\n", "exec 'b' 'c d'\n"]);
    let all = format!("{:?} {:?}", heard.0.lock().unwrap(), host.state().commands);
    assert!(!all.contains("hunter2"), "scripts are neither arguments nor in the status: {all}");
    assert!(heard.text(Code::Applying).contains("run: 1 commands at each start, 2 once before the join"));
    host.reboot();
    run(&host, vec![Found::default()]);
    assert_eq!(scripts(&host)[3..], ["at boot\n"]);
    assert!(host.state().run_files.keys().all(|path| !path.contains("ingot-run")), "no script stays");
}

#[test]
fn a_command_that_ran_is_known_by_what_it_says_and_not_by_its_place() {
    let host = allowing();
    let journal = |host: &SimulatedHost, list: &[&str]| {
        let commands = list.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", ");
        let found = with_commands(&format!("first = [{commands}]"));
        let config = crate::config::load(
            &[
                Document { name: "r".into(), format: Format::RoleToml, bytes: ROLE.into() },
                found[0].documents[0].clone(),
            ],
            &host.machine(),
        );
        let heard = Heard::default();
        let media = Media(Mutex::new(Vec::new()));
        let service = Service::new(host, &heard, &media);
        assert!(service.run_first(&config.unwrap().config.run, &mut Journal::open(host).unwrap()).is_ok());
        scripts(host)
    };
    assert_eq!(journal(&host, &["a", "b", "a"]), ["a\n", "b\n", "a\n"], "one that stands there twice is meant twice");
    assert_eq!(journal(&host, &["new", "a", "b", "a"])[3..], ["new\n"]);
    assert_eq!(journal(&host, &["b", "a"]).len(), 4);
    assert_eq!(journal(&host, &["a", "a", "a"])[4..], ["a\n"]);
    let inputs = Inputs::of([b"old".as_slice()]);
    Journal::open(&host).unwrap().record(Event::Done { step: "run.first[7]".into(), inputs }).unwrap();
    assert_eq!(journal(&host, &["old"]).len(), 5);
}

#[test]
fn a_role_that_allows_nothing_runs_nothing() {
    let host = machine();
    let mut media = with_commands(BOTH);
    media.push(stick("worker"));
    let heard = run(&host, media);
    assert!(heard.text(Code::ConfigInvalid).contains("run.first: this role runs no commands"));
    assert_eq!(scripts(&host), [""; 0]);
    assert_eq!(heard.codes().last(), Some(&500));
}

#[test]
fn a_command_that_fails_is_said_and_the_node_goes_on() {
    let host = allowing();
    host.state().failing = vec!["systemd-run"];
    let heard = run(&host, with_commands(BOTH));
    assert_eq!(heard.codes().last(), Some(&500));
    let texts = said(&heard);
    assert_eq!(texts.len(), 3);
    assert!(
        texts[1].contains("run.first[0] failed (exit status 1); see `journalctl -u ingot-run-first-0`"),
        "{texts:?}"
    );
    assert_eq!(scripts(&host).len(), 3, "each was begun once");
}

#[test]
fn one_that_may_be_repeated_is_run_until_it_succeeds() {
    let host = allowing();
    host.state().failing = vec!["systemd-run"];
    let repeat = with_commands("first = [\"a\"]\nrepeat = true");
    let result = catch_unwind(AssertUnwindSafe(|| run(&host, repeat.clone())));
    assert!(result.is_err(), "it tries for ever");
    assert_eq!(host.disk().joined, 0, "and does not join before");
    assert!(scripts(&host).len() > 10);
    host.state().failing.clear();
    host.state().slept = Duration::ZERO;
    assert_eq!(run(&host, repeat).codes().last(), Some(&500));
}

#[test]
fn the_plug_is_pulled_at_every_point_and_no_command_is_begun_twice() {
    let text = "first = [\"a\", \"b\"]";
    let mut cut = 0;
    let mut point = 0;
    loop {
        let host = allowing();
        host.state().plug = Some(point);
        if !killed(&host, with_commands(text)) {
            break;
        }
        host.reboot();
        let heard = run(&host, with_commands(text));
        assert_eq!(heard.codes().last(), Some(&500), "point {point}");
        let ran = scripts(&host);
        let texts = said(&heard);
        cut += texts.len();
        for name in ["a\n", "b\n"] {
            let times = ran.iter().filter(|script| *script == name).count();
            // Only the power can have kept it from running, and then the node says so.
            assert!(times == 1 || times == 0 && texts.len() == 1, "point {point}: {ran:?} {texts:?}");
        }
        assert!(texts.iter().all(|text| text.contains("was running when the power failed")), "{texts:?}");
        point += 1;
    }
    assert!(cut >= 4, "some points lie within a command");
}

#[test]
fn one_that_may_be_repeated_has_run_whole_wherever_the_plug_is_pulled() {
    let text = "first = [\"a\"]\nrepeat = true";
    for point in 0.. {
        let host = allowing();
        host.state().plug = Some(point);
        if !killed(&host, with_commands(text)) {
            break;
        }
        host.reboot();
        let heard = run(&host, with_commands(text));
        assert_eq!((heard.codes().last(), said(&heard).len()), (Some(&500), 0), "point {point}");
        assert!(!scripts(&host).is_empty(), "point {point}");
    }
}
