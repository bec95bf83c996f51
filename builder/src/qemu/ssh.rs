//! Commands inside a guest, over ssh to its forwarded port, with a key that only this run has.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::launcher::Launcher;
use super::{QemuError, at};
use crate::process::ProcessError;

/// Output kept of one command, in bytes.
const MAX_OUTPUT: usize = 256 * 1024;

/// The exit status with which ssh tells that it failed itself.
const SSH_FAILED: i32 = 255;

/// An ed25519 key pair.
#[derive(Debug, Clone)]
pub struct Key {
    private: PathBuf,
    public: String,
}

impl Key {
    /// Makes a fresh pair in `directory`, which only its owner should be able to read.
    ///
    /// # Errors
    /// `ssh-keygen` failed.
    pub fn generate(launcher: &dyn Launcher, directory: &Path) -> Result<Self, QemuError> {
        let private = directory.join("key");
        let arguments = ["-q", "-t", "ed25519", "-N", "", "-C", "ingot-test", "-f", &private.display().to_string()];
        launcher.command("ssh-keygen", &arguments.map(str::to_owned), &[directory.to_owned()]).run()?;
        let public_path = directory.join("key.pub");
        let public = std::fs::read_to_string(&public_path).map_err(at("cannot read", &public_path))?;
        Ok(Self { private, public: public.trim().to_owned() })
    }

    /// The public key as one line of `authorized_keys`.
    pub fn public(&self) -> &str {
        &self.public
    }
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It ran; its exit status and what it printed on both outputs.
    Exited(i32, String),
    /// ssh did not get through; what it said.
    Unreachable(String),
    /// It ran too long, or was no longer wanted; what it had printed.
    Stopped(String),
}

/// The way to one guest.
pub struct Ssh<'a> {
    launcher: &'a dyn Launcher,
    key: &'a Key,
    /// The guest's name: its host key is remembered by it, whatever the port.
    guest: &'a str,
    port: u16,
    user: &'a str,
}

impl<'a> Ssh<'a> {
    /// To the guest behind a port of 127.0.0.1, as root.
    pub fn new(launcher: &'a dyn Launcher, key: &'a Key, guest: &'a str, port: u16) -> Self {
        Self { launcher, key, guest, port, user: "root" }
    }

    /// As another user.
    #[must_use]
    pub fn with_user(self, user: &'a str) -> Self {
        Self { user, ..self }
    }

    /// Runs a shell command, once, for `limit` at most, or until `unwanted` says so.
    ///
    /// # Errors
    /// ssh could not be started.
    pub fn run(&self, command: &str, limit: Duration, unwanted: &dyn Fn() -> bool) -> Result<Ended, QemuError> {
        let directory = super::disk::parent(&self.key.private);
        let tool = self.launcher.command("ssh", &self.arguments(command, &directory), &[directory]);
        let start = |source| ProcessError::Start { program: "ssh".into(), source };
        let reader = Arc::new(tool.expression().stderr_to_stdout().unchecked().reader().map_err(start)?);
        let (done, finished) = channel();
        let thread = std::thread::Builder::new().name("ssh output".into()).spawn({
            let reader = Arc::clone(&reader);
            move || {
                let (mut output, mut buffer) = (Vec::new(), [0; 8192]);
                // The rest of a long output is read too, so that the command can end.
                while let Ok(count @ 1..) = (&*reader).read(&mut buffer) {
                    let room = MAX_OUTPUT - output.len();
                    output.extend_from_slice(&buffer[..count.min(room)]);
                }
                // Nobody waits any more where the command was stopped.
                let _ = done.send(());
                output
            }
        });
        let thread = thread.map_err(start)?;
        let deadline = Instant::now() + limit;
        let in_time = loop {
            match finished.recv_timeout(Duration::from_millis(100)) {
                Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline || unwanted() => break false,
                Err(RecvTimeoutError::Timeout) => {}
                _ => break true,
            }
        };
        if !in_time {
            reader.kill().map_err(start)?;
        }
        let output = thread.join().unwrap_or_default();
        let output = String::from_utf8_lossy(&output).into_owned();
        if !in_time {
            return Ok(Ended::Stopped(output));
        }
        let status = reader.try_wait().map_err(start)?.and_then(|output| output.status.code());
        Ok(match status {
            Some(SSH_FAILED) | None => Ended::Unreachable(output),
            Some(status) => Ended::Exited(status, output),
        })
    }

    fn arguments(&self, command: &str, directory: &Path) -> Vec<String> {
        let mut arguments: Vec<String> = ["-F", "/dev/null", "-T", "-x", "-i"].map(str::to_owned).to_vec();
        arguments.push(self.key.private.display().to_string());
        let known = directory.join("known_hosts").display().to_string();
        for option in [
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "PreferredAuthentications=publickey",
            "StrictHostKeyChecking=accept-new",
            "LogLevel=ERROR",
            "ConnectTimeout=30",
            "ServerAliveInterval=15",
            "ServerAliveCountMax=4",
            // Quoted for ssh's own parser, which splits at spaces.
            &format!("UserKnownHostsFile=\"{known}\""),
            &format!("HostKeyAlias={}", self.guest),
        ] {
            arguments.extend(["-o".to_owned(), option.to_owned()]);
        }
        let to = format!("{}@127.0.0.1", self.user);
        arguments.extend(["-p".to_owned(), self.port.to_string(), to, "--".to_owned()]);
        arguments.push(command.to_owned());
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Tool;

    /// Runs the command here instead of in a guest.
    struct Local;

    impl Launcher for Local {
        fn command(&self, program: &str, arguments: &[String], _binds: &[PathBuf]) -> Tool {
            match program {
                "ssh" => Tool::new("sh").arg("-c").args(arguments.last()),
                other => Tool::new(other).args(arguments),
            }
        }
        fn firmware(&self) -> (PathBuf, PathBuf) {
            (PathBuf::new(), PathBuf::new())
        }
    }

    fn run(command: &str, limit: u64) -> Ended {
        let key = Key { private: "/nonexistent/key".into(), public: String::new() };
        let ssh = Ssh::new(&Local, &key, "g", 1);
        ssh.run(command, Duration::from_secs(limit), &|| false).unwrap()
    }

    #[test]
    fn status_and_both_outputs_come_back() {
        assert_eq!(run("echo out; echo err >&2; exit 3", 10), Ended::Exited(3, "out\nerr\n".into()));
        assert_eq!(run("echo no route; exit 255", 10), Ended::Unreachable("no route\n".into()));
    }

    #[test]
    fn endless_commands_and_endless_output_are_stopped() {
        assert_eq!(run("echo begun; exec sleep 60", 1), Ended::Stopped("begun\n".into()));
        let Ended::Stopped(output) = run("exec yes", 1) else { panic!("yes ended") };
        assert_eq!(output.len(), MAX_OUTPUT);
    }

    #[test]
    fn a_fresh_key_is_made_and_only_its_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let Ok(key) = Key::generate(&Local, directory.path()) else {
            println!("skipped: ssh-keygen is not installed");
            return;
        };
        assert!(key.public().starts_with("ssh-ed25519 "));
        let mode = std::fs::metadata(&key.private).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
