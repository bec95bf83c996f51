//! Which accelerator really works: KVM only if it runs an ordinary guest, otherwise QEMU's own translator.
//!
//! `/dev/kvm` can be present, open, and answer every query, and still not run a guest (nested virtualisation
//! that is only half there). So a guest is run: a 64 KiB ROM whose few instructions go from real mode through
//! protected mode to long mode with paging, touch memory, and end the virtual machine with a known exit status.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::launcher::Launcher;
use crate::process::last_lines;

/// What runs the guests' instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor's virtualisation, through the kernel.
    Kvm,
    /// QEMU's translator: works everywhere, several times slower.
    Tcg,
}

impl Accelerator {
    /// How many times longer than under KVM a guest may take.
    pub fn patience(self) -> u32 {
        match self {
            Self::Kvm => 1,
            Self::Tcg => 4,
        }
    }

    /// The name as QEMU's `-accel` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// The accelerator and why it is this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// What is used.
    pub accelerator: Accelerator,
    /// Why, in words.
    pub reason: String,
}

/// How long the few instructions may take under KVM; they need some 50 ms, most of it QEMU's own start.
const PROBE_LIMIT: Duration = Duration::from_millis(2500);

/// The value that the ROM writes to the exit device when all went well; QEMU exits with `value << 1 | 1`.
const PROBE_STATUS: i32 = (0x15 << 1) | 1;

/// Size of the ROM: the smallest that QEMU maps at the reset vector.
const ROM_SIZE: usize = 64 * 1024;

/// Offset of [`PROBE_CODE`] in the ROM.
const CODE_OFFSET: usize = ROM_SIZE - 256;

/// `probe.asm`, assembled, up to its last byte that is not zero before the reset vector.
#[rustfmt::skip]
const PROBE_CODE: [u8; 221] = [
    0xfa, 0x2e, 0x66, 0x0f, 0x01, 0x16, 0xd8, 0xff, 0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0,
    0x66, 0xea, 0x18, 0xff, 0x0f, 0x00, 0x08, 0x00, 0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8, 0x8e, 0xc0,
    0x31, 0xc0, 0xbf, 0x00, 0x10, 0x00, 0x00, 0xb9, 0x00, 0x0c, 0x00, 0x00, 0xf3, 0xab, 0xc7, 0x05,
    0x00, 0x10, 0x00, 0x00, 0x03, 0x20, 0x00, 0x00, 0xc7, 0x05, 0x00, 0x20, 0x00, 0x00, 0x03, 0x30,
    0x00, 0x00, 0xc7, 0x05, 0x00, 0x30, 0x00, 0x00, 0x83, 0x00, 0x00, 0x00, 0xb8, 0x20, 0x00, 0x00,
    0x00, 0x0f, 0x22, 0xe0, 0xb8, 0x00, 0x10, 0x00, 0x00, 0x0f, 0x22, 0xd8, 0xb9, 0x80, 0x00, 0x00,
    0xc0, 0x0f, 0x32, 0x80, 0xcc, 0x01, 0x0f, 0x30, 0x0f, 0x20, 0xc0, 0x0d, 0x00, 0x00, 0x00, 0x80,
    0x0f, 0x22, 0xc0, 0xea, 0x7a, 0xff, 0x0f, 0x00, 0x18, 0x00, 0xb9, 0x00, 0x00, 0x10, 0x00, 0x48,
    0x31, 0xc0, 0x48, 0x01, 0xc8, 0x48, 0x89, 0x04, 0x25, 0x00, 0x80, 0x00, 0x00, 0xff, 0xc9, 0x75,
    0xf1, 0x0f, 0xa2, 0x48, 0x8b, 0x04, 0x25, 0x00, 0x80, 0x00, 0x00, 0x48, 0xb9, 0x00, 0x00, 0x08,
    0x00, 0x80, 0x00, 0x00, 0x00, 0x48, 0x39, 0xc8, 0xb0, 0x15, 0x74, 0x02, 0xb0, 0x01, 0x66, 0xba,
    0x01, 0x05, 0xee, 0xf4, 0xeb, 0xfd, 0x90, 0x90, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0xff, 0xff, 0x00, 0x00, 0x00, 0x9a, 0xcf, 0x00, 0xff, 0xff, 0x00, 0x00, 0x00, 0x92, 0xcf, 0x00,
    0xff, 0xff, 0x00, 0x00, 0x00, 0x9a, 0xaf, 0x00, 0x1f, 0x00, 0xb8, 0xff, 0x0f,
];

/// What the processor executes first: a far jump to the code.
const RESET_VECTOR: [u8; 5] = [0xea, 0x00, 0xff, 0x00, 0xf0];

fn probe_rom() -> Vec<u8> {
    let mut rom = vec![0; ROM_SIZE];
    rom[CODE_OFFSET..CODE_OFFSET + PROBE_CODE.len()].copy_from_slice(&PROBE_CODE);
    rom[ROM_SIZE - 16..ROM_SIZE - 16 + RESET_VECTOR.len()].copy_from_slice(&RESET_VECTOR);
    rom
}

/// The accelerator to use; found out once per process.
pub fn probe(launcher: &dyn Launcher) -> Choice {
    static CHOICE: OnceLock<Choice> = OnceLock::new();
    CHOICE.get_or_init(|| decide(launcher, Path::new("/dev/kvm"))).clone()
}

fn decide(launcher: &dyn Launcher, device: &Path) -> Choice {
    let tcg = |reason: String| Choice { accelerator: Accelerator::Tcg, reason };
    match std::fs::OpenOptions::new().read(true).write(true).open(device) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return tcg(format!("the host has no {}", device.display()));
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return tcg(format!("no permission to open {} (add yourself to its group)", device.display()));
        }
        Err(error) => return tcg(format!("{} cannot be opened: {error}", device.display())),
        Ok(_) => {}
    }
    match run_probe(launcher, Accelerator::Kvm, PROBE_LIMIT) {
        Ok(time) => Choice {
            accelerator: Accelerator::Kvm,
            reason: format!("a small guest ran under KVM in {} ms", time.as_millis()),
        },
        Err(problem) => {
            tcg(format!("{} is there, but a small guest did not run under KVM: {problem}", device.display()))
        }
    }
}

/// Boots the ROM; how long it took, or what went wrong.
fn run_probe(launcher: &dyn Launcher, accelerator: Accelerator, limit: Duration) -> Result<Duration, String> {
    let directory = tempfile::Builder::new().prefix("ingot-probe-").tempdir().map_err(|e| e.to_string())?;
    let rom = directory.path().join("probe.rom");
    let log = directory.path().join("log");
    std::fs::write(&rom, probe_rom()).map_err(|e| e.to_string())?;
    let tool =
        launcher.command("qemu-system-x86_64", &probe_arguments(&rom, accelerator), &[PathBuf::from(directory.path())]);
    let started = Instant::now();
    let handle = tool
        .expression()
        .stdout_null()
        .stderr_path(&log)
        .unchecked()
        .start()
        .map_err(|e| format!("cannot start {}: {e}", tool.name()))?;
    let finished = handle.wait_timeout(limit).map_err(|e| e.to_string())?.map(|output| output.status);
    let Some(status) = finished else {
        handle.kill().map_err(|e| e.to_string())?;
        return Err(format!("it did not end within {:.1} s", limit.as_secs_f32()));
    };
    if status.code() == Some(PROBE_STATUS) {
        return Ok(started.elapsed());
    }
    let said = std::fs::read(&log).unwrap_or_default();
    let said = last_lines(&said, 3);
    Err(if said.is_empty() { format!("QEMU ended with {status}") } else { format!("QEMU ended with {status}: {said}") })
}

fn probe_arguments(rom: &Path, accelerator: Accelerator) -> Vec<String> {
    let processor = match accelerator {
        Accelerator::Kvm => "host",
        Accelerator::Tcg => "max",
    };
    let rom = rom.display().to_string();
    [
        "-machine",
        "q35",
        "-accel",
        accelerator.name(),
        "-cpu",
        processor,
        "-m",
        "16",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-bios",
        &rom,
        "-device",
        "isa-debug-exit,iobase=0x501,iosize=0x01",
    ]
    .map(str::to_owned)
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Tool;
    use crate::qemu::HostLauncher;

    #[test]
    fn the_bytes_are_the_assembled_source() {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/qemu/probe.asm");
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("probe.bin");
        if Tool::new("nasm").args(["-f", "bin", source, "-o"]).arg(&out).run().is_err() {
            println!("skipped: nasm is not installed");
            return;
        }
        assert_eq!(std::fs::read(out).unwrap(), probe_rom()[CODE_OFFSET..]);
    }

    #[test]
    fn the_rom_runs_where_everything_runs() {
        let Ok(launcher) = HostLauncher::new() else {
            println!("skipped: no UEFI firmware, so no QEMU either");
            return;
        };
        run_probe(&launcher, Accelerator::Tcg, Duration::from_mins(1)).unwrap();
    }

    #[test]
    fn a_missing_device_is_named() {
        let Ok(launcher) = HostLauncher::new() else { return };
        let choice = decide(&launcher, Path::new("/nonexistent/kvm"));
        assert_eq!(choice.accelerator, Accelerator::Tcg);
        assert!(choice.reason.contains("/nonexistent/kvm"), "{}", choice.reason);
    }
}
