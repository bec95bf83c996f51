//! No secret is shown: canaries are planted in every key that takes a secret, the node is led through success and
//! through every kind of failure, and everything that leaves the service is searched for them.

use base64::Engine as _;

use super::joins::{answer, give, open, with};
use super::*;
use crate::config::{ConfigError, NodeConfig, check, load};
use crate::http::HttpReason;
use crate::join::stand_ins::{AgentStandIn, JoinProgramStandIn, K3sStandIn, KubeadmStandIn};
use crate::plan::Plan;
use crate::report::{Node, Reporter, Snapshot, post, screen, stick};

/// What must never be seen. The first is a good cluster secret, the second a good join token.
const CLUSTER_SECRET: &str = SECRET;
const TOKEN: &str = "SWMTKN-1-3pu6hszjas19xyp7ghgosyx9k8atbfcr8p2is99znpy26u2lkl-canary1awxwuwss7nqn9t5bob";
const HEADER: &str = "CanaryBearer-x7Qp";
const QUERY: &str = "CanaryQuery-k3Vd";
const MANAGER_SECRET: &str = "Tq3ZxN8vLr5WbKe1YdHu7PsMc9GjXa2FoRi6tBn4lVs=";
const PASSWORD: &str = "CanaryPhrase-h5Tn";
const BOOTSTRAP: &str = "c4nary.x7qpk3vdw9m2r5tz";
const HEX: &str = "c4a4a7e79f86d081884c7d659a2feaa0c55ad0153b1f0a6e2c9d8475fe01a2b3";
/// What the program of the `exec` driver expects, and says aloud when it fails.
const MUNGE: &str = "7d1f0a6e2c9d4475be01a2b3c4d59687";
const CANARIES: [&str; 11] = [
    MUNGE,
    CLUSTER_SECRET,
    TOKEN,
    HEADER,
    QUERY,
    "canary1awxwu",
    MANAGER_SECRET,
    PASSWORD,
    "x7qpk3vdw9m2r5tz",
    HEX,
    "CanaryPhrase",
];

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
    seen += &screen::render(snapshot.status.as_ref(), &Node::default(), &[], 0).join("\n");
    seen += &format!("{snapshot:?} {}", serde_json::to_string(&snapshot.status).unwrap());
    let state = host.state();
    // What a driver says to its own cluster may hold the cluster's secrets.
    for (_, address, body) in state.requests.iter().filter(|(_, address, _)| address.contains(".site/")) {
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
    // A gate whose address has a token in it: never open, and open at last.
    let gate = format!("https://gate.site/ready?token={QUERY}");
    let waits = format!("{secret}\nafter = [{{ http = \"{gate}\" }}]");
    let seen = everything(&machine(), vec![planted(&waits, "")]);
    assert!(seen.contains("https://gate.site/ready?..."));
    assert_clean("a closed gate", &seen);
    let host = machine();
    answer(&host, &gate, 200, "");
    assert_clean("an open gate", &everything(&host, vec![planted(&waits, "")]));
    assert_clean("a gate that is shown", &shown(&planted(&waits, "")));
    for refusal in [Refusal::WrongSecret, Refusal::NotReady] {
        let host = machine();
        host.state().rendezvous = vec![Err(refusal)];
        assert_clean("a refusal", &everything(&host, vec![planted(&secret, "")]));
    }
}

/// A `[join]` with a canary in every secret that its driver has, and what its node's image and cluster have.
struct Planted {
    name: &'static str,
    join: String,
    install: fn(&SimulatedHost),
}

#[allow(clippy::too_many_lines)] // a table
fn every_driver() -> Vec<Planted> {
    let hash = "a".repeat(64);
    let pins = format!("ca_cert_hashes = [\"sha256:{hash}\"]\n");
    let secrets = format!("secret = \"{CLUSTER_SECRET}\"\nmanager_secret = \"{MANAGER_SECRET}\"\n");
    let kubeadm = "driver = \"kubeadm\"\nendpoint = \"10.77.0.10:6443\"\n";
    let swarm = "driver = \"docker-swarm\"\nmanagers = [\"10.77.0.11\"]\n";
    vec![
        Planted {
            name: "docker-swarm manager",
            join: format!("{swarm}role = \"manager\"\n{secrets}"),
            install: |_| {},
        },
        Planted {
            name: "k3s server that founds",
            join: format!("driver = \"k3s\"\nrole = \"server\"\nservers = [\"10.77.0.11\"]\n{secrets}"),
            install: |host| with::<K3sStandIn>(host, &["/usr/local/bin/k3s"]),
        },
        Planted {
            name: "k3s agent by token",
            join: format!(
                "driver = \"k3s\"\nrole = \"agent\"\nservers = [\"10.77.0.10\"]\ntoken = \"K10{hash}::node:{PASSWORD}\"\n"
            ),
            install: |host| with::<K3sStandIn>(host, &["/usr/local/bin/k3s"]),
        },
        Planted {
            name: "k3s agent by rendezvous",
            join: format!("driver = \"k3s\"\nrole = \"agent\"\nservers = [\"10.77.0.10\"]\n{secrets}"),
            install: |host| {
                with::<K3sStandIn>(host, &["/usr/local/bin/k3s"]);
                give(
                    host,
                    "K10aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa::node:CanaryPhrase-h5Tn",
                );
            },
        },
        Planted {
            name: "kubeadm that founds",
            join: format!(
                "driver = \"kubeadm\"\nrole = \"init\"\nendpoint = \"10.77.0.11:6443\"\ntoken = \"{BOOTSTRAP}\"\n{secrets}"
            ),
            install: |host| with::<KubeadmStandIn>(host, &[]),
        },
        Planted {
            name: "kubeadm control plane by token",
            join: format!(
                "{kubeadm}role = \"control-plane\"\ntoken = \"{BOOTSTRAP}\"\n{pins}certificate_key = \"{HEX}\"\n"
            ),
            install: |host| with::<KubeadmStandIn>(host, &[]),
        },
        Planted {
            name: "kubeadm worker by discovery",
            join: format!(
                "{kubeadm}role = \"worker\"\ndiscovery = \"clusters: [{{ cluster: {{ certificate-authority-data: {PASSWORD} }} }}]\"\n"
            ),
            install: |host| with::<KubeadmStandIn>(host, &[]),
        },
        Planted {
            name: "aiware",
            join: format!(
                "driver = \"aiware\"\nmodes = [\"controller\", \"db\"]\ntoken = \"{PASSWORD}\"\nlicense = \"{PASSWORD}\"\n\
                 db_password = \"{PASSWORD}\"\n"
            ),
            install: |host| {
                with::<AgentStandIn>(host, &["/usr/local/bin/aiware-agent"]);
                open(host, &["127.0.0.1:5432"]);
                for own in ["10.77.0.11", "127.0.0.1"] {
                    answer(host, &format!("http://{own}:9000/edge/v1/version"), 200, "{}");
                }
            },
        },
        Planted {
            name: "backendai",
            join: format!(
                "driver = \"backendai\"\nrole = \"manager\"\nfounds = true\nallow_unpinned = true\netcd = {{ address = \"10.77.0.10:2379\", \
                 user = \"b\", password = \"{PASSWORD}\" }}\ndb = {{ address = \"10.77.0.10:5432\", name = \"b\", \
                 user = \"b\", password = \"{PASSWORD}\" }}\n"
            ),
            install: |host| {
                with::<AgentStandIn>(host, &[]);
                open(host, &["10.77.0.10:2379", "10.77.0.10:5432", "127.0.0.1:8081"]);
                answer(host, "http://10.77.0.10:2379/v3/auth/authenticate", 200, "{\"token\":\"CanaryPhrase-1\"}");
                answer(host, "http://10.77.0.10:2379/v3/kv/txn", 200, "{\"succeeded\":true}");
                answer(host, "http://10.77.0.10:2379/v3/kv/put", 200, "{}");
            },
        },
        Planted {
            name: "exec",
            join: format!(
                "driver = \"exec\"\nprogram = \"slurm\"\narguments = [\"--controller\", \"10.77.0.10\"]\n[join.secrets]\nmunge = \"{MUNGE}\"\n[[join.file]]\n\
                 path = \"/etc/slurm/db.conf\"\ncontent = \"StoragePass={PASSWORD}\"\n"
            ),
            install: |host| with::<JoinProgramStandIn>(host, &["/usr/lib/ingot/join.d/slurm"]),
        },
    ]
}

fn planted_driver(join: &str) -> Found {
    medium(&format!(
        "version = 1\nhostname = \"n1\"\n[report]\nurl = \"https://status.site/n?t={QUERY}\"\n[proxy]\n\
         http = \"http://user:{PASSWORD}@proxy.lan:3128\"\nhttps = \"http://user:{PASSWORD}@proxy.lan:3128\"\n\
         no_proxy = [\"10.0.0.0/8\"]\n[[network]]\nmatch = {{ name = \"en*\" }}\naddresses = [\"10.77.0.11/24\"]\n[join]\n{join}"
    ))
}

#[test]
fn no_secret_of_any_driver_nor_of_a_proxy_is_seen() {
    for Planted { name, join, install } in every_driver() {
        let found = planted_driver(&join);
        assert_clean(name, &shown(&found));
        // As it should be; without what the image should have; without Docker and what else the join starts.
        let host = machine();
        install(&host);
        let seen = everything(&host, vec![found.clone()]);
        assert!(seen.contains("FB-500 joined"), "{name} joins: {}", &seen[seen.len().saturating_sub(600)..]);
        assert_clean(name, &seen);
        assert_clean(name, &everything(&machine(), vec![found.clone()]));
        let host = machine();
        install(&host);
        host.state().failing = vec![
            "systemctl enable",
            "systemctl restart k3s",
            "kubeadm join",
            "kubeadm init",
            "backend.ai",
            "/usr/lib/ingot/join.d/",
        ];
        assert_clean(name, &everything(&host, vec![found.clone()]));
        let host = machine();
        install(&host);
        host.refuse(rustix::io::Errno::NOSPC, 0, Duration::MAX);
        assert_clean(name, &everything(&host, vec![found]));
    }
    // Programs that repeat in their words what they were given.
    let join_of = |wanted: &str| every_driver().into_iter().find(|planted| planted.name == wanted).unwrap().join;
    for ends_with in [75, 77, 78] {
        let host = machine();
        host.put("/usr/lib/ingot/join.d/slurm", "program");
        host.install(JoinProgramStandIn { ends_with, ..JoinProgramStandIn::default() });
        assert_clean("exec that fails", &everything(&host, vec![planted_driver(&join_of("exec"))]));
    }
    let host = machine();
    let words = "token c4nary.x7qpk3vdw9m2r5tz with certificate key \
                 c4a4a7e79f86d081884c7d659a2feaa0c55ad0153b1f0a6e2c9d8475fe01a2b3 has expired";
    host.install(KubeadmStandIn { refuses: Some(words), ..KubeadmStandIn::default() });
    let found = planted_driver(&join_of("kubeadm control plane by token"));
    assert_clean("kubeadm that refuses", &everything(&host, vec![found]));
    let host = machine();
    host.put("/usr/local/bin/k3s", "program");
    host.install(K3sStandIn { refuses: Some("401 Unauthorized for CanaryPhrase-h5Tn"), ..K3sStandIn::default() });
    let found = planted_driver(&join_of("k3s agent by token"));
    assert_clean("k3s that refuses", &everything(&host, vec![found]));
}

#[test]
fn the_key_of_an_encrypted_disk_is_nowhere_but_in_its_file() {
    let disk = "[[disk]]\nname = \"safe\"\nmatch = { serial = \"A1\" }\nmount = \"/safe\"\nencrypt = \"key-file\"\n";
    for failing in [vec![], vec!["cryptsetup open"]] {
        let host = machine();
        host.plug_in("sdb", 1 << 40, "A1", "ST4000");
        for program in ["mkfs.xfs", "cryptsetup"] {
            host.put(&format!("/usr/sbin/{program}"), "");
        }
        host.state().failing = failing;
        let seen = everything(&host, vec![planted(&format!("secret = \"{CLUSTER_SECRET}\""), disk)]);
        assert_clean("an encrypted disk", &seen);
        let (key, mode) = host.disk().files["/var/lib/ingot/disk-keys/safe-0.key"].clone();
        assert_eq!((key.len(), mode), (64, 0o600));
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let base64 = base64::engine::general_purpose::STANDARD.encode(&key);
        for form in [hex, base64, String::from_utf8_lossy(&key).into_owned(), format!("{key:?}")] {
            assert!(!seen.contains(&form), "{form}");
        }
        let holders: Vec<_> =
            host.disk().files.into_iter().filter(|(_, file)| file.0.windows(64).any(|part| part == key)).collect();
        assert_eq!(holders.len(), 1, "{holders:?}");
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
            plan.steps.iter().for_each(|step| seen += &format!("{} {:?}", step.describe(), step.inputs("image")));
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
