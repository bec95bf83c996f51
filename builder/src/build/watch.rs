//! Runs a program that writes one large file, and does not wait for it for ever when the disk is full.
//!
//! mkfs.erofs (1.8) with several threads never ends once one of them could not write. So the file and the room on its
//! file system are watched: no room and no growth for a while means that the program is stuck.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::BuildError;
use crate::process::{ProcessError, Tool, last_lines};

const POLL: Duration = Duration::from_millis(10);
/// Less than this is no room.
const LEAST: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs `tool`, which writes `file`; `what` says for people what it does.
pub(super) fn run(tool: &Tool, file: &Path, what: &str) -> Result<(), BuildError> {
    let start = |source| BuildError::Program {
        what: what.to_owned(),
        source: ProcessError::Start { program: tool.name(), source },
    };
    let handle = tool.expression().stderr_to_stdout().stdout_capture().unchecked().start().map_err(start)?;
    let mut size = 0;
    let mut alive = Instant::now();
    let output = loop {
        if let Some(output) = handle.try_wait().map_err(start)? {
            break output;
        }
        let now = fs::metadata(file).map_or(0, |metadata| metadata.len());
        if now != size || room(file) >= LEAST {
            (size, alive) = (now, Instant::now());
        } else if alive.elapsed() > PATIENCE {
            handle.kill().map_err(start)?;
            return Err(BuildError::io(file)(io::Error::from(rustix::io::Errno::NOSPC)));
        }
        std::thread::sleep(POLL);
    };
    if output.status.success() {
        return Ok(());
    }
    let failed = ProcessError::Failed {
        program: tool.name(),
        status: output.status.to_string(),
        tail: last_lines(&output.stdout, 30),
    };
    Err(BuildError::Program { what: what.to_owned(), source: failed })
}

/// Bytes that can still be written beside `file`; plenty where the kernel does not say.
fn room(file: &Path) -> u64 {
    let directory = file.parent().unwrap_or(file);
    rustix::fs::statvfs(directory).map_or(u64::MAX, |s| s.f_bavail.saturating_mul(s.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_room_is_waited_for_and_its_failure_shown() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        run(&Tool::new("sh").args(["-c", "sleep 0.1"]), &file, "waiting").unwrap();
        let error = run(&Tool::new("sh").args(["-c", "echo why; exit 3"]), &file, "trying").unwrap_err().to_string();
        assert!(error.starts_with("trying: sh failed") && error.ends_with("why"), "{error}");
    }
}
