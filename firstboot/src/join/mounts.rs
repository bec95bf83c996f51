//! Mounts of network file systems as systemd's mount units: rendered, started, looked at, taken away.

use super::gate::mounted;
use super::{JoinError, RenderedFile, unit};
use crate::config::Mount;
use crate::host::Host;

const UNITS: &str = "/etc/systemd/system";

/// A mount as its unit has it.
pub struct UnitMount {
    /// What is mounted, as mount(8) takes it.
    pub what: String,
    /// Where.
    pub target: String,
    /// The type of the file system, as mount(8) takes it.
    pub kind: &'static str,
    /// The types under which the kernel may show it.
    pub shown: &'static [&'static str],
    /// Options.
    pub options: Vec<String>,
}

impl UnitMount {
    /// Of a configured mount.
    pub fn new(mount: &Mount, what: String, kind: &'static str, shown: &'static [&'static str]) -> Self {
        let mut options = mount.options.clone();
        for own in ["_netdev", "nofail"] {
            if !options.iter().any(|option| option == own) {
                options.push(own.into());
            }
        }
        Self { what, target: mount.target.as_str().to_owned(), kind, shown, options }
    }

    /// The name of its unit.
    pub fn unit(&self) -> String {
        format!("{}.mount", escape(&self.target))
    }

    /// The unit's file.
    pub fn file(&self) -> RenderedFile {
        let text = format!(
            "# Written by Ingot from [[join.mount]].\n[Unit]\nDescription={what} on {target}\n\
             After=network-online.target\nWants=network-online.target\n\n\
             [Mount]\nWhat={what}\nWhere={target}\nType={kind}\nOptions={options}\nTimeoutSec=90\n\n\
             [Install]\nWantedBy=remote-fs.target\n",
            what = self.what,
            target = self.target,
            kind = self.kind,
            options = self.options.join(","),
        );
        RenderedFile::public(format!("{UNITS}/{}", self.unit()), text)
    }

    /// Whether it is mounted; something else at its place is a contradiction.
    pub fn is_mounted(&self, host: &dyn Host) -> Result<bool, JoinError> {
        match mounted(host, &self.target) {
            None => Ok(false),
            Some((what, kind)) if what == self.what && self.shown.contains(&kind.as_str()) => Ok(true),
            Some((what, kind)) => Err(JoinError::Contradiction(format!(
                "{} has {what} ({kind}) mounted and should have {}; unmount it or choose another target",
                self.target, self.what
            ))),
        }
    }

    /// Begins to mount it.
    pub fn start(&self, host: &dyn Host) -> Result<(), JoinError> {
        unit::start(host, &self.unit())
    }

    /// Unmounts it for good.
    pub fn stop(&self, host: &dyn Host) -> Result<(), JoinError> {
        if host.exists(&format!("{UNITS}/{}", self.unit())) {
            unit::stop(host, &self.unit())?;
            host.remove(&format!("{UNITS}/{}", self.unit()))?;
        }
        Ok(())
    }
}

/// A path as the name of a unit (`systemd-escape --path`; systemd.unit(5), "String escaping").
pub fn escape(path: &str) -> String {
    let mut name = String::new();
    for (index, byte) in path.trim_matches('/').bytes().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if index == 0 => name.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => name.push(char::from(byte)),
            other => name.push_str(&format!("\\x{other:02x}")),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn systemd_finds_nothing_wrong_with_a_unit() {
        let mount = Mount {
            server: None,
            source: "/export".into(),
            target: "/data/models-v2".parse().unwrap(),
            options: vec!["nconnect=8".into()],
        };
        let mount = UnitMount::new(&mount, "10.77.0.10:/export".into(), "nfs", &["nfs4"]);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(mount.unit());
        let verify = |text: &str| {
            std::fs::write(&path, text).unwrap();
            crate::process::run("systemd-analyze", &["verify", path.to_str().unwrap()], Duration::from_mins(1))
        };
        let text = mount.file().content.expose().to_owned();
        if let Err(crate::process::ProcessError::Start { .. }) = verify(&text) {
            println!("skipped: there is no systemd-analyze");
            return;
        }
        verify(&text).unwrap();
        assert!(verify(&text.replace("Where=/data", "Where=/other")).is_err(), "the check can fail");
    }

    #[test]
    fn unit_names_are_those_of_systemd_escape() {
        for path in ["/data", "/data/models-v2", "/srv/a_b.c/d+e@f", "/.hidden/x", "/a:b/c"] {
            match crate::process::run("systemd-escape", &["--path", path], Duration::from_secs(20)) {
                Ok(output) => assert_eq!(escape(path), String::from_utf8_lossy(&output).trim(), "{path}"),
                Err(error) => println!("skipped: {error}"),
            }
        }
        assert_eq!(escape("/data/models-v2"), "data-models\\x2dv2");
    }
}
