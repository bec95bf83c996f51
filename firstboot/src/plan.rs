//! What will be done to a machine, in order, before anything is done.
//!
//! Takes a valid configuration and what the image brings; gives the steps and the join. The same plan is printed by
//! `firstboot check` and carried out by the service.

use serde::Serialize;

use crate::config::network::Prefix;
use crate::config::{Command, Hostname, Join, Machine, NodeConfig, Run, System};
use crate::join::{Driver, NodeFacts, driver};
use crate::step::{Archive, Effect, Engine, Step};

/// The steps of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The steps before the join, in order.
    pub steps: Vec<Step>,
    /// The steps that need the container engine, after the preflight.
    pub engine_steps: Vec<Step>,
    /// The commands of the configuration.
    pub run: Run,
    /// What is made of disks and kernel settings before all that, in words.
    pub hardware: Vec<String>,
    /// The same with all that it does.
    hardware_effects: Vec<Planned>,
    /// What it joins at last.
    pub join: Option<Join>,
    /// The host name that it gets.
    pub hostname: Hostname,
    /// The static addresses that it gets.
    addresses: Vec<std::net::IpAddr>,
}

/// One step, or the join, with all that it does to the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// The step's name: `network`, `join`.
    pub name: String,
    /// What it is for, for people.
    pub text: String,
    /// What it does, in order; secrets are not shown.
    pub effects: Vec<Effect>,
}

impl Planned {
    /// For people: a line for the step, and those of its effects, indented.
    pub fn lines(&self) -> Vec<String> {
        let effects = self.effects.iter().flat_map(Effect::lines).map(|line| format!("    {line}"));
        std::iter::once(format!("{}: {}", self.name, self.text)).chain(effects).collect()
    }
}

impl Plan {
    /// The plan for a configuration on a machine whose image brings these archives.
    pub fn new(config: &NodeConfig, machine: &Machine, archives: Vec<Archive>) -> Self {
        let mut steps = vec![Step::Hostname(hostname(config, machine))];
        // The next ones also undo what an earlier configuration set, so they are there even when empty. Files may belong to
        // users, so those come first.
        steps.push(Step::Timezone(config.timezone.clone()));
        steps.push(Step::Users(config.users.clone()));
        steps.push(Step::Ca(config.ca.clone()));
        steps.push(Step::Files(config.files.clone()));
        steps.push(Step::SshKeys(config.ssh_keys.clone()));
        steps.push(Step::Ssh(config.ssh.clone()));
        steps.push(Step::Network(config.networks.clone()));
        let own = config.networks.iter().flat_map(|network| &network.addresses);
        let own = own.map(|cidr| Prefix::of(cidr.address, cidr.prefix)).collect();
        steps.push(Step::Proxy(config.proxy.clone(), own));
        steps.push(Step::Ntp(config.ntp.clone()));
        let engine_steps = if archives.is_empty() {
            Vec::new()
        } else {
            vec![Step::LoadImages(engine(config.join.as_ref()), archives)]
        };
        let mut hardware = crate::disk::describe(&config.disks, config.swap.as_ref());
        hardware.extend(crate::tuning::describe(&config.tuning));
        let mut hardware_effects: Vec<Planned> = crate::tuning::plan::planned(&config.tuning).into_iter().collect();
        hardware_effects.extend(crate::disk::plan::planned(&config.disks, config.swap.as_ref()));
        let addresses =
            config.networks.iter().flat_map(|network| &network.addresses).map(|cidr| cidr.address).collect();
        let hostname = hostname(config, machine);
        let (run, join) = (config.run.clone(), config.join.clone());
        Self { steps, engine_steps, run, hardware, hardware_effects, join, hostname, addresses }
    }

    /// The driver of its join, as far as the node is known from its configuration alone.
    pub fn driver(&self) -> Option<Box<dyn Driver>> {
        let node = NodeFacts { hostname: self.hostname.to_string(), addresses: self.addresses.clone() };
        self.join.as_ref().map(|join| driver(join, node))
    }

    /// Everything that the plan does to the machine, in order. Nothing here needs the machine: what a step only finds
    /// out there, such as the address towards a manager, is said in parentheses.
    pub fn effects(&self) -> Vec<Planned> {
        let planned =
            |step: &Step| Planned { name: step.name().into(), text: step.describe(), effects: step.effects() };
        let mut all: Vec<Planned> = self.hardware_effects.clone();
        let said = |step: &&Step| !step.sets_nothing();
        all.extend(self.steps.iter().filter(said).map(planned));
        if let Some(text) = self.commands() {
            let commands = |list: &[Command], when: &str| -> Vec<Effect> {
                (0..list.len()).map(|index| Effect::setting(format!("run.{when}[{index}]"), "(command)")).collect()
            };
            let mut effects = commands(&self.run.boot, "boot");
            effects.extend(commands(&self.run.first, "first"));
            all.push(Planned { name: "run".into(), text, effects });
        }
        all.extend(self.engine_steps.iter().map(planned));
        if let Some(driver) = self.driver() {
            all.push(Planned { name: "join".into(), text: driver.describe(), effects: driver.effects() });
        }
        all
    }

    /// The commands of the configuration in words, where it has any.
    fn commands(&self) -> Option<String> {
        let (boot, first) = (self.run.boot.len(), self.run.first.len());
        (boot + first > 0).then(|| format!("{boot} commands at each start, {first} once before the join"))
    }

    /// The plan in words, one line for each step.
    pub fn describe(&self) -> Vec<String> {
        let steps = self.steps.iter().chain(&self.engine_steps).filter(|step| !step.sets_nothing());
        let steps = steps.map(|step| format!("{}: {}", step.name(), step.describe()));
        let mut lines: Vec<String> = self.hardware.iter().cloned().chain(steps).collect();
        lines.extend(self.commands().map(|text| format!("run: {text}")));
        match (&self.join, self.driver()) {
            (Some(join), Some(driver)) => {
                lines.extend(join.after.iter().map(|gate| format!("join: waits for {gate}")));
                lines.push(format!("join: {}", driver.describe()));
            }
            _ => lines.push("join: nothing".into()),
        }
        lines
    }
}

/// Where the node's containers run.
fn engine(join: Option<&Join>) -> Engine {
    match join.map(|join| &join.system) {
        Some(System::Kubeadm(kubeadm)) if !kubeadm.uses_docker() => Engine::Containerd,
        Some(System::K3s(_)) => Engine::K3s,
        _ => Engine::Docker,
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

    const SECRET: &str = "kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2fG9jLt4oMyB6s=";

    fn effects(join: &str) -> String {
        let text = format!("version = 1\n[join]\ndriver = \"docker-swarm\"\n{join}\nsecret = \"{SECRET}\"\n");
        let documents = [Document { name: "f".into(), format: Format::NodeToml, bytes: text.into_bytes() }];
        let machine = Machine::default();
        let config = load(&documents, &machine).unwrap().config;
        let planned = Plan::new(&config, &machine, Vec::new()).effects();
        let shown = planned.iter().flat_map(|planned| &planned.effects).flat_map(Effect::lines);
        let shown = shown.collect::<Vec<_>>().join("\n");
        assert!(!format!("{shown}{planned:?}{}", serde_json::to_string(&planned).unwrap()).contains(SECRET));
        shown
    }

    #[test]
    fn the_effects_name_files_units_and_join_requests() {
        let worker = effects("role = \"worker\"\nmanagers = [\"10.77.0.10\", \"m2.lan\"]");
        for expected in [
            "write /etc/hostname (mode 0644)\n    ingot\n",
            "run systemctl restart systemd-networkd.service",
            "run systemctl start docker.service\nask rendezvous: the worker token, from 10.77.0.10 or m2.lan port 7390",
            "\"RemoteAddrs\":[\"10.77.0.10:2377\",\"m2.lan:2377\"]",
            "\"JoinToken\":\"(secret)\"",
        ] {
            assert!(worker.contains(expected), "{expected:?} is not in:\n{worker}");
        }
        let manager = effects("role = \"manager\"\nadvertise = \"10.77.0.10\"");
        assert!(manager.contains("ask docker: POST /swarm/init {\"AdvertiseAddr\":\"10.77.0.10\""), "{manager}");
    }

    #[test]
    fn images_go_where_the_nodes_containers_run() {
        let kubeadm = "driver = \"kubeadm\"\nrole = \"worker\"\nendpoint = \"10.77.0.10:6443\"";
        for (join, expected) in [
            ("driver = \"docker-swarm\"\nrole = \"manager\"\nmanagers = [\"10.77.0.10\"]", Engine::Docker),
            (kubeadm, Engine::Containerd),
            ("driver = \"k3s\"\nrole = \"agent\"\nservers = [\"10.77.0.10\"]", Engine::K3s),
            (&format!("{kubeadm}\ncri_socket = \"unix:///run/cri-dockerd.sock\""), Engine::Docker),
        ] {
            let text = format!("version = 1\n[join]\n{join}\nsecret = \"{SECRET}\"\n");
            let documents = [Document { name: "f".into(), format: Format::NodeToml, bytes: text.into_bytes() }];
            let config = load(&documents, &Machine::default()).unwrap().config;
            assert_eq!(engine(config.join.as_ref()), expected, "{join}");
        }
        assert_eq!(engine(None), Engine::Docker);
    }

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
                "proxy: no proxies",
                "ntp: time servers 10.0.0.1",
                "load-images: 1 archives of container images for Docker",
                "join: nothing",
            ]
        );
    }
}
