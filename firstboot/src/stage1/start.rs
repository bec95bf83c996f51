//! The first steps of process 1: the kernel's own filesystems, the console, the clock.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::mount::{MountFlags, mount};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use super::console;
use super::modules::Modules;

/// Where the firmware's variables are.
const EFI: &str = "/sys/firmware/efi";

/// Mounts `/proc`, `/sys`, `/dev` and `/run`.
pub fn mount_kernel_filesystems() -> io::Result<()> {
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for (kind, target, flags, options) in [
        ("proc", "/proc", safe, c""),
        ("sysfs", "/sys", safe, c""),
        // The flags that systemd would use; it takes what it finds mounted.
        ("devtmpfs", "/dev", MountFlags::NOSUID, c"mode=755"),
        ("tmpfs", "/run", MountFlags::NOSUID | MountFlags::NODEV, c"mode=755,size=20%,nr_inodes=800k"),
    ] {
        if let Err(error) = DirBuilder::new().recursive(true).mode(0o755).create(target) {
            return Err(io::Error::new(error.kind(), format!("making {target}: {error}")));
        }
        match mount(kind, target, kind, flags, options) {
            // The kernel mounts devtmpfs itself when it is told so.
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(error) => {
                let error = io::Error::from(error);
                return Err(io::Error::new(error.kind(), format!("mounting {kind} on {target}: {error}")));
            }
        }
    }
    Ok(())
}

/// Makes the console standard input, output and error, wherever the kernel had to do without it, and lets the
/// kernel log take all lines.
pub fn open_console() {
    if let Ok(console) = OpenOptions::new().read(true).write(true).open("/dev/console") {
        // Each of these can only fail when the descriptor is bad, and then nothing better is at hand.
        let _ = rustix::stdio::dup2_stdin(&console);
        let _ = rustix::stdio::dup2_stdout(&console);
        let _ = rustix::stdio::dup2_stderr(&console);
    }
    // Best effort: it is refused where the command line says otherwise.
    let _ = fs::write("/proc/sys/kernel/printk_devkmsg", "on\n");
}

/// Mounts the firmware's variables where there are any. Without them the boot disk is found by content alone.
pub fn mount_firmware_variables(modules: &mut Modules) {
    if !Path::new(EFI).is_dir() {
        return;
    }
    modules.load("efivarfs");
    let target = Path::new(EFI).join("efivars");
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    if let Err(error) = mount("efivarfs", &target, "efivarfs", flags, None) {
        console::detail(&format!("no firmware variables: {error}"));
    }
}

/// Sets the clock to the image's build time when it is before: certificates and logs need a plausible time, and a
/// machine with an empty battery starts in 1970.
pub fn set_clock_floor(build_time: u64) {
    let Ok(floor) = i64::try_from(build_time) else { return };
    if clock_gettime(ClockId::Realtime).tv_sec < floor {
        match clock_settime(ClockId::Realtime, Timespec { tv_sec: floor, tv_nsec: 0 }) {
            Ok(()) => console::detail("the clock was before the image's build time and is set to it"),
            Err(error) => console::detail(&format!("the clock cannot be set: {error}")),
        }
    }
}

/// Seconds since the kernel started.
pub fn uptime() -> f64 {
    let now = clock_gettime(ClockId::Boottime);
    // Precise to a millisecond for centuries.
    #[allow(clippy::cast_precision_loss)]
    let (seconds, nanoseconds) = (now.tv_sec as f64, now.tv_nsec as f64);
    seconds + nanoseconds / 1e9
}
