//! The screen at the rack: what this machine is, what it waits for, since when, when it tries again, what failed.
//!
//! Takes the status; gives at most 24 lines of 79 ASCII characters, so that a screen of 80 by 25 never scrolls. It is
//! drawn on the first virtual console only, when something on it has changed; a countdown changes it every second. The
//! kernel writes its errors to the same console, so every ten seconds it is drawn anew in any case. Serial consoles stay
//! with one line for each state. Writing never blocks: what the console does not take is drawn the next time.

use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::{Node, Reporter, Status, uptime_ms};
use crate::clock::civil::Civil;
use crate::host::{Host, InterfaceAddress};
use crate::report::Moment;
use crate::status::Severity;

/// The console that a person sees who plugs in a screen.
const CONSOLE: &str = "/dev/tty1";
const WIDTH: usize = 79;
/// What a state is seen by from three steps away: bright on the colour of its kind. The word says the same.
const COLOURS: [(&str, &str); 4] =
    [("WORKING: ", "1;37;44"), ("WAITING: ", "30;43"), ("READY: ", "30;42"), ("FAILED: ", "1;37;41")];
/// How often the addresses are looked at, and what the kernel has written over it is wiped, while nothing else happens.
const LOOK: Duration = Duration::from_secs(10);

/// What the screen shows; the same for the same arguments. `node` counts while there is no status.
pub fn render(status: Option<&Status>, node: &Node, addresses: &[InterfaceAddress], uptime_ms: u64) -> Vec<String> {
    let mut screen = Screen::default();
    let node = status.map_or(node, |status| &status.node);
    let or = |text: &str, otherwise: &str| if text.is_empty() { otherwise.to_owned() } else { text.to_owned() };
    let left = format!(" Ingot  {} {}", node.role, node.version);
    // As much of the image's identity as there is room for, and not half a word of it.
    let room = WIDTH.saturating_sub(left.chars().count() + 3);
    let right = [36, 18, 8].iter().find(|length| **length <= room).map_or("", |length| cut(&node.image, *length));
    screen.line(&format!("{left:<0$}{right} ", WIDTH.saturating_sub(right.len() + 1)));
    screen.rule();
    screen.field("Host name", &or(&node.hostname, "(none yet)"), 1);
    screen.field("Serial", node.serial.as_deref().unwrap_or("(the firmware has none)"), 1);
    screen.field("MAC", &or(&node.macs.join(", "), "(no network card)"), 1);
    let all: Vec<String> = addresses.iter().map(|found| format!("{} {}", found.interface, found.address)).collect();
    screen.field("Addresses", &or(&all.join(", "), "(none)"), 2);
    screen.rule();
    let Some(status) = status else {
        screen.line(" WORKING: looking for the configuration");
        screen.text(" ", "media are waited for, up to a minute; then the node says what it lacks", 2);
        screen.field("To do", "plug in a volume labelled INGOT with node.toml, or one labelled CIDATA", 3);
        return screen.lines;
    };
    let kind = match status.code.severity() {
        Severity::Progress => "WORKING",
        Severity::Waiting => "WAITING",
        Severity::Success => "READY",
        Severity::Failure => "FAILED",
    };
    screen.line(&format!(" {kind}: {} {}", status.code, status.name));
    screen.text(" ", status.code.cause(), 2);
    screen.text("   ", &status.text, 4);
    screen.field("Since", &format!("{}{}", Civil::of(status.since), ago(status, uptime_ms)), 1);
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
    // The present one stands above.
    let present = |moment: &Moment| moment.code == status.code && moment.text == status.text;
    let failures: Vec<_> =
        status.history.iter().filter(|moment| moment.code.is_failure() && !present(moment)).collect();
    let room = 24_usize.saturating_sub(screen.lines.len() + 2 + 2 * delivered.len());
    if !failures.is_empty() && room > 0 {
        screen.rule();
        screen.line(" Last failures");
        for moment in failures.iter().rev().take(room.min(4)) {
            let time = Civil::of(moment.at).time_of_day();
            screen.cut_line(&format!("   {time}  {} {}: {}", moment.code, moment.name, moment.text));
        }
    }
    for (name, text) in delivered {
        screen.field(name, text, 2);
    }
    screen.lines.truncate(24);
    screen.lines
}

/// How long the node has been in its state, in words, by a clock that never jumps.
fn ago(status: &Status, uptime_ms: u64) -> String {
    let same = status.history.iter().rev().take_while(|moment| moment.code == status.code);
    let minutes = same.last().map_or(0, |moment| uptime_ms.saturating_sub(moment.uptime_ms) / 60_000);
    match minutes {
        0 => String::new(),
        1..120 => format!(", {minutes} min ago"),
        _ => format!(", {} h ago", minutes / 60),
    }
}

/// The beginning of an ASCII text; of another one, nothing.
fn cut(text: &str, length: usize) -> &str {
    text.get(..length.min(text.len())).unwrap_or_default().trim_end_matches('-')
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

    /// One line, with dots where more would follow.
    fn cut_line(&mut self, text: &str) {
        if text.chars().count() > WIDTH {
            self.line(&text.chars().take(WIDTH - 3).chain("...".chars()).collect::<String>());
        } else {
            self.line(text);
        }
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
    // No colours that something else has left; never blank (console_codes(4)), because nobody has a keyboard at hand; no
    // cursor; from the top left; each line to its end; what is below goes.
    let mut frame = String::from("\u{1b}[m\u{1b}[9;0]\u{1b}[?25l\u{1b}[H");
    for line in lines {
        let colour = COLOURS.iter().find(|(kind, _)| line.strip_prefix(' ').is_some_and(|line| line.starts_with(kind)));
        match colour {
            Some((_, colour)) => frame.push_str(&format!("\u{1b}[{colour}m{line}\u{1b}[m")),
            None => frame.push_str(line),
        }
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
    let mut drawn: (Vec<String>, u64) = (Vec::new(), 0);
    let mut wait = Duration::ZERO;
    loop {
        let snapshot = reporter.follow(seen, wait);
        seen = snapshot.number;
        let now = uptime_ms();
        // Cards may appear late, so the machine is looked at again and again until a status has it.
        let node = if snapshot.status.is_none() { Node::of(host) } else { Node::default() };
        let lines = render(snapshot.status.as_ref(), &node, &host.addresses().unwrap_or_default(), now);
        if is_due(&drawn, &lines, now) && write(&frame(&lines)) {
            drawn = (lines, now);
        }
        // Not where it is only closed: whether the stick may be pulled out is known a moment after the goal.
        if snapshot.abandoned {
            return;
        }
        let next = snapshot.status.as_ref().and_then(|status| status.next_try_uptime_ms);
        let soon = next.is_some_and(|at| at > now) || snapshot.status.is_none();
        wait = if soon { Duration::from_secs(1) } else { LOOK };
    }
}

/// True where the lines are others than those that were drawn, or were drawn so long ago that something may lie over
/// them.
fn is_due((lines, at): &(Vec<String>, u64), new: &[String], now: u64) -> bool {
    lines != new || u128::from(now.saturating_sub(*at)) >= LOOK.as_millis()
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
