use std::fs::File;

use super::*;
use crate::progress::Silent;
use crate::qemu::HostLauncher;

/// A scenario with one guest that boots a blank disk.
fn blank(directory: &Path, tail: &str) -> Scenario {
    File::create(directory.join("blank.raw")).unwrap().set_len(64 << 20).unwrap();
    let text = format!(
        "name = 'blank'\ntimeout_seconds = 60\nnetworks = ['n']\n[[guest]]\nname = 'g'\nimage = 'blank.raw'\n\
         memory_mib = 256\ncpus = 1\ndisk_gib = 1\nnetworks = ['n']\n{tail}"
    );
    Scenario::parse(&text, &directory.join("blank.toml")).unwrap()
}

#[test]
fn a_disk_without_a_system_is_told_and_nothing_is_left_behind() {
    let Ok(launcher) = HostLauncher::new() else {
        println!("skipped: QEMU and its firmware are not installed");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let step = "[[step]]\nguest = 'g'\nstate = 'FB-010'\n[[step]]\nguest = 'g'\nrun = 'true'\n";
    let scenario = blank(directory.path(), &format!("medium = 'usb'\nconfig = {{ a = '${{secret}}' }}\n{step}"));
    let work = directory.path().join("work");
    let report = run_scenario(&scenario, &launcher, &BTreeMap::new(), &work, &Silent).unwrap();
    assert_eq!(report.outcome, Outcome::Failed);
    let reason = report.reason.clone().unwrap();
    assert!(reason.contains("the firmware found no system to boot"), "{}", report.to_text());
    assert_eq!(report.steps[1].outcome, Outcome::Skipped);
    assert!(!report.guests[0].console_tail.is_empty());
    assert_eq!(report.boot_to_joined_seconds, None);
    let mut left: Vec<String> =
        std::fs::read_dir(&work).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, [".lock", "g.console.log", "g.qemu.log"]);
}

#[test]
fn a_machine_that_qemu_refuses_is_an_error_with_its_words() {
    let Ok(launcher) = HostLauncher::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut scenario = blank(directory.path(), "[[step]]\nguest = 'g'\nrun = 'true'\n");
    scenario.guests[0].cpus = Some(100_000);
    let work = directory.path().join("work");
    let error = run_scenario(&scenario, &launcher, &BTreeMap::new(), &work, &Silent).unwrap_err().to_string();
    assert!(error.starts_with("the virtual machine of guest g ended by itself; the last it said:"), "{error}");
    assert!(!work.join("g.qcow2").exists());
}

#[test]
fn a_missing_image_and_a_missing_variable_are_named() {
    let Ok(launcher) = HostLauncher::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    let scenario = blank(directory.path(), "medium = 'usb'\nconfig = { a = '${nothing}' }\n");
    let work = directory.path().join("work");
    let run = |scenario: &Scenario| {
        run_scenario(scenario, &launcher, &BTreeMap::new(), &work, &Silent).unwrap_err().to_string()
    };
    assert_eq!(
        run(&scenario),
        "guest g: there is no variable ${nothing}; there are: guest, mac.n, mac.ssh, secret, site_key, ssh_public_key"
    );
    let mut scenario = scenario;
    scenario.guests[0].image = None;
    scenario.guests[0].role = Some("quickstart/worker".into());
    assert!(run(&scenario).contains("needs an image of role quickstart/worker for 512-byte sectors"));
}

#[test]
fn two_runs_do_not_share_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let held = lock(directory.path()).unwrap();
    assert!(lock(directory.path()).unwrap_err().to_string().contains("another run is using this directory"));
    drop(held);
    lock(directory.path()).unwrap();
}
