//! The steps that make a machine what its configuration says, each one safe to repeat.
//!
//! Takes one setting; gives the machine with that setting and nothing else changed. A step that is cut off by a
//! power failure is begun again from its start, so each writes whole files and asks for final states, not changes.

mod accounts;
mod ca;
mod effect;
mod files;
pub mod images;
mod layer;
pub mod network;
mod proxy;
#[cfg(test)]
mod pulled;
mod settings;
mod ssh;
mod users;

use std::time::Duration;

use thiserror::Error;

use crate::config::network::Prefix;
use crate::config::{Ca, HostAddress, Hostname, Network, NodeFile, Proxy, Ssh, SshKey, Timezone, User};
use crate::host::{Host, HostError};
use crate::join::engine::EngineError;
use crate::journal::Inputs;
use crate::status::Code;

pub use effect::{Content, Effect, perform};
pub use images::{Archive, Engine};
pub use proxy::LOGINS;

/// How long one program of a step may run.
const PATIENCE: Duration = Duration::from_mins(2);

/// A step failed.
#[derive(Debug, Error)]
pub enum StepError {
    /// The machine did not do what it was told.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The container engine did not.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The setting does not fit this image.
    #[error("{0}")]
    Unfit(String),
}

impl StepError {
    /// The status code that says more than which step failed.
    pub fn storage(&self) -> Option<Code> {
        match self {
            StepError::Host(error) => error.storage(),
            // The engine writes to the same partition.
            StepError::Engine(error) if error.to_string().contains("no space left on device") => Some(Code::VarFull),
            _ => None,
        }
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The host name, also in `/etc/hosts`.
    Hostname(Hostname),
    /// The time zone, where it is another than the image's.
    Timezone(Option<Timezone>),
    /// Accounts of people.
    Users(Vec<User>),
    /// Whom the node trusts.
    Ca(Ca),
    /// Files of the configuration.
    Files(Vec<NodeFile>),
    /// Who may log in as root.
    SshKeys(Vec<SshKey>),
    /// The SSH service.
    Ssh(Ssh),
    /// The interfaces.
    Network(Vec<Network>),
    /// The proxies, and the networks that are reached without them.
    Proxy(Option<Proxy>, Vec<Prefix>),
    /// The time servers.
    Ntp(Vec<HostAddress>),
    /// The container images that came with the image.
    LoadImages(Engine, Vec<Archive>),
}

impl Step {
    /// Its name in the journal and in status lines.
    pub fn name(&self) -> &'static str {
        match self {
            Step::Hostname(_) => "hostname",
            Step::Timezone(_) => "timezone",
            Step::Users(_) => "users",
            Step::Ca(_) => "ca",
            Step::Files(_) => "files",
            Step::SshKeys(_) => "ssh-keys",
            Step::Ssh(_) => "ssh",
            Step::Network(_) => "network",
            Step::Proxy(..) => "proxy",
            Step::Ntp(_) => "ntp",
            Step::LoadImages(..) => "load-images",
        }
    }

    /// What it does, for people.
    pub fn describe(&self) -> String {
        let all = |items: &[HostAddress]| items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Step::Hostname(name) => format!("host name {name}"),
            Step::Timezone(None) => "the image's time zone".into(),
            Step::Timezone(Some(zone)) => format!("time zone {zone}"),
            Step::Users(users) if users.is_empty() => "no user but root".into(),
            Step::Users(users) => {
                format!("users {}", users.iter().map(|user| user.name.to_string()).collect::<Vec<_>>().join(", "))
            }
            Step::Ca(ca) if ca.only => format!("trusts {} certificates and none of the image's", ca.certificates.len()),
            Step::Ca(ca) => format!("trusts {} certificates besides the image's", ca.certificates.len()),
            Step::Files(files) if files.is_empty() => "no files".into(),
            Step::Files(files) => {
                format!("writes {}", files.iter().map(|file| file.path.to_string()).collect::<Vec<_>>().join(", "))
            }
            Step::SshKeys(keys) => format!("{} SSH keys for root", keys.len()),
            Step::Ssh(ssh) => {
                let root = if ssh.root_login { "root may log in" } else { "root may not log in" };
                let keys: Vec<&str> = ssh.host_keys.keys().map(|kind| kind.name()).collect();
                if keys.is_empty() { root.to_owned() } else { format!("{root}, host keys {}", keys.join(", ")) }
            }
            Step::Network(networks) if networks.is_empty() => "DHCP on every wired interface".into(),
            Step::Network(networks) => format!("{} interfaces configured, DHCP on the rest", networks.len()),
            Step::Proxy(None, _) => "no proxies".into(),
            Step::Proxy(Some(proxy), _) => {
                let urls = [("http", &proxy.http), ("https", &proxy.https)];
                let urls = urls.iter().filter_map(|(scheme, url)| Some(format!("{scheme} over {}", url.as_ref()?)));
                urls.collect::<Vec<_>>().join(", ")
            }
            Step::Ntp(servers) if servers.is_empty() => "the image's time servers".into(),
            Step::Ntp(servers) => format!("time servers {}", all(servers)),
            Step::LoadImages(engine, archives) => {
                format!("{} archives of container images for {engine}", archives.len())
            }
        }
    }

    /// True where it sets nothing: it then only undoes what an earlier configuration set, if one did.
    pub fn sets_nothing(&self) -> bool {
        match self {
            Step::Timezone(zone) => zone.is_none(),
            Step::Users(users) => users.is_empty(),
            Step::Ca(ca) => *ca == Ca::default(),
            Step::Files(files) => files.is_empty(),
            Step::Ssh(ssh) => *ssh == Ssh::default(),
            _ => false,
        }
    }

    /// The hash of what it depends on. `image` is the image's identity: what looks at the image's own accounts, files and
    /// certificates is done once more on another one.
    pub fn inputs(&self, image: &str) -> Inputs {
        // The form of the values themselves; a new version of the form means the step is done once more.
        let mut form = format!("{self:?}");
        if let Step::Proxy(Some(proxy), networks) = self {
            // The form leaves passwords out, and a changed one is a change; only its hash is kept.
            form.push_str(&format!("{:?}", proxy.environment(networks)));
        }
        let image = if matches!(self, Step::Users(_) | Step::Ca(_) | Step::Files(_)) { image } else { "" };
        Inputs::of([self.name().as_bytes(), form.as_bytes(), image.as_bytes()])
    }

    /// The status code when it fails.
    pub fn failure(&self) -> Code {
        match self {
            Step::Network(_) => Code::NetworkFailed,
            Step::LoadImages(..) => Code::ImagesFailed,
            _ => Code::StepFailed,
        }
    }

    /// What it does to the machine, without a machine: [`Step::apply`] performs the same effects, with what it must
    /// look at first.
    pub fn effects(&self) -> Vec<Effect> {
        match self {
            Step::Hostname(name) => settings::hostname_effects(name),
            Step::Timezone(zone) => settings::timezone_effects(zone.as_ref()),
            Step::Users(users) => users::effects(users),
            Step::Ca(ca) => ca::effects(ca),
            Step::Files(files) => files::effects(files),
            Step::SshKeys(keys) => settings::ssh_keys_effects(keys),
            Step::Ssh(ssh) => ssh::effects(ssh),
            Step::Network(networks) => network::effects(networks),
            Step::Proxy(proxy, networks) => proxy::effects(proxy.as_ref(), networks),
            Step::Ntp(servers) => settings::ntp_effects(servers),
            Step::LoadImages(engine, archives) => images::effects(*engine, archives),
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// All of [`StepError`]; the step may then be done again.
    pub fn apply(&self, host: &dyn Host) -> Result<(), StepError> {
        match self {
            Step::Hostname(name) => settings::hostname(host, name),
            Step::Timezone(zone) => settings::timezone(host, zone.as_ref()),
            Step::Users(users) => users::apply(host, users),
            Step::Ca(ca) => ca::apply(host, ca),
            Step::Files(files) => files::apply(host, files),
            Step::SshKeys(keys) => settings::ssh_keys(host, keys),
            Step::Ssh(ssh) => ssh::apply(host, ssh),
            Step::Network(networks) => network::apply(host, networks),
            Step::Proxy(proxy, networks) => proxy::apply(host, proxy.as_ref(), networks),
            Step::Ntp(servers) => settings::ntp(host, servers),
            Step::LoadImages(engine, archives) => images::load(host, *engine, archives),
        }
    }
}
