//! `[join]` with `driver = "kubeadm"`.

use std::net::IpAddr;

use serde::Serialize;

use super::values::{Endpoint, Label, Subnet, is_spki_pin, judge_bootstrap_token};
use super::{choice, cluster_secret, labels, plain_text, rendezvous_port, unpinned};
use crate::config::fields::Fields;
use crate::config::node::Extent;
use crate::config::problem::Findings;
use crate::config::secret::Secret;

/// What a node is in a Kubernetes cluster that kubeadm makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kubeadm {
    /// The part that it plays.
    pub role: KubeadmRole,
    /// Where the cluster's API is, for all nodes and for good.
    pub endpoint: Endpoint,
    /// A bootstrap token.
    pub token: Option<Secret>,
    /// The pins of the cluster's authority: `sha256:` and the digest of its public key.
    pub ca_cert_hashes: Vec<String>,
    /// A kubeconfig with the API's address and authority (`kubeadm join --discovery-file`).
    pub discovery: Option<Secret>,
    /// The key that opens the control plane's certificates in the cluster, for a further control-plane node.
    pub certificate_key: Option<Secret>,
    /// The cluster secret, which the rendezvous proves.
    pub secret: Option<Secret>,
    /// What control-plane nodes prove to each other instead.
    pub manager_secret: Option<Secret>,
    /// The control-plane nodes; further ones get what makes them such only from these addresses.
    pub managers: Vec<crate::config::values::HostAddress>,
    /// The TCP port of the rendezvous.
    pub rendezvous_port: u16,
    /// Whether a token without any pin may be used.
    pub allow_unpinned: bool,
    /// The address that the others reach this node by.
    pub advertise: Option<IpAddr>,
    /// Labels of the node.
    pub labels: Vec<Label>,
    /// The pods' network.
    pub pod_subnet: Option<Subnet>,
    /// The services' network.
    pub service_subnet: Option<Subnet>,
    /// Where the container runtime listens.
    pub cri_socket: Option<String>,
    /// Checks of kubeadm's preflight whose errors are to be warnings.
    pub ignore_preflight: Vec<String>,
}

impl Kubeadm {
    /// Whether kubeadm itself is to speak to Docker, as it could until 1.23.
    pub fn is_dockershim(&self) -> bool {
        self.cri_socket.as_ref().is_some_and(|socket| socket.contains("dockershim"))
    }

    /// Whether containers run in Docker.
    pub fn uses_docker(&self) -> bool {
        self.is_dockershim() || self.cri_socket.as_ref().is_some_and(|socket| socket.contains("cri-dockerd"))
    }
}

/// A node's role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KubeadmRole {
    /// Founds the cluster.
    Init,
    /// Runs a further instance of the control plane.
    ControlPlane,
    /// Runs containers.
    Worker,
}

pub fn read(fields: &Fields<'_>, extent: Extent, findings: &mut Findings) -> Option<Kubeadm> {
    let errors_before = findings.errors.len();
    let roles =
        [("init", KubeadmRole::Init), ("control-plane", KubeadmRole::ControlPlane), ("worker", KubeadmRole::Worker)];
    let role = choice(fields, "role", &roles, extent, findings);
    let endpoint = fields.parsed("endpoint", findings);
    let token = fields.text("token", findings).map(|token| Secret::new(token.trim()));
    if let Some(Err(reason)) = token.as_ref().map(|token| judge_bootstrap_token(token.expose())) {
        fields.error("token", reason, "make one with `kubeadm token create`", findings);
    }
    let ca_cert_hashes: Vec<String> = fields.parsed_list("ca_cert_hashes", findings);
    if ca_cert_hashes.iter().any(|hash| !is_spki_pin(hash)) {
        let help = "sha256: and 64 hex digits; `kubeadm token create --print-join-command` shows it";
        fields.error("ca_cert_hashes", "has an entry that is not the pin of an authority", help, findings);
    }
    let discovery = fields.text("discovery", findings).map(Secret::new);
    if discovery.as_ref().is_some_and(|text| !text.expose().contains("certificate-authority-data:")) {
        let help = "give the text of a kubeconfig with server and certificate-authority-data";
        fields.error("discovery", "holds no certificate-authority-data, so it pins nothing", help, findings);
    }
    let certificate_key = fields.text("certificate_key", findings).map(|key| Secret::new(key.trim()));
    let is_key = |key: &Secret| key.expose().len() == 64 && key.expose().bytes().all(|byte| byte.is_ascii_hexdigit());
    if certificate_key.as_ref().is_some_and(|key| !is_key(key)) {
        let help = "it is what `kubeadm init phase upload-certs --upload-certs` prints: 64 hex digits";
        fields.error("certificate_key", "is not a certificate key", help, findings);
    }
    let secret = cluster_secret(fields, "secret", findings);
    let manager_secret = cluster_secret(fields, "manager_secret", findings);
    let managers = fields.parsed_list("managers", findings);
    let rendezvous_port = rendezvous_port(fields, findings);
    let allow_unpinned = fields.boolean("allow_unpinned", findings).unwrap_or(false);
    let advertise = fields.parsed("advertise", findings);
    let labels = labels::read(fields, findings);
    let pod_subnet = fields.parsed("pod_subnet", findings);
    let service_subnet = fields.parsed("service_subnet", findings);
    let cri_socket = plain_text(fields, "cri_socket", findings);
    if cri_socket.as_ref().is_some_and(|socket| !socket.starts_with("unix:///")) {
        fields.error("cri_socket", "is not a socket", "unix:///run/containerd/containerd.sock", findings);
    }
    let ignore_preflight: Vec<String> = fields.parsed_list("ignore_preflight", findings);
    let is_check =
        |check: &String| !check.is_empty() && check.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !ignore_preflight.iter().all(is_check) {
        let help = "kubeadm names it in its message, [ERROR NAME]: \"NumCPU\"";
        fields.error("ignore_preflight", "has an entry that is no name of a check", help, findings);
    }
    let joins = matches!(role, Some(KubeadmRole::ControlPlane | KubeadmRole::Worker));
    if extent == Extent::Whole {
        if fields.entry("endpoint").is_none() {
            fields.missing("endpoint", "where all nodes reach the API: \"10.77.0.10:6443\"", findings);
        }
        if joins && token.is_none() && discovery.is_none() && fields.entry("secret").is_none() {
            fields.missing("secret", "give the cluster's secret, or token and ca_cert_hashes, or discovery", findings);
        }
        let by_rendezvous = token.is_none() && discovery.is_none();
        if role == Some(KubeadmRole::ControlPlane) && by_rendezvous && fields.entry("managers").is_none() {
            let help = "name the control-plane nodes, this one too, and the same on all of them: only to these \
                        addresses they give what makes a node one of them";
            fields.missing("managers", help, findings);
        }
        if role == Some(KubeadmRole::ControlPlane) && token.is_some() && certificate_key.is_none() {
            let help = "a control-plane node with a token needs the key of the uploaded certificates";
            fields.missing("certificate_key", help, findings);
        }
    }
    if token.is_some() && ca_cert_hashes.is_empty() && discovery.is_none() && joins {
        let why = "has no pin beside it, so whoever answers first is believed";
        unpinned(fields, "token", allow_unpinned, why, "give ca_cert_hashes", findings);
    }
    if extent == Extent::Part || findings.errors.len() > errors_before {
        return None;
    }
    Some(Kubeadm {
        role: role?,
        endpoint: endpoint?,
        token,
        ca_cert_hashes,
        discovery,
        certificate_key,
        secret,
        manager_secret,
        managers,
        rendezvous_port,
        allow_unpinned,
        advertise,
        labels,
        pod_subnet,
        service_subnet,
        cri_socket,
        ignore_preflight,
    })
}
