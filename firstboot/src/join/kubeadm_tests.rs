use super::*;
use crate::config::{Document, Format, Machine, System, load};
use crate::host::simulated::SimulatedHost;
use crate::process;
use crate::rendezvous::NodeIdentity;

const SECRET: &str = "kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2fG9jLt4oMyB6s=";
const PIN: &str = "sha256:3b1f0a6e2c9d8475fe01a2b3c4d5968778695a4b9f86d081884c7d659a2feaa0";
const TOKEN: &str = "07401b.f395accd246ae52d";

fn driver_for(join: &str) -> KubeadmDriver {
    let text = format!("version = 1\n[join]\ndriver = \"kubeadm\"\nendpoint = \"10.77.0.10:6443\"\n{join}\n");
    let documents = [Document { name: "f".into(), format: Format::NodeToml, bytes: text.into_bytes() }];
    let join = load(&documents, &Machine::default()).unwrap_or_else(|error| panic!("{error}")).config.join.unwrap();
    let System::Kubeadm(kubeadm) = join.system else { panic!("another driver") };
    KubeadmDriver::new(kubeadm, NodeFacts { hostname: "n1".into(), addresses: Vec::new() })
}

fn documents(text: &str) -> Vec<Value> {
    text.split("---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

/// Where `part` says something that `whole` does not say.
fn missing(part: &Value, whole: &Value, at: &str) -> Vec<String> {
    match (part, whole) {
        (Value::Object(part), Value::Object(_)) => {
            part.iter().flat_map(|(key, value)| missing(value, &whole[key], &format!("{at}.{key}"))).collect()
        }
        (Value::Array(part), Value::Array(whole)) if part.len() == whole.len() => {
            part.iter().zip(whole).flat_map(|(part, whole)| missing(part, whole, at)).collect()
        }
        _ if part == whole => Vec::new(),
        _ => vec![format!("{at}: {part} became {whole}")],
    }
}

#[test]
fn versions_of_the_configuration_api() {
    // https://kubernetes.io/docs/reference/config-api/: v1beta2 since 1.15, v1beta3 since 1.22, v1beta4 since 1.31.
    for (version, api) in [
        ("v1.20.2", Some("v1beta2")),
        ("v1.22.0", Some("v1beta3")),
        ("v1.30.14", Some("v1beta3")),
        ("v1.31.0-rc.1", Some("v1beta4")),
        ("v1.34.1+k3s1", Some("v1beta4")),
        ("v1.12.0", None),
        ("1.30.0", None),
        ("", None),
    ] {
        assert_eq!(api_version(version), api, "{version}");
    }
}

#[test]
fn the_runtime_is_always_named() {
    let with = |socket: &str, api| {
        let driver = driver_for(&format!("role = \"init\"\n{socket}"));
        driver.registration(api)["criSocket"].as_str().unwrap().to_owned()
    };
    assert_eq!(with("", "v1beta4"), "unix:///run/containerd/containerd.sock");
    assert_eq!(with("cri_socket = \"unix:///run/crio/crio.sock\"", "v1beta2"), "unix:///run/crio/crio.sock");
    let dockershim = "cri_socket = \"unix:///var/run/dockershim.sock\"";
    assert_eq!(with(dockershim, "v1beta2"), "/var/run/dockershim.sock", "kubeadm 1.20 compares it with this path");
}

#[test]
fn old_kubelets_are_told_whose_the_cgroups_are() {
    let text = |api, socket: &str| {
        let installed = Installed { version: "v1.0.0".into(), api };
        driver_for(&format!("role = \"init\"\n{socket}")).init_settings(&installed, None)
    };
    assert!(text("v1beta2", "").contains("cgroupDriver: \"systemd\""));
    assert!(!text("v1beta3", "").contains("cgroupDriver"), "it is kubeadm's own default from 1.22 on");
    assert!(!text("v1beta2", "cri_socket = \"unix:///var/run/dockershim.sock\"").contains("cgroupDriver"));
}

#[test]
fn checks_that_are_to_be_ignored_are_in_one_flag() {
    let driver = driver_for("role = \"init\"\nignore_preflight = [\"NumCPU\", \"Mem\"]");
    assert_eq!(driver.ignoring(&[]).unwrap(), "--ignore-preflight-errors=NumCPU,Mem");
    assert_eq!(driver.ignoring(&["Port-6443"]).unwrap(), "--ignore-preflight-errors=Port-6443,NumCPU,Mem");
    assert_eq!(driver_for("role = \"init\"").ignoring(&[]), None);
}

#[test]
fn what_a_power_cut_left_empty_is_made_anew() {
    let host = SimulatedHost::default();
    for (path, text) in [
        ("/etc/kubernetes/admin.conf", ""),
        ("/etc/kubernetes/pki/ca.crt", "certificate"),
        ("/etc/kubernetes/pki/ca.key", ""),
        ("/var/lib/kubelet/config.yaml", ""),
        ("/etc/other", ""),
    ] {
        host.put(path, text);
    }
    remove_empty(&host).unwrap();
    for (path, there) in
        [("/etc/kubernetes/pki/ca.crt", true), ("/etc/other", true), ("/etc/kubernetes/admin.conf", false)]
    {
        assert_eq!(host.exists(path), there, "{path}");
    }
    assert!(!host.exists("/etc/kubernetes/pki/ca.key") && !host.exists("/var/lib/kubelet/config.yaml"));
}

/// kubeadm itself reads what is rendered, in the version of its API that is chosen for it: nothing is unknown to it,
/// nothing is lost, and it needs nothing of the internet.
#[test]
fn kubeadm_reads_its_settings() {
    let Ok(kubeadm) = std::env::var("INGOT_KUBEADM") else {
        println!("skipped: INGOT_KUBEADM names no kubeadm");
        return;
    };
    let shell =
        |script: &str| String::from_utf8(process::run("sh", &["-c", script], Duration::from_mins(1)).unwrap()).unwrap();
    let version: Value = serde_json::from_str(&shell(&format!("{kubeadm} version --output=json"))).unwrap();
    let version = version["clientVersion"]["gitVersion"].as_str().unwrap().to_owned();
    let installed = Installed { api: api_version(&version).unwrap(), version };
    let newest = shell(&format!("{kubeadm} config print init-defaults 2>/dev/null"));
    assert!(newest.contains(&format!("apiVersion: kubeadm.k8s.io/{}\n", installed.api)), "{newest}");
    let token = shell(&format!("{kubeadm} token generate"));
    driver_for(&format!("role = \"worker\"\ntoken = \"{}\"\nca_cert_hashes = [\"{PIN}\"]", token.trim()));

    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: eA==\n";
    let discovery_file = directory.path().join("discovery.yaml");
    std::fs::write(&discovery_file, kubeconfig).unwrap();
    let everything = "advertise = \"10.77.0.10\"\nlabels = [\"a.example/b=c\", \"d=e\"]\npod_subnet = \"10.244.0.0/16\"\n\
                      service_subnet = \"10.97.0.0/16\"\ncri_socket = \"unix:///run/crio/crio.sock\"";
    let init = |with: &str, key: Option<&str>| {
        driver_for(&format!("role = \"init\"\nsecret = \"{SECRET}\"\n{with}")).init_settings(&installed, key)
    };
    let join = |with: &str, key: Option<&str>| {
        let driver = driver_for(with);
        let host = SimulatedHost::default();
        let identity = NodeIdentity { hostname: "n1".into(), id: "1".into(), seat: Seat::Worker };
        let (discovery, _) = driver.discovery(&Joiner { host: &host, identity, member: false }).unwrap();
        // kubeadm looks whether the file is there.
        driver.join_settings(installed.api, &discovery, key).replace(DISCOVERY, &discovery_file.display().to_string())
    };
    let key = "9f86d081884c7d659a2feaa0c55ad0153b1f0a6e2c9d8475fe01a2b3c4d59687";
    let pinned = format!("token = \"{TOKEN}\"\nca_cert_hashes = [\"{PIN}\"]");
    let worker = format!("role = \"worker\"\n{pinned}");
    let control =
        format!("role = \"control-plane\"\ncertificate_key = \"{key}\"\nadvertise = \"10.77.0.12\"\n{pinned}");
    let cases = [
        ("founding", init("", None)),
        ("founding with everything", init(everything, None)),
        ("founding with a token", init(&format!("token = \"{TOKEN}\""), None)),
        ("uploading certificates", init(everything, Some(key))),
        ("a worker", join(&worker, None)),
        ("a worker with everything", join(&format!("{worker}\nadvertise = \"10.77.0.11\"\nlabels = [\"a=b\"]"), None)),
        ("without a pin", join(&format!("role = \"worker\"\ntoken = \"{TOKEN}\"\nallow_unpinned = true"), None)),
        ("a control plane", join(&control, Some(key))),
        (
            "a discovery file",
            join(&format!("role = \"worker\"\ndiscovery = '''\n{kubeconfig}'''\ntoken = \"{TOKEN}\""), None),
        ),
    ];
    for (name, text) in cases {
        let (old, new) = (directory.path().join("old.yaml"), directory.path().join("new.yaml"));
        std::fs::write(&old, &text).unwrap();
        let paths = format!("--old-config {} --new-config {}", old.display(), new.display());
        let said = shell(&format!("{kubeadm} config migrate {paths} 2>&1 || echo failed"));
        assert!(said.trim().is_empty(), "{name}:\n{text}\nkubeadm says: {said}");
        let read = documents(&std::fs::read_to_string(&new).unwrap());
        // The kubelet's part is read and checked, but not given back.
        for document in documents(&text).iter().filter(|document| document["kind"] != "KubeletConfiguration") {
            let same = read.iter().find(|read| read["kind"] == document["kind"]);
            let same = same.unwrap_or_else(|| panic!("{name}: {} is gone", document["kind"]));
            assert_eq!(missing(document, same, ""), Vec::<String>::new(), "{name}");
        }
    }
}
