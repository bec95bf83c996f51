//! A TPM 2.0 for a virtual machine: `swtpm` (swtpm(8)), whose state stays when the machine's power goes.
//!
//! Takes a directory for that state; gives the socket that QEMU's `-tpmdev emulator` connects to. The program ends
//! with the machine it belongs to, when the value is dropped, and when we die.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::launcher::Launcher;
use super::{QemuError, at};
use crate::process::{ProcessError, last_lines};

/// The program.
const SWTPM: &str = "swtpm";

/// How long it may take to listen, and to end once QEMU is gone.
const PATIENCE: Duration = Duration::from_mins(1);

/// A TPM on a guest's board.
#[derive(Debug)]
pub struct Tpm {
    guest: String,
    /// What it remembers: swtpm's NVRAM.
    state: PathBuf,
    socket: PathBuf,
    messages: PathBuf,
    handle: Option<duct::Handle>,
}

impl Tpm {
    /// A TPM that knows nothing yet; its state and what it prints lie in `work`, its socket in `runtime`.
    ///
    /// # Errors
    /// The directory for its state could not be made.
    pub fn new(guest: &str, work: &Path, runtime: &Path) -> Result<Self, QemuError> {
        let tpm = Self {
            guest: guest.to_owned(),
            state: work.join(format!("{guest}.tpm")),
            socket: runtime.join(format!("{guest}.tpm")),
            messages: work.join(format!("{guest}.swtpm.log")),
            handle: None,
        };
        tpm.forget()?;
        Ok(tpm)
    }

    /// Where QEMU finds it.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Puts another, blank one in its place; the guest must be off.
    ///
    /// # Errors
    /// Files that cannot be removed or made.
    pub fn replace(&mut self) -> Result<(), QemuError> {
        self.end()?;
        self.forget()
    }

    /// Starts it; the guest must be off, and is switched on next.
    ///
    /// # Errors
    /// swtpm does not start, or does not listen.
    pub fn start(&mut self, launcher: &dyn Launcher) -> Result<(), QemuError> {
        self.end()?;
        drop(std::fs::remove_file(&self.socket));
        let arguments = [
            "socket".to_owned(),
            "--tpm2".to_owned(),
            "--terminate".to_owned(),
            "--tpmstate".to_owned(),
            format!("dir={},mode=0600", self.state.display()),
            "--ctrl".to_owned(),
            format!("type=unixio,path={}", self.socket.display()),
        ];
        let binds = [self.state.clone(), super::disk::parent(&self.socket)];
        let tool = launcher.command(SWTPM, &arguments, &binds);
        let handle = tool
            .expression()
            .stdin_null()
            .stdout_to_stderr()
            .stderr_path(&self.messages)
            .unchecked()
            .start()
            .map_err(|source| ProcessError::Start { program: tool.name(), source })?;
        let deadline = Instant::now() + PATIENCE;
        while !self.socket.exists() {
            if Instant::now() >= deadline || !matches!(handle.try_wait(), Ok(None)) {
                drop(handle.kill());
                let tail = last_lines(&std::fs::read(&self.messages).unwrap_or_default(), 10);
                return Err(QemuError::Tpm { guest: self.guest.clone(), tail });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.handle = Some(handle);
        Ok(())
    }

    /// Waits for the one that runs: it ends by itself when QEMU lets go of it, and has written its state then.
    fn end(&mut self) -> Result<(), QemuError> {
        let Some(handle) = self.handle.take() else { return Ok(()) };
        let failed = |source| ProcessError::Start { program: SWTPM.into(), source };
        if handle.wait_timeout(PATIENCE).map_err(failed)?.is_none() {
            handle.kill().map_err(failed)?;
        }
        Ok(())
    }

    fn forget(&self) -> Result<(), QemuError> {
        match std::fs::remove_dir_all(&self.state) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(at("cannot remove", &self.state)(error));
            }
            _ => {}
        }
        std::fs::create_dir(&self.state).map_err(at("cannot make directory", &self.state))
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            drop(handle.kill());
        }
        drop(std::fs::remove_dir_all(&self.state));
    }
}
