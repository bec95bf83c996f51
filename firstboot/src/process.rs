//! The one door through which child processes are started on a node.
//!
//! A program gets a fixed environment, no standard input, and a time limit after which it is killed; the end of
//! what it printed is kept for the error. Secrets are never arguments: process lists are public.

use std::time::Duration;

use thiserror::Error;

/// A program did not do its work.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// It could not be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// Its name.
        program: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// It ended with an error.
    #[error("{command} failed ({status}): {tail}")]
    Failed {
        /// The command line.
        command: String,
        /// Its status.
        status: String,
        /// The end of what it printed.
        tail: String,
    },
    /// It was killed after its time limit.
    #[error("{command} did not end within {seconds} s")]
    TimedOut {
        /// The command line.
        command: String,
        /// The limit.
        seconds: u64,
    },
}

/// Runs a program to its end and gives its standard output.
///
/// # Errors
/// All of [`ProcessError`].
pub fn run(program: &str, arguments: &[&str], limit: Duration) -> Result<Vec<u8>, ProcessError> {
    let command = std::iter::once(program).chain(arguments.iter().copied()).collect::<Vec<_>>().join(" ");
    let start = |source| ProcessError::Start { program: program.to_owned(), source };
    let handle = duct::cmd(program, arguments)
        .full_env([
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("LC_ALL", "C"),
            ("HOME", "/root"),
        ])
        .dir("/")
        .stdin_null()
        .stdout_capture()
        .stderr_capture()
        .unchecked()
        .start()
        .map_err(start)?;
    let finished = handle.wait_timeout(limit).map_err(start)?.cloned();
    let Some(output) = finished else {
        // Its grandchildren may hold the pipes open, so nothing waits for them here.
        let _ = handle.kill();
        return Err(ProcessError::TimedOut { command, seconds: limit.as_secs() });
    };
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = if output.stderr.iter().all(u8::is_ascii_whitespace) { &output.stdout } else { &output.stderr };
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(3)..].join("; ");
    Err(ProcessError::Failed { command, status: output.status.to_string(), tail })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart() {
        let limit = Duration::from_secs(10);
        assert_eq!(run("sh", &["-c", "echo out"], limit).unwrap(), b"out\n");
        let error = run("sh", &["-c", "echo a; echo why >&2; exit 3"], limit).unwrap_err().to_string();
        assert!(error.contains("sh -c") && error.ends_with(": why"), "{error}");
        assert!(matches!(run("no-such-program", &[], limit), Err(ProcessError::Start { .. })));
        let error = run("sleep", &["30"], Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, ProcessError::TimedOut { .. }));
    }
}
