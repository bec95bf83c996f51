use super::*;
use crate::config::parse::toml_tree;

const SECRET: &str = "kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2fG9jLt4oMyB6s=";
const CANARY: &str = "c4n4ry-Zk9vT2mQxW7sYb4H";

fn parse(text: &str, extent: Extent) -> Result<(Join, Vec<String>), String> {
    let mut findings = Findings::default();
    let tree = toml_tree(&std::sync::Arc::from("f"), text.as_bytes(), &mut findings).expect("it is TOML");
    let node = match &tree.value {
        crate::config::tree::Value::Table(table) => table["join"].node.clone(),
        _ => panic!(),
    };
    let join = read(&node, extent, &mut findings);
    let result = findings.into_result(join).map_err(|error| error.to_string());
    result.map(|(join, warnings)| (join, warnings.iter().map(ToString::to_string).collect()))
}

fn good(text: &str) -> Join {
    parse(&format!("[join]\n{text}"), Extent::Whole).unwrap_or_else(|error| panic!("{text}\n{error}")).0
}

fn refused(text: &str, expected: &[&str]) {
    let error = parse(&format!("[join]\n{text}"), Extent::Whole).expect_err(text);
    for part in expected {
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
    assert!(!error.contains(SECRET) && !error.contains(CANARY), "{error}");
}

#[test]
fn drivers_are_named_and_missing_keys_too() {
    refused("driver = \"docker-swam\"\n", &["f:2:10: join.driver", "did you mean \"docker-swarm\"?"]);
    refused("driver = \"nomad\"\n", &["unknown driver \"nomad\"", "known drivers: docker-swarm, k3s"]);
    refused("", &["join.driver: is missing"]);
    refused("driver = \"docker-swarm\"\nrole = \"boss\"\n", &["\"boss\" is not one of: manager, worker"]);
    refused("driver = \"docker-swarm\"\n", &["join.role: is missing", "join.secret: is missing"]);
    refused(
        "driver = \"docker-swarm\"\nrole = \"worker\"\n",
        &["join.secret: is missing", "join.managers: is missing"],
    );
    refused("driver = \"k3s\"\nrole = \"agent\"\nmanagers = []\n", &["join.managers: unknown key"]);
    refused("driver = \"docker-swarm\"\nsecret = \"short\"\n", &["f:3:10: join.secret: is shorter"]);
    refused("driver = \"docker-swarm\"\ntoken = \"SWMTKN-1-x\"\n", &["not a Swarm join token"]);
    refused("driver = \"docker-swarm\"\nrendezvous_port = 70000\n", &["from 1 to 65535"]);
    let text = format!(
        "driver = \"docker-swarm\"\nrole = \"worker\"\nmanagers = [\"10.0.0.1\"]\nsecret = \"{SECRET}\"\nmanager_secret = \"{SECRET}\"\n"
    );
    refused(&text, &["manager_secret: is the same as secret"]);
}

#[test]
fn a_part_without_a_driver_may_have_any_drivers_keys() {
    let mut findings = Findings::default();
    for text in ["servers = []", "managers = [\"a\"]\nlabels = [\"a=b\"]", "after = [{ time_synced = true }]"] {
        let tree = toml_tree(&std::sync::Arc::from("f"), text.as_bytes(), &mut findings).unwrap();
        assert!(read(&tree, Extent::Part, &mut findings).is_none());
    }
    assert!(findings.errors.is_empty(), "{:?}", findings.errors);
    let tree = toml_tree(&std::sync::Arc::from("f"), b"secret = \"changeme\"\nservrs = []", &mut findings).unwrap();
    read(&tree, Extent::Part, &mut findings);
    assert_eq!(findings.errors.len(), 2, "{:?}", findings.errors);
}

#[test]
fn gates_and_splay() {
    let base = format!("driver = \"docker-swarm\"\nrole = \"manager\"\nsecret = \"{SECRET}\"\n");
    let gates = "after = [{ tcp = \"10.0.0.1:2049\" }, { http = \"https://a.lan/ready\" }, { mount = \"/data\" }, \
                 { unit = \"a.service\" }, { time_synced = true }]\nsplay = 30\n";
    let join = good(&format!("{base}{gates}"));
    assert_eq!(join.splay, Some(Duration::from_secs(30)));
    let shown: Vec<String> = join.after.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        ["tcp 10.0.0.1:2049", "https://a.lan/ready", "mount /data", "unit a.service", "time synchronised"]
    );
    for (gate, expected) in [
        ("{}", "exactly one thing"),
        ("{ tcp = \"a:1\", unit = \"b.service\" }", "exactly one thing"),
        ("{ tcp = \"a\" }", "has no port"),
        ("{ time_synced = false }", "waits for nothing"),
        ("{ http = \"https://a\", ca = \"x\" }", "not a certificate in PEM"),
        ("{ udp = \"a:1\" }", "unknown key"),
    ] {
        refused(&format!("{base}after = [{gate}]\n"), &["f:5:", "join.after[0]", expected]);
    }
    refused(&format!("{base}splay = 4000\n"), &["from 0 to 3600"]);
}

#[test]
fn k3s_wants_pinned_tokens() {
    let hash = "a".repeat(64);
    let base = "driver = \"k3s\"\nrole = \"agent\"\nservers = [\"10.0.0.1\"]\n";
    good(&format!("{base}token = \"K10{hash}::node:{CANARY}\"\n"));
    good(&format!("{base}secret = \"{SECRET}\"\n"));
    refused(&format!("{base}token = \"{CANARY}\"\n"), &["join.token: has no hash", "allow_unpinned = true"]);
    let (_, warnings) =
        parse(&format!("[join]\n{base}token = \"{CANARY}\"\nallow_unpinned = true\n"), Extent::Whole).unwrap();
    assert!(warnings[0].contains("allow_unpinned accepts that") && !warnings[0].contains(CANARY), "{warnings:?}");
    refused(&format!("{base}token = \"K10{}::node:{CANARY}\"\n", "a".repeat(63)), &["not 64 small hex digits"]);
    refused(&format!("{base}token = \"k3s_hub_token\"\n"), &["is a sample, a default or a placeholder"]);
    refused(base, &["join.secret: is missing"]);
    refused("driver = \"k3s\"\nrole = \"agent\"\n", &["join.servers: is missing"]);
    refused(
        &format!(
            "{base}secret = \"{SECRET}\"\ntaints = [\"a\"]\nlabels = [\"x\"]\ndisable = [\"treafik\"]\npod_subnet = \"10.0.0.1/8\"\n"
        ),
        &["key=value:NoSchedule", "is not a label", "traefik", "bits beyond its prefix"],
    );
    let ha = "driver = \"k3s\"\nrole = \"server\"\nservers = [\"10.0.0.1\", \"10.0.0.2\"]\n";
    let join = good(&format!("{ha}secret = \"{SECRET}\"\n"));
    assert!(matches!(join.system, System::K3s(K3s { cluster_init: true, .. })));
    refused(&format!("{ha}secret = \"{SECRET}\"\ncluster_init = false\n"), &["need the embedded etcd"]);
}

#[test]
fn kubeadm_wants_pinned_tokens() {
    let base = "driver = \"kubeadm\"\nrole = \"worker\"\nendpoint = \"10.0.0.1:6443\"\n";
    let token = "token = \"07401b.f395accd246ae52d\"\n";
    good(&format!("{base}{token}ca_cert_hashes = [\"sha256:{}\"]\n", "b".repeat(64)));
    good(&format!("{base}secret = \"{SECRET}\"\n"));
    good(&format!("{base}discovery = \"clusters:\\n- cluster:\\n    certificate-authority-data: x\"\n"));
    refused(&format!("{base}{token}"), &["has no pin beside it", "give ca_cert_hashes"]);
    parse(&format!("[join]\n{base}{token}allow_unpinned = true\n"), Extent::Whole).unwrap();
    refused(&format!("{base}token = \"abcdef.0123456789abcdef\"\n"), &["is the sample of Kubernetes' documentation"]);
    refused(&format!("{base}{token}ca_cert_hashes = [\"{}\"]\n", "b".repeat(64)), &["not the pin of an authority"]);
    refused(&format!("{base}discovery = \"{CANARY}\"\n"), &["certificate-authority-data"]);
    refused(
        &format!("driver = \"kubeadm\"\nrole = \"control-plane\"\nendpoint = \"10.0.0.1\"\n{token}"),
        &["has no port", "certificate_key: is missing"],
    );
    let control_plane = base.replace("worker", "control-plane");
    let by_secret = format!("{control_plane}secret = \"{SECRET}\"\n");
    refused(&by_secret, &["join.managers: is missing", "name the control-plane nodes"]);
    good(&format!("{by_secret}managers = [\"10.0.0.1\", \"10.0.0.2\"]\n"));
    for base in [base, "driver = \"k3s\"\nrole = \"agent\"\nservers = [\"10.0.0.1\"]\n"] {
        let labelled =
            format!("{base}secret = \"{SECRET}\"\nlabels = [\"a=b\", \"node-role.kubernetes.io/worker=\"]\n");
        refused(
            &labelled,
            &["node-role.kubernetes.io/worker is a label that no node may give itself", "kubectl label node"],
        );
    }
    refused("driver = \"kubeadm\"\nrole = \"worker\"\n", &["join.endpoint: is missing", "join.secret: is missing"]);
    refused(&format!("{base}certificate_key = \"{CANARY}\"\n"), &["is not a certificate key"]);
}

#[test]
fn aiware_is_not_open_by_default() {
    let engine = "driver = \"aiware\"\nmodes = [\"engine\"]\n";
    good(&format!("{engine}controller = \"https://10.0.0.1:9000/edge/v1\"\n"));
    refused(
        &format!("{engine}controller = \"http://10.0.0.1:9000/edge/v1\"\n"),
        &["is plain HTTP", "allow_unpinned = true"],
    );
    parse(
        &format!("[join]\n{engine}controller = \"http://10.0.0.1:9000/edge/v1\"\nallow_unpinned = true\n"),
        Extent::Whole,
    )
    .unwrap();
    refused(&format!("{engine}controller = \"https://127.0.0.1:9000\"\n"), &["is this node itself"]);
    refused(engine, &["join.controller: is missing"]);
    refused("driver = \"aiware\"\nmodes = [\"engin\"]\n", &["\"engin\" is no run mode"]);
    refused(
        "driver = \"aiware\"\nmodes = [\"controller\", \"db\", \"nfs\"]\ndb_password = \"postgres\"\n",
        &["db_password: is a sample, a default", "join.token: is missing", "nfs_permitted: is missing"],
    );
}

#[test]
fn backendai_needs_its_stores_and_no_default_password() {
    let etcd = "etcd = { address = \"10.0.0.1:2379\", namespace = \"site\" }\n";
    good(&format!("driver = \"backendai\"\nrole = \"agent\"\n{etcd}"));
    let db = "db = { address = \"10.0.0.1:5432\", name = \"backend\", user = \"backend\", password = \"n0t-the-def4ult\" }\n";
    good(&format!("driver = \"backendai\"\nrole = \"manager\"\n{etcd}{db}"));
    refused("driver = \"backendai\"\nrole = \"manager\"\n", &["join.etcd: is missing", "join.db: is missing"]);
    let with_password = |address: &str| {
        format!(
            "driver = \"backendai\"\nrole = \"agent\"\n\
             etcd = {{ address = \"{address}\", user = \"b\", password = \"{CANARY}\" }}\n"
        )
    };
    let plain = ["f:4:", "join.etcd.password: goes over the network in plain HTTP", "allow_unpinned = true"];
    refused(&with_password("10.0.0.1:2379"), &plain);
    let accepted = format!("[join]\n{}allow_unpinned = true\n", with_password("10.0.0.1:2379"));
    let (_, warnings) = parse(&accepted, Extent::Whole).unwrap();
    assert!(warnings[0].contains("allow_unpinned accepts that") && !warnings[0].contains(CANARY), "{warnings:?}");
    good(&with_password("127.0.0.1:2379"));
    refused(
        &format!("driver = \"backendai\"\nrole = \"manager\"\n{etcd}{}", db.replace("n0t-the-def4ult", "develove")),
        &["join.db.password: is a sample, a default"],
    );
    refused(
        "driver = \"backendai\"\nrole = \"agent\"\netcd = { address = \"10.0.0.1\", user = \"root\" }\n",
        &["has no port", "user and password belong together"],
    );
}

#[test]
fn gluster_and_nfs() {
    let base = "driver = \"gluster\"\nrole = \"server\"\nservers = [\"g1\", \"g2\", \"g3\"]\n";
    let volume = "[[join.volume]]\nname = \"v1\"\nbricks = [\"g1:/data/b\", \"g2:/data/b\", \"g3:/data/b\"]\noptions = { \"network.ping-timeout\" = \"10\" }\n";
    good(&format!("{base}{volume}[[join.mount]]\nvolume = \"v1\"\ntarget = \"/data/v1\"\n"));
    refused(&format!("{base}{}", volume.replace("\"g3:/data/b\"", "\"g4:/data/b\"")), &["is not in join.servers"]);
    refused(&format!("{base}{}", volume.replace(", \"g3:/data/b\"", "")), &["2 bricks cannot hold 3 copies"]);
    refused(&format!("{base}{}", volume.replace("\"v1\"", "\"-v\"")), &["not the name of a volume"]);
    refused(
        "driver = \"gluster\"\nrole = \"client\"\nservers = [\"a\", \"a\"]\n",
        &["a server twice", "join.mount: is missing"],
    );
    let nfs = "driver = \"nfs\"\n[[join.mount]]\nsource = \"10.0.0.1:/export\"\ntarget = \"/data\"\noptions = [\"nconnect=8\"]\n";
    good(nfs);
    good(&nfs.replace("10.0.0.1:/export", "[fd00::1]:/"));
    refused("driver = \"nfs\"\n", &["join.mount: is missing"]);
    for (from, to, expected) in [
        ("/data", "/etc/x", "directory that the node itself needs"),
        ("/data", "/var/lib/ingot/x", "directory that the node itself needs"),
        ("/data", "/a b", "is not allowed here"),
        ("10.0.0.1:/export", "10.0.0.1", "is no export"),
        ("10.0.0.1:/export", "a:/../x", "is no export"),
        ("nconnect=8", "ro,exec", "is not a mount option"),
    ] {
        refused(&nfs.replace(from, to), &[expected]);
    }
    refused(&format!("{nfs}[[join.mount]]\nsource = \"b:/x\"\ntarget = \"/data\"\n"), &["has one target twice"]);
}

#[test]
fn exec_runs_only_what_the_image_brings() {
    let base = "driver = \"exec\"\nprogram = \"slurm\"\narguments = [\"--controller\", \"10.0.0.1\"]\n";
    let full = format!(
        "{base}units = [\"munge.service\"]\n[join.secrets]\nmunge = \"{CANARY}\"\n[[join.file]]\npath = \"/etc/slurm/x\"\ncontent = \"y\"\nmode = \"0644\"\n"
    );
    let System::Exec(exec) = good(&full).system else { panic!() };
    assert_eq!((exec.program.path().as_str(), exec.files[0].mode), ("/usr/lib/ingot/join.d/slurm", 0o644));
    assert!(!format!("{exec:?} {}", serde_json::to_string(&exec).unwrap()).contains(CANARY));
    for program in ["/bin/sh", "../../../bin/sh", "a b", ""] {
        refused(&base.replace("slurm", program), &["is not the name of a program that the image brings"]);
    }
    refused(&full.replace("10.0.0.1", CANARY), &["holds a secret, and arguments can be seen"]);
    refused(
        &full.replace("/etc/slurm/x", "/etc/systemd/system/evil.service"),
        &["not a place for a program's settings"],
    );
    refused(&full.replace("0644", "7777"), &["is no file mode"]);
    refused("driver = \"exec\"\n", &["join.program: is missing"]);
}
