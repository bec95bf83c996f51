use super::*;
use crate::config::{Document, Format, Machine, load};
use crate::host::simulated::SimulatedHost;
use crate::step::Step;
use crate::step::pulled::{at_every_point, does_what_it_says};

fn ca(numbers: &[u8], only: bool) -> Ca {
    let all: String =
        numbers.iter().map(|number| format!("\"\"\"{}\"\"\",", crate::config::test_certificate(*number))).collect();
    let text = format!("[ca]\ncertificates = [{all}]\nonly = {only}\n");
    let documents = [Document { name: "f".into(), format: Format::PartToml, bytes: text.into_bytes() }];
    load(&documents, &Machine::default()).unwrap().config.ca
}

fn machine() -> SimulatedHost {
    let host = SimulatedHost::default();
    host.put(PROGRAM, "");
    host.put(BUNDLE, "image\n");
    host
}

#[test]
fn the_bundle_has_what_was_given_and_loses_it_again() {
    let host = machine();
    let before = host.disk();
    apply(&host, &ca(&[1, 2], false)).unwrap();
    assert_eq!(
        host.text(BUNDLE),
        ["image\n", ca(&[1], false).certificates[0].pem(), ca(&[2], false).certificates[0].pem()].concat()
    );
    apply(&host, &ca(&[3], true)).unwrap();
    assert_eq!(host.text(BUNDLE), ca(&[3], false).certificates[0].pem(), "only those that are given");
    assert!(host.state().commands[1].ends_with("--certsconf /etc/ssl/ingot/none.conf"));
    apply(&host, &Ca::default()).unwrap();
    // The store is as the image's, and the image's own from the next start on.
    assert_eq!(host.text("/var/lib/ingot/etc/reveal"), "ssl/certs\n");
    host.remove("/var/lib/ingot/etc/reveal").unwrap();
    assert_eq!(host.disk(), before);
    apply(&host, &Ca::default()).unwrap();
    assert_eq!(host.state().commands.len(), 3, "nothing is run when there is nothing to undo");
}

#[test]
fn what_the_program_does_not_do_is_noticed() {
    let host = machine();
    host.remove(PROGRAM).unwrap();
    assert!(apply(&host, &ca(&[1], false)).unwrap_err().to_string().contains("add the package ca-certificates"));
    let host = machine();
    host.state().failing = vec![PROGRAM];
    assert!(apply(&host, &ca(&[1], false)).is_err());
}

#[test]
fn it_does_what_its_effects_say() {
    does_what_it_says(&machine(), &Step::Ca(ca(&[1, 2], true)));
    does_what_it_says(&machine(), &Step::Ca(ca(&[1], false)));
}

#[test]
fn the_plug_is_pulled_at_every_point() {
    assert!(at_every_point(machine, &[Step::Ca(ca(&[1, 2], false))]) >= 12);
    assert!(at_every_point(machine, &[Step::Ca(ca(&[1, 2], false)), Step::Ca(ca(&[3], true))]) >= 12);
    assert!(at_every_point(machine, &[Step::Ca(ca(&[1, 2], true)), Step::Ca(Ca::default())]) >= 9);
}

/// The real program, with the options that the step gives it, on directories of its own.
#[test]
fn the_real_program_does_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    for name in ["local", "etc", "hooks"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    let subject =
        ["req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "1", "-subj", "/CN=test", "-keyout", "/dev/null"];
    let certificate = path("local/ingot-00.crt");
    let arguments: Vec<&str> = subject.into_iter().chain(["-out", &certificate]).collect();
    if !std::path::Path::new(PROGRAM).exists() || crate::process::run("openssl", &arguments, LIMIT).is_err() {
        println!("skipped: there is no update-ca-certificates, or no openssl");
        return;
    }
    let pem = std::fs::read_to_string(&certificate).unwrap();
    let (local, etc, hooks, none) = (path("local"), path("etc"), path("hooks"), path("none.conf"));
    std::fs::write(&none, "# none\n").unwrap();
    let bundle = |more: &[&str]| {
        let mut arguments = vec!["--fresh", "--localcertsdir", &local, "--etccertsdir", &etc, "--hooksdir", &hooks];
        arguments.extend(more);
        crate::process::run(PROGRAM, &arguments, LIMIT).unwrap();
        std::fs::read_to_string(path("etc/ca-certificates.crt")).unwrap()
    };
    let all = bundle(&[]);
    assert!(all.contains(&pem) && all.matches("BEGIN").count() > 50);
    assert_eq!(bundle(&["--certsconf", &none]), pem);
    std::fs::remove_file(&certificate).unwrap();
    assert_eq!(bundle(&[]).matches("BEGIN").count(), all.matches("BEGIN").count() - 1);
}
