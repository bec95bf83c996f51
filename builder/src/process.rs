//! The one door through which child processes are started.
//!
//! Every program that Ingot runs goes through [`Tool`]: its command line can be logged, its standard
//! error is kept and its last lines end up in the error, and a missing program says how to get it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A child process went wrong.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// The program could not be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// The program.
        program: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The program ended with an error.
    #[error("{program} failed ({status}){}", tail_of(.tail))]
    Failed {
        /// The program.
        program: String,
        /// `exit status 1`, `signal 9`.
        status: String,
        /// The last lines it printed.
        tail: String,
    },
}

fn tail_of(tail: &str) -> String {
    if tail.is_empty() { String::new() } else { format!("; the last it said:\n{tail}") }
}

/// What a finished program printed.
#[derive(Debug, Clone, Default)]
pub struct Output {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

/// A program to run, with its arguments.
#[derive(Debug, Clone)]
pub struct Tool {
    program: OsString,
    name: Option<String>,
    arguments: Vec<OsString>,
    environment: Option<Vec<(OsString, OsString)>>,
    directory: Option<PathBuf>,
    input: Vec<u8>,
}

impl Tool {
    /// The program by name (looked up in `PATH`) or by path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            name: None,
            arguments: Vec::new(),
            environment: None,
            directory: None,
            input: Vec::new(),
        }
    }

    /// Known to people by this name, where the program that is started only wraps another.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, arguments: I) -> Self {
        self.arguments.extend(arguments.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Runs with this environment and nothing else of ours.
    #[must_use]
    pub fn environment<I: IntoIterator<Item = (K, V)>, K: AsRef<OsStr>, V: AsRef<OsStr>>(mut self, pairs: I) -> Self {
        self.environment =
            Some(pairs.into_iter().map(|(k, v)| (k.as_ref().to_owned(), v.as_ref().to_owned())).collect());
        self
    }

    /// Runs in this directory.
    #[must_use]
    pub fn directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }

    /// What the program reads on standard input.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// The duct expression, for callers that need pipes or a handle. Standard error is not captured.
    pub fn expression(&self) -> duct::Expression {
        let mut expression = duct::cmd(&self.program, &self.arguments);
        if let Some(pairs) = &self.environment {
            expression = expression.full_env(pairs.iter().cloned());
        }
        if let Some(directory) = &self.directory {
            expression = expression.dir(directory);
        }
        if self.input.is_empty() { expression.stdin_null() } else { expression.stdin_bytes(self.input.clone()) }
    }

    /// Runs to the end and gives what it printed.
    ///
    /// # Errors
    /// [`ProcessError::Start`] and [`ProcessError::Failed`]; the latter with the last 30 lines of standard
    /// error, or of standard output where standard error is empty.
    pub fn run(&self) -> Result<Output, ProcessError> {
        let finished = self
            .expression()
            .stdout_capture()
            .stderr_capture()
            .unchecked()
            .run()
            .map_err(|source| ProcessError::Start { program: self.name(), source })?;
        let output = Output { stdout: finished.stdout, stderr: finished.stderr };
        if finished.status.success() {
            return Ok(output);
        }
        let said = if output.stderr.iter().any(|b| !b.is_ascii_whitespace()) { &output.stderr } else { &output.stdout };
        Err(ProcessError::Failed {
            program: self.name(),
            status: finished.status.to_string(),
            tail: last_lines(said, 30),
        })
    }

    /// The program's name for people.
    pub fn name(&self) -> String {
        let program = self.name.as_deref().map_or(self.program.as_os_str(), OsStr::new);
        Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned()
    }
}

/// The last `count` lines of what a program printed.
pub fn last_lines(bytes: &[u8], count: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_carries_the_last_lines() {
        let error = Tool::new("sh").args(["-c", "echo one >&2; echo two >&2; exit 3"]).run().unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3") || text.contains("exit code 3"), "{text}");
        assert!(text.ends_with("one\ntwo"), "{text}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Tool::new("no-such-program-here").run().unwrap_err();
        assert!(matches!(error, ProcessError::Start { ref program, .. } if program == "no-such-program-here"));
    }

    #[test]
    fn the_environment_can_be_emptied() {
        let output = Tool::new("/usr/bin/env").environment([("ONLY", "this")]).run().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "ONLY=this");
    }
}
