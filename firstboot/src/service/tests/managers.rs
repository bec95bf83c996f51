//! Managers that are given by name, that are not there, and that were there before.

use super::joins::{give, open, stick_with, with};
use super::*;
use crate::http::{HttpReason, HttpResponse};
use crate::join::stand_ins::{K3sStandIn, KubeadmStandIn};

/// A manager of a swarm that several have.
fn swarm(managers: &str) -> Found {
    stick_with(&format!(
        "driver = \"docker-swarm\"\nrole = \"manager\"\nmanagers = [{managers}]\nsecret = \"{SECRET}\"\n"
    ))
}

#[test]
fn a_manager_that_is_given_by_its_own_name_founds() {
    let host = machine();
    let heard = run(&host, vec![swarm("\"n1\"")]);
    assert_eq!(heard.codes(), [100, 200, 210, 300, 310, 400, 500]);
    assert!(host.text("/etc/hosts").contains("127.0.1.1 n1"), "that is what its name leads to");
    assert_eq!((host.disk().founded, host.disk().joined), (1, 0));

    // One that is not the first finds the first by the hosts file, and does not ask itself.
    let host = machine();
    host.put("/etc/hosts", "127.0.0.1 localhost\n10.77.0.10 m0.site.lan m0 # the first\n");
    host.state().disk.manager = true;
    give(&host, "SWMTKN-1-m");
    let heard = run(&host, vec![swarm("\"m0\", \"n1\"")]);
    assert_eq!(heard.codes().last(), Some(&500));
    assert_eq!((host.disk().founded, host.disk().joined), (0, 1));
}

/// Something that founds where it finds nobody, with what the others give where they live.
struct Founder {
    name: &'static str,
    join: String,
    install: fn(&SimulatedHost),
    given: &'static str,
    /// How often it has founded and joined.
    counts: fn(&Disk) -> (u32, u32),
}

fn noted(disk: &Disk, note: &str) -> u32 {
    disk.notes.get(note).map_or(0, |count| count.parse().unwrap())
}

fn founders() -> [Founder; 3] {
    let managers = format!("managers = [\"10.77.0.11\", \"10.77.0.12\", \"10.77.0.13\"]\nsecret = \"{SECRET}\"\n");
    [
        Founder {
            name: "swarm",
            join: format!("driver = \"docker-swarm\"\nrole = \"manager\"\n{managers}"),
            // The tokens of the stand-in's engine all make workers.
            install: |host| host.state().disk.manager = true,
            given: "SWMTKN-1-m",
            counts: |disk| (disk.founded, disk.joined),
        },
        Founder {
            name: "k3s",
            join: format!("driver = \"k3s\"\nrole = \"server\"\n{}", managers.replace("managers", "servers")),
            install: |host| with::<K3sStandIn>(host, &["/usr/local/bin/k3s"]),
            given: "K10aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa::server:a-token-of-servers",
            counts: |disk| (noted(disk, "k3s founded"), noted(disk, "k3s joined")),
        },
        Founder {
            name: "kubeadm",
            join: format!("driver = \"kubeadm\"\nrole = \"init\"\nendpoint = \"10.77.0.9:6443\"\n{managers}"),
            install: |host| with::<KubeadmStandIn>(host, &[]),
            given: "{\"token\":\"07401b.f395accd246ae52d\",\"pins\":[\"sha256:bb\"],\"certificate_key\":\"cc\"}",
            counts: |disk| (noted(disk, "kubeadm founded"), noted(disk, "kubeadm joined")),
        },
    ]
}

fn installed(founder: &Founder) -> SimulatedHost {
    let host = machine();
    (founder.install)(&host);
    host
}

/// Both of the others are there, and neither is a member.
fn nobody_answers(host: &SimulatedHost) {
    host.state().silent = ["10.77.0.12", "10.77.0.13"].map(|address| address.parse().unwrap()).into();
}

#[test]
fn a_founder_that_lost_its_disk_joins_what_the_others_still_have() {
    for founder in founders() {
        let host = installed(&founder);
        give(&host, founder.given);
        let heard = run(&host, vec![stick_with(&founder.join)]);
        assert_eq!(heard.codes().last(), Some(&500), "{}", founder.name);
        assert_eq!((founder.counts)(&host.disk()), (0, 1), "{}", founder.name);
        // Wherever the power fails on the way, no second cluster comes of it.
        for point in (0..).step_by(3) {
            let host = installed(&founder);
            give(&host, founder.given);
            host.state().plug = Some(point);
            if !killed(&host, vec![stick_with(&founder.join)]) {
                assert!(point > 60, "{}: only {point} points", founder.name);
                break;
            }
            host.reboot();
            run(&host, vec![stick_with(&founder.join)]);
            assert_eq!((founder.counts)(&host.disk()).0, 0, "{}, point {point}", founder.name);
        }
    }
}

#[test]
fn a_founder_that_finds_nobody_founds_and_asks_nobody_again() {
    for founder in founders() {
        let host = installed(&founder);
        nobody_answers(&host);
        let before = host.slept();
        let heard = run(&host, vec![stick_with(&founder.join)]);
        assert_eq!(heard.codes(), [100, 200, 210, 300, 310, 400, 500], "{}", founder.name);
        assert_eq!((founder.counts)(&host.disk()), (1, 0), "{}", founder.name);
        assert!(
            (20..60).contains(&host.slept().saturating_sub(before).as_secs()),
            "{}: {:?}",
            founder.name,
            host.slept()
        );
        // What has begun to found goes on, although the others give something by now.
        let commands: &[&str] = match founder.name {
            "swarm" => &["engine POST /swarm/init"],
            "k3s" => &["systemctl enable k3s.service", "systemctl start --no-block k3s.service"],
            _ => &["kubeadm init"],
        };
        for command in commands {
            let host = installed(&founder);
            nobody_answers(&host);
            host.state().power.plug_at = Some(command);
            assert!(killed(&host, vec![stick_with(&founder.join)]), "{command}");
            host.reboot();
            // The engine is told nothing before it has founded, so what was cut off there has not begun.
            if founder.name != "swarm" {
                host.state().silent.clear();
                give(&host, founder.given);
            }
            run(&host, vec![stick_with(&founder.join)]);
            assert_eq!((founder.counts)(&host.disk()), (1, 0), "{command}");
        }
    }
}

#[test]
fn a_founder_waits_for_a_member_that_gives_nothing_yet() {
    for founder in founders() {
        let host = installed(&founder);
        host.state().silent = ["10.77.0.12".parse().unwrap()].into();
        host.state().rendezvous =
            vec![Err(Refusal::NotReady), Err(Refusal::DuplicateName), Ok((founder.given, 1_790_000_000))];
        let heard = run(&host, vec![stick_with(&founder.join)]);
        assert_eq!(heard.codes(), [100, 200, 210, 300, 310, 400, 410, 944, 500], "{}", founder.name);
        assert_eq!((founder.counts)(&host.disk()), (0, 1), "{}", founder.name);
    }
}

#[test]
fn a_control_plane_that_answers_is_not_founded_a_second_time() {
    let [.., founder] = founders();
    let url = "https://10.77.0.9:6443/healthz";
    let unknown = Err(HttpReason::Certificate("it is signed by an unknown authority".into()));
    let answered = Ok(HttpResponse { status: 200, headers: Vec::new(), body: b"ok".to_vec() });
    for (answer, founded) in [(unknown, 0), (answered, 0), (Err(HttpReason::Connection("refused".into())), 1)] {
        let host = installed(&founder);
        nobody_answers(&host);
        host.state().answers.insert(url.into(), vec![answer]);
        let outcome = catch_unwind(AssertUnwindSafe(|| run(&host, vec![stick_with(&founder.join)])));
        assert_eq!((outcome.is_ok(), (founder.counts)(&host.disk()).0), (founded == 1, founded));
    }
}

#[test]
fn who_joins_k3s_goes_through_the_server_that_answered() {
    let join = |more: &str| {
        stick_with(&format!("driver = \"k3s\"\nrole = \"agent\"\nservers = [\"10.77.0.5\", \"10.77.0.6\"]\n{more}"))
    };
    let through = |host: &SimulatedHost| host.disk().notes["k3s settings"].contains("https://10.77.0.6:6443");
    // The first one is down.
    let host = machine();
    with::<K3sStandIn>(&host, &["/usr/local/bin/k3s"]);
    give(&host, "K10aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa::node:a-token-of-agents");
    host.state().silent = ["10.77.0.5".parse().unwrap()].into();
    run(&host, vec![join(&format!("secret = \"{SECRET}\"\n"))]);
    assert!(through(&host), "{:?}", host.disk().notes);
    // With a token nobody is asked, but one of them listens. Where none does, what was written before does not count.
    let host = machine();
    let file = "/etc/rancher/k3s/config.yaml.d/50-ingot-server.yaml";
    host.put(file, "server: https://192.0.2.1:6443\n");
    with::<K3sStandIn>(&host, &["/usr/local/bin/k3s"]);
    let token = format!("token = \"K10{}::node:a-token-of-agents\"\n", "a".repeat(64));
    run(&host, vec![join(&token)]);
    assert!(!host.exists(file) && host.disk().notes["k3s settings"].contains("https://10.77.0.5:6443"));
    let host = machine();
    with::<K3sStandIn>(&host, &["/usr/local/bin/k3s"]);
    open(&host, &["10.77.0.6:6443"]);
    run(&host, vec![join(&token)]);
    assert!(through(&host), "{:?}", host.disk().notes);
}

#[test]
fn a_server_that_left_does_not_go_on_in_its_old_cluster() {
    let server = |servers: &str| {
        let text = format!("driver = \"k3s\"\nrole = \"server\"\nservers = [{servers}]\nsecret = \"{SECRET}\"\n");
        stick_with(&text)
    };
    let host = machine();
    host.put("/usr/local/bin/k3s", "program");
    host.put("/usr/local/bin/k3s-killall.sh", "program");
    host.put("/var/lib/rancher/k3s/server/manifests/image.yaml", "kept");
    host.install(K3sStandIn { left: ["own".to_owned()].into(), ..K3sStandIn::default() });
    let state = "/var/lib/rancher/k3s/server/db/etcd/name";
    // The stand-in would not go on with what it left; here it founds that first.
    host.put(state, "first");
    run(&host, vec![server("\"10.77.0.11\"")]);
    host.put(state, "own");
    leave(&host, &Heard::default()).unwrap();
    assert!(!host.exists(state) && host.exists("/var/lib/rancher/k3s/server/manifests/image.yaml"));
    let commands = host.state().commands.clone();
    let place = |wanted: &str| commands.iter().position(|command| command.starts_with(wanted)).unwrap();
    assert!(place("systemctl disable --now k3s.service") < place("/usr/local/bin/k3s-killall.sh"));
    assert!(place("/usr/local/bin/k3s-killall.sh") < place("rm -rf"));
    host.reboot();
    give(&host, "K10aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa::server:a-token-of-servers");
    let heard = run(&host, vec![server("\"10.77.0.20\", \"10.77.0.11\"")]);
    assert_eq!(heard.codes().last(), Some(&500));
    assert!(host.text(state).contains("10.77.0.20"), "{}", host.text(state));
}
