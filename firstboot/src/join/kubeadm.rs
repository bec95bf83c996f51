//! Kubernetes by kubeadm: founding the control plane, further control-plane nodes, workers.
//!
//! kubeadm is told everything by a file in `/run`, in the version of its configuration API that the program on the
//! image speaks; nothing secret is an argument. A node believes only a control plane whose authority is pinned: by
//! `ca_cert_hashes`, by a discovery file, or by the rendezvous, whose grant holds a fresh token, the pin and, for a
//! control-plane node, the key of the uploaded certificates.
//!
//! A founder looks first whether the cluster lives (see [`super::founding`]), and joins it where it does.
//!
//! Cut off in the middle, founding is begun again over what is there: kubeadm's phases find their own results.
//! Joining is reset and begun again. What survives another image as long as the state partition does:
//! `/etc/kubernetes`, `/var/lib/kubelet`, `/var/lib/etcd`.

mod founder;

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::kubernetes::{Kubectl, spki_pin};
use super::unit::{self, diagnose};
use super::{Driver, JoinError, Joiner, Membership, NodeFacts, Offer, ask_managers, call, check_seat, yaml};
use crate::config::{HostAddress, Kubeadm, KubeadmRole, Secret};
use crate::host::{Host, HostError};
use crate::process::ProcessError;
use crate::rendezvous::{Asker, Seat, to_hex};
use crate::step::Effect;

/// What was begun and what is done: survives with the state partition.
const MARK: &str = "/var/lib/ingot/kubeadm";
const SETTINGS: &str = "/run/ingot/kubeadm.yaml";
const UPLOAD: &str = "/run/ingot/kubeadm-upload.yaml";
const DISCOVERY: &str = "/run/ingot/kubeadm-discovery.yaml";
const ADMIN: &str = "/etc/kubernetes/admin.conf";
const KUBELET: &str = "/etc/kubernetes/kubelet.conf";
const AUTHORITY: &str = "/etc/kubernetes/pki/ca.crt";
const PATIENCE: Duration = Duration::from_mins(10);
/// Where containerd listens, which the driver starts unless the configuration names another runtime.
const CONTAINERD: &str = "unix:///run/containerd/containerd.sock";
/// Where kubeadm writes what a power cut may leave empty.
const WRITTEN: [&str; 6] = [
    "/etc/kubernetes",
    "/etc/kubernetes/manifests",
    "/etc/kubernetes/pki",
    "/etc/kubernetes/pki/etcd",
    "/var/lib/kubelet",
    "/var/lib/kubelet/pki",
];
/// Preflight checks that a founding which was cut off would fail by its own traces.
const OWN_TRACES: &str = "Port-6443,Port-10250,Port-10257,Port-10259,Port-2379,Port-2380,DirAvailable--var-lib-etcd,\
    FileAvailable--etc-kubernetes-manifests-kube-apiserver.yaml,\
    FileAvailable--etc-kubernetes-manifests-kube-controller-manager.yaml,\
    FileAvailable--etc-kubernetes-manifests-kube-scheduler.yaml,FileAvailable--etc-kubernetes-manifests-etcd.yaml";

/// Joins or founds a Kubernetes cluster.
pub struct KubeadmDriver {
    kubeadm: Kubeadm,
    node: NodeFacts,
}

/// What the rendezvous gives.
#[derive(Serialize, Deserialize)]
struct Ticket {
    token: String,
    pins: Vec<String>,
    certificate_key: Option<String>,
}

/// The kubeadm on the image.
struct Installed {
    /// Its version: `v1.29.3`.
    version: String,
    /// The newest version of its configuration API.
    api: &'static str,
}

impl KubeadmDriver {
    /// For this configuration, on this node.
    pub fn new(kubeadm: Kubeadm, node: NodeFacts) -> Self {
        Self { kubeadm, node }
    }

    fn registration(&self, api: &str) -> Value {
        let mut arguments = Vec::new();
        if !self.kubeadm.labels.is_empty() {
            let labels: Vec<String> = self.kubeadm.labels.iter().map(ToString::to_string).collect();
            arguments.push(("node-labels", labels.join(",")));
        }
        if let Some(address) = self.kubeadm.advertise {
            arguments.push(("node-ip", address.to_string()));
        }
        // Always named: where Docker is there as well, kubeadm before 1.24 would take that, and later ones would take neither.
        let mut registration = json!({ "name": self.node.hostname, "criSocket": self.socket(api) });
        if !arguments.is_empty() {
            registration["kubeletExtraArgs"] = extra_arguments(api, &arguments);
        }
        registration
    }

    fn local_endpoint(&self) -> Option<Value> {
        self.kubeadm
            .advertise
            .map(|address: IpAddr| json!({ "advertiseAddress": address.to_string(), "bindPort": 6443 }))
    }

    /// The runtime's socket, as kubeadm takes it. Until 1.23 its own way to Docker is known by the bare path alone.
    fn socket(&self, api: &str) -> &str {
        let socket = self.kubeadm.cri_socket.as_deref().unwrap_or(CONTAINERD);
        match socket.strip_prefix("unix://") {
            Some(path) if self.kubeadm.is_dockershim() && api != "v1beta4" => path,
            _ => socket,
        }
    }

    /// The flag that names checks of kubeadm's preflight whose errors are to be warnings.
    fn ignoring(&self, own: &[&str]) -> Option<String> {
        let checks: Vec<&str> =
            own.iter().copied().chain(self.kubeadm.ignore_preflight.iter().map(String::as_str)).collect();
        (!checks.is_empty()).then(|| format!("--ignore-preflight-errors={}", checks.join(",")))
    }

    fn reset(&self, host: &dyn Host) -> Result<(), JoinError> {
        let api = installed(host)?.api;
        let socket = format!("--cri-socket={}", self.socket(api));
        host.run("kubeadm", &["reset", "--force", &socket], PATIENCE)?;
        Ok(())
    }

    /// `InitConfiguration`, `ClusterConfiguration` and, where kubeadm has another default, `KubeletConfiguration`.
    fn init_settings(&self, installed: &Installed, certificate_key: Option<&str>) -> String {
        let api = installed.api;
        let mut init = json!({
            "apiVersion": format!("kubeadm.k8s.io/{api}"),
            "kind": "InitConfiguration",
            "nodeRegistration": self.registration(api),
        });
        if let Some(endpoint) = self.local_endpoint() {
            init["localAPIEndpoint"] = endpoint;
        }
        // The rendezvous makes a token for each node that asks. kubeadm makes one in any case, for a day where nothing is
        // said: it shall end before anybody could want it.
        init["bootstrapTokens"] = match &self.kubeadm.token {
            Some(token) => json!([{ "token": token.expose() }]),
            None => json!([{ "ttl": "1m0s" }]),
        };
        if let Some(key) = certificate_key {
            init["certificateKey"] = json!(key);
        }
        let mut cluster = json!({
            "apiVersion": format!("kubeadm.k8s.io/{api}"),
            "kind": "ClusterConfiguration",
            // What the image brings: without this, kubeadm asks the internet which version is the newest.
            "kubernetesVersion": installed.version,
            "controlPlaneEndpoint": self.kubeadm.endpoint.to_string(),
        });
        let subnets = [("podSubnet", self.kubeadm.pod_subnet), ("serviceSubnet", self.kubeadm.service_subnet)];
        for (key, subnet) in subnets.into_iter().filter_map(|(key, subnet)| Some((key, subnet?))) {
            cluster["networking"][key] = json!(subnet.to_string());
        }
        let mut documents = vec![init, cluster];
        // The node's cgroups are systemd's. kubeadm says so to the kubelet from 1.22 on; before, it asks Docker where that is
        // the runtime, and otherwise leaves a default that makes two masters of one tree.
        if api == "v1beta2" && !self.kubeadm.is_dockershim() {
            documents.push(json!({
                "apiVersion": "kubelet.config.k8s.io/v1beta1",
                "kind": "KubeletConfiguration",
                "cgroupDriver": "systemd",
            }));
        }
        documents.iter().map(yaml::document).collect::<Vec<_>>().join("---\n")
    }

    /// `JoinConfiguration`.
    fn join_settings(&self, api: &str, discovery: &Value, certificate_key: Option<&str>) -> String {
        let mut join = json!({
            "apiVersion": format!("kubeadm.k8s.io/{api}"),
            "kind": "JoinConfiguration",
            "discovery": discovery,
            "nodeRegistration": self.registration(api),
        });
        if self.kubeadm.role == KubeadmRole::ControlPlane {
            join["controlPlane"] = json!({});
            if let Some(endpoint) = self.local_endpoint() {
                join["controlPlane"]["localAPIEndpoint"] = endpoint;
            }
            if let Some(key) = certificate_key {
                join["controlPlane"]["certificateKey"] = json!(key);
            }
        }
        yaml::document(&join)
    }

    /// How the node finds and believes the control plane, and the key of the certificates.
    fn discovery(&self, joiner: &Joiner<'_>) -> Result<(Value, Option<String>), JoinError> {
        let kubeadm = &self.kubeadm;
        let key = kubeadm.certificate_key.as_ref().map(|key| key.expose().to_owned());
        let by_token = |token: &str, pins: &[String]| {
            let mut bootstrap = json!({ "apiServerEndpoint": kubeadm.endpoint.to_string(), "token": token });
            // The configuration was checked: without a pin, allow_unpinned stands there.
            if pins.is_empty() {
                bootstrap["unsafeSkipCAVerification"] = json!(true);
            } else {
                bootstrap["caCertHashes"] = json!(pins);
            }
            json!({ "bootstrapToken": bootstrap })
        };
        if let Some(text) = &kubeadm.discovery {
            joiner.host.write(DISCOVERY, text.expose().as_bytes(), 0o600)?;
            let mut discovery = json!({ "file": { "kubeConfigPath": DISCOVERY } });
            if let Some(token) = &kubeadm.token {
                discovery["tlsBootstrapToken"] = json!(token.expose());
            }
            return Ok((discovery, key));
        }
        if let Some(token) = &kubeadm.token {
            return Ok((by_token(token.expose(), &kubeadm.ca_cert_hashes), key));
        }
        let (seat, secret) = match kubeadm.role {
            KubeadmRole::ControlPlane => (Seat::Manager, kubeadm.manager_secret.as_ref().or(kubeadm.secret.as_ref())),
            _ => (Seat::Worker, kubeadm.secret.as_ref()),
        };
        let secret =
            secret.ok_or_else(|| JoinError::Contradiction("there is neither join.secret nor join.token".into()))?;
        let (_, ticket) = ask_managers(joiner, &self.managers(), kubeadm.rendezvous_port, secret, seat)?;
        let ticket: Ticket = serde_json::from_str(ticket.expose()).map_err(|_| {
            JoinError::Contradiction("the rendezvous gave something that is no ticket of kubeadm".into())
        })?;
        if ticket.pins.is_empty() {
            return Err(JoinError::Contradiction("the rendezvous gave no pin of the authority".into()));
        }
        Ok((by_token(&ticket.token, &ticket.pins), ticket.certificate_key.or(key)))
    }

    fn managers(&self) -> Vec<HostAddress> {
        if self.kubeadm.managers.is_empty() {
            vec![self.kubeadm.endpoint.host.clone()]
        } else {
            self.kubeadm.managers.clone()
        }
    }

    fn kubectl(&self) -> Kubectl<'static> {
        let before: &[&str] = match self.kubeadm.role {
            KubeadmRole::Worker => &["--kubeconfig", KUBELET],
            KubeadmRole::Init | KubeadmRole::ControlPlane => &["--kubeconfig", ADMIN],
        };
        Kubectl { program: "kubectl", before }
    }

    fn is_ready(&self, host: &dyn Host) -> bool {
        self.kubectl().node(host, &self.node.hostname).is_ok_and(|node| node.is_some_and(|node| node.ready))
    }

    fn mark(host: &dyn Host) -> Result<String, HostError> {
        Ok(host.read(MARK, 100)?.map_or_else(String::new, |bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
    }

    /// Runs kubeadm with a file of settings, which is gone afterwards.
    fn run_with(host: &dyn Host, settings: &str, arguments: &[&str]) -> Result<(), JoinError> {
        host.write(SETTINGS, settings.as_bytes(), 0o600)?;
        let result = host.run("kubeadm", arguments, PATIENCE);
        host.remove(SETTINGS)?;
        host.remove(DISCOVERY)?;
        result.map(drop).map_err(explain)
    }
}

/// kubeadm's own words as the error that they stand for.
fn explain(error: HostError) -> JoinError {
    match &error {
        HostError::Process(ProcessError::Failed { tail, .. }) => diagnose(tail).unwrap_or_else(|| error.into()),
        _ => error.into(),
    }
}

/// Arguments of the kubelet: a table until `v1beta3`, a list since `v1beta4`.
fn extra_arguments(api: &str, arguments: &[(&str, String)]) -> Value {
    if api == "v1beta4" {
        return arguments.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    }
    Value::Object(arguments.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect())
}

/// The newest version of kubeadm's configuration API that a version of kubeadm speaks.
fn api_version(git_version: &str) -> Option<&'static str> {
    let mut numbers = git_version.strip_prefix('v')?.split('.');
    let (major, minor): (u32, u32) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    match (major, minor) {
        (1, 15..=21) => Some("v1beta2"),
        (1, 22..=30) => Some("v1beta3"),
        (1, 31..) => Some("v1beta4"),
        _ => None,
    }
}

fn installed(host: &dyn Host) -> Result<Installed, JoinError> {
    #[derive(Deserialize)]
    struct Version {
        #[serde(rename = "clientVersion")]
        client: Client,
    }
    #[derive(Deserialize)]
    struct Client {
        #[serde(rename = "gitVersion")]
        git_version: String,
    }
    let output = host.run("kubeadm", &["version", "--output=json"], Duration::from_mins(1));
    let output =
        output.map_err(|error| JoinError::Preflight(format!("the image has no kubeadm that works: {error}")))?;
    let version =
        serde_json::from_slice::<Version>(&output).map_or_else(|_| String::new(), |found| found.client.git_version);
    match api_version(&version) {
        Some(api) => Ok(Installed { version, api }),
        None => Err(JoinError::Preflight(format!("kubeadm {version:?} is none that this driver knows: 1.15 or later"))),
    }
}

/// Removes the files that kubeadm had made but whose content was not on the disk yet when the power went: it would take
/// them for finished ones and fail on them for ever.
fn remove_empty(host: &dyn Host) -> Result<(), JoinError> {
    for directory in WRITTEN {
        for (name, bytes) in host.list(directory)? {
            if bytes == 0 {
                host.remove(&format!("{directory}/{name}"))?;
            }
        }
    }
    Ok(())
}

impl Driver for KubeadmDriver {
    fn name(&self) -> &'static str {
        "kubeadm"
    }

    fn describe(&self) -> String {
        let endpoint = &self.kubeadm.endpoint;
        let how = match (&self.kubeadm.token, &self.kubeadm.discovery) {
            (_, Some(_)) => "with a discovery file",
            (Some(_), None) => "with a token",
            (None, None) => "with a token that the control plane gives",
        };
        match self.kubeadm.role {
            KubeadmRole::Init => format!("kubeadm control plane that founds the cluster at {endpoint}"),
            KubeadmRole::ControlPlane => format!("kubeadm control plane, joins {endpoint} {how}"),
            KubeadmRole::Worker => format!("kubeadm worker, joins {endpoint} {how}"),
        }
    }

    fn actions(&self) -> Vec<Effect> {
        let mut actions = Vec::new();
        let by_rendezvous = self.kubeadm.token.is_none() && self.kubeadm.discovery.is_none();
        if self.kubeadm.role != KubeadmRole::Init && by_rendezvous {
            let managers = self.managers().iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
            let request = format!("token and pin, from {managers} port {}", self.kubeadm.rendezvous_port);
            actions.push(call("rendezvous", request));
        }
        let verb = if self.kubeadm.role == KubeadmRole::Init { "init" } else { "join" };
        actions.push(Effect::run(["kubeadm", verb, "--config", SETTINGS]));
        actions.extend(unit::starting("kubelet.service"));
        actions
    }

    fn preflight(&self, host: &dyn Host) -> Result<(), JoinError> {
        installed(host)?;
        match &self.kubeadm.cri_socket {
            Some(socket) if socket.contains("crio") => unit::start_and_wait(host, "crio.service"),
            Some(_) if self.kubeadm.uses_docker() => super::start_docker(host),
            _ => unit::start_and_wait(host, "containerd.service"),
        }
    }

    fn probe(&self, host: &dyn Host) -> Result<Option<Membership>, JoinError> {
        if Self::mark(host)? != "done" {
            return Ok(None);
        }
        let Ok(Some(state)) = self.kubectl().node(host, &self.node.hostname) else { return Ok(None) };
        let ready = if state.ready { "ready".into() } else { format!("not ready yet: {}", state.reason) };
        let text = format!("{}, node {}, {ready}", self.describe(), self.node.hostname);
        Ok(Some(Membership { identity: state.uid, text }))
    }

    fn start(&self, joiner: &Joiner<'_>) -> Result<(), JoinError> {
        let host = joiner.host;
        let mark = Self::mark(host)?;
        if mark == "done" {
            return unit::start(host, "kubelet.service");
        }
        if let Some(joining) = self.joining_founder(joiner, &mark)? {
            return joining.start(joiner);
        }
        let installed = installed(host)?;
        if self.kubeadm.role == KubeadmRole::Init {
            host.write(MARK, b"begun\n", 0o600)?;
            let again = mark == "begun";
            if again {
                remove_empty(host)?;
            }
            let ignoring = self.ignoring(if again { &[OWN_TRACES] } else { &[] });
            let mut arguments = vec!["init", "--config", SETTINGS];
            arguments.extend(ignoring.as_deref());
            Self::run_with(host, &self.init_settings(&installed, None), &arguments)?;
        } else {
            // The power may have gone after the join and before it was noted: a worker is whole once it is known.
            if mark == "begun" && self.kubeadm.role == KubeadmRole::Worker && self.is_ready(host) {
                host.write(MARK, b"done\n", 0o600)?;
                return unit::start(host, "kubelet.service");
            }
            let (discovery, key) = self.discovery(joiner)?;
            if mark == "begun" {
                self.reset(host)?;
            }
            host.write(MARK, b"begun\n", 0o600)?;
            let settings = self.join_settings(installed.api, &discovery, key.as_deref());
            let ignoring = self.ignoring(&[]);
            let mut arguments = vec!["join", "--config", SETTINGS];
            arguments.extend(ignoring.as_deref());
            Self::run_with(host, &settings, &arguments)?;
        }
        unit::start(host, "kubelet.service")?;
        host.write(MARK, b"done\n", 0o600)?;
        Ok(())
    }

    fn diagnose(&self, host: &dyn Host) -> Option<JoinError> {
        diagnose(&unit::last_words(host, "kubelet.service"))
    }

    fn leave(&self, host: &dyn Host) -> Result<(), JoinError> {
        if let Some(joined) = self.joined_founder(host) {
            joined.leave(host)?;
            return Self::forget_joining(host);
        }
        if self.kubeadm.role == KubeadmRole::ControlPlane {
            self.kubectl().run(host, &["delete", "node", &self.node.hostname, "--ignore-not-found", "--wait=false"])?;
        }
        // It takes a control-plane node out of etcd, stops what runs and removes what it wrote.
        self.reset(host)?;
        unit::stop(host, "kubelet.service")?;
        host.remove(MARK)?;
        Ok(())
    }

    fn secrets(&self) -> Vec<&Secret> {
        let kubeadm = &self.kubeadm;
        let all =
            [&kubeadm.token, &kubeadm.discovery, &kubeadm.certificate_key, &kubeadm.secret, &kubeadm.manager_secret];
        all.into_iter().flatten().collect()
    }

    fn offer(&self) -> Option<Offer> {
        let secret = self.kubeadm.secret.clone().filter(|_| self.kubeadm.role != KubeadmRole::Worker)?;
        Some(Offer { port: self.kubeadm.rendezvous_port, secret, manager_secret: self.kubeadm.manager_secret.clone() })
    }

    fn admit(&self, host: &dyn Host, asker: &Asker) -> Result<Secret, JoinError> {
        check_seat(host, &self.kubeadm.managers, asker)?;
        self.kubectl().make_room(host, &asker.identity)?;
        let authority = host.read(AUTHORITY, 1024 * 1024)?.unwrap_or_default();
        let pin = spki_pin(&String::from_utf8_lossy(&authority))
            .ok_or_else(|| JoinError::Contradiction(format!("{AUTHORITY} holds no certificate")))?;
        let minute = Duration::from_mins(1);
        // Each node gets a token of its own that is gone soon: tokens that pile up slow the cluster down.
        let token = host.run("kubeadm", &["token", "create", "--ttl=15m", "--kubeconfig", ADMIN], minute)?;
        let certificate_key = if asker.identity.seat == Seat::Manager {
            // A key of AES-256 in hex, as `kubeadm certs certificate-key` makes it, which has had several names.
            let key = to_hex(&host.random_bytes(32)?);
            let settings = self.init_settings(&installed(host)?, Some(&key));
            host.write(UPLOAD, settings.as_bytes(), 0o600)?;
            let arguments = ["init", "phase", "upload-certs", "--upload-certs", "--config", UPLOAD];
            let uploaded = host.run("kubeadm", &arguments, minute);
            host.remove(UPLOAD)?;
            uploaded?;
            Some(key)
        } else {
            None
        };
        let ticket =
            Ticket { token: String::from_utf8_lossy(&token).trim().to_owned(), pins: vec![pin], certificate_key };
        // Plain data becomes JSON in any case.
        Ok(Secret::new(serde_json::to_string(&ticket).unwrap_or_default()))
    }
}

#[cfg(test)]
#[path = "kubeadm_tests.rs"]
mod tests;
