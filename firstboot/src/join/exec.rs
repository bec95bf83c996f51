//! A cluster that has no driver of its own: a program of the image does the work, called with a verb.
//!
//! `/usr/lib/ingot/join.d/NAME VERB ARGUMENT...` with the verbs `preflight`, `probe`, `join`, `leave`. Exit codes by
//! `sysexits.h`: 0 is done (for `probe`: is a member; the first line that it prints is the identity), 1 of `probe`
//! is "not a member", 75 (`EX_TEMPFAIL`) "not yet, ask again", 77 (`EX_NOPERM`) "the cluster does not accept the
//! token", 78 (`EX_CONFIG`) "the configuration is wrong", anything else a failure. Secrets are in files, one for
//! each, in [`EXEC_SECRETS`]; they are gone after a reboot and written anew before the program runs.

use super::{Driver, JoinError, Joiner, Membership, RenderedFile, unit};
use crate::config::{Exec, Secret};
use crate::host::{Host, HostError};
use crate::process::ProcessError;
use crate::step::Effect;

pub use crate::config::EXEC_SECRETS;

/// Calls a program of the image.
pub struct ExecDriver {
    exec: Exec,
}

impl ExecDriver {
    /// For this configuration.
    pub fn new(exec: Exec) -> Self {
        Self { exec }
    }

    fn call(&self, host: &dyn Host, verb: &str) -> Result<Vec<u8>, HostError> {
        let arguments: Vec<&str> =
            std::iter::once(verb).chain(self.exec.arguments.iter().map(String::as_str)).collect();
        host.run(&self.exec.program.path(), &arguments, self.exec.timeout)
    }

    fn called(&self, host: &dyn Host, verb: &str) -> Result<(), JoinError> {
        let Err(error) = self.call(host, verb) else { return Ok(()) };
        let text = error.to_string();
        Err(match exit_code(&error) {
            Some(75) => JoinError::NoManagerYet(text),
            Some(77) => JoinError::TokenRefused(text),
            Some(_) if verb == "preflight" => JoinError::Preflight(text),
            Some(_) => JoinError::Contradiction(text),
            None => error.into(),
        })
    }
}

fn exit_code(error: &HostError) -> Option<i32> {
    let HostError::Process(ProcessError::Failed { status, .. }) = error else { return None };
    status.rsplit(' ').next()?.parse().ok()
}

impl Driver for ExecDriver {
    fn name(&self) -> &'static str {
        "exec"
    }

    fn describe(&self) -> String {
        format!("joins by the image's program {}", self.exec.program)
    }

    fn actions(&self) -> Vec<Effect> {
        let units = self.exec.units.iter().map(|unit| Effect::run(["systemctl", "enable", "--now", unit.as_str()]));
        let program = ["preflight", "probe", "join"].map(|verb| {
            let arguments = self.exec.arguments.iter().cloned();
            Effect::Run { argv: [self.exec.program.path(), verb.to_owned()].into_iter().chain(arguments).collect() }
        });
        units.chain(program).collect()
    }

    fn render(&self) -> Result<Vec<RenderedFile>, JoinError> {
        let files = self.exec.files.iter().map(|file| RenderedFile {
            path: file.path.as_str().into(),
            content: file.content.clone(),
            mode: file.mode,
            public: false,
        });
        let secrets = self
            .exec
            .secrets
            .iter()
            .map(|(name, secret)| RenderedFile::secret(format!("{EXEC_SECRETS}/{name}"), secret.expose()));
        Ok(files.chain(secrets).collect())
    }

    fn preflight(&self, host: &dyn Host) -> Result<(), JoinError> {
        let path = self.exec.program.path();
        if !host.exists(&path) {
            return Err(JoinError::Preflight(format!("the image has no {path}; its profile brings it as an overlay")));
        }
        self.exec.units.iter().try_for_each(|unit| unit::start_and_wait(host, unit.as_str()))?;
        self.called(host, "preflight")
    }

    fn probe(&self, host: &dyn Host) -> Result<Option<Membership>, JoinError> {
        match self.call(host, "probe") {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output).into_owned();
                let identity = text.lines().next().unwrap_or_default().trim().chars().take(200).collect::<String>();
                Ok(Some(Membership { text: format!("{} {identity}", self.exec.program).trim().to_owned(), identity }))
            }
            Err(error) if matches!(exit_code(&error), Some(1 | 75)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn start(&self, joiner: &Joiner<'_>) -> Result<(), JoinError> {
        self.called(joiner.host, "join")
    }

    fn leave(&self, host: &dyn Host) -> Result<(), JoinError> {
        self.called(host, "leave")
    }

    fn secrets(&self) -> Vec<&Secret> {
        self.exec
            .files
            .iter()
            .map(|file| &file.content)
            .chain(self.exec.secrets.iter().map(|(_, secret)| secret))
            .collect()
    }
}
