//! A running virtual machine. It ends when it is dropped, and when we die.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::QemuError;
use super::launcher::Launcher;
use super::machine::Machine;
use super::qmp::Qmp;
use crate::process::last_lines;

/// How long QEMU may take to open its control channel: it loads itself from disk, and the host may be busy.
const START_LIMIT: Duration = Duration::from_mins(1);

/// How long QEMU may take to write out its disks and end.
const QUIT_LIMIT: Duration = Duration::from_secs(20);

/// The program.
pub const QEMU: &str = "qemu-system-x86_64";

/// A virtual machine that was switched on.
///
/// Must be dropped on the thread that made it, or before that one ends: where the kernel is told to kill QEMU with
/// its parent, the parent is the thread.
#[derive(Debug)]
pub struct Running {
    name: String,
    handle: duct::Handle,
    messages: PathBuf,
    control: PathBuf,
    qmp: Option<Qmp>,
}

impl Running {
    /// Switches a machine on; what QEMU itself prints goes to the file `messages`.
    ///
    /// # Errors
    /// QEMU could not be started.
    pub fn start(launcher: &dyn Launcher, machine: &Machine, image: &Path, messages: &Path) -> Result<Self, QemuError> {
        // A socket that an earlier QEMU left would be connected to before the new one is there.
        drop(std::fs::remove_file(&machine.control));
        let tool = launcher.command(QEMU, &machine.arguments(), &machine.binds(image));
        let handle = tool
            .expression()
            .stdout_to_stderr()
            .stderr_path(messages)
            .unchecked()
            .start()
            .map_err(|source| crate::process::ProcessError::Start { program: tool.name(), source })?;
        Ok(Self {
            name: machine.name.clone(),
            handle,
            messages: messages.to_owned(),
            control: machine.control.clone(),
            qmp: None,
        })
    }

    /// The control channel; connects to it the first time.
    ///
    /// # Errors
    /// [`QemuError::Ended`] where QEMU is gone (a wrong argument, no memory), [`QemuError::Control`] otherwise.
    pub fn control(&mut self) -> Result<&mut Qmp, QemuError> {
        if self.qmp.is_none() {
            let connected = Qmp::connect(&self.control, Instant::now() + START_LIMIT, &|| self.is_on());
            self.qmp = Some(connected.map_err(|source| self.blame(source))?);
        }
        // Set just above where it was not.
        match &mut self.qmp {
            Some(qmp) => Ok(qmp),
            None => Err(QemuError::Ended { guest: self.name.clone(), tail: String::new() }),
        }
    }

    /// The port on 127.0.0.1 that leads to the guest's ssh.
    ///
    /// # Errors
    /// As [`Running::control`].
    pub fn ssh_port(&mut self) -> Result<u16, QemuError> {
        let port = self.control()?.forwarded_port();
        port.map_err(|source| self.blame(source))
    }

    /// Whether QEMU runs.
    pub fn is_on(&self) -> bool {
        matches!(self.handle.try_wait(), Ok(None))
    }

    /// The last lines that QEMU itself printed.
    pub fn said(&self) -> String {
        last_lines(&std::fs::read(&self.messages).unwrap_or_default(), 10)
    }

    /// Cuts the power: the guest gets no chance to do anything, the disk keeps what was written to it.
    ///
    /// # Errors
    /// The process could not be ended.
    pub fn cut(mut self) -> Result<(), QemuError> {
        self.end()
    }

    fn blame(&self, source: super::qmp::QmpError) -> QemuError {
        // QEMU prints its reason and closes the channel a moment before it is gone.
        if let Ok(Some(_)) = self.handle.wait_timeout(Duration::from_millis(500)) {
            return QemuError::Ended { guest: self.name.clone(), tail: self.said() };
        }
        QemuError::Control { guest: self.name.clone(), source }
    }

    fn end(&mut self) -> Result<(), QemuError> {
        let failed = |source| crate::process::ProcessError::Start { program: QEMU.into(), source };
        // Asked first, because only then are a qcow2 file's tables written out.
        if self.is_on() && self.control().is_ok_and(|qmp| qmp.quit().is_ok()) {
            let ended = self.handle.wait_timeout(QUIT_LIMIT).map_err(failed)?.is_some();
            if ended {
                return Ok(());
            }
        }
        self.handle.kill().map_err(failed)?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_on() {
            drop(self.handle.kill());
        }
    }
}
