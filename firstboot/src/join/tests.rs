use base64::Engine as _;

use super::stand_ins::{K3sStandIn, KubeadmStandIn};
use super::*;
use crate::config::{Document, Format, Machine, load};
use crate::host::InterfaceAddress;
use crate::host::simulated::SimulatedHost;
use crate::host::simulated::engine::KnownNode;

const SECRET: &str = "kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2fG9jLt4oMyB6s=";
const K10: &str = "K10aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa::";

fn driver_for(join: &str) -> Box<dyn Driver> {
    let text = format!("version = 1\n[join]\n{join}\nsecret = \"{SECRET}\"\n");
    let documents = [Document { name: "f".into(), format: Format::NodeToml, bytes: text.into_bytes() }];
    let join = load(&documents, &Machine::default()).unwrap_or_else(|error| panic!("{error}")).config.join.unwrap();
    driver(&join, NodeFacts { hostname: "m1".into(), addresses: vec!["10.77.0.10".parse().unwrap()] })
}

fn manager() -> SimulatedHost {
    let host = SimulatedHost::default();
    {
        let mut state = host.state();
        state.docker_runs = true;
        state.clock = 1_790_000_000;
        state.disk.swarm = "active".into();
        state.disk.manager = true;
        state.addresses = vec![InterfaceAddress { interface: "enp1s0".into(), address: "10.77.0.10".parse().unwrap() }];
    }
    host
}

fn asker(name: &str, peer: &str, seat: Seat) -> Asker {
    let identity = NodeIdentity { hostname: name.into(), id: "1".into(), seat };
    Asker { identity, peer: peer.parse().unwrap() }
}

#[test]
fn a_managers_token_goes_only_to_the_configured_managers() {
    let driver =
        driver_for("driver = \"docker-swarm\"\nrole = \"manager\"\nmanagers = [\"10.77.0.10\", \"10.77.0.12\"]");
    let host = manager();
    assert_eq!(driver.admit(&host, &asker("w1", "10.77.0.99", Seat::Worker)).unwrap().expose(), "SWMTKN-1-w");
    assert_eq!(driver.admit(&host, &asker("m2", "10.77.0.12", Seat::Manager)).unwrap().expose(), "SWMTKN-1-m");
    assert_eq!(driver.admit(&host, &asker("m2", "::ffff:10.77.0.12", Seat::Manager)).unwrap().expose(), "SWMTKN-1-m");
    let error = driver.admit(&host, &asker("m2", "10.77.0.99", Seat::Manager)).unwrap_err();
    assert!(matches!(error, JoinError::NotListed(_)), "{error}");
}

#[test]
fn a_dead_node_makes_room_and_a_living_one_does_not() {
    let driver = driver_for("driver = \"docker-swarm\"\nrole = \"manager\"\nmanagers = [\"10.77.0.10\"]");
    let host = manager();
    let node = known_node;
    host.state().nodes = vec![node("a", "w1", "down"), node("b", "w2", "ready"), node("c", "w1", "down")];
    driver.admit(&host, &asker("w1", "10.77.0.11", Seat::Worker)).unwrap();
    assert_eq!(host.state().nodes, [node("b", "w2", "ready")], "the dead of this name are gone, others stay");
    let error = driver.admit(&host, &asker("w2", "10.77.0.11", Seat::Worker)).unwrap_err();
    assert_eq!(error.code(), crate::status::Code::DuplicateName);
    assert_eq!(host.state().nodes.len(), 1);
}

/// A worker that has been what it is for a day.
fn known_node(id: &str, name: &str, state: &'static str) -> KnownNode {
    let (id, hostname) = (id.to_owned(), name.to_owned());
    KnownNode { id, hostname, state, manager: false, in_quorum: false, updated: "2026-09-20T14:13:20.5Z" }
}

#[test]
fn a_name_alone_removes_neither_a_manager_nor_what_may_come_back() {
    let driver =
        driver_for("driver = \"docker-swarm\"\nrole = \"manager\"\nmanagers = [\"10.77.0.10\", \"10.77.0.12\"]");
    let manager_node = KnownNode { manager: true, in_quorum: true, ..known_node("m", "m2", "down") };
    let just_now = KnownNode { updated: "2026-09-21T14:11:20Z", ..known_node("j", "w1", "down") };
    let refused = [
        (manager_node.clone(), "m2", Seat::Worker),
        (known_node("u", "w1", "unknown"), "w1", Seat::Worker),
        (known_node("d", "w1", "disconnected"), "w1", Seat::Worker),
        (just_now, "w1", Seat::Worker),
        (KnownNode { updated: "2026-09-21T14:11:20Z", ..manager_node.clone() }, "m2", Seat::Manager),
    ];
    for (node, name, seat) in refused {
        let host = manager();
        // What could go beside it stays too.
        host.state().nodes = vec![known_node("x", name, "down"), node];
        let before = host.state().nodes.clone();
        let error = driver.admit(&host, &asker(name, "10.77.0.12", seat)).unwrap_err();
        assert!(matches!(error, JoinError::DuplicateName(_)), "{before:?}: {error}");
        assert_eq!(host.state().nodes, before);
    }
    let host = manager();
    host.state().nodes = vec![manager_node];
    assert_eq!(driver.admit(&host, &asker("m2", "10.77.0.12", Seat::Manager)).unwrap().expose(), "SWMTKN-1-m");
    assert!(host.state().nodes.is_empty(), "a manager that is dead makes room for a manager");
}

#[test]
fn a_manager_steps_down_before_it_leaves() {
    let driver = driver_for("driver = \"docker-swarm\"\nrole = \"manager\"\nmanagers = [\"10.77.0.10\"]");
    let other = KnownNode { manager: true, in_quorum: true, ..known_node("m", "m2", "ready") };
    for (others, manager_in_the_end) in [(vec![other], false), (Vec::new(), true)] {
        let host = manager();
        host.state().nodes = others;
        driver.leave(&host).unwrap();
        let disk = host.disk();
        assert_eq!((disk.left, disk.manager), (1, manager_in_the_end));
    }
}

#[test]
fn a_k3s_server_gives_each_seat_its_token_and_forgets_the_dead() {
    let driver = driver_for("driver = \"k3s\"\nrole = \"server\"\nservers = [\"10.77.0.10\", \"10.77.0.12\"]");
    let host = manager();
    host.put("/usr/local/bin/k3s", "program");
    host.install(K3sStandIn {
        nodes: [("w1".to_owned(), ("old".to_owned(), false)), ("w2".to_owned(), ("x".to_owned(), true))].into(),
        ..K3sStandIn::default()
    });
    for file in driver.render().unwrap() {
        host.write(&file.path, file.content.expose().as_bytes(), file.mode).unwrap();
    }
    let joiner = Joiner { host: &host, identity: asker("m1", "10.77.0.10", Seat::Manager).identity, member: false };
    driver.start(&joiner).unwrap();
    let error = driver.admit(&host, &asker("w1", "10.77.0.11", Seat::Worker)).unwrap_err();
    assert!(matches!(error, JoinError::NoManagerYet(_)), "no token is there yet: {error}");
    host.put("/var/lib/rancher/k3s/server/token", &format!("{K10}server:s\n"));
    host.put("/var/lib/rancher/k3s/server/agent-token", &format!("{K10}node:a\n"));
    assert_eq!(driver.admit(&host, &asker("w1", "10.77.0.11", Seat::Worker)).unwrap().expose(), format!("{K10}node:a"));
    assert_eq!(
        driver.admit(&host, &asker("m2", "10.77.0.12", Seat::Manager)).unwrap().expose(),
        format!("{K10}server:s")
    );
    assert!(matches!(driver.admit(&host, &asker("w2", "10.77.0.11", Seat::Worker)), Err(JoinError::DuplicateName(_))));
    assert!(matches!(driver.admit(&host, &asker("w3", "10.77.0.13", Seat::Manager)), Err(JoinError::NotListed(_))));
    let commands = host.state().commands.join("\n");
    assert!(commands.contains("delete node w1") && !commands.contains("delete node w2"), "{commands}");
    host.put("/var/lib/rancher/k3s/server/agent-token", "short");
    let error = driver.admit(&host, &asker("w4", "10.77.0.14", Seat::Worker)).unwrap_err().to_string();
    assert!(error.contains("no hash of the cluster's authority"), "{error}");
}

#[test]
fn a_control_plane_gives_a_ticket_with_the_pin() {
    let driver = driver_for(
        "driver = \"kubeadm\"\nrole = \"init\"\nendpoint = \"10.77.0.10:6443\"\nmanagers = [\"10.77.0.10\", \"10.77.0.12\"]",
    );
    let host = manager();
    host.install(KubeadmStandIn { nodes: [("w1".to_owned(), false)].into(), ..KubeadmStandIn::default() });
    host.put("/etc/kubernetes/admin.conf", "kubeconfig");
    let error = driver.admit(&host, &asker("w1", "10.77.0.11", Seat::Worker)).unwrap_err().to_string();
    assert!(error.contains("ca.crt holds no certificate"), "{error}");
    // SEQUENCE { SEQUENCE { [0], 5 elements, SEQUENCE spki } }, as far as the pin needs it.
    let der = [0x30, 0x12, 0x30, 0x10, 0xa0, 0, 2, 0, 0x30, 0, 0x30, 0, 0x30, 0, 0x30, 0, 0x30, 2, 5, 0];
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    host.put(
        "/etc/kubernetes/pki/ca.crt",
        &format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"),
    );
    let worker = driver.admit(&host, &asker("w1", "10.77.0.11", Seat::Worker)).unwrap();
    let ticket: serde_json::Value = serde_json::from_str(worker.expose()).unwrap();
    assert_eq!(ticket["token"], "07401b.f395accd246ae52d");
    assert!(ticket["pins"][0].as_str().unwrap().starts_with("sha256:") && ticket["certificate_key"].is_null());
    let control = driver.admit(&host, &asker("m2", "10.77.0.12", Seat::Manager)).unwrap();
    let ticket: serde_json::Value = serde_json::from_str(control.expose()).unwrap();
    let key = ticket["certificate_key"].as_str().unwrap();
    assert_eq!(key.len(), 64);
    assert_eq!(host.state().disk.notes["uploaded"], key);
    assert!(!host.state().commands.join("\n").contains(key), "the key is no argument");
    assert!(host.state().run_files.is_empty(), "nothing secret is left behind");
}

#[test]
fn the_own_address_and_name_are_known() {
    let node = NodeFacts { hostname: "m1.site.lan".into(), addresses: vec!["10.77.0.10".parse().unwrap()] };
    for own in ["10.77.0.10", "m1.site.lan", "m1"] {
        assert!(node.is_own(&own.parse().unwrap()), "{own}");
    }
    for other in ["10.77.0.1", "m1.other.lan", "m2"] {
        assert!(!node.is_own(&other.parse().unwrap()), "{other}");
    }
}

#[test]
fn mounts_are_read_from_the_kernels_table() {
    let host = SimulatedHost::default();
    host.put(
        "/proc/self/mountinfo",
        "22 1 0:20 / / ro - erofs /dev/dm-0 ro\n90 1 0:50 / /data\\040x rw shared:1 - nfs4 a:/e rw\n91 1 0:51 / /d rw - ext4 /dev/sdb rw\n92 1 0:52 / /d rw - xfs /dev/sdc rw\n",
    );
    assert_eq!(gate::mounted(&host, "/data x"), Some(("a:/e".into(), "nfs4".into())));
    assert_eq!(gate::mounted(&host, "/d"), Some(("/dev/sdc".into(), "xfs".into())), "the last one lies on top");
    assert_eq!(gate::mounted(&host, "/none"), None);
}

#[test]
fn plans_name_units_and_commands_without_secrets() {
    for (join, expected) in [
        (
            "driver = \"docker-swarm\"\nrole = \"worker\"\nmanagers = [\"10.77.0.1\"]",
            "ask rendezvous: the worker token, from 10.77.0.1 port 7390",
        ),
        (
            "driver = \"k3s\"\nrole = \"agent\"\nservers = [\"10.77.0.1\"]",
            "run systemctl start --no-block k3s-agent.service",
        ),
        (
            "driver = \"kubeadm\"\nrole = \"worker\"\nendpoint = \"10.77.0.1:6443\"",
            "kubeadm join --config /run/ingot/kubeadm.yaml",
        ),
    ] {
        let driver = driver_for(join);
        let all = format!(
            "{}\n{}",
            driver.describe(),
            driver.effects().iter().flat_map(Effect::lines).collect::<Vec<_>>().join("\n")
        );
        assert!(all.contains(expected) && !all.contains(SECRET), "{all}");
        for file in driver.render().unwrap() {
            assert!(!file.public || !file.content.expose().contains(SECRET), "{}", file.path);
        }
    }
}
