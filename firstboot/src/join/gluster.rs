//! `GlusterFS`: a trusted pool of servers, volumes that are made once, clients that mount them.
//!
//! A server cannot join a pool by itself: a member has to bring it in. The first of `join.servers` does that for
//! all others, and only it makes volumes, so they are made once; what a power cut leaves half done is seen in
//! `gluster volume info` and finished. The lock is the pool's own: glusterd runs one change of the pool at a time.

use std::time::Duration;

use super::gate::reach;
use super::mounts::UnitMount;
use super::{Driver, JoinError, Joiner, Membership, NodeFacts, RenderedFile, call, unit};
use crate::config::{AbsolutePath, Endpoint, Gluster, GlusterRole, HostAddress, Volume};
use crate::host::{Host, HostError, Ids};
use crate::process::ProcessError;
use crate::step::Effect;

const PATIENCE: Duration = Duration::from_mins(3);
/// The port of glusterd.
const GLUSTERD_PORT: u16 = 24007;
const INFO: &str = "/var/lib/glusterd/glusterd.info";

/// A member of a pool, or a client of one.
pub struct GlusterDriver {
    gluster: Gluster,
    node: NodeFacts,
    mounts: Vec<UnitMount>,
}

/// A line of `gluster pool list`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Peer {
    host: String,
    connected: bool,
}

impl GlusterDriver {
    /// For this configuration, on this node.
    pub fn new(gluster: Gluster, node: NodeFacts) -> Self {
        let servers: Vec<String> = gluster.servers.iter().map(ToString::to_string).collect();
        let mount = |mount: &crate::config::Mount| {
            let mut mount = mount.clone();
            let others = &servers[servers.len().min(1)..];
            if !others.is_empty() {
                mount.options.push(format!("backup-volfile-servers={}", others.join(":")));
            }
            let first = servers.first().map_or("localhost", String::as_str);
            UnitMount::new(&mount, format!("{first}:/{}", mount.source), "glusterfs", &["fuse.glusterfs"])
        };
        let mounts = gluster.mounts.iter().map(mount).collect();
        Self { gluster, node, mounts }
    }

    fn is_first(&self) -> bool {
        self.gluster.servers.first().is_some_and(|first| self.node.is_own(first))
    }

    fn others(&self) -> impl Iterator<Item = &HostAddress> {
        self.gluster.servers.iter().filter(|server| !self.node.is_own(server))
    }

    fn pool(host: &dyn Host) -> Result<Vec<Peer>, JoinError> {
        let output = command(host, &["pool", "list"])?;
        Ok(parse_pool(&String::from_utf8_lossy(&output)))
    }

    fn is_in(host: &dyn Host, pool: &[Peer], server: &HostAddress) -> Option<bool> {
        let name = server.to_string();
        let addresses = host.resolve(server).unwrap_or_default();
        let same =
            |peer: &&Peer| peer.host == name || peer.host.parse().is_ok_and(|address| addresses.contains(&address));
        pool.iter().find(same).map(|peer| peer.connected)
    }

    fn bring_in_the_others(&self, host: &dyn Host) -> Result<(), JoinError> {
        let mut missing = Vec::new();
        for server in self.others() {
            if Self::is_in(host, &Self::pool(host)?, server).is_some() {
                continue;
            }
            let endpoint = Endpoint { host: server.clone(), port: GLUSTERD_PORT };
            // Probing a server that is away blocks the pool for two minutes.
            if let Err(reason) = reach(host, &endpoint) {
                missing.push(format!("{server} ({reason})"));
                continue;
            }
            command(host, &["peer", "probe", &server.to_string()])?;
        }
        let pool = Self::pool(host)?;
        missing.extend(
            self.others()
                .filter(|other| Self::is_in(host, &pool, other) == Some(false))
                .map(|other| format!("{other} (not connected)")),
        );
        if missing.is_empty() {
            return Ok(());
        }
        Err(JoinError::NoManagerYet(format!("the pool still lacks {}", missing.join(", "))))
    }

    fn make_volume(host: &dyn Host, volume: &Volume) -> Result<(), JoinError> {
        let mut state = volume_state(host, &volume.name)?;
        if state.is_none() {
            let replica = volume.replica.to_string();
            let data = (volume.replica - 1).to_string();
            let bricks: Vec<String> =
                volume.bricks.iter().map(|(server, directory)| format!("{server}:{}", directory.as_str())).collect();
            let mut arguments = vec!["volume", "create", &volume.name];
            if volume.arbiter {
                arguments.extend(["replica", &data, "arbiter", "1"]);
            } else if volume.replica > 1 {
                arguments.extend(["replica", &replica]);
            }
            arguments.extend(bricks.iter().map(String::as_str));
            command(host, &arguments)?;
            state = volume_state(host, &volume.name)?;
        }
        let Some(state) = state else {
            return Err(JoinError::Contradiction(format!("volume {} was made and is not there", volume.name)));
        };
        for (key, value) in &volume.options {
            if !state.lines().any(|line| line.trim() == format!("{key}: {value}")) {
                command(host, &["volume", "set", &volume.name, key, value])?;
            }
        }
        if !is_started(&state) {
            command(host, &["volume", "start", &volume.name])?;
        }
        Ok(())
    }

    /// The first volume that is not there, or not started; every server of the pool knows them all.
    fn missing_volume(&self, host: &dyn Host) -> Result<Option<&str>, JoinError> {
        for volume in &self.gluster.volumes {
            if !volume_state(host, &volume.name)?.is_some_and(|state| is_started(&state)) {
                return Ok(Some(&volume.name));
            }
        }
        Ok(None)
    }

    fn uuid(host: &dyn Host) -> Result<String, JoinError> {
        let bytes = host.read(INFO, 64 * 1024)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let uuid = text.lines().find_map(|line| line.strip_prefix("UUID="));
        Ok(uuid.unwrap_or_default().to_owned())
    }
}

fn command(host: &dyn Host, arguments: &[&str]) -> Result<Vec<u8>, JoinError> {
    let all: Vec<&str> = std::iter::once("--mode=script").chain(arguments.iter().copied()).collect();
    Ok(host.run("gluster", &all, PATIENCE)?)
}

/// What `gluster volume info` says about a volume; `None` where there is none.
fn volume_state(host: &dyn Host, name: &str) -> Result<Option<String>, JoinError> {
    match command(host, &["volume", "info", name]) {
        Ok(output) => Ok(Some(String::from_utf8_lossy(&output).into_owned())),
        Err(JoinError::Host(HostError::Process(ProcessError::Failed { tail, .. })))
            if tail.contains("does not exist") =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn is_started(state: &str) -> bool {
    state.lines().any(|line| line.trim() == "Status: Started")
}

/// Reads `gluster pool list`: UUID, host name, state, in columns. The node itself is listed as `localhost`.
fn parse_pool(text: &str) -> Vec<Peer> {
    let peer = |line: &str| {
        let mut columns = line.split_whitespace();
        let (_uuid, host, state) = (columns.next()?, columns.next()?, columns.next()?);
        (state == "Connected" || state == "Disconnected")
            .then(|| Peer { host: host.to_owned(), connected: state == "Connected" })
    };
    text.lines().filter_map(peer).collect()
}

impl Driver for GlusterDriver {
    fn name(&self) -> &'static str {
        "gluster"
    }

    fn describe(&self) -> String {
        let servers = self.gluster.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let mounts =
            self.mounts.iter().map(|mount| format!(", mounts {} on {}", mount.what, mount.target)).collect::<String>();
        match (self.gluster.role, self.is_first()) {
            (GlusterRole::Server, true) => format!(
                "gluster server that brings in {servers} and makes {} volumes{mounts}",
                self.gluster.volumes.len()
            ),
            (GlusterRole::Server, false) => format!("gluster server in the pool of {servers}{mounts}"),
            (GlusterRole::Client, _) => format!("gluster client of {servers}{mounts}"),
        }
    }

    fn actions(&self) -> Vec<Effect> {
        let mut actions = Vec::new();
        if self.gluster.role == GlusterRole::Server {
            actions.push(Effect::run(["systemctl", "enable", "--now", "glusterd.service"]));
            if self.is_first() {
                let probe = |other: &HostAddress| call("gluster", format!("peer probe {other}"));
                actions.extend(self.others().map(probe));
                let make = |volume: &Volume| {
                    call("gluster", format!("volume create {0}, volume start {0}: once", volume.name))
                };
                actions.extend(self.gluster.volumes.iter().map(make));
            }
        }
        actions.extend(self.mounts.iter().flat_map(|mount| unit::starting(&mount.unit())));
        actions
    }

    fn render(&self) -> Result<Vec<RenderedFile>, JoinError> {
        Ok(self.mounts.iter().map(UnitMount::file).collect())
    }

    fn preflight(&self, host: &dyn Host) -> Result<(), JoinError> {
        if !self.mounts.is_empty() {
            unit::reload(host)?;
        }
        if self.gluster.role == GlusterRole::Client {
            return Ok(());
        }
        if !self.gluster.servers.iter().any(|server| self.node.is_own(server)) {
            let text = "none of join.servers is an address of this node, or its host name";
            return Err(JoinError::Contradiction(text.into()));
        }
        // gluster makes a brick's directory, but not those above it.
        let own =
            |(server, directory): &&(HostAddress, AbsolutePath)| self.node.is_own(server) && directory.as_str() != "/";
        for (_, directory) in self.gluster.volumes.iter().flat_map(|volume| &volume.bricks).filter(own) {
            match directory.as_str().rsplit_once('/') {
                Some((above, _)) if !above.is_empty() => host.make_directory_as(above, 0o755, Ids::ROOT)?,
                _ => {}
            }
        }
        unit::start_and_wait(host, "glusterd.service")
    }

    fn probe(&self, host: &dyn Host) -> Result<Option<Membership>, JoinError> {
        let mut identity = self.node.hostname.clone();
        if self.gluster.role == GlusterRole::Server {
            let pool = Self::pool(host)?;
            let wanted: Vec<&HostAddress> = if self.is_first() {
                self.others().collect()
            } else {
                self.gluster.servers.first().into_iter().collect()
            };
            if wanted.into_iter().any(|server| Self::is_in(host, &pool, server).is_none()) {
                return Ok(None);
            }
            if self.missing_volume(host)?.is_some() {
                return Ok(None);
            }
            identity = Self::uuid(host)?;
        }
        for mount in &self.mounts {
            // The kernel shows a mount before its process has found the volume, and after that process has ended; what is
            // below it can be looked at only in between.
            if !mount.is_mounted(host)? || !host.exists(&mount.target) {
                return Ok(None);
            }
        }
        Ok(Some(Membership { text: format!("{}, {identity}", self.describe()), identity }))
    }

    fn start(&self, joiner: &Joiner<'_>) -> Result<(), JoinError> {
        let host = joiner.host;
        match (self.gluster.role, self.is_first()) {
            (GlusterRole::Server, true) => {
                self.bring_in_the_others(host)?;
                self.gluster.volumes.iter().try_for_each(|volume| Self::make_volume(host, volume))?;
            }
            (GlusterRole::Server, false) => {
                if let Some(first) = self.gluster.servers.first()
                    && Self::is_in(host, &Self::pool(host)?, first).is_none()
                {
                    return Err(JoinError::NoManagerYet(format!(
                        "{first} has not brought this server into the pool yet"
                    )));
                }
                if let Some(volume) = self.missing_volume(host)? {
                    return Err(JoinError::NoManagerYet(format!("the volume {volume} has not been made yet")));
                }
            }
            (GlusterRole::Client, _) => {
                let answers =
                    |server: &HostAddress| reach(host, &Endpoint { host: server.clone(), port: GLUSTERD_PORT }).is_ok();
                if !self.gluster.servers.iter().any(answers) {
                    return Err(JoinError::NoManagerYet(format!(
                        "no server of the pool answers on TCP port {GLUSTERD_PORT}"
                    )));
                }
            }
        }
        self.mounts.iter().try_for_each(|mount| mount.start(host))
    }

    fn leave(&self, host: &dyn Host) -> Result<(), JoinError> {
        if self.gluster.role == GlusterRole::Server {
            let own = |volume: &&Volume| volume.bricks.iter().any(|(server, _)| self.node.is_own(server));
            if let Some(volume) = self.gluster.volumes.iter().find(own) {
                return Err(JoinError::Contradiction(format!(
                    "this server holds a brick of {}; move it first: gluster volume replace-brick or remove-brick",
                    volume.name
                )));
            }
        }
        self.mounts.iter().try_for_each(|mount| mount.stop(host))?;
        if !self.mounts.is_empty() {
            unit::reload(host)?;
        }
        if self.gluster.role == GlusterRole::Server {
            unit::stop(host, "glusterd.service")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_read_as_gluster_prints_it() {
        let text = "UUID\t\t\t\t\tHostname \tState\n\
                    0a1b2c3d-0000-4000-8000-000000000001\t10.77.0.12\tConnected \n\
                    0a1b2c3d-0000-4000-8000-000000000002\tg3.lan   \tDisconnected \n\
                    0a1b2c3d-0000-4000-8000-000000000003\tlocalhost\tConnected \n";
        let pool = parse_pool(text);
        assert_eq!(pool.len(), 3);
        assert_eq!(pool[1], Peer { host: "g3.lan".into(), connected: false });
        assert!(is_started("Volume Name: v\nStatus: Started\n") && !is_started("Status: Created\n"));
    }
}
