//! No secret is shown: canaries are planted in every key that takes a secret, the node is led through success and
//! through every kind of failure, and everything that leaves the service is searched for them.

use super::*;
use crate::config::{ConfigError, NodeConfig, check, load};
use crate::http::HttpReason;
use crate::plan::Plan;
use crate::report::{Reporter, Snapshot, post, screen, stick};

/// What must never be seen. The first is a good cluster secret, the second a good join token.
const CLUSTER_SECRET: &str = SECRET;
const TOKEN: &str = "SWMTKN-1-3pu6hszjas19xyp7ghgosyx9k8atbfcr8p2is99znpy26u2lkl-canary1awxwuwss7nqn9t5bob";
const HEADER: &str = "CanaryBearer-x7Qp";
const QUERY: &str = "CanaryQuery-k3Vd";
const CANARIES: [&str; 5] = [CLUSTER_SECRET, TOKEN, HEADER, QUERY, "canary1awxwu"];

/// The configuration of a worker; `join` has the secret.
fn planted(join: &str, tail: &str) -> Found {
    medium(&format!(
        "version = 1\nhostname = \"n1\"\n[join]\ndriver = \"docker-swarm\"\nrole = \"worker\"\n\
         managers = [\"10.77.0.10\"]\n{join}\n[report]\nurl = \"https://status.site/n?t={QUERY}\"\n\
         headers = {{ Authorization = \"{HEADER}\", X-Other = \"{HEADER}\" }}\n[time]\n\
         https = [\"https://gw.site/?t={QUERY}\"]\n{tail}"
    ))
}

/// Everything that is said, and everything that followers write.
#[derive(Default)]
struct Ears<'a> {
    lines: Mutex<Vec<String>>,
    reporter: Option<Reporter<'a>>,
}

impl Report for Ears<'_> {
    fn report(&self, code: Code, text: &str) {
        self.lines.lock().unwrap().push(code.line(text));
        self.reporter.as_ref().unwrap().report(code, text);
    }
    fn note(&self, line: &str) {
        self.lines.lock().unwrap().push(line.to_owned());
    }
    fn next_try(&self, pause: Duration) {
        self.reporter.as_ref().unwrap().next_try(pause);
    }
    fn medium_seen(&self) {
        self.reporter.as_ref().unwrap().medium_seen();
    }
    fn configured(&self, config: &NodeConfig) {
        self.lines.lock().unwrap().push(format!("{config:?} {}", serde_json::to_string(config).unwrap()));
        self.reporter.as_ref().unwrap().configured(config);
    }
}

/// Leads a node through its life and gives all that could be seen of it from outside.
fn everything(host: &SimulatedHost, media: Vec<Found>) -> String {
    host.state().stick = Some(crate::host::simulated::stick::Stick::default());
    let url = format!("https://status.site/n?t={QUERY}");
    let refused = Err(HttpReason::Connection("refused".into()));
    let accepted = Ok(crate::http::HttpResponse { status: 200, headers: Vec::new(), body: Vec::new() });
    host.state().answers.insert(url, vec![refused, accepted]);
    // What never succeeds is tried for an hour.
    host.state().slept = Duration::from_hours(23);
    let ears = Ears { reporter: Some(Reporter::new(host, false)), ..Ears::default() };
    let _ = catch_unwind(AssertUnwindSafe(|| Service::new(host, &ears, &Media(Mutex::new(media))).run()));
    let mut seen = ears.lines.lock().unwrap().join("\n");
    let snapshot: Snapshot = ears.reporter.as_ref().unwrap().follow(0, Duration::ZERO);
    let (mut sender, mut writer) = (post::Sender::default(), stick::Writer::default());
    for now in (0..10).map(|step| step * 10_000) {
        seen += &format!("{:?} {:?}\n", sender.step(&snapshot, host, now), writer.step(&snapshot, host, now));
    }
    seen += &screen::render(snapshot.status.as_ref(), &[], 0).join("\n");
    seen += &format!("{snapshot:?} {}", serde_json::to_string(&snapshot.status).unwrap());
    let state = host.state();
    for (_, address, body) in &state.requests {
        assert!(address.contains(QUERY), "the secret is used where it belongs: {address}");
        seen += &String::from_utf8_lossy(body);
    }
    for (name, bytes) in &state.stick.as_ref().unwrap().files {
        seen += &format!("{name} {}", String::from_utf8_lossy(bytes));
    }
    seen + &state.commands.join("\n")
        + &String::from_utf8_lossy(&state.disk.files.get(JOURNAL).cloned().unwrap_or_default().0)
}

fn assert_clean(what: &str, seen: &str) {
    assert!(seen.len() > 100, "{what}: something was looked at");
    for canary in CANARIES {
        if let Some(at) = seen.find(canary) {
            let from = seen[..at].char_indices().rev().nth(60).map_or(0, |(index, _)| index);
            panic!("{what}: {canary} is seen: ...{}", &seen[from..at + canary.len()]);
        }
    }
}

#[test]
fn the_search_finds_what_is_there() {
    let caught = catch_unwind(|| assert_clean("x", &format!("{}{HEADER}", "-".repeat(200))));
    assert!(caught.is_err());
}

#[test]
fn nothing_that_a_node_says_or_writes_away_holds_a_secret() {
    let secret = format!("secret = \"{CLUSTER_SECRET}\"");
    let token = format!("token = \"{TOKEN}\"");
    for join in [&secret, &token] {
        let success = machine();
        assert_clean("success", &everything(&success, vec![planted(join, "")]));
        assert!(!success.state().requests.is_empty() && success.state().stick.as_ref().unwrap().written > 0);

        for failing in ["systemctl restart systemd-networkd", "systemctl start docker.service"] {
            let host = machine();
            host.state().failing = vec![failing];
            assert_clean(failing, &everything(&host, vec![planted(join, "")]));
        }
        let host = machine();
        host.state().clock = 7;
        host.put("/usr/lib/ingot/image.json", "{\"build_time\":1780000000}");
        assert_clean("a dead clock", &everything(&host, vec![planted(join, "")]));
        let host = machine();
        host.state().addresses.clear();
        assert_clean("no network", &everything(&host, vec![planted(join, "")]));
        let host = machine();
        host.refuse(rustix::io::Errno::NOSPC, 0, Duration::MAX);
        assert_clean("a full disk", &everything(&host, vec![planted(join, "")]));
    }
    for refusal in [Refusal::WrongSecret, Refusal::NotReady] {
        let host = machine();
        host.state().rendezvous = vec![Err(refusal)];
        assert_clean("a refusal", &everything(&host, vec![planted(&secret, "")]));
    }
}

/// All that people are shown of documents: errors in both forms, warnings, values with origins, plans.
fn shown(found: &Found) -> String {
    let error = |error: &ConfigError| format!("{error} {error:?} {}", serde_json::to_string(&error.problems).unwrap());
    let mut seen = format!("{found:?}");
    match load(&found.documents, &Machine::default()) {
        Ok(loaded) => {
            seen += &format!("{loaded:?} {}", serde_json::to_string(&loaded.origins).unwrap());
            let plan = Plan::new(&loaded.config, &Machine::default(), Vec::new());
            seen += &format!("{plan:?} {}", plan.describe().join("\n"));
            plan.steps.iter().for_each(|step| seen += &format!("{} {:?}", step.describe(), step.inputs()));
        }
        Err(wrong) => seen += &error(&wrong),
    }
    match check(&found.documents) {
        Ok(checked) => seen += &format!("{checked:?}"),
        Err(wrong) => seen += &error(&wrong),
    }
    seen
}

#[test]
fn what_is_wrong_is_said_without_the_secret_beside_it() {
    let secret = format!("secret = \"{CLUSTER_SECRET}\"");
    let token = format!("token = \"{TOKEN}\"");
    assert_clean("a good one", &shown(&planted(&secret, "")));
    assert_clean("a good token", &shown(&planted(&token, "")));
    for (what, found) in [
        ("a wrong key beside it", planted(&format!("{secret}\nsecrte = \"{CLUSTER_SECRET}\""), "")),
        ("a list", planted(&format!("secret = [\"{CLUSTER_SECRET}\"]"), "")),
        ("a damaged token", planted(&format!("token = \"{TOKEN} x\""), "")),
        ("with a line end", planted(&format!("secret = \"{CLUSTER_SECRET}\\n\""), "")),
        ("no end of the text", planted(&format!("secret = \"{CLUSTER_SECRET}"), "")),
        ("twice", planted(&format!("{secret}\n{secret}"), "")),
        ("no TOML behind it", planted(&secret, &format!("x = {TOKEN}\n"))),
        ("a header that is a list", planted(&secret, &format!("[report.headers]\nY = [\"{HEADER}\"]\n"))),
        ("an address with a password", medium(&format!("version = 1\n[report]\nurl = \"https://a:{HEADER}@b/\"\n"))),
        ("an address that is none", medium(&format!("version = 1\n[report]\nurl = \"b?{QUERY}\"\n"))),
        (
            "a header that is not possible",
            medium(&format!(
                "version = 1\n[report]\nurl = \"https://b/\"\nheaders = {{ Authorization = \"{HEADER}\\u0001\" }}\n"
            )),
        ),
        (
            "headers without encryption",
            medium(&format!(
                "version = 1\n[report]\nurl = \"http://b/?{QUERY}\"\nheaders = {{ Authorization = \"{HEADER}\" }}\n"
            )),
        ),
    ] {
        assert_clean(what, &shown(&found));
        assert_clean(what, &everything(&machine(), vec![found]));
    }
}
