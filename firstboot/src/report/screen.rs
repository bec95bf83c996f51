//! The screen at the rack: what this machine is, what it waits for, since when, when it tries again, what failed.
//!
//! Takes the status; gives at most 24 lines of 79 ASCII characters, so that a screen of 80 by 25 never scrolls. It is
//! drawn on the first virtual console only, when something on it has changed; a countdown changes it every second.
//! Serial consoles stay with one line for each state. Writing never blocks: what the console does not take is drawn
//! the next time.

use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::{Reporter, Status, uptime_ms};
use crate::clock::civil::Civil;
use crate::host::{Host, InterfaceAddress};
use crate::status::Severity;

/// The console that a person sees who plugs in a screen.
const CONSOLE: &str = "/dev/tty1";
const WIDTH: usize = 79;
/// How often the addresses are looked at while nothing else happens.
const LOOK: Duration = Duration::from_secs(10);

/// What the screen shows; the same for the same arguments.
pub fn render(status: Option<&Status>, addresses: &[InterfaceAddress], uptime_ms: u64) -> Vec<String> {
    let mut screen = Screen::default();
    let Some(status) = status else {
        screen.line(" Ingot");
        screen.rule();
        screen.line(" Starting: the service has not said anything yet.");
        return screen.lines;
    };
    let node = &status.node;
    let or = |text: &str, otherwise: &str| if text.is_empty() { otherwise.to_owned() } else { text.to_owned() };
    let left = format!(" Ingot  {} {}", node.role, node.version);
    let right = node.image.chars().take(36).collect::<String>();
    screen.line(&format!("{left:<0$}{right} ", WIDTH.saturating_sub(right.len() + 1)));
    screen.rule();
    screen.field("Host name", &or(&node.hostname, "(none yet)"), 1);
    screen.field("Serial", node.serial.as_deref().unwrap_or("(the firmware has none)"), 1);
    screen.field("MAC", &or(&node.macs.join(", "), "(no network card)"), 1);
    let all: Vec<String> = addresses.iter().map(|found| format!("{} {}", found.interface, found.address)).collect();
    screen.field("Addresses", &or(&all.join(", "), "(none)"), 2);
    screen.rule();
    let kind = match status.code.severity() {
        Severity::Progress => "WORKING",
        Severity::Waiting => "WAITING",
        Severity::Success => "READY",
        Severity::Failure => "FAILED",
    };
    screen.line(&format!(" {kind}: {} {}", status.code, status.name));
    screen.text(" ", status.code.cause(), 2);
    screen.text("   ", &status.text, 4);
    screen.field("Since", &Civil::of(status.since).to_string(), 1);
    match status.next_try_uptime_ms {
        Some(at) if at > uptime_ms => {
            screen.field("Next try", &format!("in {} s", (at - uptime_ms).div_ceil(1000)), 1);
        }
        Some(_) => screen.field("Next try", "now", 1),
        None => {}
    }
    if !status.code.remedy().is_empty() {
        screen.field("To do", status.code.remedy(), 3);
    }
    let delivered: Vec<(&str, &String)> = [("Stick", "stick"), ("Report", "report")]
        .iter()
        .filter_map(|(name, key)| Some((*name, status.delivered.get(*key)?)))
        .collect();
    let failures: Vec<_> = status.history.iter().filter(|moment| moment.code.is_failure()).collect();
    let room = 24_usize.saturating_sub(screen.lines.len() + 2 + delivered.len());
    if !failures.is_empty() && room > 0 {
        screen.rule();
        screen.line(" Last failures");
        for moment in failures.iter().rev().take(room.min(4)) {
            let time = Civil::of(moment.at).time_of_day();
            screen.line(&format!("   {time}  {} {}: {}", moment.code, moment.name, moment.text));
        }
    }
    for (name, text) in delivered {
        screen.field(name, text, 1);
    }
    screen.lines.truncate(24);
    screen.lines
}

#[derive(Default)]
struct Screen {
    lines: Vec<String>,
}

impl Screen {
    /// One line, cut where it ends; what is not ASCII, or moves the cursor, becomes `?`.
    fn line(&mut self, text: &str) {
        let plain = |c: char| if c.is_ascii() && !c.is_ascii_control() { c } else { '?' };
        let line: String = text.chars().take(WIDTH).map(plain).collect();
        self.lines.push(line.trim_end().to_owned());
    }

    fn rule(&mut self) {
        self.line(&"-".repeat(WIDTH));
    }

    fn field(&mut self, name: &str, text: &str, most: usize) {
        let before = self.lines.len();
        self.text("             ", text, most);
        if let Some(first) = self.lines.get_mut(before) {
            *first = format!(" {name:<12}{}", first.trim_start());
        }
    }

    /// Words in lines, at most so many of them.
    fn text(&mut self, indent: &str, text: &str, most: usize) {
        let mut lines: Vec<String> = Vec::new();
        let width = WIDTH - indent.len();
        for word in text.split_whitespace() {
            let word: String = word.chars().take(width).collect();
            match lines.last_mut() {
                Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                    line.push(' ');
                    line.push_str(&word);
                }
                _ => lines.push(word),
            }
        }
        if lines.len() > most {
            lines.truncate(most);
            if let Some(last) = lines.last_mut() {
                *last = last.chars().take(width - 3).chain("...".chars()).collect();
            }
        }
        for line in &lines {
            self.line(&format!("{indent}{line}"));
        }
    }
}

/// The bytes that draw the lines over whatever the console shows.
fn frame(lines: &[String]) -> Vec<u8> {
    // No cursor; from the top left; each line to its end; what is below goes.
    let mut frame = String::from("\u{1b}[?25l\u{1b}[H");
    for line in lines {
        frame.push_str(line);
        frame.push_str("\u{1b}[K\r\n");
    }
    frame.push_str("\u{1b}[J");
    frame.into_bytes()
}

/// True where there is a virtual console to draw on.
pub fn exists() -> bool {
    std::path::Path::new(CONSOLE).exists()
}

/// Draws the screen until the end.
pub fn follow(reporter: &Reporter<'_>, host: &dyn Host) {
    let mut seen = 0;
    let mut drawn: Vec<String> = Vec::new();
    let mut wait = Duration::ZERO;
    loop {
        let snapshot = reporter.follow(seen, wait);
        seen = snapshot.number;
        let now = uptime_ms();
        let lines = render(snapshot.status.as_ref(), &host.addresses().unwrap_or_default(), now);
        if lines != drawn && write(&frame(&lines)) {
            drawn = lines;
        }
        if snapshot.closed || snapshot.abandoned {
            return;
        }
        let next = snapshot.status.as_ref().and_then(|status| status.next_try_uptime_ms);
        wait = if next.is_some_and(|at| at > now) { Duration::from_secs(1) } else { LOOK };
    }
}

/// True where the console took all of it.
fn write(frame: &[u8]) -> bool {
    let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(CONSOLE, flags, Mode::empty())
        .and_then(|console| rustix::io::write(&console, frame))
        .is_ok_and(|written| written == frame.len())
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
