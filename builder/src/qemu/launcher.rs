//! Where the programs of this stage come from: the tools tree, or the host itself.

use std::path::{Path, PathBuf};

use super::QemuError;
use crate::process::Tool;

/// Starts the programs of this stage: `qemu-system-x86_64`, `qemu-img`, `swtpm`, `ssh`, `ssh-keygen`.
///
/// What it starts must see the network of the host (for `ssh` to a forwarded port on 127.0.0.1), `/dev/kvm`
/// where the host has it, and every path of `binds`, readable and writable, under its own name. It must die with us.
pub trait Launcher: Sync {
    /// A command, ready to run.
    fn command(&self, program: &str, arguments: &[String], binds: &[PathBuf]) -> Tool;
    /// The UEFI firmware as files on the host: the code, and the template of its variable store.
    fn firmware(&self) -> (PathBuf, PathBuf);
}

/// Uses the programs and the firmware that are installed on the host.
#[derive(Debug, Clone)]
pub struct HostLauncher {
    code: PathBuf,
    vars: PathBuf,
}

/// Where distributions keep OVMF: Debian and Ubuntu, Fedora, Arch, openSUSE.
const FIRMWARE: [(&str, &str); 5] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
];

/// Makes the kernel kill the program when we die, however we die. Part of util-linux.
const SETPRIV: &str = "/usr/bin/setpriv";

impl HostLauncher {
    /// Finds the firmware.
    ///
    /// # Errors
    /// [`QemuError::NoFirmware`] where there is none in the usual places.
    pub fn new() -> Result<Self, QemuError> {
        FIRMWARE
            .iter()
            .map(|(code, vars)| Self { code: code.into(), vars: vars.into() })
            .find(|found| found.code.is_file() && found.vars.is_file())
            .ok_or(QemuError::NoFirmware)
    }
}

impl Launcher for HostLauncher {
    fn command(&self, program: &str, arguments: &[String], _binds: &[PathBuf]) -> Tool {
        let tool = if Path::new(SETPRIV).exists() {
            Tool::new(SETPRIV).args(["--pdeathsig", "KILL", "--", program])
        } else {
            Tool::new(program)
        };
        tool.args(arguments)
    }

    fn firmware(&self) -> (PathBuf, PathBuf) {
        (self.code.clone(), self.vars.clone())
    }
}
