use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use toml::{Table, Value};

use super::*;
use crate::config::fields::record;
use crate::config::{Document, Format, Machine, SAMPLE, check, load};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn example(key: &Key) -> Value {
    let table: Table = toml::from_str(&format!("x = {}", key.example))
        .unwrap_or_else(|error| panic!("the example of {}: {error}", key.path));
    table["x"].clone()
}

/// Puts a value at a path; each `[]` is the list's first element.
fn put(table: &mut Table, path: &str, value: Value) {
    let Some((first, rest)) = path.split_once('.') else {
        table.insert(path.into(), value);
        return;
    };
    let inner = if let Some(list) = first.strip_suffix("[]") {
        let list = table.entry(list).or_insert_with(|| Value::Array(vec![Value::Table(Table::new())]));
        list.as_array_mut().unwrap().first_mut().unwrap()
    } else {
        table.entry(first).or_insert_with(|| Value::Table(Table::new()))
    };
    put(inner.as_table_mut().unwrap(), rest, value);
}

/// Lays one document over another; of lists of tables, the first tables.
fn lay_over(table: &mut Table, over: Table) {
    for (key, value) in over {
        match (table.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(over)) => lay_over(inner, over),
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}

fn has(table: &Table, path: &str) -> bool {
    let mut value = table;
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        let Some(found) = value.get(name.trim_end_matches("[]")) else { return false };
        let found = if name.ends_with("[]") { &found.as_array().unwrap()[0] } else { found };
        match found.as_table() {
            Some(inner) if names.peek().is_some() => value = inner,
            _ => return names.peek().is_none(),
        }
    }
    true
}

/// The drivers and roles for which a key is looked at.
fn kinds_of(key: &Key) -> Vec<(&'static str, &'static str)> {
    let all =
        crate::config::DRIVERS.iter().flat_map(|driver| roles_of(driver).into_iter().map(move |role| (*driver, role)));
    all.filter(|(driver, role)| key.is_for(driver, role)).collect()
}

fn roles_of(driver: &str) -> Vec<&'static str> {
    let roles: Vec<&str> = keys()
        .filter(|key| key.path == "join.role" && key.only.contains(&driver))
        .flat_map(|key| if let Kind::Choice(choices) = key.kind { choices } else { &[] })
        .copied()
        .collect();
    if roles.is_empty() { vec![""] } else { roles }
}

/// The smallest document that has a key: the key, what its tables require, and the driver.
fn smallest(key: &Key, driver: &str, role: &str) -> Table {
    let mut table = Table::new();
    put(&mut table, "version", Value::Integer(1));
    lay_over(&mut table, toml::from_str(key.beside).unwrap());
    if key.path.starts_with("join") {
        put(&mut table, "join.driver", driver.into());
        if !role.is_empty() {
            put(&mut table, "join.role", role.into());
        }
    }
    let above = |other: &Key| key.path.starts_with(other.table()) && !other.table().is_empty();
    let required = |other: &&Key| above(other) && other.need == Need::Required && other.is_for(driver, role);
    for required in keys().filter(required) {
        if has(&table, required.path) {
            continue;
        }
        match required.kind {
            // One key of a table that must be there; a key of the same table is one.
            Kind::Table if key.path == required.path || !key.path.starts_with(required.path) => {
                let inside = keys().find(|other| other.table() == required.path && !other.example.is_empty());
                if let Some(inside) = inside {
                    put(&mut table, inside.path, example(inside));
                }
            }
            Kind::Table | Kind::Tables => {}
            _ if required.path == "join.driver" || required.path == key.path => {}
            _ => put(&mut table, required.path, example(required)),
        }
    }
    if !matches!(key.kind, Kind::Table | Kind::Tables) {
        put(&mut table, key.path, example(key));
    }
    table
}

fn document(text: &str) -> [Document; 1] {
    [Document { name: "f".into(), format: Format::NodeToml, bytes: text.as_bytes().to_vec() }]
}

fn smallest_documents() -> Vec<(&'static Key, String)> {
    keys()
        .flat_map(|key| kinds_of(key).into_iter().map(move |kind| (key, kind)))
        .map(|(key, (driver, role))| (key, toml::to_string(&smallest(key, driver, role)).unwrap()))
        .collect()
}

#[test]
fn every_key_that_is_read_is_described_and_every_described_key_is_read() {
    record::take();
    for (_, text) in smallest_documents() {
        let _ = check(&document(&text));
        let _ = load(&document(&text), &Machine::default());
    }
    let asked = record::take();
    let described: BTreeSet<String> = keys().map(|key| key.path.to_owned()).collect();
    // The parts for single machines are taken out of the tree before it is read; the driver is looked up before its
    // table is, because it decides which keys that may have.
    let taken: BTreeSet<String> = ["machine", "machine[].match", "join.driver"].map(str::to_owned).into();
    let difference = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect::<Vec<_>>();
    // The names in a table that is a map are not Ingot's.
    let in_a_map = |path: &String| {
        let table = path.rsplit_once('.').and_then(|(table, _)| find(table));
        table.is_some_and(|key| matches!(key.kind, Kind::Map))
    };
    let asked: BTreeSet<String> = asked.into_iter().filter(|path| !in_a_map(path)).collect();
    assert_eq!(difference(&asked, &described), [""; 0], "asked for by the reading code, not described");
    let read = asked.union(&taken).cloned().collect();
    assert_eq!(difference(&described, &read), [""; 0], "described, never asked for");
}

#[test]
fn every_example_is_accepted_where_it_belongs() {
    for (key, text) in smallest_documents() {
        let mut documents = document(&text);
        if key.path.starts_with("run") || matches!(key.path, "seal.require_signed" | "media_wait") {
            // Only a role's image says that commands may run, and these.
            documents[0].format = Format::RoleToml;
        }
        if let Err(error) = check(&documents) {
            let about: Vec<_> = error.problems.iter().filter(|problem| generic(&problem.key) == key.path).collect();
            assert!(about.is_empty(), "{}: {about:?} in\n{text}", key.path);
        }
    }
}

#[test]
fn every_key_has_its_words() {
    let mut seen = BTreeSet::new();
    for key in keys() {
        let others = keys().filter(|other| other.path == key.path && !std::ptr::eq(*other, key));
        for other in others {
            let apart = !key.only.is_empty()
                && !other.only.is_empty()
                && key.only.iter().all(|driver| !other.only.contains(driver));
            assert!(apart, "{} is described twice for one driver", key.path);
        }
        seen.insert(key.path);
        assert!(key.doc.ends_with('.') && key.doc.len() > 10, "{}: {:?} is no sentence", key.path, key.doc);
        let leaf = !matches!(key.kind, Kind::Table | Kind::Tables);
        assert_eq!(leaf, !key.example.is_empty(), "{}: leaves have examples, tables have none", key.path);
        let table = key.table().trim_end_matches("[]");
        assert!(table.is_empty() || seen.contains(table), "{}: {table} is not described before it", key.path);
        for who in key.only.iter().chain(if let Need::By(who) = key.need { who } else { &[] }) {
            let driver = who.split('/').next().unwrap();
            assert!(crate::config::DRIVERS.contains(&driver), "{}: {driver} is no driver", key.path);
        }
    }
}

#[test]
fn secrets_are_known_by_their_path_wherever_they_stand() {
    for path in [
        "join.secret",
        "join.manager_secret",
        "join.token",
        "join.discovery",
        "join.certificate_key",
        "join.license",
        "join.db_password",
        "join.db.password",
        "join.etcd.password",
        "join.secrets.munge",
        "join.file[0].content",
        "proxy.http",
        "report.headers.Authorization",
        "machine[3].join.secret",
        "machine[3].join.file[7].content",
        "join.secret[0]",
    ] {
        assert!(is_secret(path), "{path}");
        assert_eq!(shown(path, "x").as_deref(), Some(REDACTED), "{path}");
    }
    for path in ["join.secrets_", "join", "join.role", "join.file[0].path", "network[0].match.mac", "secret"] {
        assert!(!is_secret(path), "{path}");
    }
    let address = "https://user:pass@status.site/nodes?token=x";
    for path in ["report.url", "machine[2].report.url", "time.https", "join.controller", "join.after[0].http"] {
        assert_eq!(shown(path, address).unwrap(), "https://status.site/nodes?...", "{path}");
    }
    assert_eq!(shown("hostname", "w1"), None);
    assert_eq!(generic("a[0].b[12].c[x][]"), "a[].b[].c[x][]");
}

/// The same value with every text in it changed.
fn changed(value: &Value, change: &impl Fn(&str) -> Value) -> Value {
    match value {
        Value::String(text) => change(text),
        Value::Array(items) => Value::Array(items.iter().map(|item| changed(item, change)).collect()),
        Value::Table(table) => {
            Value::Table(table.iter().map(|(k, value)| (k.clone(), changed(value, change))).collect())
        }
        other => other.clone(),
    }
}

/// All that people are shown of a document, whether it is right or wrong.
fn all_that_is_shown(text: &str) -> String {
    let documents = document(text);
    let mut seen = match load(&documents, &Machine::default()) {
        Ok(loaded) => {
            let plan = crate::plan::Plan::new(&loaded.config, &Machine::default(), Vec::new());
            let json = serde_json::to_string(&loaded.config).unwrap();
            format!("{loaded:?} {json} {plan:?} {}", plan.describe().join(" "))
        }
        Err(error) => format!("{error} {error:?}"),
    };
    seen += &check(&documents).map_or_else(|error| format!("{error} {error:?}"), |checked| format!("{checked:?}"));
    let defaults = text.replacen("version = 1", "", 1);
    seen + &crate::config::check_within("p", defaults.as_bytes(), &[])
        .map_or_else(|e| e.to_string(), |w| format!("{w:?}"))
}

/// A way to change a secret, and its name.
type Changed = (&'static str, fn(&str) -> String);

#[test]
fn no_secret_of_any_driver_is_shown_right_or_wrong() {
    const CANARY: &str = "C4n4ryX7Qp9vT2mQ";
    let text = |text: &str| Value::String(text.to_owned());
    let changes: [Changed; 5] = [
        ("alone", |_| CANARY.to_owned()),
        ("before it", |value| format!("{CANARY}{value}")),
        ("behind it", |value| format!("{value}{CANARY}")),
        ("with a line end", |value| format!("{value} {CANARY}\n")),
        ("as a password", |_| format!("http://user:{CANARY}@proxy.lan:3128")),
    ];
    let mut looked_at = 0;
    for key in keys().filter(|key| key.secret) {
        for (driver, role) in kinds_of(key) {
            let mut table = smallest(key, driver, role);
            for (what, change) in changes {
                put(&mut table, key.path, changed(&example(key), &|value| text(&change(value))));
                let seen = all_that_is_shown(&toml::to_string(&table).unwrap());
                assert!(!seen.contains(CANARY), "{} of {driver}, {what}: {seen}", key.path);
                looked_at += 1;
            }
            // A list, and a text where a table belongs.
            for value in [Value::Array(vec![text(CANARY)]), text(CANARY)] {
                put(&mut table, key.path, value);
                let seen = all_that_is_shown(&toml::to_string(&table).unwrap());
                assert!(!seen.contains(CANARY), "{} of {driver}: {seen}", key.path);
            }
        }
    }
    assert!(looked_at > 150, "{looked_at}");
}

#[test]
fn a_sealed_secret_is_taken_for_a_valid_one_of_its_driver() {
    let site = crate::config::sealed::ConfigKey::generate().unwrap();
    for driver in crate::config::DRIVERS {
        for role in roles_of(driver) {
            let mut values = vec![("join.driver", *driver)];
            if !role.is_empty() {
                values.push(("join.role", role));
            }
            let mut table: Table = toml::from_str(&filled(&sample("r", &given(&values)))).unwrap();
            if *driver == "docker-swarm" {
                // With a token a manager needs them too.
                put(&mut table, "join.managers", vec![Value::from("10.77.0.10")].into());
            }
            for (path, value) in &values {
                put(&mut table, path, (*value).into());
            }
            for key in keys().filter(|key| key.path.starts_with("join.") && key.secret && key.is_for(driver, role)) {
                if !key.path.contains("[]") && !key.path.starts_with("join.etcd") && !key.path.starts_with("join.db.") {
                    lay_over(&mut table, toml::from_str(key.beside).unwrap());
                    put(&mut table, key.path, example(key));
                }
            }
            let text = toml::to_string(&table).unwrap();
            let (sealed, count) = crate::config::seal_document("f", text.as_bytes(), &[site.public()]).unwrap();
            let secrets = keys().filter(|key| key.secret && key.is_for(driver, role) && has(&table, key.path));
            let secrets: BTreeSet<&str> = secrets.map(|key| key.path).collect();
            assert_eq!(count, secrets.len(), "{driver} {role}: {secrets:?} in {text}");
            let sealed = sealed + "[[machine]]\nmatch = { serial = \"x\" }\n";
            check(&document(&sealed)).unwrap_or_else(|error| panic!("{driver} {role}: {error}\n{text}"));
        }
    }
}

fn in_step(name: &str, expected: &str, option: &str) {
    if std::fs::read_to_string(docs().join(name)).unwrap_or_default() != expected {
        let fresh = docs().join("../target").join(name);
        std::fs::write(&fresh, expected).unwrap();
        panic!(
            "docs/{name} is not in step with the descriptions; `ingot config schema{option}` prints it anew, and it lies in target/{name}"
        );
    }
}

#[test]
fn the_published_schema_is_in_step() {
    in_step("node.schema.json", &format!("{}\n", serde_json::to_string_pretty(&json_schema()).unwrap()), "");
}

#[test]
fn the_published_tables_are_in_step() {
    in_step("node-keys.md", &markdown(), " --markdown");
}

#[test]
fn every_table_stands_in_the_documentation_for_people() {
    let text = std::fs::read_to_string(docs().join("node-config.md")).unwrap();
    for key in keys().filter(|key| key.table().is_empty()) {
        let name = key.name();
        let forms = [format!("| `{name}"), format!("| `[{name}]`"), format!("| `[[{name}]]`")];
        assert!(forms.iter().any(|form| text.contains(form)), "{} is not in docs/node-config.md", key.path);
    }
}

/// Validates documents with Python's jsonschema, an implementation that shares nothing with this one. `None` where it
/// is not installed.
fn validate(documents: &[(String, Value)]) -> Option<Vec<String>> {
    let program = r"
import json, sys
import jsonschema
given = json.load(sys.stdin)
validator = jsonschema.validators.Draft202012Validator
validator.check_schema(given['schema'])
for name, document in given['documents']:
    for error in validator(given['schema']).iter_errors(document):
        print(name, error.json_path, error.message[:200].replace('\n', ' '))
";
    // A program of the test itself, which nobody waits for in vain.
    #[allow(clippy::disallowed_methods)]
    let mut child = Command::new("python3")
        .args(["-W", "ignore", "-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let input = serde_json::json!({ "schema": json_schema(), "documents": documents }).to_string();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    if complaint.contains("No module named") {
        return None;
    }
    assert!(output.status.success(), "{complaint}");
    Some(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

#[test]
fn a_real_validator_agrees_with_the_reading_code() {
    let parse = |text: &str| Value::Table(toml::from_str(text).unwrap());
    let mut good: Vec<(String, Value)> = vec![("sample".into(), parse(SAMPLE))];
    good.extend(smallest_documents().into_iter().map(|(key, text)| (key.path.to_owned(), parse(&text))));
    let Some(complaints) = validate(&good) else {
        return; // no python3 with jsonschema here; the drawback is said in CONTRIBUTING.md
    };
    assert_eq!(complaints, [""; 0], "the schema refuses what a node accepts");
    let bad = [
        "hostname = \"w1\"",
        "version = 2",
        "version = 1\nhostnme = \"w1\"",
        "version = 1\nhostname = \"a_b\"",
        "version = 1\nntp = \"10.0.0.1\"",
        "version = 1\n[[network]]\nmatch = { name = 7 }",
        "version = 1\n[[network]]\nmatch = { mac = \"x\" }",
        "version = 1\n[join]\nrendezvous_port = 70000",
        "version = 1\n[[machine]]\nhostname = \"w1\"",
        "version = 1\n[[machine]]\nmatch = {}\nhostname = \"w1\"",
        "version = 1\n[[machine]]\nmatch = { serial = \"x\" }\nversion = 1",
    ];
    let named: Vec<_> = bad.iter().enumerate().map(|(index, text)| (format!("#{index}#"), parse(text))).collect();
    let complaints = validate(&named).unwrap();
    for ((name, _), text) in named.iter().zip(bad) {
        assert!(complaints.iter().any(|line| line.starts_with(name)), "the schema accepts {text:?}");
        assert!(check(&document(text)).is_err(), "a node accepts {text:?}");
    }
}

fn given(values: &[(&str, &str)]) -> Vec<RoleValue> {
    let value = |(key, value): &(&str, &str)| RoleValue {
        key: (*key).to_owned(),
        value: format!("{value:?}"),
        origin: "profiles/x.toml:7".into(),
    };
    values.iter().map(value).collect()
}

/// Puts each secret's example in place of its placeholder.
fn filled(sample: &str) -> String {
    let table: Table = toml::from_str(sample).unwrap_or_else(|error| panic!("{error}\n{sample}"));
    let mut text = sample.to_owned();
    for key in keys().filter(|key| key.secret) {
        let Some(value) =
            key.path.split('.').try_fold(&Value::Table(table.clone()), |value, name| value.get(name)).cloned()
        else {
            continue;
        };
        text = text.replace(&format!("{} = {value}", key.name()), &format!("{} = {}", key.name(), key.example));
    }
    text
}

#[test]
fn a_sample_is_accepted_once_its_secrets_are_filled_in_for_every_driver_and_role() {
    for driver in crate::config::DRIVERS {
        for role in roles_of(driver) {
            let mut values = vec![("join.driver", *driver)];
            if !role.is_empty() {
                values.push(("join.role", role));
            }
            let text = sample("site/role", &given(&values));
            let mut defaults = Table::new();
            for (path, value) in &values {
                put(&mut defaults, path, (*value).into());
            }
            let defaults = Document {
                name: "role".into(),
                format: Format::PartToml,
                bytes: toml::to_string(&defaults).unwrap().into_bytes(),
            };
            let load = |text: &str| load(&[defaults.clone(), document(text)[0].clone()], &Machine::default());
            if text.contains("replace-me") {
                let error = load(&text).map(|loaded| loaded.config).unwrap_err();
                assert!(error.problems.iter().all(|problem| is_secret(&problem.key)), "{error}\n{text}");
            }
            load(&filled(&text)).unwrap_or_else(|error| panic!("{driver} {role}: {error}\n{text}"));
            assert!(text.contains(&format!("# driver = {driver:?}    # the role's own: profiles/x.toml:7")), "{text}");
        }
    }
}

#[test]
fn a_sample_for_aiware_asks_for_what_its_modes_need() {
    let value = |key: &str, value: &str| RoleValue { key: key.into(), value: value.into(), origin: "x:1".into() };
    for (modes, needed) in [
        ("[\"engine\"]", &["controller"][..]),
        ("[\"controller\", \"db\"]", &["db_password", "token"]),
        ("[\"db\", \"redis\"]", &["controller", "db_password"]),
        ("['nfs']", &["controller", "nfs_permitted"]),
        ("[\"controller\", \"nfs\"]", &["db_password", "nfs_permitted", "token"]),
    ] {
        let text = sample("site/role", &[value("join.driver", "\"aiware\""), value("join.modes", modes)]);
        let table: Table = toml::from_str(&text).unwrap();
        let keys: Vec<&String> = table["join"].as_table().unwrap().keys().collect();
        assert_eq!(keys, needed, "{text}");
        let defaults = Document {
            name: "role".into(),
            format: Format::PartToml,
            bytes: format!("[join]\ndriver = \"aiware\"\nmodes = {modes}\n").into_bytes(),
        };
        load(&[defaults, document(&filled(&text))[0].clone()], &Machine::default())
            .unwrap_or_else(|e| panic!("{e}\n{text}"));
    }
}

#[test]
fn a_sample_has_no_more_than_the_role_needs() {
    let manager = sample("m", &given(&[("join.driver", "docker-swarm"), ("join.role", "manager")]));
    let keys_of = |text: &str| toml::from_str::<Table>(text).unwrap();
    assert_eq!(keys_of(&manager)["join"].as_table().unwrap().keys().collect::<Vec<_>>(), ["secret"], "{manager}");
    let alone = sample("alone", &given(&[("timezone", "UTC")]));
    assert_eq!(keys_of(&alone).keys().collect::<Vec<_>>(), ["version"], "{alone}");
    assert!(alone.contains("# timezone = \"UTC\"    # the role's own"), "{alone}");
}
