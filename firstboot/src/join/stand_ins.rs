//! Stand-ins for programs that the tests cannot have: strict about files, modes, arguments and order, after the
//! upstream documentation. Each says in its name that it is none of the real ones.

#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::config::{Pinning, judge_k3s_token};
use crate::host::simulated::{Around, Ended, Program};

/// systemd as far as the drivers use it.
#[derive(Default)]
pub struct UnitsStandIn {
    running: BTreeSet<String>,
    /// What the journal has.
    pub journal: String,
}

impl UnitsStandIn {
    /// Handles `systemctl` and `journalctl`; `starts` says whether a unit that is started becomes active.
    fn run(
        &mut self,
        command: &[&str],
        around: &mut Around<'_>,
        starts: &mut dyn FnMut(&str, &mut Around<'_>) -> bool,
    ) -> Option<Result<String, Ended>> {
        let enabled = |unit: &str| format!("enabled {unit}");
        match command {
            ["systemctl", "enable", unit] => {
                around.disk.notes.insert(enabled(unit), String::new());
            }
            ["systemctl", "enable", "--now", unit] => {
                around.disk.notes.insert(enabled(unit), String::new());
                if starts(unit, around) {
                    self.running.insert((*unit).into());
                }
            }
            ["systemctl", "start" | "restart", "--no-block", unit] if *unit != "multi-user.target" => {
                assert!(around.disk.notes.contains_key(&enabled(unit)), "{unit} is enabled before it is started");
                if starts(unit, around) {
                    self.running.insert((*unit).into());
                }
            }
            ["systemctl", "disable", "--now", unit] => {
                around.disk.notes.remove(&enabled(unit));
                self.running.remove(*unit);
            }
            ["systemctl", "show", "--property=ActiveState", "--value", unit] => {
                return Some(Ok(if self.running.contains(*unit) { "active\n" } else { "inactive\n" }.into()));
            }
            ["journalctl", ..] => return Some(Ok(self.journal.clone())),
            _ => return None,
        }
        Some(Ok(String::new()))
    }

    fn reboot(&mut self, around: &mut Around<'_>, starts: &mut dyn FnMut(&str, &mut Around<'_>) -> bool) {
        let enabled: Vec<String> =
            around.disk.notes.keys().filter_map(|note| note.strip_prefix("enabled ")).map(str::to_owned).collect();
        self.running = enabled.into_iter().filter(|unit| starts(unit, around)).collect();
    }

    pub fn is_running(&self, unit: &str) -> bool {
        self.running.contains(unit)
    }
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn node_json(uid: &str, ready: bool) -> String {
    let status = if ready { "True" } else { "Unknown" };
    let condition = json!({ "type": "Ready", "status": status, "reason": if ready { "KubeletReady" } else { "NodeStatusUnknown" } });
    json!({ "metadata": { "uid": uid }, "status": { "conditions": [condition] } }).to_string()
}

fn count(around: &mut Around<'_>, what: &str) {
    let number: u32 = around.disk.notes.get(what).map_or(0, |text| text.parse().unwrap());
    around.disk.notes.insert(what.into(), (number + 1).to_string());
}

/// Flags of `k3s server` and `k3s agent` that may stand in the settings (docs.k3s.io/cli/server, /cli/agent).
const AGENT_FLAGS: &[&str] =
    &["server", "token-file", "node-name", "node-ip", "flannel-iface", "node-label", "node-taint"];
const SERVER_FLAGS: &[&str] = &[
    "server",
    "token-file",
    "agent-token-file",
    "node-name",
    "node-ip",
    "flannel-iface",
    "node-label",
    "node-taint",
    "cluster-init",
    "tls-san",
    "disable",
    "cluster-cidr",
    "service-cidr",
    "write-kubeconfig-mode",
];

/// Where a node keeps the password that it made.
const PASSWORD: &str = "/etc/rancher/node/password";

/// k3s and the cluster that it joins.
#[derive(Default)]
pub struct K3sStandIn {
    pub units: UnitsStandIn,
    /// Nodes of the cluster: name, password, ready.
    pub nodes: BTreeMap<String, (String, bool)>,
    /// Which machine this is: another one makes another password.
    pub made: u32,
    /// Clusters that the node has left.
    pub left: BTreeSet<String>,
    /// What k3s says in place of joining.
    pub refuses: Option<&'static str>,
}

impl K3sStandIn {
    fn starts(&mut self, unit: &str, around: &mut Around<'_>) -> bool {
        let agent = match unit {
            "k3s.service" => false,
            "k3s-agent.service" => true,
            _ => return true,
        };
        let (text, mode) =
            around.file("/etc/rancher/k3s/config.yaml").expect("settings are there before the unit starts");
        assert_eq!(mode, 0o600);
        let mut settings = yaml(&text);
        // The last value of a key counts (docs.k3s.io/installation/configuration).
        if let Some((text, mode)) = around.file("/etc/rancher/k3s/config.yaml.d/50-ingot-server.yaml") {
            assert_eq!(mode, 0o600);
            settings.as_object_mut().unwrap().extend(yaml(&text).as_object().unwrap().clone());
        }
        around.disk.notes.insert("k3s settings".into(), settings.to_string());
        let flags = if agent { AGENT_FLAGS } else { SERVER_FLAGS };
        for (key, value) in settings.as_object().unwrap() {
            assert!(flags.contains(&key.as_str()), "{key} is no flag of k3s here");
            assert!(!value.is_null() && !value.to_string().contains("K10"), "{key}: no token in the settings");
        }
        let founds = settings.get("server").is_none();
        assert!(!(agent && founds), "an agent needs a server");
        if let Some(server) = settings.get("server") {
            let server = server.as_str().unwrap();
            assert!(server.starts_with("https://") && server.ends_with(":6443"), "{server}");
            assert!(settings.get("cluster-init") != Some(&json!(true)), "who joins does not found");
        }
        for key in ["token-file", "agent-token-file"] {
            if let Some(path) = settings.get(key) {
                let (token, mode) = around.file(path.as_str().unwrap()).expect("the token's file is there");
                assert_eq!(mode, 0o600);
                let judged = judge_k3s_token(token.trim_end());
                assert!(
                    judged == Ok(Pinning::Pinned) || (founds && judged.is_ok()) || key == "agent-token-file",
                    "{key}"
                );
            } else {
                assert!(key == "agent-token-file" || founds, "who joins has a token");
            }
        }
        if let Some(words) = self.refuses {
            self.units.journal = words.into();
            return false;
        }
        // A database that is there decides, and not the settings (pkg/cluster/bootstrap.go).
        let database = "/var/lib/rancher/k3s/server/db/etcd/name";
        assert!(
            around.file(database).is_none_or(|(old, _)| !self.left.contains(&old)),
            "it goes on in a cluster that it left"
        );
        if !agent {
            let cluster = settings.get("server").map_or("own".to_owned(), Value::to_string);
            around.disk.files.entry(database.into()).or_insert((cluster.into_bytes(), 0o600));
        }
        // The node makes its password once, and the cluster remembers it (docs.k3s.io/architecture).
        let name = settings["node-name"].as_str().unwrap().to_owned();
        let fresh = format!("password-{}", self.made);
        let password = around.file(PASSWORD).map_or(fresh, |(text, _)| text);
        if self.nodes.get(&name).is_some_and(|(known, _)| *known != password) {
            self.units.journal = format!("Node password rejected, duplicate hostname or contents of '{PASSWORD}'");
            return false;
        }
        if !self.nodes.contains_key(&name) {
            count(around, if founds { "k3s founded" } else { "k3s joined" });
        }
        around.disk.files.insert(PASSWORD.into(), (password.clone().into_bytes(), 0o600));
        self.nodes.insert(name, (password, true));
        true
    }
}

impl Program for K3sStandIn {
    fn run(&mut self, command: &[&str], around: &mut Around<'_>) -> Option<Result<String, Ended>> {
        assert!(
            !command.iter().any(|word| word.contains("K10") || word.contains("kV0lmS1")),
            "no secret is an argument"
        );
        if let ["rm", "-rf", "--one-file-system", "--", paths @ ..] = command {
            assert!(!self.units.is_running("k3s.service") && !self.units.is_running("k3s-agent.service"));
            let gone = |path: &String| paths.iter().any(|gone| path == gone || path.starts_with(&format!("{gone}/")));
            around.disk.files.retain(|path, _| !gone(path));
            return Some(Ok(String::new()));
        }
        let ["k3s", "kubectl", rest @ ..] = command else {
            let mut units = std::mem::take(&mut self.units);
            let answer = units.run(command, around, &mut |unit, around| self.starts(unit, around));
            if !self.units.journal.is_empty() {
                units.journal = std::mem::take(&mut self.units.journal);
            }
            self.units = units;
            return answer;
        };
        let rest = match rest {
            ["--kubeconfig", "/etc/rancher/k3s/k3s.yaml", rest @ ..] => {
                if !self.units.is_running("k3s.service") {
                    return Some(Err((1, "connection refused".into())));
                }
                rest
            }
            ["--kubeconfig", "/var/lib/rancher/k3s/agent/kubelet.kubeconfig", rest @ ..] => {
                if !self.units.is_running("k3s-agent.service") {
                    return Some(Err((1, "connection refused".into())));
                }
                rest
            }
            other => panic!("{other:?}"),
        };
        Some(match rest {
            ["get", "node", name, "--ignore-not-found", "--output=json", "--request-timeout=20s"] => Ok(self
                .nodes
                .get(*name)
                .map_or_else(String::new, |(_, ready)| node_json(&format!("uid-{name}"), *ready))),
            ["delete", "node", name, "--ignore-not-found", "--wait=false"] => {
                self.nodes.remove(*name);
                Ok(String::new())
            }
            ["--namespace=kube-system", "delete", "secret", name, "--ignore-not-found"] => {
                assert!(name.ends_with(".node-password.k3s"));
                Ok(String::new())
            }
            other => panic!("{other:?} is no command of kubectl that this driver needs"),
        })
    }

    fn reboot(&mut self, around: &mut Around<'_>) {
        let mut units = std::mem::take(&mut self.units);
        units.reboot(around, &mut |unit, around| self.starts(unit, around));
        self.units = units;
    }
}

/// kubeadm 1.29, kubectl and the cluster.
#[derive(Default)]
pub struct KubeadmStandIn {
    pub units: UnitsStandIn,
    pub nodes: BTreeMap<String, bool>,
    pub refuses: Option<&'static str>,
}

impl KubeadmStandIn {
    fn documents(around: &Around<'_>, path: &str) -> Vec<Value> {
        let (text, mode) = around.file(path).expect("the settings are there");
        assert_eq!(mode, 0o600, "they hold a token");
        text.split("---\n")
            .map(yaml)
            .inspect(|document| assert_eq!(document["apiVersion"], "kubeadm.k8s.io/v1beta3"))
            .collect()
    }

    fn register(&mut self, around: &mut Around<'_>, settings: &Value, what: &str) {
        let name = settings["nodeRegistration"]["name"].as_str().unwrap();
        assert!(settings["nodeRegistration"]["criSocket"].as_str().unwrap().starts_with("unix:///"));
        self.nodes.insert(name.into(), true);
        count(around, what);
    }

    fn join(&mut self, around: &mut Around<'_>, path: &str) -> Result<String, Ended> {
        let documents = Self::documents(around, path);
        let [join] = &documents[..] else { panic!("one document") };
        assert_eq!(join["kind"], "JoinConfiguration");
        let bootstrap = &join["discovery"]["bootstrapToken"];
        if bootstrap.is_null() {
            let file = join["discovery"]["file"]["kubeConfigPath"].as_str().unwrap();
            assert!(around.file(file).unwrap().0.contains("certificate-authority-data"));
        } else {
            assert!(bootstrap["apiServerEndpoint"].is_string() && bootstrap["token"].is_string());
            assert!(bootstrap["caCertHashes"][0].as_str().unwrap().starts_with("sha256:"));
        }
        if let Some(words) = self.refuses {
            return Err((1, words.into()));
        }
        // kubeadm's preflight refuses what an earlier, unfinished join left.
        if around.disk.files.contains_key("/etc/kubernetes/kubelet.conf") {
            return Err((
                1,
                "[ERROR FileAvailable--etc-kubernetes-kubelet.conf]: /etc/kubernetes/kubelet.conf already exists"
                    .into(),
            ));
        }
        let name = join["nodeRegistration"]["name"].as_str().unwrap();
        if self.nodes.get(name) == Some(&true) {
            return Err((1, format!("a Node with name \"{name}\" and status \"Ready\" already exists in the cluster")));
        }
        around.disk.files.insert("/etc/kubernetes/kubelet.conf".into(), (b"kubeconfig".to_vec(), 0o600));
        if !join["controlPlane"].is_null() {
            around.disk.files.insert("/etc/kubernetes/admin.conf".into(), (b"kubeconfig".to_vec(), 0o600));
        }
        self.register(around, join, "kubeadm joined");
        Ok("This node has joined the cluster".into())
    }

    fn init(&mut self, around: &mut Around<'_>, path: &str, ignores: bool) -> Result<String, Ended> {
        let documents = Self::documents(around, path);
        let [init, cluster] = &documents[..] else { panic!("two documents") };
        assert_eq!((&init["kind"], &cluster["kind"]), (&json!("InitConfiguration"), &json!("ClusterConfiguration")));
        assert!(cluster["controlPlaneEndpoint"].is_string());
        assert_eq!(cluster["kubernetesVersion"], "v1.29.3", "the newest version is not asked for on the internet");
        let token = &init["bootstrapTokens"][0];
        assert!(token["token"].is_string() || token["ttl"] == "1m0s", "an empty list means a token for a day");
        // kubeadm takes any file that is there for one of its own and whole.
        if around.file("/etc/kubernetes/admin.conf").is_some_and(|(text, _)| text.is_empty()) {
            return Err((1, "failed to load kubeconfig file /etc/kubernetes/admin.conf that already exists".into()));
        }
        if around.disk.files.contains_key("/etc/kubernetes/admin.conf") && !ignores {
            return Err((1, "[ERROR Port-6443]: Port 6443 is in use".into()));
        }
        for path in ["/etc/kubernetes/admin.conf", "/etc/kubernetes/kubelet.conf"] {
            around.disk.files.insert(path.into(), (b"kubeconfig".to_vec(), 0o600));
        }
        self.nodes.insert(init["nodeRegistration"]["name"].as_str().unwrap().into(), true);
        around.disk.notes.insert("kubeadm founded".into(), "1".into());
        Ok("Your Kubernetes control-plane has initialized successfully!".into())
    }
}

impl Program for KubeadmStandIn {
    fn run(&mut self, command: &[&str], around: &mut Around<'_>) -> Option<Result<String, Ended>> {
        Some(match command {
            ["kubeadm", "version", "--output=json"] => Ok("{\"clientVersion\":{\"gitVersion\":\"v1.29.3\"}}".into()),
            ["kubeadm", "join", "--config", path] => self.join(around, path),
            ["kubeadm", "init", "--config", path] => self.init(around, path, false),
            ["kubeadm", "init", "--config", path, ignored] => {
                assert!(ignored.starts_with("--ignore-preflight-errors=Port-6443,"));
                self.init(around, path, true)
            }
            ["kubeadm", "init", "phase", "upload-certs", "--upload-certs", "--config", path] => {
                let documents = Self::documents(around, path);
                assert_eq!(documents[1]["kubernetesVersion"], "v1.29.3", "here too the internet would be asked");
                let key = documents[0]["certificateKey"].as_str().unwrap();
                around.disk.notes.insert("uploaded".into(), key.into());
                Ok(String::new())
            }
            ["kubeadm", "token", "create", "--ttl=15m", "--kubeconfig", "/etc/kubernetes/admin.conf"] => {
                Ok("07401b.f395accd246ae52d\n".into())
            }
            ["kubeadm", "reset", "--force", "--cri-socket=unix:///run/containerd/containerd.sock"] => {
                // Without its kubelet the cluster soon sees the node as gone, if it is this machine's.
                if around.disk.notes.contains_key("kubeadm joined") {
                    self.nodes.values_mut().for_each(|ready| *ready = false);
                }
                around
                    .disk
                    .files
                    .retain(|path, _| !path.starts_with("/etc/kubernetes/") || path.starts_with("/etc/kubernetes/pki"));
                Ok(String::new())
            }
            ["kubectl", "--kubeconfig", config, "get", "node", name, "--ignore-not-found", "--output=json", _] => {
                if around.disk.files.contains_key(*config) {
                    Ok(self
                        .nodes
                        .get(*name)
                        .map_or_else(String::new, |ready| node_json(&format!("uid-{name}"), *ready)))
                } else {
                    Err((1, format!("stat {config}: no such file or directory")))
                }
            }
            ["kubectl", "--kubeconfig", _, "delete", "node", name, ..] => {
                self.nodes.remove(*name);
                Ok(String::new())
            }
            ["kubeadm" | "kubectl", ..] => panic!("{command:?}"),
            _ => return self.units.run(command, around, &mut |_, _| true),
        })
    }

    fn half(&mut self, command: &[&str], around: &mut Around<'_>) {
        // The kubelet's settings are written before the cluster knows the node.
        if let ["kubeadm", "join", ..] = command {
            around.disk.files.insert("/etc/kubernetes/kubelet.conf".into(), (b"half".to_vec(), 0o600));
        }
        if let ["kubeadm", "init", "--config", ..] = command {
            around.disk.files.insert("/etc/kubernetes/admin.conf".into(), (Vec::new(), 0o600));
        }
    }

    fn reboot(&mut self, around: &mut Around<'_>) {
        // While the machine was off, the cluster saw its node go.
        self.nodes.values_mut().for_each(|ready| *ready = false);
        self.units.reboot(around, &mut |_, _| true);
        if self.units.is_running("kubelet.service") {
            self.nodes.values_mut().for_each(|ready| *ready = true);
        }
    }
}

/// gluster, with other servers that accept whoever probes them.
#[derive(Default)]
pub struct GlusterStandIn {
    pub units: UnitsStandIn,
    pub peers: BTreeSet<String>,
    /// Volumes: name, started, options.
    pub volumes: BTreeMap<String, (bool, BTreeMap<String, String>)>,
    pub created: u32,
}

impl Program for GlusterStandIn {
    fn run(&mut self, command: &[&str], around: &mut Around<'_>) -> Option<Result<String, Ended>> {
        let ["gluster", "--mode=script", rest @ ..] = command else {
            assert_ne!(command[0], "gluster", "without --mode=script it asks questions");
            return mounting(&mut self.units, command, around);
        };
        assert!(self.units.is_running("glusterd.service"), "glusterd runs before gluster is asked");
        Some(match rest {
            ["pool", "list"] => {
                let mut text = String::from("UUID\t\t\t\t\tHostname \tState\n");
                for peer in &self.peers {
                    text.push_str(&format!("0a1b2c3d-0000-4000-8000-00000000000a\t{peer}\tConnected \n"));
                }
                Ok(text + "0a1b2c3d-0000-4000-8000-000000000001\tlocalhost\tConnected \n")
            }
            ["peer", "probe", peer] => {
                assert!(self.peers.insert((*peer).into()), "a member is not probed again");
                Ok("peer probe: success".into())
            }
            ["volume", "info", name] => match self.volumes.get(*name) {
                None => Err((1, format!("Volume {name} does not exist"))),
                Some((started, options)) => {
                    let options: String = options.iter().map(|(key, value)| format!("{key}: {value}\n")).collect();
                    let status = if *started { "Started" } else { "Created" };
                    Ok(format!(
                        "Volume Name: {name}\nType: Replicate\nStatus: {status}\nOptions Reconfigured:\n{options}"
                    ))
                }
            },
            ["volume", "create", name, "replica", _, bricks @ ..] => {
                assert!(bricks.iter().filter(|brick| brick.contains(":/")).count() >= 2);
                assert!(self.volumes.insert((*name).into(), (false, BTreeMap::new())).is_none(), "made once");
                self.created += 1;
                Ok(String::new())
            }
            ["volume", "set", name, key, value] => {
                self.volumes.get_mut(*name).unwrap().1.insert((*key).into(), (*value).into());
                Ok(String::new())
            }
            ["volume", "start", name] => {
                let volume = self.volumes.get_mut(*name).unwrap();
                assert!(!volume.0, "started once");
                volume.0 = true;
                Ok(String::new())
            }
            other => panic!("{other:?}"),
        })
    }

    fn reboot(&mut self, around: &mut Around<'_>) {
        self.units.reboot(around, &mut mounts);
    }
}

/// Mount units of systemd, and a server that exports what they ask for.
#[derive(Default)]
pub struct MountsStandIn {
    pub units: UnitsStandIn,
}

fn mounting(units: &mut UnitsStandIn, command: &[&str], around: &mut Around<'_>) -> Option<Result<String, Ended>> {
    if let ["systemctl", "disable", "--now", unit] = command
        && is_mount(unit)
    {
        around.run_files.remove("/proc/self/mountinfo");
    }
    units.run(command, around, &mut mounts)
}

fn is_mount(unit: &str) -> bool {
    unit.strip_suffix(".mount").is_some()
}

/// Mounts what a mount unit says.
fn mounts(unit: &str, around: &mut Around<'_>) -> bool {
    if !is_mount(unit) {
        return true;
    }
    let (text, mode) =
        around.file(&format!("/etc/systemd/system/{unit}")).expect("a unit's file is there before it starts");
    assert_eq!(mode, 0o644);
    let value = |key: &str| {
        text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("{key} in {text}")).to_owned()
    };
    let (what, target, kind) = (value("What="), value("Where="), value("Type="));
    assert_eq!(format!("{}.mount", super::mounts::escape(&target)), unit);
    assert!(value("Options=").split(',').any(|option| option == "_netdev"));
    let kind = if kind == "glusterfs" { "fuse.glusterfs" } else { "nfs4" };
    let line = format!("90 1 0:50 / {target} rw,relatime shared:1 - {kind} {what} rw\n");
    let (bytes, _) = around.run_files.entry("/proc/self/mountinfo".into()).or_insert((Vec::new(), 0o444));
    if !String::from_utf8_lossy(bytes).contains(&line) {
        bytes.extend_from_slice(line.as_bytes());
    }
    true
}

impl Program for MountsStandIn {
    fn run(&mut self, command: &[&str], around: &mut Around<'_>) -> Option<Result<String, Ended>> {
        mounting(&mut self.units, command, around)
    }

    fn reboot(&mut self, around: &mut Around<'_>) {
        self.units.reboot(around, &mut mounts);
    }
}

/// A program of an image for the `exec` driver.
#[derive(Default)]
pub struct JoinProgramStandIn {
    pub units: UnitsStandIn,
    /// The exit status of `join`.
    pub ends_with: i32,
}

impl Program for JoinProgramStandIn {
    fn run(&mut self, command: &[&str], around: &mut Around<'_>) -> Option<Result<String, Ended>> {
        let ["/usr/lib/ingot/join.d/slurm", verb, arguments @ ..] = command else {
            return self.units.run(command, around, &mut |_, _| true);
        };
        assert_eq!(arguments, ["--controller", "10.77.0.10"]);
        let (key, mode) = around.file("/run/ingot/join-secrets/munge").expect("its secret is there in every boot");
        assert_eq!((key.as_str(), mode), ("7d1f0a6e2c9d4475be01a2b3c4d59687", 0o600));
        let joined = around.disk.notes.contains_key("exec joined");
        Some(match *verb {
            "preflight" => Ok(String::new()),
            "probe" if joined => Ok("node-7\n".into()),
            "probe" => Err((1, String::new())),
            "join" if self.ends_with != 0 => {
                Err((self.ends_with, "key 7d1f0a6e2c9d4475be01a2b3c4d59687 refused".into()))
            }
            "join" => {
                assert!(!joined, "a member does not join again");
                count(around, "exec joined");
                Ok(String::new())
            }
            "leave" => {
                around.disk.notes.remove("exec joined");
                Ok(String::new())
            }
            other => panic!("{other}"),
        })
    }

    fn reboot(&mut self, around: &mut Around<'_>) {
        self.units.reboot(around, &mut |_, _| true);
    }
}

/// A vendor's agent whose unit starts and runs.
#[derive(Default)]
pub struct AgentStandIn {
    pub units: UnitsStandIn,
}

impl Program for AgentStandIn {
    fn run(&mut self, command: &[&str], around: &mut Around<'_>) -> Option<Result<String, Ended>> {
        if command == ["backend.ai", "mgr", "schema", "oneshot"] {
            assert!(around.file("/etc/backend.ai/manager.toml").is_some_and(|(_, mode)| mode == 0o600));
            around.disk.notes.insert("schema".into(), "made".into());
            return Some(Ok(String::new()));
        }
        self.units.run(command, around, &mut |_, _| true)
    }

    fn reboot(&mut self, around: &mut Around<'_>) {
        self.units.reboot(around, &mut |_, _| true);
    }
}
