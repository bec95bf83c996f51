//! What k3s and kubeadm have in common: nodes as the cluster's API shows them, and the pin of an authority.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::JoinError;
use super::room::{Bearer, may_go};
use crate::clock::civil::seconds_of;
use crate::der;
use crate::host::Host;
use crate::rendezvous::{NodeIdentity, to_hex};

const PATIENCE: Duration = Duration::from_secs(40);

/// How the API is asked: a program and what stands before the verb.
pub struct Kubectl<'a> {
    /// `kubectl`, or `k3s`.
    pub program: &'a str,
    /// `--kubeconfig PATH`, after `kubectl` for k3s.
    pub before: &'a [&'a str],
}

/// A node as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    /// Its identity there.
    pub uid: String,
    /// Whether it is ready.
    pub ready: bool,
    /// Why it is not.
    pub reason: String,
    /// What counts where another machine comes with its name.
    pub bearer: Bearer,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    uid: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
struct Status {
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    #[serde(default)]
    reason: String,
    #[serde(default, rename = "lastTransitionTime")]
    since: Option<String>,
}

/// The labels of nodes that keep the cluster's state, by kubeadm and k3s, also older ones.
const STATE_KEEPERS: [&str; 3] =
    ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master", "node-role.kubernetes.io/etcd"];

impl Kubectl<'_> {
    /// Runs one command.
    pub fn run(&self, host: &dyn Host, arguments: &[&str]) -> Result<Vec<u8>, JoinError> {
        let all: Vec<&str> = self.before.iter().chain(arguments).copied().collect();
        Ok(host.run(self.program, &all, PATIENCE)?)
    }

    /// The node with this name; `None` where there is none.
    pub fn node(&self, host: &dyn Host, name: &str) -> Result<Option<NodeState>, JoinError> {
        let arguments = ["get", "node", name, "--ignore-not-found", "--output=json", "--request-timeout=20s"];
        let output = self.run(host, &arguments)?;
        if output.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        let object: Object = serde_json::from_slice(&output)
            .map_err(|_| JoinError::Preflight(format!("{} gave no node but something else", self.program)))?;
        let ready = object.status.conditions.iter().find(|condition| condition.kind == "Ready");
        // The node lifecycle controller says Unknown of a kubelet that it has not heard of for a while. False is what
        // a kubelet says of itself.
        let bearer = Bearer {
            down: ready.is_some_and(|condition| condition.status == "Unknown"),
            since: ready.and_then(|condition| seconds_of(condition.since.as_deref()?)),
            keeps_state: STATE_KEEPERS.iter().any(|label| object.metadata.labels.contains_key(*label)),
        };
        Ok(Some(NodeState {
            bearer,
            uid: object.metadata.uid,
            ready: ready.is_some_and(|condition| condition.status == "True"),
            reason: ready.map_or_else(|| "it has not said anything yet".into(), |condition| condition.reason.clone()),
        }))
    }

    /// Makes room for a node that proved the cluster secret: what bears its name and is dead is removed.
    ///
    /// # Errors
    /// [`JoinError::DuplicateName`] where what bears its name may not go.
    pub fn make_room(&self, host: &dyn Host, asker: &NodeIdentity) -> Result<(), JoinError> {
        let name = &asker.hostname;
        let Some(node) = self.node(host, name)? else { return Ok(()) };
        may_go(asker, node.bearer, host.now())?;
        self.run(host, &["delete", "node", name, "--ignore-not-found", "--wait=false"]).map(drop)
    }
}

/// The pin of the first certificate of a PEM text, as kubeadm takes it: `sha256:` and the digest of the DER-encoded
/// `SubjectPublicKeyInfo` (RFC 7469, section 2.4).
pub fn spki_pin(pem: &str) -> Option<String> {
    let body = pem.split_once("-----BEGIN CERTIFICATE-----")?.1.split_once("-----END CERTIFICATE-----")?.0;
    let der = STANDARD.decode(body.split_ascii_whitespace().collect::<String>()).ok()?;
    let key = der::certificate(&der)?.public_key;
    Some(format!("sha256:{}", to_hex(&Sha256::digest(key))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::host::simulated::{Around, Ended, Program, SimulatedHost};
    use crate::rendezvous::Seat;

    #[test]
    fn the_pin_is_the_one_that_openssl_makes() {
        let directory = tempfile::tempdir().unwrap();
        let script = "openssl req -x509 -newkey rsa:2048 -nodes -keyout k.pem -out c.pem -days 2 -subj /CN=kubernetes 2>/dev/null && \
                      openssl x509 -pubkey -noout -in c.pem | openssl pkey -pubin -outform der | openssl dgst -sha256 -r";
        let script = format!("cd {} && {script}", directory.path().display());
        let Ok(output) = crate::process::run("sh", &["-c", &script], Duration::from_mins(1)) else {
            println!("skipped: there is no openssl");
            return;
        };
        let hex = String::from_utf8(output).unwrap().split(' ').next().unwrap().trim().to_owned();
        let pem = std::fs::read_to_string(directory.path().join("c.pem")).unwrap();
        assert_eq!(spki_pin(&pem).unwrap(), format!("sha256:{hex}"));
        assert_eq!(spki_pin("nothing"), None);
    }

    /// An API with one node.
    struct ApiStandIn(String);

    impl Program for ApiStandIn {
        fn run(&mut self, command: &[&str], _: &mut Around<'_>) -> Option<Result<String, Ended>> {
            if command[1] == "delete" {
                self.0.clear();
            }
            Some(Ok(self.0.clone()))
        }
    }

    #[test]
    fn a_worker_removes_no_control_plane_and_nobody_what_may_come_back() {
        let (long_ago, just_now) = ("2026-09-20T14:13:20Z", "2026-09-21T14:11:20Z");
        for (status, since, label, seat, goes) in [
            ("Unknown", long_ago, "a", Seat::Worker, true),
            ("Unknown", just_now, "a", Seat::Worker, false),
            ("False", long_ago, "a", Seat::Worker, false),
            ("True", long_ago, "a", Seat::Worker, false),
            ("Unknown", long_ago, "node-role.kubernetes.io/control-plane", Seat::Worker, false),
            ("Unknown", long_ago, "node-role.kubernetes.io/etcd", Seat::Worker, false),
            ("Unknown", long_ago, "node-role.kubernetes.io/control-plane", Seat::Manager, true),
            ("Unknown", just_now, "node-role.kubernetes.io/control-plane", Seat::Manager, false),
        ] {
            let host = SimulatedHost::default();
            host.state().clock = 1_790_000_000;
            let conditions = json!([{ "type": "Ready", "status": status, "reason": "x", "lastTransitionTime": since }]);
            let node =
                json!({ "metadata": { "uid": "u", "labels": { label: "" } }, "status": { "conditions": conditions } });
            host.install(ApiStandIn(node.to_string()));
            let asker = NodeIdentity { hostname: "n1".into(), id: "1".into(), seat };
            let kubectl = Kubectl { program: "kubectl", before: &[] };
            let made = kubectl.make_room(&host, &asker);
            assert_eq!(made.is_ok(), goes, "{node} {seat:?}: {made:?}");
            let deleted = host.state().commands.iter().any(|command| command.contains("delete node n1"));
            assert_eq!(deleted, goes, "{node} {seat:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_certificate_is_read_without_a_panic(bytes in proptest::collection::vec(0_u8.., 0..200)) {
            let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(&bytes));
            let _ = spki_pin(&pem);
        }
    }
}
