//! Follows a guest's serial log: lines without terminal escapes, status codes with their times, panics.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

/// How often the log is looked at, and so how exact times are.
const INTERVAL: Duration = Duration::from_millis(50);

/// A line longer than this is broken: a guest may write without end.
const MAX_LINE: usize = 16 * 1024;

/// Lines kept in memory for searching; all are in the file.
const MAX_LINES: usize = 200_000;

/// A status line that a node wrote.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// The number: 500 for `FB-500`.
    pub code: u16,
    /// Its name: `joined`.
    pub name: String,
    /// The rest of the line.
    pub text: String,
    /// Seconds since the guest was switched on (for the first time).
    pub seconds: f64,
}

impl Status {
    /// Whether it tells of a failure.
    pub fn is_failure(&self) -> bool {
        (900..1000).contains(&self.code)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FB-{:03} {}", self.code, self.name)?;
        if self.text.is_empty() { Ok(()) } else { write!(f, ": {}", self.text) }
    }
}

/// What was seen so far.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The lines, oldest first, without terminal escapes.
    pub lines: Vec<String>,
    /// The status codes, oldest first; the same line seen twice (console and kernel log) counts once.
    pub states: Vec<Status>,
    /// Why the guest will not go on: a kernel panic, or firmware that finds nothing to boot.
    pub dead: Option<String>,
    rest: Vec<u8>,
    origin: Option<Instant>,
    /// Bytes of the log that are in here.
    taken: u64,
    /// Where the lines and the states since the power came on last begin.
    boot: (usize, usize),
}

impl Seen {
    /// Takes more bytes of the log, read `seconds` after the guest was switched on.
    pub fn add(&mut self, bytes: &[u8], seconds: f64) {
        self.taken += bytes.len() as u64;
        for &byte in bytes {
            if byte == b'\n' || self.rest.len() >= MAX_LINE {
                self.end_line(seconds);
            }
            if byte != b'\n' {
                self.rest.push(byte);
            }
        }
    }

    fn end_line(&mut self, seconds: f64) {
        let line = strip(&std::mem::take(&mut self.rest));
        if let Some(status) = parse_status(&line, seconds) {
            let known = |seen: &Status| seen.code == status.code && seen.text == status.text;
            if !self.recent_states().last().is_some_and(known) {
                self.states.push(status);
            }
        }
        if self.dead.is_none() {
            self.dead = parse_death(&line);
        }
        if self.lines.len() < MAX_LINES {
            self.lines.push(line);
        }
    }

    /// The last lines, with the one that is not ended yet.
    pub fn tail(&self, count: usize) -> Vec<String> {
        let mut tail: Vec<String> = self.lines[self.lines.len().saturating_sub(count)..].to_vec();
        let rest = strip(&self.rest);
        if !rest.trim().is_empty() {
            tail.push(rest);
        }
        tail
    }

    /// The line that is not ended yet: a prompt.
    pub fn unfinished(&self) -> String {
        strip(&self.rest)
    }

    /// The power comes on: times count from the first time, and what killed the guest before no longer counts.
    fn power_on(&mut self) {
        self.origin.get_or_insert_with(Instant::now);
        self.dead = None;
        self.rest.clear();
        self.boot = (self.lines.len(), self.states.len());
    }

    /// The lines since the power came on last.
    pub fn recent_lines(&self) -> &[String] {
        &self.lines[self.boot.0..]
    }

    /// The status codes since the power came on last.
    pub fn recent_states(&self) -> &[Status] {
        &self.states[self.boot.1..]
    }

    /// Seconds since the power came on first, to the millisecond.
    fn seconds(&self) -> f64 {
        self.origin.map_or(0.0, |origin| (origin.elapsed().as_secs_f64() * 1000.0).round() / 1000.0)
    }
}

/// Text without terminal escapes and control characters (tabs stay).
pub fn strip(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\x1b' {
            if c == '\t' || !c.is_control() {
                out.push(c);
            }
            continue;
        }
        match chars.next() {
            // CSI: parameters and intermediates up to a final byte.
            Some('[') => while chars.next().is_some_and(|c| !('\x40'..='\x7e').contains(&c)) {},
            // OSC, DCS, APC, PM, SOS: up to BEL or ESC \.
            Some(']' | 'P' | '_' | '^' | 'X') => {
                while let Some(c) = chars.next() {
                    if c == '\x07' || (c == '\x1b' && chars.next_if_eq(&'\\').is_some()) {
                        break;
                    }
                }
            }
            // Character set selection has one more.
            Some('(' | ')' | '*' | '+' | '#' | '%') => drop(chars.next()),
            _ => {}
        }
    }
    out
}

/// `ingot: FB-500 joined: text`, wherever in the line it begins (the kernel log puts a time in front).
pub fn parse_status(line: &str, seconds: f64) -> Option<Status> {
    let rest = line.split_once("ingot: FB-")?.1;
    let (digits, rest) = rest.split_at_checked(3)?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let rest = rest.strip_prefix(' ')?;
    let (name, text) = rest.split_once(':').unwrap_or((rest, ""));
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return None;
    }
    Some(Status { code: digits.parse().ok()?, name: name.to_owned(), text: text.trim().to_owned(), seconds })
}

fn parse_death(line: &str) -> Option<String> {
    if line.contains("BdsDxe: starting") && line.contains("EFI Internal Shell") {
        return Some("the firmware found no system to boot on the disk and started its shell".to_owned());
    }
    let marks = ["Kernel panic - not syncing", "BdsDxe: No bootable option or device was found"];
    let start = marks.iter().find_map(|mark| line.find(mark))?;
    Some(line[start..].trim_end().to_owned())
}

/// A log that is being followed. Dropping it stops that.
#[derive(Debug)]
pub struct Console {
    path: PathBuf,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Console {
    /// Follows the log at `path`, which need not exist yet.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn follow(path: &Path) -> std::io::Result<Self> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("console".into()).spawn({
            let (path, seen, stop) = (path.to_owned(), Arc::clone(&seen), Arc::clone(&stop));
            move || read_on(&path, &seen, &stop)
        })?;
        Ok(Self { path: path.to_owned(), seen, stop, thread: Some(thread) })
    }

    /// What was seen so far.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// The log.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The guest is switched on now: its times count from the first time that it is.
    pub fn power_on(&self) {
        // What the log has already belongs to the time before; it is read within two intervals.
        let deadline = Instant::now() + Duration::from_secs(2);
        let length = std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len());
        while self.seen().taken < length && Instant::now() < deadline {
            std::thread::sleep(INTERVAL);
        }
        self.seen().power_on();
    }

    /// Reads what is left and stops following.
    pub fn finish(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic; what it saw stays readable either way.
            drop(thread.join());
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A panic while the lock is held leaves nothing half-done that matters here.
fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_on(path: &Path, seen: &Mutex<Seen>, stop: &AtomicBool) {
    let mut file = None;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // Asked before reading, so that what was written before the stop is still read.
        let last = stop.load(Ordering::Relaxed);
        if file.is_none() {
            file = File::open(path).ok();
        }
        if let Some(file) = &mut file {
            while let Ok(count @ 1..) = file.read(&mut buffer) {
                let mut seen = lock(seen);
                let seconds = seen.seconds();
                seen.add(&buffer[..count], seconds);
            }
        }
        if last {
            return;
        }
        std::thread::sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn status_lines_are_found_wherever_they_stand() {
        let mut seen = Seen::default();
        seen.add(b"\x1b[2J\x1b[01;01Hingot: FB-010 stage1-started: version 1\r\n[    4.2] ingot: FB-5", 1.0);
        seen.add(b"00 joined: cluster x: 2 nodes\r\ningot: FB-500 joined: cluster x: 2 nodes\n", 2.0);
        seen.add(b"ingot: FB-1x0 no: x\ningot: FB-10\ningot: FB-999 Bad Name: x\ningot: FB-510 ready-no-join\n", 3.0);
        let got: Vec<String> = seen.states.iter().map(|s| format!("{} {s}", s.seconds)).collect();
        assert_eq!(
            got,
            ["1 FB-010 stage1-started: version 1", "2 FB-500 joined: cluster x: 2 nodes", "3 FB-510 ready-no-join"]
        );
    }

    #[test]
    fn a_panic_is_recognised_and_forgotten_when_the_power_comes_back() {
        let mut seen = Seen::default();
        seen.add(b"ingot: FB-050 switching-root: x\n[    1.0] Kernel panic - not syncing: VFS: no root\r\n", 1.0);
        assert_eq!(seen.dead.as_deref(), Some("Kernel panic - not syncing: VFS: no root"));
        assert_eq!(seen.recent_states().len(), 1);
        seen.power_on();
        assert_eq!(seen.dead, None);
        assert!(seen.recent_states().is_empty() && seen.recent_lines().is_empty());
        assert_eq!(seen.states.len(), 1);
    }

    #[test]
    fn escapes_go_and_text_stays() {
        assert_eq!(strip(b"a\x1b[1;31mred\x1b[0m\x1b]0;title\x07b\x1b(Bc\x1bM\td\r\x1b[="), "aredbc\td");
    }

    #[test]
    fn the_tail_has_the_unfinished_line() {
        let mut seen = Seen::default();
        seen.add(b"one\ntwo\nlogin: ", 0.0);
        assert_eq!(seen.tail(1), ["two", "login: "]);
    }

    #[test]
    fn a_file_is_followed_from_before_it_exists() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut console = Console::follow(&path).unwrap();
        std::fs::write(&path, "ingot: FB-110 waiting-for-config: none\n").unwrap();
        console.finish();
        assert_eq!(console.seen().states.len(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_give_lines_without_control_characters(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..8)
        ) {
            let mut seen = Seen::default();
            for piece in &pieces {
                seen.add(piece, 0.0);
            }
            prop_assert!(seen.tail(1000).iter().all(|line| line.chars().all(|c| c == '\t' || !c.is_control())));
            let mut whole = Seen::default();
            whole.add(&pieces.concat(), 0.0);
            prop_assert_eq!(seen.lines, whole.lines);
        }

        #[test]
        fn status_survives_what_is_around_it(code in 0_u16..1000, text in "[ -~]{0,40}", before in "[ -9;-~]{0,20}") {
            let status = parse_status(&format!("{before}ingot: FB-{code:03} some-name: {text}"), 0.0).unwrap();
            prop_assert_eq!(status.code, code);
            prop_assert_eq!(status.text, text.trim());
        }
    }
}
