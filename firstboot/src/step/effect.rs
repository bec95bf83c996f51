//! What a step or a join does to a machine, as plain data.
//!
//! A step's [`Effect`]s say what it writes, removes and runs; [`perform`] does it. `ingot config plan` prints the same
//! effects without a machine, so what it prints is what a node does: there is no second description to go stale.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::StepError;
use crate::config::Secret;
use crate::host::{Host, HostError};

const BLOCK_BEGIN: &str = "# ingot: begin";
const BLOCK_END: &str = "# ingot: end";
const MAXIMUM_SHARED_BYTES: u64 = 1024 * 1024;

/// One thing that is done to a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "effect", rename_all = "kebab-case")]
pub enum Effect {
    /// A file is written whole.
    File {
        /// Its path.
        path: String,
        /// Its permission bits.
        #[serde(serialize_with = "octal")]
        mode: u32,
        /// What it holds.
        content: Content,
    },
    /// A marked block of lines is put into a file that others write too; what they wrote stays.
    Block {
        /// The file's path; its mode is 0644.
        path: String,
        /// The lines between the marks, each with its line end.
        text: String,
        /// What the file begins with where it is not there yet.
        otherwise: String,
    },
    /// A symbolic link is made.
    Link {
        /// Its path.
        path: String,
        /// Where it points.
        target: String,
    },
    /// A file is removed, if it is there.
    Remove {
        /// Its path.
        path: String,
    },
    /// Files of an earlier configuration are removed.
    Sweep {
        /// The directory.
        directory: String,
        /// What the names of the files begin with.
        prefix: String,
        /// The names that stay.
        keep: Vec<String>,
    },
    /// A program is run.
    Run {
        /// The program and its arguments; never a secret.
        argv: Vec<String>,
    },
    /// A setting of the running system is made, in memory only.
    Setting {
        /// Which.
        name: String,
        /// Its value.
        value: String,
    },
    /// Something that only the machine can say: nothing is done.
    Depends {
        /// What, and on what it depends.
        text: String,
    },
    /// A service is asked for something over its interface; secrets are left out.
    Call {
        /// The service: `docker`.
        service: String,
        /// The request as a person reads it.
        request: String,
    },
}

/// What a file holds.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// Text that anybody may see.
    Text(String),
    /// Bytes that are not text; shown by their number.
    Bytes(Vec<u8>),
    /// What must not be shown.
    Secret(Secret),
}

impl Content {
    /// The bytes that are written.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Content::Text(text) => text.as_bytes(),
            Content::Bytes(bytes) => bytes,
            Content::Secret(secret) => secret.expose().as_bytes(),
        }
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(|error| Content::Bytes(error.into_bytes()), Content::Text)
    }
}

impl std::fmt::Display for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Content::Text(text) => f.write_str(text),
            Content::Bytes(bytes) => write!(f, "({} bytes)", bytes.len()),
            Content::Secret(secret) => write!(f, "{secret}"),
        }
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

// The signature is serde's.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn octal<S: Serializer>(mode: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{mode:04o}"))
}

impl Effect {
    /// A text file of mode 0644.
    pub fn text(path: impl Into<String>, text: impl Into<String>) -> Self {
        Effect::File { path: path.into(), mode: 0o644, content: Content::Text(text.into()) }
    }

    /// A program with its arguments.
    pub fn run<const N: usize>(argv: [&str; N]) -> Self {
        Effect::Run { argv: argv.map(str::to_owned).into() }
    }

    /// A setting.
    pub fn setting(name: impl Into<String>, value: impl Into<String>) -> Self {
        Effect::Setting { name: name.into(), value: value.into() }
    }

    /// What is found out on the machine.
    pub fn depends(text: impl Into<String>) -> Self {
        Effect::Depends { text: text.into() }
    }

    /// Does it. [`Effect::Setting`], [`Effect::Call`] and [`Effect::Depends`] are for people: the step that has one
    /// does it itself, because only it knows the way.
    ///
    /// # Errors
    /// What the machine says; the effect may then be done again.
    pub fn perform(&self, host: &dyn Host, patience: Duration) -> Result<(), StepError> {
        match self {
            Effect::File { path, mode, content } => host.write(path, content.bytes(), *mode)?,
            Effect::Block { path, text, otherwise } => {
                let shared = read_text(host, path)?.unwrap_or_else(|| otherwise.clone());
                host.write(path, with_block(&shared, text).as_bytes(), 0o644)?;
            }
            Effect::Link { path, target } => host.link(path, target)?,
            Effect::Remove { path } => host.remove(path)?,
            Effect::Sweep { directory, prefix, keep } => {
                for (name, _) in host.list(directory)? {
                    if name.starts_with(prefix.as_str()) && !keep.contains(&name) {
                        host.remove(&format!("{directory}/{name}"))?;
                    }
                }
            }
            Effect::Run { argv } => {
                let arguments: Vec<&str> = argv.iter().skip(1).map(String::as_str).collect();
                if let Some(program) = argv.first() {
                    host.run(program, &arguments, patience)?;
                }
            }
            Effect::Setting { .. } | Effect::Call { .. } | Effect::Depends { .. } => {}
        }
        Ok(())
    }

    /// For people: a line, and the lines of a text file's content behind it.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Effect::File { path, mode, content } => {
                let mut lines = vec![format!("write {path} (mode {mode:04o})")];
                lines.extend(content.to_string().lines().map(|line| format!("    {line}")));
                lines
            }
            Effect::Block { path, text, .. } => {
                let mut lines = vec![format!("write a block into {path}")];
                lines.extend(text.lines().map(|line| format!("    {line}")));
                lines
            }
            Effect::Link { path, target } => vec![format!("link {path} -> {target}")],
            Effect::Remove { path } => vec![format!("remove {path}, if it is there")],
            Effect::Sweep { directory, prefix, keep } if keep.is_empty() => {
                vec![format!("remove {directory}/{prefix}*")]
            }
            Effect::Sweep { directory, prefix, .. } => vec![format!("remove every other {directory}/{prefix}*")],
            Effect::Run { argv } => vec![format!("run {}", argv.join(" "))],
            Effect::Setting { name, value } => vec![format!("set {name} = {value}")],
            Effect::Depends { text } => vec![format!("on the machine: {text}")],
            Effect::Call { service, request } => vec![format!("ask {service}: {request}")],
        }
    }
}

/// Does all of them, in order; each program may run for `patience`.
///
/// # Errors
/// The first that fails; all may then be done again.
pub fn perform(host: &dyn Host, effects: &[Effect], patience: Duration) -> Result<(), StepError> {
    effects.iter().try_for_each(|effect| effect.perform(host, patience))
}

fn read_text(host: &dyn Host, path: &str) -> Result<Option<String>, HostError> {
    let bytes = host.read(path, MAXIMUM_SHARED_BYTES)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// The file with the block in place of an earlier one, at its end.
pub(super) fn with_block(shared: &str, block: &str) -> String {
    let mut kept = String::new();
    let mut inside = false;
    for line in shared.lines() {
        match line.trim() {
            BLOCK_BEGIN => inside = true,
            BLOCK_END => inside = false,
            _ if inside => {}
            _ => {
                kept.push_str(line);
                kept.push('\n');
            }
        }
    }
    format!("{kept}{BLOCK_BEGIN}\n{block}{BLOCK_END}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::simulated::SimulatedHost;

    const PATIENCE: Duration = Duration::from_secs(1);

    #[test]
    fn a_block_keeps_what_others_wrote() {
        let first = with_block("127.0.0.1 localhost\n10.0.0.9 registry\n", "127.0.1.1 w1.lan w1\n");
        assert_eq!(
            first,
            "127.0.0.1 localhost\n10.0.0.9 registry\n# ingot: begin\n127.0.1.1 w1.lan w1\n# ingot: end\n"
        );
        assert_eq!(with_block(&first, "127.0.1.1 w1.lan w1\n"), first, "repeating changes nothing");
        let renamed = with_block(&first, "127.0.1.1 w2\n");
        assert!(renamed.contains("127.0.1.1 w2\n") && !renamed.contains("w1") && renamed.contains("registry"));
    }

    #[test]
    fn effects_change_the_machine_as_they_say() {
        let host = SimulatedHost::default();
        host.put("/d/10-a", "old");
        host.put("/d/10-b", "old");
        host.put("/d/90-c", "not ours");
        let effects = [
            Effect::text("/d/10-a", "new"),
            Effect::Sweep { directory: "/d".into(), prefix: "10-".into(), keep: vec!["10-a".into()] },
            Effect::Block { path: "/hosts".into(), text: "x\n".into(), otherwise: "y\n".into() },
            Effect::Link { path: "/l".into(), target: "t".into() },
            Effect::Remove { path: "/absent".into() },
            Effect::run(["systemctl", "start", "x.service"]),
        ];
        perform(&host, &effects, PATIENCE).unwrap();
        perform(&host, &effects, PATIENCE).unwrap();
        let disk = host.disk();
        assert_eq!(disk.files.keys().map(String::as_str).collect::<Vec<_>>(), ["/d/10-a", "/d/90-c", "/hosts"]);
        assert_eq!(
            (host.text("/d/10-a").as_str(), host.text("/hosts").as_str()),
            ("new", "y\n# ingot: begin\nx\n# ingot: end\n")
        );
        assert_eq!(disk.links["/l"], "t");
        assert!(host.state().commands.iter().all(|command| command == "systemctl start x.service"));
    }

    #[test]
    fn a_secret_is_written_and_never_shown() {
        let host = SimulatedHost::default();
        let effect = Effect::File { path: "/k".into(), mode: 0o600, content: Content::Secret(Secret::new("hunter2")) };
        effect.perform(&host, PATIENCE).unwrap();
        assert_eq!(host.text("/k"), "hunter2");
        let shown = format!("{effect:?} {} {}", serde_json::to_string(&effect).unwrap(), effect.lines().join(" "));
        assert!(!shown.contains("hunter2") && shown.matches("(secret)").count() == 3, "{shown}");
        assert!(shown.contains("\"mode\":\"0600\""));
    }

    #[test]
    fn bytes_that_are_no_text_are_counted() {
        assert_eq!(Content::from(vec![0xff, 0xfe]).to_string(), "(2 bytes)");
        assert_eq!(Content::from(b"text".to_vec()), Content::Text("text".into()));
    }
}
