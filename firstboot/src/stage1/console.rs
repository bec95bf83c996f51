//! What stage1 says, and where: every console that the kernel has, and the kernel's log.
//!
//! `/dev/console` is only the last `console=` of the command line, so a status line written there is missing on the
//! screen or on the serial line. Here each active console gets it, and `/dev/kmsg` at debug level, so that the
//! journal has it later and the consoles do not show it twice.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;

use crate::status::Code;

static DEBUG: AtomicBool = AtomicBool::new(false);

/// Shows details on the consoles as well (`ingot.debug`).
pub fn show_details() {
    DEBUG.store(true, Ordering::Relaxed);
}

/// Prints a status line.
pub fn status(code: Code, text: &str) {
    let line = code.line(text);
    to_kernel_log(&line);
    to_consoles(&line);
}

/// Prints a line that belongs to the state last named: progress, or what to do.
pub fn note(text: &str) {
    let line = plain(text);
    to_kernel_log(&line);
    to_consoles(&line);
}

/// Logs a detail; it is on the consoles only with `ingot.debug`.
pub fn detail(text: &str) {
    let line = plain(text);
    to_kernel_log(&line);
    if DEBUG.load(Ordering::Relaxed) {
        to_consoles(&line);
    }
}

/// One line, without control characters, however hostile the names in it.
fn plain(text: &str) -> String {
    let text: String = text.trim().chars().take(900).map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("ingot: {text}")
}

fn to_kernel_log(line: &str) {
    // Without the log there is still the console; nothing can be done about it here.
    if let Ok(mut log) = OpenOptions::new().write(true).open("/dev/kmsg") {
        let _ = log.write_all(format!("<7>{line}\n").as_bytes());
    }
}

fn to_consoles(line: &str) {
    let line = format!("{line}\n");
    let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let mut written = false;
    for name in active.split_whitespace() {
        let console = OpenOptions::new()
            .write(true)
            .custom_flags((OFlags::NOCTTY | OFlags::NONBLOCK).bits().cast_signed())
            .open(format!("/dev/{name}"));
        if let Ok(mut console) = console {
            written |= write_patiently(&mut console, line.as_bytes());
        }
    }
    if !written {
        // Before /sys and /dev are there: the console that the kernel opened for its init.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

/// Writes to a terminal without blocking: a serial line that is stopped by flow control must not stop the boot.
fn write_patiently(console: &mut File, mut bytes: &[u8]) -> bool {
    for _ in 0..200 {
        match console.write(bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(5)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
        if bytes.is_empty() {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_name_cannot_forge_a_line() {
        let line = plain("disk \u{1b}[2J\ningot: FB-500 joined: x");
        assert!(!line.contains(['\n', '\u{1b}']));
        assert!(plain(&"x".repeat(5000)).len() < 1000);
    }
}
