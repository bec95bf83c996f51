//! Every join driver through the whole service: the way to the member, the plug pulled at every point, refusals.

use super::*;
use crate::host::simulated::Program;
use crate::http::HttpReason;
use crate::join::stand_ins::{
    AgentStandIn, GlusterStandIn, JoinProgramStandIn, K3sStandIn, KubeadmStandIn, MountsStandIn,
};

const HASH: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
/// Where this node stands in the configurations.
const OWN: &str = "10.77.0.11";

pub fn stick_with(join: &str) -> Found {
    medium(&format!(
        "version = 1\nhostname = \"n1\"\n[[network]]\nmatch = {{ name = \"en*\" }}\naddresses = [\"{OWN}/24\"]\n[join]\n{join}"
    ))
}

/// A kind of node: what it is told, what is on its image, what else is there.
struct Kind {
    name: &'static str,
    join: String,
    install: fn(&SimulatedHost),
    /// What its disk says once it has joined exactly once.
    proof: fn(&Disk) -> bool,
}

fn noted(disk: &Disk, note: &str) -> bool {
    disk.notes.get(note).is_some_and(|count| count == "1")
}

pub fn open(host: &SimulatedHost, endpoints: &[&str]) {
    host.state().open_ports.extend(endpoints.iter().map(|endpoint| endpoint.parse::<std::net::SocketAddr>().unwrap()));
}

pub fn give(host: &SimulatedHost, token: &'static str) {
    host.state().rendezvous = vec![Ok((token, 1_790_000_000))];
}

pub fn with<P: Program + Default + 'static>(host: &SimulatedHost, files: &[&str]) {
    host.install(P::default());
    for file in files {
        host.put(file, "program");
    }
}

const AGENT_TOKEN: &str = "K10aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa::node:a-token-of-agents";
const TICKET: &str = "{\"token\":\"07401b.f395accd246ae52d\",\"pins\":[\"sha256:bb\"],\"certificate_key\":null}";

#[allow(clippy::too_many_lines)] // a table
fn kinds() -> Vec<Kind> {
    let k3s = |role: &str, servers: &str, with: &str| {
        format!("driver = \"k3s\"\nrole = \"{role}\"\nservers = [{servers}]\n{with}")
    };
    let by_secret = format!("secret = \"{SECRET}\"\n");
    let k3s_install = |host: &SimulatedHost| {
        with::<K3sStandIn>(host, &["/usr/local/bin/k3s"]);
        give(host, AGENT_TOKEN);
    };
    let kubeadm_install = |host: &SimulatedHost| {
        with::<KubeadmStandIn>(host, &[]);
        give(host, TICKET);
    };
    vec![
        Kind {
            name: "k3s server that founds",
            join: k3s("server", "\"10.77.0.11\", \"10.77.0.12\"", &by_secret),
            install: |host| {
                with::<K3sStandIn>(host, &["/usr/local/bin/k3s"]);
                host.state().silent.insert("10.77.0.12".parse().unwrap());
            },
            proof: |disk| noted(disk, "k3s founded") && !disk.notes.contains_key("k3s joined"),
        },
        Kind {
            name: "k3s server that joins",
            join: k3s("server", "\"10.77.0.10\", \"10.77.0.11\"", &by_secret),
            install: k3s_install,
            proof: |disk| noted(disk, "k3s joined") && !disk.notes.contains_key("k3s founded"),
        },
        Kind {
            name: "k3s agent by rendezvous",
            join: k3s("agent", "\"10.77.0.10\"", &by_secret),
            install: k3s_install,
            proof: |disk| noted(disk, "k3s joined"),
        },
        Kind {
            name: "k3s agent by token",
            join: k3s("agent", "\"10.77.0.10\"", &format!("token = \"K10{HASH}::node:a-token-of-agents\"\nlabels = [\"a=b\"]\n")),
            install: k3s_install,
            proof: |disk| noted(disk, "k3s joined"),
        },
        Kind {
            name: "kubeadm that founds",
            join: format!("driver = \"kubeadm\"\nrole = \"init\"\nendpoint = \"{OWN}:6443\"\npod_subnet = \"10.244.0.0/16\"\n{by_secret}"),
            install: kubeadm_install,
            proof: |disk| noted(disk, "kubeadm founded"),
        },
        Kind {
            name: "kubeadm worker",
            join: format!("driver = \"kubeadm\"\nrole = \"worker\"\nendpoint = \"10.77.0.10:6443\"\n{by_secret}"),
            install: kubeadm_install,
            proof: |disk| disk.notes.contains_key("kubeadm joined"),
        },
        Kind {
            name: "gluster server that makes the volume",
            join: "driver = \"gluster\"\nrole = \"server\"\nservers = [\"10.77.0.11\", \"10.77.0.12\", \"10.77.0.13\"]\n\
                   [[join.volume]]\nname = \"v1\"\nbricks = [\"10.77.0.11:/data/b\", \"10.77.0.12:/data/b\", \"10.77.0.13:/data/b\"]\n\
                   options = { \"network.ping-timeout\" = \"10\" }\n[[join.mount]]\nvolume = \"v1\"\ntarget = \"/srv/v1\"\n"
                .into(),
            install: |host| {
                with::<GlusterStandIn>(host, &[]);
                open(host, &["10.77.0.12:24007", "10.77.0.13:24007"]);
            },
            proof: |disk| disk.files.contains_key("/etc/systemd/system/srv-v1.mount"),
        },
        Kind {
            name: "nfs client",
            join: "driver = \"nfs\"\n[[join.mount]]\nsource = \"10.77.0.10:/export\"\ntarget = \"/data\"\noptions = [\"nconnect=8\"]\n".into(),
            install: |host| {
                with::<MountsStandIn>(host, &["/sbin/mount.nfs"]);
                open(host, &["10.77.0.10:2049"]);
            },
            proof: |disk| disk.notes.contains_key("enabled data.mount"),
        },
        Kind {
            name: "exec",
            join: "driver = \"exec\"\nprogram = \"slurm\"\narguments = [\"--controller\", \"10.77.0.10\"]\nunits = [\"munge.service\"]\n\
                   [join.secrets]\nmunge = \"7d1f0a6e2c9d4475be01a2b3c4d59687\"\n"
                .into(),
            install: |host| with::<JoinProgramStandIn>(host, &["/usr/lib/ingot/join.d/slurm"]),
            proof: |disk| noted(disk, "exec joined"),
        },
        Kind {
            name: "aiware engine",
            join: "driver = \"aiware\"\nmodes = [\"engine\"]\ncontroller = \"https://10.77.0.10:9000/edge/v1\"\nlicense = \"a-$-license\"\n".into(),
            install: |host| {
                with::<AgentStandIn>(host, &["/usr/local/bin/aiware-agent"]);
                answer(host, "https://10.77.0.10:9000/edge/v1/version", 200, "{}");
            },
            proof: |disk| {
                let (text, mode) = &disk.files["/etc/systemd/system/aiware-agent.service.env"];
                String::from_utf8_lossy(text).contains("AIWARE_LICENSE=\"a-\\$-license\"\n") && *mode == 0o600
            },
        },
        Kind {
            name: "backendai agent",
            join: "driver = \"backendai\"\nrole = \"agent\"\netcd = { address = \"10.77.0.10:2379\", namespace = \"site\" }\n".into(),
            install: |host| {
                with::<AgentStandIn>(host, &[]);
                open(host, &["10.77.0.10:2379", "10.77.0.11:6001"]);
            },
            proof: |disk| {
                let (text, mode) = &disk.files["/etc/backend.ai/agent.toml"];
                let parsed: toml::Table = String::from_utf8_lossy(text).parse().unwrap();
                *mode == 0o600 && parsed["agent"]["id"].as_str() == Some("i-n1") && parsed["agent"]["rpc-listen-addr"]["host"].as_str() == Some(OWN)
            },
        },
        Kind {
            name: "backendai manager that founds",
            join: "driver = \"backendai\"\nrole = \"manager\"\nfounds = true\netcd = { address = \"10.77.0.10:2379\", namespace = \"site\" }\n\
                   db = { address = \"10.77.0.10:5432\", name = \"b\", user = \"b\", password = \"n0t-the-def4ult\" }\n"
                .into(),
            install: |host| {
                with::<AgentStandIn>(host, &[]);
                open(host, &["10.77.0.10:2379", "10.77.0.10:5432", "127.0.0.1:8081"]);
                answer(host, "http://10.77.0.10:2379/v3/kv/txn", 200, "{\"succeeded\":true}");
                answer(host, "http://10.77.0.10:2379/v3/kv/put", 200, "{}");
            },
            proof: |disk| disk.notes.contains_key("schema"),
        },
    ]
}

pub fn answer(host: &SimulatedHost, url: &str, status: u16, body: &str) {
    let response = crate::http::HttpResponse { status, headers: Vec::new(), body: body.as_bytes().to_vec() };
    host.state().answers.insert(url.into(), vec![Ok(response)]);
}

fn set_up(kind: &Kind) -> SimulatedHost {
    let host = machine();
    (kind.install)(&host);
    host
}

fn kind(name: &str) -> Kind {
    kinds().into_iter().find(|kind| kind.name == name).unwrap()
}

#[test]
fn every_driver_joins_and_a_second_boot_changes_nothing() {
    for kind in kinds() {
        let host = set_up(&kind);
        let heard = run(&host, vec![stick_with(&kind.join)]);
        assert_eq!(heard.codes(), [100, 200, 210, 300, 310, 400, 500], "{}", kind.name);
        assert!((kind.proof)(&host.disk()), "{}: {:?}", kind.name, host.disk().notes);
        for (_, text) in heard.0.lock().unwrap().iter() {
            for secret in [SECRET, "a-token-of-agents", "n0t-the", "7d1f0a6e2c9d", "a-$-lic", "f395accd"] {
                assert!(!text.contains(secret), "{}: {text}", kind.name);
            }
        }
        let commands = host.state().commands.join("\n");
        let own_engine = ["k3s", "kubeadm"].iter().any(|driver| kind.name.starts_with(driver));
        assert_eq!(commands.contains("docker.service"), !own_engine, "{}: whose images go into Docker", kind.name);
        for secret in [SECRET, "a-token-of-agents", "n0t-the", "7d1f0a6e2c9d", "a-$-lic", "f395accd"] {
            assert!(!commands.contains(secret), "{}: a secret is an argument", kind.name);
        }
        let before = host.disk();
        host.reboot();
        let heard = run(&host, vec![Found::default()]);
        assert_eq!(heard.codes().last(), Some(&500), "{}", kind.name);
        assert_eq!(host.disk(), before, "{}", kind.name);
    }
}

#[test]
fn the_plug_is_pulled_at_every_point_of_every_driver() {
    let mut all = 0;
    for kind in kinds() {
        let reference = set_up(&kind);
        run(&reference, vec![stick_with(&kind.join)]);
        let mut point = 0;
        loop {
            let host = set_up(&kind);
            host.state().plug = Some(point);
            if !killed(&host, vec![stick_with(&kind.join)]) {
                break;
            }
            host.reboot();
            let heard = run(&host, vec![stick_with(&kind.join)]);
            assert_eq!(heard.codes().last(), Some(&500), "{}, point {point}", kind.name);
            assert!((kind.proof)(&host.disk()), "{}, point {point}: {:?}", kind.name, host.disk().notes);
            let without_counts = |host: &SimulatedHost| {
                let mut disk = outcome(host);
                // A join that was cut off is begun again: for the cluster it is one node all the same.
                disk.notes.remove("kubeadm joined");
                disk
            };
            assert_eq!(without_counts(&host), without_counts(&reference), "{}, point {point}", kind.name);
            point += 1;
        }
        assert!(point > 60, "{}: only {point} points", kind.name);
        println!("{}: plug pulled at {point} points", kind.name);
        all += point;
    }
    println!("in all: {all}");
}

/// Runs for a while and gives what was heard; a node that cannot join goes on for ever.
fn heard_before_giving_up(host: &SimulatedHost, join: &str) -> Heard {
    let heard = Heard::default();
    let media = Media(Mutex::new(vec![stick_with(join)]));
    let result = catch_unwind(AssertUnwindSafe(|| Service::new(host, &heard, &media).run()));
    assert!(result.is_err(), "it never joins");
    heard.0.lock().unwrap().dedup();
    heard
}

#[test]
fn refusals_have_their_codes_and_no_secrets() {
    let agent = kind("k3s agent by token");
    for (words, code) in [
        ("failed to get CA certs: 401 Unauthorized for K10abc::node:a-token-of-agents", Code::TokenRefused),
        ("token CA hash does not match the Cluster CA certificate hash: a != b", Code::ClusterAuthorityWrong),
        ("Node password rejected, duplicate hostname or contents of '/etc/rancher/node/password'", Code::DuplicateName),
        ("dial tcp 10.77.0.10:6443: connect: connection refused", Code::WaitingForManager),
    ] {
        let host = machine();
        host.put("/usr/local/bin/k3s", "program");
        host.install(K3sStandIn { refuses: Some(words), ..K3sStandIn::default() });
        let heard = heard_before_giving_up(&host, &agent.join);
        assert!(heard.codes().contains(&code.number()), "{words}: {:?}", heard.codes());
        assert!(!heard.text(code).contains("a-token-of-agents"), "{}", heard.text(code));
    }
    let worker = kind("kubeadm worker");
    for (words, code) in [
        (
            "could not find a JWS signature in the cluster-info ConfigMap for token ID \"07401b\": token has expired",
            Code::TokenRefused,
        ),
        (
            "none of the public keys \"sha256:aa\" are pinned; token 07401b.f395accd246ae52d",
            Code::ClusterAuthorityWrong,
        ),
    ] {
        let host = machine();
        host.install(KubeadmStandIn { refuses: Some(words), ..KubeadmStandIn::default() });
        give(&host, TICKET);
        let heard = heard_before_giving_up(&host, &worker.join);
        assert!(heard.codes().contains(&code.number()), "{words}: {:?}", heard.codes());
        assert!(!heard.text(code).contains("f395accd"), "{}", heard.text(code));
    }
    let exec = kind("exec");
    for (ends_with, code) in [(75, Code::WaitingForManager), (77, Code::TokenRefused), (78, Code::JoinFailed)] {
        let host = machine();
        host.put("/usr/lib/ingot/join.d/slurm", "program");
        host.install(JoinProgramStandIn { ends_with, ..JoinProgramStandIn::default() });
        let heard = heard_before_giving_up(&host, &exec.join);
        assert!(heard.codes().contains(&code.number()), "{ends_with}: {:?}", heard.codes());
        assert!(!heard.text(code).contains("7d1f0a6e"), "{}", heard.text(code));
    }
    let swarm = "driver = \"docker-swarm\"\nrole = \"worker\"\nmanagers = [\"10.77.0.10\"]\n";
    let swarm = format!("{swarm}secret = \"{SECRET}\"\n");
    for (words, code) in [
        (
            "rpc error: code = InvalidArgument desc = A valid join token is necessary to join this cluster",
            Code::TokenRefused,
        ),
        (
            "error while validating Root CA Certificate: remote CA does not match fingerprint. Expected: ab",
            Code::ClusterAuthorityWrong,
        ),
        ("rpc error: code = Unavailable desc = connection refused", Code::WaitingForManager),
    ] {
        let host = machine();
        host.state().join_refusal = Some(words);
        let heard = heard_before_giving_up(&host, &swarm);
        assert!(heard.codes().contains(&code.number()), "{words}: {:?}", heard.codes());
    }
    // A controller that an authority vouches for which the node does not trust.
    let aiware = kind("aiware engine");
    for (reason, code) in [
        (HttpReason::Certificate("no authority that this node trusts has signed it".into()), 943),
        (HttpReason::Connection("connection refused".into()), 410),
    ] {
        let host = set_up(&aiware);
        host.state().answers = [(String::new(), vec![Err(reason)])].into();
        let heard = heard_before_giving_up(&host, &aiware.join);
        assert!(heard.codes().contains(&code), "{:?}", heard.codes());
    }
    // A living machine has the name already, says the manager.
    let host = machine();
    host.state().rendezvous = vec![Err(Refusal::DuplicateName)];
    let heard = heard_before_giving_up(&host, &swarm);
    assert!(heard.text(Code::DuplicateName).contains("10.77.0.10"), "{:?}", heard.codes());
    // A manager that its own cluster does not know as one: the secret is right.
    let host = machine();
    host.state().rendezvous = vec![Err(Refusal::NotListed)];
    let heard = heard_before_giving_up(&host, &swarm);
    assert!(heard.codes().contains(&940) && !heard.codes().contains(&941), "{:?}", heard.codes());
    assert!(heard.text(Code::JoinFailed).contains("name this node there (join.managers"));
    // A second living machine of one name, and a dead one.
    let host = machine();
    host.install(KubeadmStandIn { nodes: [("n1".to_owned(), true)].into(), ..KubeadmStandIn::default() });
    give(&host, TICKET);
    let heard = heard_before_giving_up(&host, &worker.join);
    assert!(heard.codes().contains(&944), "{:?}", heard.codes());
}

#[test]
fn a_missing_program_is_named_before_anything_is_asked() {
    for (name, words) in [
        ("k3s agent by token", "the image has no k3s"),
        ("nfs client", "the image has no mount.nfs"),
        ("exec", "the image has no /usr/lib/ingot/join.d/slurm"),
        ("aiware engine", "the image has no /usr/local/bin/aiware-agent"),
    ] {
        let kind = kind(name);
        let host = machine();
        let heard = heard_before_giving_up(&host, &kind.join);
        assert!(heard.text(Code::PreflightFailed).contains(words), "{name}: {}", heard.text(Code::PreflightFailed));
        assert!(!heard.codes().contains(&400), "{name}");
    }
}

#[test]
fn gates_are_waited_for_and_said() {
    let gates =
        "after = [{ tcp = \"10.77.0.20:5432\" }, { http = \"https://10.77.0.21/ready\" }, { time_synced = true }]\n";
    let join = format!("{gates}{}", kind("nfs client").join);
    let host = set_up(&kind("nfs client"));
    let heard = heard_before_giving_up(&host, &join);
    let text = heard.text(Code::WaitingForGate);
    assert!(text.contains("tcp 10.77.0.20:5432: connection refused; waiting for 0 s"), "{text}");
    assert!(!heard.codes().contains(&400), "it does not begin to join");

    let host = set_up(&kind("nfs client"));
    open(&host, &["10.77.0.20:5432"]);
    let busy =
        crate::http::HttpResponse { status: 503, headers: vec![("retry-after".into(), "20".into())], body: Vec::new() };
    let ready = crate::http::HttpResponse { status: 204, headers: Vec::new(), body: Vec::new() };
    host.state().answers.insert("https://10.77.0.21/ready".into(), vec![Ok(busy), Ok(ready)]);
    host.put("/run/systemd/timesync/synchronized", "");
    let before = host.slept();
    let heard = run(&host, vec![stick_with(&join)]);
    assert_eq!(heard.codes(), [100, 200, 210, 300, 310, 305, 400, 500]);
    assert!(heard.text(Code::WaitingForGate).contains("https://10.77.0.21/ready: HTTP 503"));
    assert!(host.slept() >= before + Duration::from_secs(20), "what the server asked for is waited");
}

#[test]
fn a_busy_manager_is_left_alone_for_as_long_as_it_says() {
    let host = machine();
    host.state().busy = vec![Duration::from_secs(45)];
    let before = host.slept();
    let heard = run(&host, vec![stick("worker")]);
    assert_eq!(heard.codes(), [100, 200, 210, 300, 310, 400, 415, 500]);
    assert!(heard.text(Code::ClusterBusy).contains("asks to come back after 45 s"));
    assert!((45..60).contains(&host.slept().saturating_sub(before).as_secs()));
}

#[test]
fn a_further_manager_joins_by_the_rendezvous() {
    let host = machine();
    let text = String::from_utf8(stick("manager").documents[0].bytes.clone()).unwrap();
    host.state().rendezvous = vec![Ok(("SWMTKN-1-m", 1_790_000_000))];
    host.state().disk.manager = true;
    let heard = run(
        &host,
        vec![medium(&text.replace("managers = [\"10.77.0.11\"]", "managers = [\"10.77.0.10\", \"10.77.0.11\"]"))],
    );
    assert_eq!(heard.codes().last(), Some(&500));
    assert_eq!((host.disk().founded, host.disk().joined), (0, 1));
}

#[test]
fn leaving_is_for_good_until_another_configuration_comes() {
    for kind in kinds() {
        if kind.name.starts_with("gluster") {
            continue;
        }
        let host = set_up(&kind);
        run(&host, vec![stick_with(&kind.join)]);
        let heard = Heard::default();
        leave(&host, &heard).unwrap_or_else(|error| panic!("{}: {error}", kind.name));
        assert_eq!(heard.codes(), [520], "{}", kind.name);
        host.reboot();
        // The same stick again changes nothing.
        let heard = Heard::default();
        let media = Media(Mutex::new(vec![stick_with(&kind.join)]));
        let result = catch_unwind(AssertUnwindSafe(|| Service::new(&host, &heard, &media).run()));
        assert!(result.is_err() && heard.codes() == [100, 520], "{}: {:?}", kind.name, heard.codes());
    }
    let host = machine();
    run(&host, vec![stick("worker")]);
    leave(&host, &Heard::default()).unwrap();
    assert_eq!(host.disk().left, 1);
    host.reboot();
    let text = String::from_utf8(stick("worker").documents[0].bytes.clone()).unwrap().replace("\"n1\"", "\"n2\"");
    let heard = run(&host, vec![medium(&text)]);
    assert_eq!(heard.codes().last(), Some(&500));
    assert_eq!((host.disk().joined, host.state().hostname.as_str()), (2, "n2"));
}

#[test]
fn a_gluster_server_with_a_brick_does_not_leave_and_nobody_leaves_nothing() {
    let gluster = kind("gluster server that makes the volume");
    let host = set_up(&gluster);
    run(&host, vec![stick_with(&gluster.join)]);
    let error = leave(&host, &Heard::default()).unwrap_err().to_string();
    assert!(error.contains("holds a brick of v1") && error.contains("has not left"), "{error}");
    host.reboot();
    assert_eq!(run(&host, vec![Found::default()]).codes().last(), Some(&500));

    let error = leave(&machine(), &Heard::default()).unwrap_err();
    assert!(matches!(error, LeaveError::NoCluster), "{error}");
}

/// What the service says of a node that may have left, and how often it has joined by then.
fn after_leaving(host: &SimulatedHost, found: Found) -> (Vec<u16>, u32) {
    host.reboot();
    host.state().slept = Duration::from_hours(22);
    let heard = Heard::default();
    let media = Media(Mutex::new(vec![found]));
    let _ = catch_unwind(AssertUnwindSafe(|| Service::new(host, &heard, &media).run()));
    host.state().slept = Duration::ZERO;
    (heard.codes(), host.disk().joined)
}

#[test]
fn a_node_that_has_left_does_not_come_back_by_itself() {
    let url = |more: &str| {
        let text = format!("version = 1\n{more}");
        let document = crate::config::Document {
            name: "ingot.config:http://h/x".into(),
            format: crate::config::Format::NodeToml,
            bytes: text.into_bytes(),
        };
        Found { documents: vec![document], media: vec!["ingot.config:http://h/x".into()], ..Found::default() }
    };
    let mut both = url("timezone = \"UTC\"\n");
    both.absorb(stick("worker"));
    let host = machine();
    run(&host, vec![both.clone()]);
    leave(&host, &Heard::default()).unwrap();
    let out = (vec![100, 520], 1);
    // The stick is out, the server says something else about the time zone, the image is another one.
    assert_eq!(after_leaving(&host, url("timezone = \"UTC\"\n")), out);
    assert_eq!(after_leaving(&host, url("timezone = \"Europe/Berlin\"\n")), out);
    host.put("/usr/lib/ingot/role.toml", "ntp = [\"10.0.0.1\"]\n[join]\nrendezvous_port = 7391\n");
    assert_eq!(after_leaving(&host, both.clone()), out);
    assert_eq!(after_leaving(&host, Found::default()), out);
    // Root can say that it may.
    unseal(&host, &Heard::default(), false).unwrap();
    assert_eq!(run(&host, vec![both]).codes().last(), Some(&500));
    assert_eq!(host.disk().joined, 2);
}

#[test]
fn the_plug_is_pulled_while_a_node_leaves() {
    let mut point = 0;
    loop {
        let host = machine();
        run(&host, vec![stick("worker")]);
        let now = host.points();
        host.state().plug = Some(now + point);
        let ended = match catch_unwind(AssertUnwindSafe(|| leave(&host, &Heard::default()))) {
            Ok(result) => result.map(|()| true).unwrap(),
            Err(_) => false,
        };
        host.state().plug = None;
        let (codes, joined) = after_leaving(&host, stick("worker"));
        assert_eq!(joined, 1, "point {point}: {codes:?}");
        let left = host.disk().swarm != "active";
        assert_eq!(
            codes.contains(&520),
            left,
            "point {point}: it is out for good, or has not begun to leave: {codes:?}"
        );
        assert_eq!(codes.contains(&500), !left, "point {point}");
        if ended {
            assert!(left && point >= 6, "{point}");
            break;
        }
        point += 1;
    }
}
