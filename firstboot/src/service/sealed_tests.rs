//! What a sealed node takes from a medium, and a node that asks for signatures from its first boot on.

use std::sync::Mutex;

use super::super::tests::{Heard, Media, SECRET, machine, medium, run};
use super::*;
use crate::host::simulated::SimulatedHost;
use crate::provider::Found;
use crate::provider::test_keys::TestKey;

fn config(name: &str, more: &str) -> Found {
    medium(&format!(
        "version = 1\nhostname = \"{name}\"\n{more}\n[join]\ndriver = \"docker-swarm\"\nrole = \"worker\"\n\
         managers = [\"10.77.0.10\"]\nsecret = \"{SECRET}\"\n"
    ))
}

/// Without holding the machine's lock while others are asked.
fn name(host: &SimulatedHost) -> String {
    host.state().hostname.clone()
}

fn seal(key: &TestKey, more: &str) -> String {
    format!("[seal]\nsite_keys = [\"{}\"]\n{more}", key.public())
}

#[test]
fn a_sealed_node_takes_what_is_signed_and_newer_and_nothing_else() {
    let (key, other) = (TestKey::new(), TestKey::new());
    let host = machine();
    run(&host, vec![key.sign_all(config("n1", &seal(&key, "")), 100)]);
    assert_eq!(name(&host), "n1");
    let boot = |found: Found| {
        host.reboot();
        let heard = run(&host, vec![found]);
        assert_eq!(heard.codes().last(), Some(&500));
        (name(&host), heard.text(Code::MediumIgnored), heard.text(Code::ConfigReplaced))
    };
    let next = config("n2", &seal(&key, ""));
    for (found, why) in [
        (next.clone(), "is not signed"),
        (other.sign_all(next.clone(), 200), "not signed by a site key"),
        (key.sign_all(next.clone(), 99), "sign it anew"),
        (key.sign_all(next.clone(), 100), "sign it anew"),
    ] {
        let (hostname, ignored, replaced) = boot(found);
        assert_eq!((hostname.as_str(), replaced.as_str()), ("n1", ""), "{why}");
        assert!(ignored.contains(why) && ignored.contains("INGOT (/dev/sdb1)"), "{ignored}");
    }
    let (hostname, ignored, replaced) = boot(key.sign_all(next.clone(), 200));
    assert_eq!((hostname.as_str(), ignored.as_str(), replaced.as_str()), ("n2", "", "INGOT (/dev/sdb1)"));
    // The stick stays plugged in: that is nothing to talk about. An older one is not taken back.
    assert_eq!(boot(key.sign_all(next, 200)), ("n2".into(), String::new(), String::new()));
    let (hostname, ignored, _) = boot(key.sign_all(config("n3", &seal(&key, "")), 150));
    assert!(hostname == "n2" && ignored.contains("not after the 200"), "{ignored}");
    // The keys are those of what the node has now.
    boot(key.sign_all(config("n4", &seal(&other, "")), 300));
    assert_eq!(boot(key.sign_all(config("n5", ""), 400)).0, "n4");
    assert_eq!(boot(other.sign_all(config("n5", ""), 400)).0, "n5");
    assert!(boot(other.sign_all(config("n6", ""), 500)).1.contains("no seal.site_keys"));
    let disk = host.disk();
    assert_eq!((disk.joined, disk.left), (1, 0));
}

#[test]
fn a_signed_mistake_changes_nothing_and_is_named() {
    let key = TestKey::new();
    let host = machine();
    run(&host, vec![config("n1", &seal(&key, ""))]);
    host.reboot();
    let heard = run(&host, vec![key.sign_all(medium("version = 1\nhostnme = \"x\"\n"), 200)]);
    assert!(heard.text(Code::ConfigInvalid).contains("did you mean \"hostname\"?"));
    assert_eq!((heard.codes().last(), name(&host).as_str()), (Some(&500), "n1"));
}

#[test]
fn a_medium_is_named_once() {
    let host = machine();
    run(&host, vec![config("n1", "")]);
    let (heard, sources) = (Heard::default(), Media(Mutex::new(vec![config("n2", "")])));
    let mut service = Service::new(&host, &heard, &sources);
    for _ in 0..3 {
        assert!(!look_at_plugged_medium(&mut service, &host).unwrap());
    }
    assert_eq!(heard.codes(), [121]);
}

#[test]
fn a_medium_that_is_plugged_in_later_is_taken_where_it_is_signed() {
    let key = TestKey::new();
    let host = machine();
    let look = |found: Found| {
        let (heard, sources) = (Heard::default(), Media(Mutex::new(vec![found])));
        look_at_plugged_medium(&mut Service::new(&host, &heard, &sources), &host).unwrap()
    };
    let next = key.sign_all(config("n2", &seal(&key, "")), 200);
    assert!(!look(next.clone()) && !host.exists(KEPT), "the service has not joined yet");
    run(&host, vec![config("n1", &seal(&key, ""))]);
    assert!(look(next.clone()));
    assert!(!look(next), "the second event of one medium");
    run(&host, vec![Found::default()]);
    assert_eq!(name(&host), "n2");
}

#[test]
fn a_role_can_ask_for_signatures_from_the_first_boot_on() {
    let (key, other) = (TestKey::new(), TestKey::new());
    let host = machine();
    host.put("/usr/lib/ingot/role.toml", &seal(&key, "require_signed = true\n"));
    // What is not signed cannot change that either.
    let unsigned = config("evil", &format!("{}require_signed = false\n", seal(&other, "")));
    let media =
        vec![unsigned.clone(), unsigned.clone(), other.sign_all(unsigned, 50), key.sign_all(config("n1", ""), 100)];
    let heard = run(&host, media);
    assert_eq!(heard.codes()[..3], [912, 912, 100], "each state of the medium is named once");
    assert_eq!((name(&host).as_str(), heard.codes().last()), ("n1", Some(&500)));
    // A role without keys, or whose seal is wrong, takes nothing at all.
    for role in ["[seal]\nrequire_signed = true\n", "[seal]\nrequire_signed = 1\n"] {
        let host = machine();
        host.put("/usr/lib/ingot/role.toml", &format!("{role}[join]\ndriver = \"docker-swarm\"\n"));
        host.state().slept = std::time::Duration::from_hours(22);
        let found = vec![key.sign_all(config("n1", ""), 100)];
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&host, found)));
        assert!(result.is_err() && name(&host).is_empty(), "it waits for ever: {role}");
    }
}

#[test]
fn an_interrupted_signed_boot_goes_on_with_the_same_stick() {
    let key = TestKey::new();
    let host = machine();
    host.put("/usr/lib/ingot/role.toml", &seal(&key, "require_signed = true\n"));
    let stick = key.sign_all(config("n1", ""), 100);
    host.state().plug = Some(12);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&host, vec![stick.clone()])));
    assert!(result.is_err() && host.disk().files.contains_key(KEPT));
    host.reboot();
    assert_eq!(run(&host, vec![stick]).codes().last(), Some(&500));
    assert_eq!(name(&host), "n1");
}

#[test]
fn usb_storage_is_blocked_once_the_node_has_joined_and_let_be_when_asked() {
    let key = TestKey::new();
    let host = machine();
    host.state().join_leads_to = Some("pending");
    host.state().slept = std::time::Duration::from_hours(22);
    let stick = config("n1", &seal(&key, "block_usb = true\n"));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&host, vec![stick.clone()])));
    assert!(result.is_err() && !host.exists(USB_BLOCK), "not before it has joined");
    host.state().slept = std::time::Duration::ZERO;
    host.state().disk.swarm = "active".into();
    run(&host, vec![stick]);
    assert!(host.text(USB_BLOCK).contains("install usb-storage /bin/false\ninstall uas /bin/false\n"));
    assert!(host.state().commands.iter().any(|command| command == "modprobe --remove --quiet uas usb_storage"));
    host.reboot();
    run(&host, vec![key.sign_all(config("n1", &seal(&key, "")), 200)]);
    assert!(!host.exists(USB_BLOCK));
}

#[test]
fn root_can_lift_the_seal_for_one_look() {
    let host = machine();
    run(&host, vec![config("n1", "[seal]\nblock_usb = true")]);
    let heard = Heard::default();
    unseal(&host, &heard, false).unwrap();
    assert!(!host.exists(USB_BLOCK));
    // Nothing is plugged in: the node is sealed again with what it has.
    run(&host, vec![Found::default()]);
    assert_eq!((name(&host).as_str(), host.disk().joined), ("n1", 1));
    assert!(Journal::says_sealed(&host).unwrap() && host.exists(USB_BLOCK));
    unseal(&host, &heard, false).unwrap();
    run(&host, vec![config("n2", "")]);
    assert_eq!((name(&host).as_str(), host.disk().joined, host.disk().left), ("n2", 1, 0));
    assert!(Journal::says_sealed(&host).unwrap());
    // Forgetting makes it wait for a new configuration.
    unseal(&host, &heard, true).unwrap();
    assert!(!host.exists(KEPT) && !host.exists("/var/lib/ingot/configured"));
    let heard = run(&host, [vec![Found::default(); 70], vec![config("n3", "")]].concat());
    assert_eq!(heard.codes()[0], 110);
    assert_eq!((name(&host).as_str(), host.disk().joined), ("n3", 1));
}

#[test]
fn the_plug_is_pulled_while_a_signed_configuration_is_taken() {
    let key = TestKey::new();
    let next = key.sign_all(config("n2", &seal(&key, "block_usb = true\n")), 200);
    let sealed = |host: &SimulatedHost| {
        run(host, vec![config("n1", &seal(&key, ""))]);
        host.reboot();
    };
    let reference = machine();
    sealed(&reference);
    run(&reference, vec![next.clone()]);
    let mut point = 0;
    loop {
        let host = machine();
        sealed(&host);
        let now = host.points();
        host.state().plug = Some(now + point);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&host, vec![next.clone()])));
        if result.is_ok() {
            break;
        }
        host.reboot();
        run(&host, vec![next.clone()]);
        assert_eq!(name(&host), "n2", "point {point}");
        assert_eq!(host.text(KEPT), reference.text(KEPT), "point {point}");
        assert_eq!(host.text(USB_BLOCK), reference.text(USB_BLOCK), "point {point}");
        assert_eq!((host.disk().joined, host.disk().left), (1, 0), "point {point}");
        point += 1;
    }
    assert!(point > 20, "only {point} points");
}

#[test]
fn a_node_that_has_left_is_not_sealed_but_takes_nothing_unsigned_where_the_role_asks_for_signatures() {
    let (key, other) = (TestKey::new(), TestKey::new());
    let host = machine();
    host.put("/usr/lib/ingot/role.toml", &seal(&key, "require_signed = true\nblock_usb = true\n"));
    run(&host, vec![key.sign_all(config("n1", ""), 100)]);
    assert!(Journal::says_sealed(&host).unwrap() && host.exists(USB_BLOCK));
    super::super::leave(&host, &Heard::default()).unwrap();
    assert!(!Journal::says_sealed(&host).unwrap());
    host.reboot();

    let next = config("n2", "");
    let older = key.sign_all(next.clone(), 99);
    for refused in [next.clone(), other.sign_all(next.clone(), 200), older] {
        host.state().slept = std::time::Duration::from_hours(22);
        let (heard, sources) = (Heard::default(), Media(Mutex::new(vec![refused])));
        let mut service = Service::new(&host, &heard, &sources);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| service.run()));
        assert!(result.is_err() && heard.codes() == [912, 100, 520], "{:?}", heard.codes());
        assert_eq!((name(&host).as_str(), host.disk().joined), ("n1", 1));
        assert!(!host.exists(USB_BLOCK), "a stick can be read");
    }
    host.state().slept = std::time::Duration::ZERO;
    let heard = run(&host, vec![next.clone(), next.clone(), key.sign_all(next, 200)]);
    assert_eq!((name(&host).as_str(), heard.codes().last()), ("n2", Some(&500)));
    assert_eq!(host.disk().joined, 2);
    assert!(Journal::says_sealed(&host).unwrap() && host.exists(USB_BLOCK));
}

#[test]
fn a_signed_configuration_that_would_move_the_node_is_refused_with_what_to_do() {
    let key = TestKey::new();
    let elsewhere = |join: &str| {
        medium(&format!("version = 1\nhostname = \"n2\"\n{}\n[join]\n{join}\nsecret = \"{SECRET}\"\n", seal(&key, "")))
    };
    let host = machine();
    run(&host, vec![config("n1", &seal(&key, ""))]);
    for (join, why) in [
        ("driver = \"k3s\"\nrole = \"agent\"\nservers = [\"10.77.0.10\"]", "joins by k3s and not by docker-swarm"),
        ("driver = \"docker-swarm\"\nrole = \"manager\"", "makes it manager and not worker"),
        ("driver = \"docker-swarm\"\nrole = \"worker\"\nmanagers = [\"10.9.9.9\"]", "none of the servers"),
    ] {
        host.reboot();
        let heard = run(&host, vec![key.sign_all(elsewhere(join), 200)]);
        let text = heard.text(Code::ConfigInvalid);
        assert!(text.contains(why) && text.contains("firstboot leave"), "{text}");
        assert_eq!((name(&host).as_str(), heard.codes().last()), ("n1", Some(&500)), "{why}");
        // Not with the seal lifted either.
        unseal(&host, &Heard::default(), false).unwrap();
        let heard = run(&host, vec![elsewhere(join), Found::default()]);
        assert!(heard.text(Code::ConfigInvalid).contains(why));
        assert_eq!((name(&host).as_str(), heard.codes().last(), host.disk().joined), ("n1", Some(&500), 1), "{why}");
    }
    assert!(!host.disk().files.keys().any(|path| path.contains("k3s")));
    // After leaving it is free to go.
    super::super::leave(&host, &Heard::default()).unwrap();
    run(&host, vec![elsewhere("driver = \"docker-swarm\"\nrole = \"worker\"\nmanagers = [\"10.9.9.9\"]")]);
    assert_eq!((name(&host).as_str(), host.disk().joined), ("n2", 2));
}

#[test]
fn an_image_whose_role_says_another_driver_does_not_join_elsewhere() {
    let host = machine();
    run(&host, vec![config("n1", "")]);
    host.reboot();
    host.state().slept = std::time::Duration::from_hours(22);
    // The stick said the driver; the new image's role cannot, so it takes a kept configuration without one.
    let kept = host.text(KEPT);
    let mut kept: Kept = serde_json::from_str(&kept).unwrap();
    let text = String::from_utf8(kept.documents[0].bytes.clone()).unwrap();
    kept.documents[0].bytes =
        text.replace("driver = \"docker-swarm\"\n", "").replace("managers", "servers").into_bytes();
    kept.documents[0].bytes =
        String::from_utf8(kept.documents[0].bytes.clone()).unwrap().replace("\"worker\"", "\"agent\"").into_bytes();
    host.put(KEPT, &serde_json::to_string(&kept).unwrap());
    host.put("/usr/lib/ingot/role.toml", "[join]\ndriver = \"k3s\"\n");
    let (heard, sources) = (Heard::default(), Media(Mutex::new(vec![Found::default()])));
    let mut service = Service::new(&host, &heard, &sources);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| service.run())).is_err());
    let text = heard.text(Code::JoinFailed);
    assert!(
        text.contains("a member by docker-swarm, and its configuration now says k3s"),
        "{text} {:?}",
        heard.codes()
    );
    assert!(!host.disk().files.keys().any(|path| path.starts_with("/etc/rancher")));
}

#[test]
fn what_was_accepted_outlives_the_configuration() {
    let key = TestKey::new();
    let newest = key.sign_all(config("n2", ""), 200);
    for forget in [true, false] {
        let host = machine();
        host.put("/usr/lib/ingot/role.toml", &seal(&key, "require_signed = true\n"));
        run(&host, vec![newest.clone()]);
        if !forget {
            host.put(KEPT, "{damaged");
        }
        unseal(&host, &Heard::default(), forget).unwrap();
        host.reboot();
        host.state().slept = std::time::Duration::from_hours(22);
        let (heard, sources) = (Heard::default(), Media(Mutex::new(vec![key.sign_all(config("n1", ""), 100)])));
        let mut service = Service::new(&host, &heard, &sources);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| service.run()));
        assert!(
            result.is_err() && heard.text(Code::SignatureRefused).contains("not after the 200"),
            "{:?}",
            heard.codes()
        );
        // The stick that it had can be read again.
        host.state().slept = std::time::Duration::ZERO;
        run(&host, vec![newest.clone()]);
        assert_eq!((name(&host).as_str(), host.disk().joined), ("n2", 1));
    }
}
