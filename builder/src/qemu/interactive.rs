//! `ingot run`: one guest with its serial console on the terminal, a configuration stick, and the way out.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use super::guest::Running;
use super::launcher::Launcher;
use super::machine::{Machine, Serial};
use super::run::node::{Place, firmware};
use super::run::{ImageRef, lock, runtime_directory};
use super::scenario::{Bus, Medium};
use super::{QemuError, accel, at, disk, interrupt, medium};
use crate::progress::Progress;

/// Ctrl-], as telnet and virsh have it.
const ESCAPE: u8 = 0x1d;

/// What to run.
#[derive(Debug, Clone)]
pub struct Session {
    /// The image; it is not written.
    pub image: ImageRef,
    /// Its logical sector size in bytes.
    pub sector: u32,
    /// What the disk is attached to.
    pub bus: Bus,
    /// A `node.toml` for the configuration stick; without one there is no stick, and the node waits for it.
    pub config: Option<PathBuf>,
}

/// Runs a guest until it is switched off or the user leaves with Ctrl-]; everything it wrote to its disk is gone then.
///
/// # Errors
/// The guest could not be started, or the terminal could not be set up.
pub fn interactive(
    session: &Session,
    launcher: &dyn Launcher,
    work_dir: &Path,
    progress: &dyn Progress,
) -> Result<(), QemuError> {
    interrupt::watch();
    std::fs::create_dir_all(work_dir).map_err(at("cannot make directory", work_dir))?;
    let work_dir = &work_dir.canonicalize().map_err(at("cannot find directory", work_dir))?;
    let _lock = lock(work_dir)?;
    let choice = accel::probe(launcher);
    progress.note(&format!("{}: {}", choice.accelerator.name(), choice.reason));
    let runtime = runtime_directory()?;
    let place = Place { launcher, work: work_dir, runtime: runtime.path(), accelerator: choice.accelerator };
    let (machine, _disk) = assemble(session, &place)?;
    let Serial::Socket(socket, log) = &machine.serial else {
        return Err(QemuError::Terminal(std::io::ErrorKind::Unsupported.into()));
    };
    let mut running = Running::start(launcher, &machine, &session.image.path, &work_dir.join("run.qemu.log"))?;
    let serial = connect(socket, &running)?;
    let port = running.ssh_port()?;
    progress.note(&format!("serial log: {}", log.display()));
    progress.note(&format!("ssh: ssh -p {port} root@127.0.0.1"));
    progress.note("Ctrl-] ends the virtual machine; its disk is thrown away");
    let relayed = relay(serial);
    running.cut()?;
    relayed.map_err(QemuError::Terminal)
}

/// Removes the disk when the guest is gone.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

fn assemble(session: &Session, place: &Place<'_>) -> Result<(Machine, Scratch), QemuError> {
    let facts = &session.image.facts;
    let medium = match &session.config {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(at("cannot read", path))?;
            let file = place.runtime.join("run.ingot");
            medium::write(&file, Medium::Usb.label(), &Medium::Usb.files(&text, "run"))?;
            Some((Medium::Usb, file))
        }
        None => None,
    };
    let disk =
        disk::prepare(place.launcher, &session.image.path, place.work, "run", facts.disk_gib, session.sector, &[])?;
    let scratch = Scratch(disk.path.clone());
    let (firmware_code, firmware_variables) = firmware(place, "run")?;
    let log = place.work.join("run.console.log");
    std::fs::write(&log, b"").map_err(at("cannot write", &log))?;
    let machine = Machine {
        name: "run".into(),
        accelerator: place.accelerator,
        memory_mib: facts.memory_mib,
        cpus: facts.cpus,
        firmware_code,
        firmware_variables,
        disk,
        bus: session.bus,
        data_disks: Vec::new(),
        oem_strings: Vec::new(),
        kernel_arguments: Vec::new(),
        fw_cfg: Vec::new(),
        medium,
        stick: true,
        read_only: false,
        display: None,
        tpm: None,
        cards: Vec::new(),
        ssh_mac: Some("52:54:00:49:4e:47".into()),
        internet: true,
        serial_number: "ingot-run".into(),
        serial: Serial::Socket(place.runtime.join("run.serial"), log),
        control: place.runtime.join("run.qmp"),
    };
    Ok((machine, scratch))
}

fn connect(socket: &Path, running: &Running) -> Result<UnixStream, QemuError> {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(_) if !running.is_on() => {
                return Err(QemuError::Ended { guest: "run".into(), tail: running.said() });
            }
            Err(error) if Instant::now() >= deadline => return Err(at("cannot connect to", socket)(error)),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A terminal in raw mode, put back when dropped.
struct Raw(File, Termios);

impl Raw {
    fn new() -> std::io::Result<Option<Self>> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let terminal = File::from(stdin.as_fd().try_clone_to_owned()?);
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &raw)?;
        Ok(Some(Self(terminal, before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing better to do on the way out.
        let _ = tcsetattr(&self.0, OptionalActions::Now, &self.1);
    }
}

/// Carries bytes between the terminal and the serial port until either ends, Ctrl-], or a signal.
fn relay(mut serial: UnixStream) -> std::io::Result<()> {
    let _raw = Raw::new()?;
    // Unbuffered: a buffer would hide bytes from poll.
    let mut input = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = std::io::stdout();
    let mut buffer = [0; 4096];
    let mut listening = true;
    let tick = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
    while !interrupt::requested() {
        let (from_serial, from_input) = {
            let mut ready = vec![PollFd::new(&serial, PollFlags::IN)];
            if listening {
                ready.push(PollFd::new(&input, PollFlags::IN));
            }
            match poll(&mut ready, Some(&tick)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            (!ready[0].revents().is_empty(), ready.get(1).is_some_and(|fd| !fd.revents().is_empty()))
        };
        if from_serial {
            match serial.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    output.write_all(&buffer[..count])?;
                    output.flush()?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        if from_input {
            let count = input.read(&mut buffer)?;
            // Without a terminal the end of input is no wish to leave: the guest runs on.
            listening = count > 0;
            let typed = &buffer[..count];
            let keep = typed.iter().position(|byte| *byte == ESCAPE).unwrap_or(count);
            if serial.write_all(&typed[..keep]).is_err() || keep < count {
                return Ok(());
            }
        }
    }
    Ok(())
}
