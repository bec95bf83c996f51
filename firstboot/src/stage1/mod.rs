//! The initrd's init: from the kernel to the system's own init, on a root that is what it should be.
//!
//! Takes the kernel command line (`roothash=`), `/etc/ingot/stage1.json` of the initrd and the machine's disks.
//! Gives a running system: `/` read-only on dm-verity, `/var` on the disk's state partition, `/etc` as an overlay
//! with its upper layer on `/var`, the role's persistent directories bound from `/var`, and `/run/ingot/stage1.json` about where it came from.
//!
//! Guarantees:
//! - Nothing of the disk is trusted before it is checked: the root by its hash, tables and superblocks by bounds.
//! - Power may fail at any instant; the next boot goes on, and never makes a filesystem over data.
//! - A failure is a status line on every console and a reboot, never a shell and never silence.
//!
//! The steps are those of [`boot`], in order.

pub mod cmdline;
pub mod disks;
pub mod dm;
pub mod ext4;
pub mod gpt;
pub mod layout;
pub mod modules;
pub mod settings;
pub mod slot;
pub mod storage;
pub mod verity;

mod console;
mod devices;
mod disk_setup;
mod failure;
mod node_state;
mod persist;
mod root;
mod search;
mod shared;
mod start;
mod switch;
mod var;

use std::convert::Infallible;
use std::fs;
use std::panic;
use std::path::Path;
use std::process::ExitCode;
use std::thread::{self, JoinHandle};

use rustix::process::getpid;
use rustix::system::uname;
use serde::Serialize;

use crate::status::Code;
use disk_setup::Ready;
use failure::Failure;
use modules::Modules;
use slot::Slot;

/// Where the new root is mounted in the initrd.
const ROOT: &str = "/sysroot";
/// Where the state partition is mounted until what the image brings is on it.
const VAR: &str = "/newvar";
/// The program that the kernel runs when it wants a module.
const MODPROBE: &str = "/proc/sys/kernel/modprobe";

/// Runs stage1. As process 1 it does not return; as the kernel's module helper it loads one module; in any other
/// place it refuses to do anything.
pub fn main() -> ExitCode {
    if getpid().is_init() {
        run_as_init()
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // The kernel calls its helper so.
    if let ["-q", "--", name] = arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        return load_for_kernel(name);
    }
    console::note("stage1 is the init of an Ingot initrd; it does nothing anywhere else");
    ExitCode::from(2)
}

fn run_as_init() -> ! {
    panic::set_hook(Box::new(|info| console::note(&format!("internal error: {info}"))));
    let outcome = panic::catch_unwind(boot);
    let failure = match outcome {
        Ok(Err(failure)) => failure,
        Ok(Ok(never)) => match never {},
        Err(_) => Failure { code: Code::Stage1Failed, text: "internal error, see the line above".to_owned() },
    };
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    failure::give_up(&failure, cmdline::after_failure(&line))
}

/// The kernel asks for modules by name while it mounts or sets up a device: a filesystem, a hash, a character set.
fn load_for_kernel(name: &str) -> ExitCode {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let loaded = Modules::of_running_kernel(&line).load(name);
    if loaded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The boot, step by step.
fn boot() -> Result<Infallible, Failure> {
    start::mount_kernel_filesystems().map_err(Failure::of(Code::Stage1Failed))?;
    start::open_console();
    let line = fs::read_to_string("/proc/cmdline").map_err(Failure::of(Code::Stage1Failed))?;
    if cmdline::wants_debug(&line) {
        console::show_details();
    }
    console::status(Code::Stage1Started, &format!("Linux {}", uname().release().to_string_lossy()));
    let command_line = cmdline::parse(&line).map_err(Failure::of(Code::Stage1Failed))?;
    let settings = settings::read(Path::new(settings::PATH)).map_err(Failure::of(Code::Stage1Failed))?;
    start::set_clock_floor(settings.build_time);

    let mut modules = Modules::of_running_kernel(&line);
    let kernels_own_helper = become_module_helper();
    let loader = load_meanwhile(modules.clone(), settings.load.clone());
    start::mount_firmware_variables(&mut modules);

    let slot = search::find_slot(&mut modules, &command_line)?;
    console::status(
        Code::DiskFound,
        &format!("{}, slot {}, {} {}", slot.disk.name, slot.letter, settings.image.role, settings.image.version),
    );
    let ready = disk_setup::prepare(&slot, settings.slot_bytes).map_err(Failure::of(Code::VarFailed))?;
    // A node without state needs a medium with its configuration, most often a USB stick. A stick takes its time to
    // answer; that runs while the system starts.
    let media = ready.first_boot.then(|| load_for_media(modules));

    loader.join().map_err(|_| Failure { code: Code::Stage1Failed, text: "loading modules failed".to_owned() })?;
    let root = Path::new(ROOT);
    mount_root(&slot, &ready, &command_line, root)?;
    mount_var(&slot, &ready, root, &settings.image.id)?;
    for gave_way in node_state::overlay_etc(root).map_err(Failure::of(Code::SwitchFailed))? {
        console::note(&gave_way);
    }
    persist::bind_persistent(root).map_err(Failure::of(Code::VarFailed))?;
    leave_word(&slot, &ready).map_err(Failure::of(Code::SwitchFailed))?;

    if let Some(media) = media {
        // Whatever went wrong there, the system's udev tries again.
        let _ = media.join();
    }
    if let Some(helper) = kernels_own_helper {
        // The system's own modprobe from here on; if this fails, so does every automatic load, visibly.
        let _ = fs::write(MODPROBE, helper);
    }
    console::status(Code::SwitchingRoot, &format!("{:.1} s after the kernel's start", start::uptime()));
    switch::into_root(root).map_err(Failure::of(Code::SwitchFailed))
}

/// Loads the modules that the root needs while the disk is searched for.
fn load_meanwhile(mut modules: Modules, names: Vec<String>) -> JoinHandle<()> {
    thread::spawn(move || {
        for name in names {
            if !modules.load(&name) {
                console::note(&format!("module {name} is not in the initrd, or does not load"));
            }
        }
    })
}

/// Loads the drivers of USB controllers and of disks behind them.
fn load_for_media(mut modules: Modules) -> JoinHandle<()> {
    thread::spawn(move || {
        for alias in devices::aliases_below(Path::new("/sys/devices")) {
            if devices::is_usb_controller(&alias) {
                modules.load_for_device(&alias);
            }
        }
        for name in ["usb_storage", "uas", "sd_mod"] {
            modules.load(name);
        }
    })
}

/// Makes this program the one that the kernel runs to load a module; gives the one that it was before.
fn become_module_helper() -> Option<String> {
    let before = fs::read_to_string(MODPROBE).ok()?;
    fs::write(MODPROBE, "/init\n").ok()?;
    Some(before)
}

fn mount_root(slot: &Slot, ready: &Ready, line: &cmdline::CommandLine, root: &Path) -> Result<(), Failure> {
    let device = |number| disk_setup::device(&slot.disk, &ready.table, number).map_err(Failure::of(Code::Stage1Failed));
    let (data, hashes) = (device(slot.root)?, device(slot.verity)?);
    root::mount_verified(slot, &data, &hashes, line.root_hash, line.verify_all, root)?;
    let extent = if line.verify_all { "all of it checked" } else { "checked when it is read" };
    console::status(Code::RootVerified, &format!("{}, {extent}", data.node.display()));
    Ok(())
}

fn mount_var(slot: &Slot, ready: &Ready, root: &Path, image_id: &str) -> Result<(), Failure> {
    let failed = |text: String| Failure { code: Code::VarFailed, text };
    let number = ready.table.named("var").map(|(number, _)| number);
    let number = number.ok_or_else(|| failed("the disk has no partition var".to_owned()))?;
    let device = disk_setup::device(&slot.disk, &ready.table, number).map_err(Failure::of(Code::VarFailed))?;
    let prepared = var::mount_prepared(&device.node, Path::new(VAR), root).map_err(Failure::of(Code::VarFailed))?;
    let brought = node_state::bring_image_state(&root.join("var"), Path::new(VAR), image_id)
        .map_err(Failure::of(Code::VarFailed))?;
    rustix::mount::mount_move(VAR, root.join("var"))
        .map_err(|error| failed(format!("moving {} to /var: {error}", device.node.display())))?;
    let done: Vec<String> = [
        prepared.made.then(|| "made".to_owned()),
        prepared.checked.then(|| "checked".to_owned()),
        (prepared.grown || ready.grown).then(|| "grown".to_owned()),
        (brought > 0).then(|| format!("{brought} files of the image brought")),
    ]
    .into_iter()
    .flatten()
    .collect();
    let done = if done.is_empty() { String::new() } else { format!(", {}", done.join(", ")) };
    console::status(Code::VarReady, &format!("{}, {} MiB{done}", device.node.display(), device.length >> 20));
    Ok(())
}

/// What `/run/ingot/stage1.json` says.
#[derive(Debug, Serialize)]
struct Word<'a> {
    disk: &'a Path,
    slot: char,
    esp: Option<&'a Path>,
    esp_partuuid: Option<String>,
    first_boot: bool,
}

/// Writes `/run/ingot/stage1.json` for the system.
fn leave_word(slot: &Slot, ready: &Ready) -> std::io::Result<()> {
    let esp = ready.table.partitions().find(|(_, partition)| partition.kind == gpt::TYPE_ESP);
    let esp_node = esp.and_then(|(number, _)| slot.disk.partition(number)).map(|device| device.node);
    let word = Word {
        disk: &slot.disk.node(),
        slot: slot.letter,
        esp: esp_node.as_deref(),
        esp_partuuid: esp.map(|(_, partition)| partition.id.to_string()),
        first_boot: ready.first_boot,
    };
    fs::create_dir_all("/run/ingot")?;
    fs::write("/run/ingot/stage1.json", serde_json::to_vec(&word)?)
}
