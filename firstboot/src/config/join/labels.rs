//! Which labels a node may give itself.
//!
//! A kubelet refuses to start with labels in Kubernetes' own namespaces, but for those that it may set on itself
//! (`ValidateKubeletFlags`; the list is `IsKubeletLabel` in `k8s.io/kubelet/pkg/apis`), and the API server's
//! `NodeRestriction` refuses them too. On the node that would be a kubelet that starts again for ever.

use super::values::Label;
use crate::config::fields::Fields;
use crate::config::problem::Findings;

/// The labels that a kubelet may set, besides those of the two namespaces.
const OWN: [&str; 10] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// Reads `labels`, and refuses those that no node may give itself.
pub fn read(fields: &Fields<'_>, findings: &mut Findings) -> Vec<Label> {
    let labels: Vec<Label> = fields.parsed_list("labels", findings);
    for label in labels.iter().filter(|label| !may_be_set(label.as_str())) {
        let key = label.as_str().split('=').next().unwrap_or_default();
        let help = format!(
            "use a name of your own, or one in node.kubernetes.io; or give it on a control-plane node, once the node \
             has joined: kubectl label node NAME {label}"
        );
        fields.error("labels", format!("{key} is a label that no node may give itself"), help, findings);
    }
    labels
}

fn may_be_set(label: &str) -> bool {
    let key = label.split('=').next().unwrap_or_default();
    let Some((namespace, _)) = key.split_once('/') else { return true };
    let in_namespace =
        |domain: &str| namespace.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let kubernetes = in_namespace("kubernetes.io") || in_namespace("k8s.io");
    !kubernetes || OWN.contains(&key) || in_namespace("kubelet.kubernetes.io") || in_namespace("node.kubernetes.io")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelets_own_list() {
        for good in [
            "disk=nvme",
            "example.com/disk=nvme",
            "mykubernetes.io/x=y",
            "topology.kubernetes.io/zone=a",
            "node.kubernetes.io/instance-type=big",
            "gpu.node.kubernetes.io/x=y",
            "kubelet.kubernetes.io/x=y",
            "kubernetes.io/hostname=a",
            "a=node-role.kubernetes.io/worker",
        ] {
            assert!(may_be_set(good), "{good}");
        }
        for bad in [
            "node-role.kubernetes.io/worker=",
            "node-restriction.kubernetes.io/x=y",
            "kubernetes.io/role=worker",
            "k8s.io/x=y",
            "a.k8s.io/x=y",
            "topology.kubernetes.io/rack=a",
        ] {
            assert!(!may_be_set(bad), "{bad}");
        }
    }
}
