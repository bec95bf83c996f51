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
    #[error("{command} failed ({status}){}", said(.tail))]
    Failed {
        /// The command line.
        command: String,
        /// Its status.
        status: String,
        /// The end of what it printed, and errors that it named before.
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

/// What a program said, where it said anything.
fn said(tail: &str) -> String {
    if tail.is_empty() { String::new() } else { format!(": {tail}") }
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
    Err(ProcessError::Failed { command, status: output.status.to_string(), tail: last_words(&text) })
}

/// How many lines of each kind are kept.
const LINES: usize = 3;

/// The last lines that a program printed, and before them the last ones that begin as errors: kubeadm ends with advice, and
/// says what is wrong above it.
fn last_words(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let (before, last) = lines.split_at(lines.len().saturating_sub(LINES));
    let is_error =
        |line: &&&str| ["[ERROR", "error", "Error", "ERROR", "fatal"].iter().any(|sign| line.starts_with(sign));
    let errors: Vec<&str> = before.iter().filter(is_error).copied().collect();
    let errors = &errors[errors.len().saturating_sub(LINES)..];
    errors.iter().chain(last).copied().collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_kept_where_advice_follows() {
        let said = "[init] Using version\nerror execution phase preflight: [preflight] Some fatal errors occurred:\n\
                    \t[ERROR ImagePull]: failed to pull image k8s.gcr.io/coredns:1.7.0\n, error: exit status 1\n\
                    [preflight] If you know what you are doing\nTo see the stack trace\n";
        let expected = "error execution phase preflight: [preflight] Some fatal errors occurred:; \
                        [ERROR ImagePull]: failed to pull image k8s.gcr.io/coredns:1.7.0; , error: exit status 1; \
                        [preflight] If you know what you are doing; To see the stack trace";
        assert_eq!(last_words(said), expected);
        assert_eq!(last_words("a\n\nb\n c\nd"), "b; c; d");
        assert_eq!(last_words(""), "");
    }

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
