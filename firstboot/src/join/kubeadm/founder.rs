//! A founder that finds its cluster living, and becomes a further control-plane node of it.
//!
//! What it has become is noted beside the mark, so that a join which was cut off goes on as a join.

use std::time::Duration;

use super::{Joiner, KubeadmDriver};
use crate::config::{Endpoint, Kubeadm, KubeadmRole};
use crate::host::Host;
use crate::http::{HttpReason, HttpRequest};
use crate::join::JoinError;
use crate::join::founding::living_cluster;

/// There where a founder joins.
const JOINS: &str = "/var/lib/ingot/kubeadm-founder-joins";

impl KubeadmDriver {
    /// The node as a further control-plane node, where it is a founder that joins. `mark` is what was begun: it is gone
    /// on with, and nobody is asked again.
    ///
    /// # Errors
    /// Those of [`living_cluster`]; [`JoinError::NoManagerYet`] where the endpoint answers and no manager gives anything.
    pub(super) fn joining_founder(&self, joiner: &Joiner<'_>, mark: &str) -> Result<Option<Self>, JoinError> {
        if self.kubeadm.role != KubeadmRole::Init {
            return Ok(None);
        }
        if joiner.host.exists(JOINS) {
            return Ok(self.joined_founder(joiner.host));
        }
        if !mark.is_empty() || !self.finds_living(joiner)? {
            return Ok(None);
        }
        joiner.host.write(JOINS, b"", 0o600)?;
        Ok(self.joined_founder(joiner.host))
    }

    /// The same for a founder that has begun to join.
    pub(super) fn joined_founder(&self, host: &dyn Host) -> Option<Self> {
        let by_rendezvous = || Kubeadm {
            role: KubeadmRole::ControlPlane,
            token: None,
            discovery: None,
            ca_cert_hashes: Vec::new(),
            ..self.kubeadm.clone()
        };
        let joins = self.kubeadm.role == KubeadmRole::Init && host.exists(JOINS);
        joins.then(|| Self { kubeadm: by_rendezvous(), node: self.node.clone() })
    }

    /// It has left.
    pub(super) fn forget_joining(host: &dyn Host) -> Result<(), JoinError> {
        Ok(host.remove(JOINS)?)
    }

    fn finds_living(&self, joiner: &Joiner<'_>) -> Result<bool, JoinError> {
        let (host, kubeadm) = (joiner.host, &self.kubeadm);
        if let Some(secret) = kubeadm.manager_secret.as_ref().or(kubeadm.secret.as_ref()) {
            // What it gives is asked for again at once: it is good for one join, from now on.
            let given = living_cluster(joiner, &self.node, &self.managers(), kubeadm.rendezvous_port, secret)?;
            if given.is_some() {
                return Ok(true);
            }
        }
        let endpoint = &kubeadm.endpoint;
        let own = host.addresses()?;
        let leads_here = host.resolve(&endpoint.host).is_ok_and(|known| {
            known.iter().any(|address| address.is_loopback() || own.iter().any(|own| own.address == *address))
        });
        if leads_here || self.node.is_own(&endpoint.host) || !answers(host, endpoint) {
            return Ok(false);
        }
        Err(JoinError::NoManagerYet(format!(
            "a control plane answers at {endpoint}, so no second one is founded beside it, and no manager gives this \
             node what it joins with; name the control-plane nodes in join.managers"
        )))
    }
}

/// Whether a control plane is at the endpoint. It need not prove who it is: nothing is taken from it.
fn answers(host: &dyn Host, endpoint: &Endpoint) -> bool {
    let url = format!("https://{endpoint}/healthz");
    match host.http(&HttpRequest { timeout: Duration::from_secs(10), ..HttpRequest::get(&url, 64 * 1024) }) {
        // Some keep even that to those whom they know.
        Ok(response) => matches!(response.status, 200..=299 | 401 | 403),
        // Its authority is the cluster's own, which this node does not know.
        Err(error) => matches!(error.reason, HttpReason::Certificate(_) | HttpReason::CertificateTime(_)),
    }
}
