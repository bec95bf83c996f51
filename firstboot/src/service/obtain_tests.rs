//! Sources that are named and do not answer.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::super::tests::{SECRET, machine, medium, run};
use crate::provider::Found;
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
