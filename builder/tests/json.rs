//! With `--json` standard output is one JSON document, whatever happens.

use crate::context::TestContext;
use crate::context::archive::{Archive, Package};

#[test]
fn every_command_prints_one_document_in_success_and_failure() {
    let archive =
        Archive::new([Package::kernel("kernel", "1.0"), Package::new("tools", "1"), Package::new("hello", "1")]);
    let context = TestContext::on(&archive, &["hello"]);
    let json = |arguments: &[&str], code: i32| {
        let outcome = context.ingot(&[&["--json"], arguments].concat());
        assert_eq!(outcome.code, code, "{arguments:?}: {}{}", outcome.stdout, outcome.stderr);
        let value = outcome.json();
        if code != 0 {
            assert_eq!(value["exit"], code, "{arguments:?}");
            let message = value["error"].as_str().unwrap();
            assert!(outcome.stderr.contains(message.lines().next().unwrap()), "{message}\n{}", outcome.stderr);
        }
        value
    };
    json(&["build", "site/node", "--plan"], 2);
    json(&["lock", "--check", "site/node"], 1);
    assert_eq!(json(&["lock", "site/node"], 0)["sets"][0]["set"], "site/node@debian-13");
    json(&["lock", "--check", "site/node"], 0);
    json(&["lock", "site/nod"], 2);
    assert_eq!(json(&["build", "site/node", "--plan"], 0)[0]["steps"][0]["name"], "fetch");
    assert_eq!(json(&["build", "site/node", "--explain-profile"], 0)[0]["role"], "site/node");
    json(&["build", "site/node", "site/node", "--explain-profile"], 0);
    json(&["build", "site/nod"], 2);
    json(&["build", "site/node", "--output", "vhd"], 2);
    json(&["build"], 2);
    json(&["buidl"], 2);
    // These packages make no system.
    json(&["build", "site/node"], 1);
    json(&["test", "no-such-scenario"], 2);
    json(&["run", "no-such-image.raw"], 2);
    json(&["config", "check", "no-such-file.toml"], 2);
}

#[test]
fn a_finished_build_is_described() {
    let archive = Archive::new([Package::kernel("kernel", "1.0")]);
    let Some(context) = TestContext::bare(&archive, &[]) else { return };
    context.lock().succeeded();
    let built = context.build(&["--json", "--quiet"]).succeeded();
    assert_eq!(built.stderr, "");
    let value = built.json();
    assert_eq!(value[0]["role"], "site/node");
    assert_eq!(value[0]["unchanged"], false);
    assert_eq!(value[0]["sha256"].as_str().unwrap().len(), 64);
    let manifest: serde_json::Value =
        serde_json::from_str(&context.read(value[0]["manifest"].as_str().unwrap())).unwrap();
    assert_eq!(manifest["outputs"]["raw"]["sha256"], value[0]["sha256"]);
    assert_eq!(context.build(&["--json"]).succeeded().json()[0]["unchanged"], true);
}
