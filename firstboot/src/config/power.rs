//! `[power]`: what becomes of the machine once it is at its goal.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::fields::Fields;
use super::problem::Findings;
use super::tree::Node;

/// A longer delay than a week is a mistake.
const MAXIMUM_MINUTES: i64 = 7 * 24 * 60;

/// What happens, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Power {
    /// What.
    pub mode: PowerMode,
    /// How long after the goal, in minutes.
    pub delay: u32,
}

impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.delay {
            0 => write!(f, "{}, once", self.mode),
            1 => write!(f, "{} after 1 minute, once", self.mode),
            minutes => write!(f, "{} after {minutes} minutes, once", self.mode),
        }
    }
}

/// What happens; the words are systemctl's too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerMode {
    /// It is switched off.
    Poweroff,
    /// It starts again.
    Reboot,
    /// It stops and stays on.
    Halt,
}

impl fmt::Display for PowerMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PowerMode::Poweroff => "poweroff",
            PowerMode::Reboot => "reboot",
            PowerMode::Halt => "halt",
        })
    }
}

impl Serialize for PowerMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for PowerMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "poweroff" => Ok(PowerMode::Poweroff),
            "reboot" => Ok(PowerMode::Reboot),
            "halt" => Ok(PowerMode::Halt),
            _ => Err("is none of \"poweroff\", \"reboot\" and \"halt\"".into()),
        }
    }
}

/// Reads `[power]`.
pub fn read(node: &Node, findings: &mut Findings) -> Option<Power> {
    let fields = Fields::new(node, "power", findings)?;
    let mode = fields.parsed("mode", findings);
    if fields.entry("mode").is_none() {
        fields.missing("mode", "say what: mode = \"reboot\"", findings);
    }
    let minutes = fields.integer("delay", 0..=MAXIMUM_MINUTES, findings);
    let delay = if fields.entry("delay").is_none() { Some(0) } else { minutes };
    Some(Power { mode: mode?, delay: u32::try_from(delay?).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Document, Format, Machine, load};

    fn power(text: &str) -> Result<Option<Power>, String> {
        let bytes = format!("version = 1\n{text}").into_bytes();
        let document = Document { name: "f".into(), format: Format::NodeToml, bytes };
        load(&[document], &Machine::default()).map(|loaded| loaded.config.power).map_err(|error| error.to_string())
    }

    #[test]
    fn a_mode_and_its_delay() {
        assert_eq!(power(""), Ok(None));
        for (text, expected) in [
            ("mode = \"reboot\"", "reboot, once"),
            ("mode = \"poweroff\"\ndelay = 1", "poweroff after 1 minute, once"),
            ("mode = \"halt\"\ndelay = 10080", "halt after 10080 minutes, once"),
        ] {
            assert_eq!(power(&format!("[power]\n{text}\n")).unwrap().unwrap().to_string(), expected);
        }
        for (text, expected) in [
            ("", "power.mode: is missing"),
            ("mode = \"suspend\"", "f:3:8: power.mode: \"suspend\": is none of \"poweroff\""),
            ("mode = \"halt\"\ndelay = 10081", "power.delay"),
            ("mode = \"halt\"\ndelay = -1", "power.delay"),
            ("mode = \"halt\"\nwhen = 1", "power.when: unknown key"),
        ] {
            let error = power(&format!("[power]\n{text}\n")).unwrap_err();
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }
}
