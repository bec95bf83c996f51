//! What will be done to a machine, in order, before anything is done.
//!
//! Takes a valid configuration and what the image brings; gives the steps and the join. The same plan is printed by
//! `firstboot check` and carried out by the service.

use crate::config::{Hostname, Join, Machine, NodeConfig, Run};
use crate::step::{Archive, Step};

/// The steps of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The steps before the join, in order.
    pub steps: Vec<Step>,
    /// The steps that need the container engine, after the preflight.
    pub engine_steps: Vec<Step>,
    /// The commands of the configuration.
    pub run: Run,
    /// What it joins at last.
    pub join: Option<Join>,
}

impl Plan {
    /// The plan for a configuration on a machine whose image brings these archives.
    pub fn new(config: &NodeConfig, machine: &Machine, archives: Vec<Archive>) -> Self {
        let mut steps = vec![Step::Hostname(hostname(config, machine))];
        steps.extend(config.timezone.clone().map(Step::Timezone));
        // The next ones also undo what an earlier configuration set, so they are there even when empty. Files may belong to
        // users, so those come first.
        steps.push(Step::Users(config.users.clone()));
        steps.push(Step::Ca(config.ca.clone()));
        steps.push(Step::Files(config.files.clone()));
        steps.push(Step::SshKeys(config.ssh_keys.clone()));
        steps.push(Step::Ssh(config.ssh.clone()));
        steps.push(Step::Network(config.networks.clone()));
        steps.push(Step::Ntp(config.ntp.clone()));
        let engine_steps = if archives.is_empty() { Vec::new() } else { vec![Step::LoadImages(archives)] };
        Self { steps, engine_steps, run: config.run.clone(), join: config.join.clone() }
    }

    /// The plan in words, one line for each step.
    pub fn describe(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .steps
            .iter()
            .chain(&self.engine_steps)
            .filter(|step| !step.sets_nothing())
            .map(|step| format!("{}: {}", step.name(), step.describe()))
            .collect();
        if self.run != Run::default() {
            let (boot, first) = (self.run.boot.len(), self.run.first.len());
            lines.push(format!("run: {boot} commands at each start, {first} once before the join"));
        }
        lines.push(match &self.join {
            None => "join: nothing".into(),
            Some(join) => format!("join: {}", crate::join::driver(join).describe()),
        });
        lines
    }
}

/// The node's host name: the configured one, or one of the lowest MAC address, which differs between machines.
pub fn hostname(config: &NodeConfig, machine: &Machine) -> Hostname {
    config.hostname.clone().unwrap_or_else(|| Hostname::of_mac(machine.macs.first().copied()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Document, Format, load};

    #[test]
    fn a_plan_says_what_it_does() {
        let text = b"version = 1\ntimezone = \"UTC\"\nntp = [\"10.0.0.1\"]\n".to_vec();
        let documents = [Document { name: "f".into(), format: Format::NodeToml, bytes: text }];
        let machine = Machine { macs: ["52:54:00:ab:cd:ef".parse().unwrap()].into(), ..Machine::default() };
        let config = load(&documents, &machine).unwrap().config;
        let archive = Archive { name: "a.tar".into(), bytes: 7, image: "i".into() };
        assert_eq!(
            Plan::new(&config, &machine, vec![archive]).describe(),
            [
                "hostname: host name ingot-525400abcdef",
                "timezone: time zone UTC",
                "ssh-keys: 0 SSH keys for root",
                "network: DHCP on every wired interface",
                "ntp: time servers 10.0.0.1",
                "load-images: 1 archives of container images",
                "join: nothing",
            ]
        );
    }
}
