use super::*;

fn with_power(role: &str, more: &str) -> Vec<Found> {
    let text = String::from_utf8(stick(role).documents[0].bytes.clone()).unwrap();
    vec![medium(&format!("{text}[power]\n{more}\n"))]
}

const REBOOT: &str = "sleep 300\nexec systemctl reboot\n";

#[test]
fn it_happens_once_after_the_join() {
    let host = machine();
    let media = with_power("worker", "mode = \"reboot\"\ndelay = 5");
    assert_eq!(run(&host, media.clone()).codes().last(), Some(&500));
    assert_eq!(host.disk().scripts, [REBOOT]);
    assert!(host.state().commands.last().unwrap().starts_with("systemd-run --collect --quiet --unit=ingot-power sh"));
    for _ in 0..2 {
        host.reboot();
        run(&host, media.clone());
        assert_eq!(host.disk().scripts, [REBOOT], "a machine never starts again and again");
    }
    // Without a delay the results still have time to be delivered; a role that joins nothing has a goal too.
    let host = machine();
    run(&host, vec![medium("version = 1\n[power]\nmode = \"poweroff\"\n")]);
    assert_eq!(host.disk().scripts, ["sleep 30\nexec systemctl poweroff\n"]);
    let host = machine();
    run(&host, vec![stick("worker")]);
    assert!(host.disk().scripts.is_empty());
}

#[test]
fn it_does_not_happen_before_the_goal_and_a_failure_is_tried_again() {
    let host = machine();
    host.state().failing = vec!["systemd-run"];
    let media = with_power("worker", "mode = \"reboot\"\ndelay = 5");
    assert!(catch_unwind(AssertUnwindSafe(|| run(&host, media.clone()))).is_err(), "it tries for ever");
    host.state().failing.clear();
    host.state().slept = Duration::ZERO;
    host.state().disk.scripts.clear();
    assert_eq!(run(&host, media).codes().last(), Some(&500));
    assert_eq!(host.disk().scripts, [REBOOT]);
}

#[test]
fn the_plug_is_pulled_at_every_point_and_it_never_happens_in_every_boot() {
    let media = with_power("worker", "mode = \"reboot\"\ndelay = 5");
    for point in 0.. {
        let host = machine();
        host.state().plug = Some(point);
        let cut = killed(&host, media.clone());
        host.reboot();
        run(&host, media.clone());
        let times = host.disk().scripts.len();
        // Where it was begun and not recorded, the unit that was waiting went with the power, and another one waits now.
        assert!((1..=2).contains(&times), "point {point}: {times}");
        host.reboot();
        run(&host, media.clone());
        assert_eq!(host.disk().scripts.len(), times, "point {point}");
        if !cut {
            break;
        }
    }
}
