//! Where a configuration puts a node: which kind of cluster, as what, and by whom.
//!
//! A node that is a member somewhere cannot be given another place by a new configuration alone: it would be in two
//! clusters at once, or stay in the old one with the new one's settings.

use super::{Join, System};

impl Join {
    /// The driver, what the node is there, and whom it asks to join.
    fn place(&self) -> (&'static str, String, Vec<String>) {
        fn all<T: std::fmt::Debug>(list: &[T]) -> Vec<String> {
            list.iter().map(|one| format!("{one:?}")).collect()
        }
        let word = |role: &dyn std::fmt::Debug| format!("{role:?}").to_lowercase();
        match &self.system {
            System::DockerSwarm(swarm) => ("docker-swarm", word(&swarm.role), all(&swarm.managers)),
            System::K3s(k3s) => ("k3s", word(&k3s.role), all(&k3s.servers)),
            System::Kubeadm(kubeadm) => ("kubeadm", word(&kubeadm.role), all(&[&kubeadm.endpoint])),
            System::Aiware(aiware) => {
                ("aiware", String::new(), aiware.controller.iter().flat_map(|one| all(&[one])).collect())
            }
            System::BackendAi(backend) => ("backendai", word(&backend.role), all(&[&backend.etcd.address])),
            System::Gluster(gluster) => ("gluster", word(&gluster.role), all(&gluster.servers)),
            // What it mounts can change at any time.
            System::Nfs(_) => ("nfs", String::new(), Vec::new()),
            System::Exec(exec) => ("exec", word(&exec.program), Vec::new()),
        }
    }

    /// Whether a member by this configuration stays where it is with the next one.
    ///
    /// # Errors
    /// Why not, in words that end a sentence about the next one.
    pub fn stays(&self, next: Option<&Self>) -> Result<(), String> {
        let Some(next) = next else { return Err("joins nothing".into()) };
        let ((driver, role, servers), (new_driver, new_role, new_servers)) = (self.place(), next.place());
        if driver != new_driver {
            return Err(format!("joins by {new_driver} and not by {driver}"));
        }
        if role != new_role {
            return Err(format!("makes it {new_role} and not {role}"));
        }
        if !servers.is_empty() && !new_servers.is_empty() && !new_servers.iter().any(|server| servers.contains(server))
        {
            return Err("names none of the servers that it has now".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Document, Format, Join, Machine, load};

    const SECRET: &str = "kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2fG9jLt4oMyB6s=";

    fn join(text: &str) -> Option<Join> {
        let text = format!("version = 1\n[join]\nsecret = \"{SECRET}\"\n{text}\n");
        let document = Document { name: "f".into(), format: Format::NodeToml, bytes: text.into_bytes() };
        load(&[document], &Machine::default()).unwrap_or_else(|error| panic!("{error}")).config.join
    }

    fn swarm(role: &str, managers: &str) -> Option<Join> {
        join(&format!("driver = \"docker-swarm\"\nrole = \"{role}\"\nmanagers = [{managers}]"))
    }

    #[test]
    fn a_member_stays_with_more_or_fewer_servers_and_not_with_others() {
        let present = swarm("worker", "\"10.0.0.1\", \"10.0.0.2\"").unwrap();
        for same in ["\"10.0.0.1\"", "\"10.0.0.3\", \"10.0.0.2\""] {
            assert_eq!(present.stays(swarm("worker", same).as_ref()), Ok(()));
        }
        let refused = |next: Option<Join>| present.stays(next.as_ref()).unwrap_err();
        assert_eq!(refused(swarm("worker", "\"10.0.0.3\"")), "names none of the servers that it has now");
        assert_eq!(refused(swarm("manager", "\"10.0.0.1\"")), "makes it manager and not worker");
        let k3s = join("driver = \"k3s\"\nrole = \"agent\"\nservers = [\"10.0.0.1\"]");
        assert_eq!(refused(k3s), "joins by k3s and not by docker-swarm");
        assert_eq!(refused(None), "joins nothing");
    }
}
