//! An NFS client: mount units, started once the server answers.

use super::gate::reach;
use super::mounts::UnitMount;
use super::{Driver, JoinError, Joiner, Membership, RenderedFile, unit};
use crate::config::{Endpoint, HostAddress, Nfs};
use crate::host::Host;
use crate::step::Effect;

/// The port of NFS.
const NFS_PORT: u16 = 2049;

/// Mounts what an NFS server exports.
pub struct NfsDriver {
    mounts: Vec<(HostAddress, UnitMount)>,
}

impl NfsDriver {
    /// For this configuration.
    pub fn new(nfs: Nfs) -> Self {
        let mount = |mount: crate::config::Mount| {
            let server = mount.server.clone()?;
            let what = match &server {
                HostAddress::Ip(std::net::IpAddr::V6(address)) => format!("[{address}]:{}", mount.source),
                other => format!("{other}:{}", mount.source),
            };
            let unit = UnitMount::new(&mount, what, "nfs", &["nfs", "nfs4"]);
            Some((server, unit))
        };
        Self { mounts: nfs.mounts.into_iter().filter_map(mount).collect() }
    }

    fn list(&self) -> String {
        let one = |(_, mount): &(HostAddress, UnitMount)| format!("{} on {}", mount.what, mount.target);
        self.mounts.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

impl Driver for NfsDriver {
    fn name(&self) -> &'static str {
        "nfs"
    }

    fn describe(&self) -> String {
        format!("nfs client, mounts {}", self.list())
    }

    fn actions(&self) -> Vec<Effect> {
        self.mounts.iter().flat_map(|(_, mount)| unit::starting(&mount.unit())).collect()
    }

    fn render(&self) -> Result<Vec<RenderedFile>, JoinError> {
        Ok(self.mounts.iter().map(|(_, mount)| mount.file()).collect())
    }

    fn preflight(&self, host: &dyn Host) -> Result<(), JoinError> {
        if !["/sbin/mount.nfs", "/usr/sbin/mount.nfs"].iter().any(|path| host.exists(path)) {
            return Err(JoinError::Preflight("the image has no mount.nfs; its profile needs nfs-common".into()));
        }
        unit::reload(host)
    }

    fn probe(&self, host: &dyn Host) -> Result<Option<Membership>, JoinError> {
        for (_, mount) in &self.mounts {
            if !mount.is_mounted(host)? {
                return Ok(None);
            }
        }
        Ok(Some(Membership { identity: self.list(), text: format!("nfs client, {}", self.list()) }))
    }

    fn start(&self, joiner: &Joiner<'_>) -> Result<(), JoinError> {
        for (server, mount) in &self.mounts {
            // A mount of a server that is away hangs for minutes, so the port is asked first.
            let endpoint = Endpoint { host: server.clone(), port: NFS_PORT };
            reach(joiner.host, &endpoint)
                .map_err(|reason| JoinError::NoManagerYet(format!("the NFS server {endpoint}: {reason}")))?;
            mount.start(joiner.host)?;
        }
        Ok(())
    }

    fn diagnose(&self, host: &dyn Host) -> Option<JoinError> {
        self.mounts.iter().find_map(|(_, mount)| {
            if mount.is_mounted(host).unwrap_or(false) {
                return None;
            }
            let words = unit::last_words(host, &mount.unit());
            let line = words.lines().rev().find(|line| line.contains("mount.nfs"))?;
            Some(JoinError::Contradiction(format!("{}: {}", mount.unit(), line.trim())))
        })
    }

    fn leave(&self, host: &dyn Host) -> Result<(), JoinError> {
        for (_, mount) in &self.mounts {
            mount.stop(host)?;
        }
        unit::reload(host)
    }
}
