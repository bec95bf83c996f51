//! The kernel command line: splitting as the kernel does it, and the settings that stage1 takes from it.
//!
//! | Parameter | Meaning |
//! |---|---|
//! | `roothash=HEX` | the dm-verity root hash of the root to boot, 64 hexadecimal digits; required |
//! | `panic=N` | seconds from a failure to the reboot; 0 waits for ever, negative reboots at once; 60 when absent |
//! | `ingot.timeout=N` | seconds to wait for the disk; 120 when absent |
//! | `ingot.verify=full` | check every block of the root before it is used |
//! | `ingot.debug` | show details on the console |
//! | `modprobe.blacklist=A,B` | modules that are not loaded for a device |
//! | `MODULE.NAME=VALUE` | parameter of a module |

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use thiserror::Error;

/// The command line cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommandLineError {
    /// There is no `roothash=`.
    #[error("the kernel command line has no roothash=: boot the image's own boot entry")]
    NoRootHash,
    /// The root hash is not 64 hexadecimal digits.
    #[error("roothash={0} is not 64 hexadecimal digits")]
    BadRootHash(String),
    /// A value is not one of those known.
    #[error("{key}={value}: expected {expected}")]
    BadValue {
        /// The parameter.
        key: &'static str,
        /// What stands there.
        value: String,
        /// What may stand there.
        expected: &'static str,
    },
}

/// What follows a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterFailure {
    /// The message stays on the screen.
    Wait,
    /// The machine reboots after this time, so that boot counting can choose the other slot.
    Reboot(Duration),
}

/// The settings that stage1 takes from the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// The root hash.
    pub root_hash: [u8; 32],
    /// How long to wait for the disk.
    pub timeout: Duration,
    /// Check the whole root.
    pub verify_all: bool,
    /// Modules not loaded for devices, with `_` for `-`.
    pub blacklist: BTreeSet<String>,
    /// Parameters by module, ready for `finit_module`.
    pub module_parameters: BTreeMap<String, String>,
}

/// Splits a command line at white space outside double quotes; the quotes around a value (`a="b c"`) or a whole
/// parameter (`"a=b c"`) are removed, as the kernel's own parser does.
pub fn split(line: &str) -> Vec<(String, Option<String>)> {
    let mut parameters = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let mut quoted = false;
        let end = rest
            .char_indices()
            .find(|&(_, c)| {
                quoted ^= c == '"';
                !quoted && c.is_whitespace()
            })
            .map_or(rest.len(), |(index, _)| index);
        let (word, tail) = rest.split_at(end);
        rest = tail.trim_start();
        let word = word.strip_prefix('"').map_or(word, |inner| inner.strip_suffix('"').unwrap_or(inner));
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => {
                let value = value.strip_prefix('"').map_or(value, |inner| inner.strip_suffix('"').unwrap_or(inner));
                (key, Some(value.to_owned()))
            }
            None => (word, None),
        };
        parameters.push((key.to_owned(), value));
    }
    parameters
}

/// The last value of a parameter, as the kernel takes it.
fn last<'a>(parameters: &'a [(String, Option<String>)], key: &str) -> Option<&'a str> {
    parameters.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_deref().unwrap_or(""))
}

/// Whether `ingot.debug` is given.
pub fn wants_debug(line: &str) -> bool {
    last(&split(line), "ingot.debug").is_some_and(|value| !matches!(value, "0" | "no" | "false"))
}

/// What `panic=` asks for.
pub fn after_failure(line: &str) -> AfterFailure {
    const DEFAULT: AfterFailure = AfterFailure::Reboot(Duration::from_mins(1));
    match last(&split(line), "panic").map(str::parse::<i64>) {
        None | Some(Err(_)) => DEFAULT,
        Some(Ok(0)) => AfterFailure::Wait,
        Some(Ok(seconds)) => AfterFailure::Reboot(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))),
    }
}

/// Reads the settings.
pub fn parse(line: &str) -> Result<CommandLine, CommandLineError> {
    let parameters = split(line);
    let hash = last(&parameters, "roothash").ok_or(CommandLineError::NoRootHash)?;
    let root_hash = hex(hash)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| CommandLineError::BadRootHash(hash.chars().take(80).collect()))?;
    let timeout = match last(&parameters, "ingot.timeout") {
        None => Duration::from_mins(2),
        Some(value) => {
            Duration::from_secs(value.parse::<u32>().map(u64::from).map_err(|_| CommandLineError::BadValue {
                key: "ingot.timeout",
                value: value.to_owned(),
                expected: "a number of seconds",
            })?)
        }
    };
    let verify_all = match last(&parameters, "ingot.verify") {
        None | Some("lazy") => false,
        Some("full") => true,
        Some(value) => {
            return Err(CommandLineError::BadValue {
                key: "ingot.verify",
                value: value.to_owned(),
                expected: "full or lazy",
            });
        }
    };
    let (blacklist, module_parameters) = for_modules(line);
    Ok(CommandLine { root_hash, timeout, verify_all, blacklist, module_parameters })
}

/// The blacklist and the parameters of modules.
pub fn for_modules(line: &str) -> (BTreeSet<String>, BTreeMap<String, String>) {
    let mut blacklist = BTreeSet::new();
    let mut by_module: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in split(line) {
        if matches!(key.as_str(), "modprobe.blacklist" | "module_blacklist") {
            let names = value.as_deref().unwrap_or("").split(',').filter(|name| !name.is_empty());
            blacklist.extend(names.map(|name| name.replace('-', "_")));
        } else if let Some((module, name)) = key.split_once('.') {
            let setting = match value {
                Some(value) if value.contains(char::is_whitespace) => format!("{name}=\"{value}\""),
                Some(value) => format!("{name}={value}"),
                None => name.to_owned(),
            };
            let all = by_module.entry(module.replace('-', "_")).or_default();
            if !all.is_empty() {
                all.push(' ');
            }
            all.push_str(&setting);
        }
    }
    (blacklist, by_module)
}

/// Bytes from hexadecimal digits; nothing else is allowed among them.
pub fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits?;
    digits.len().is_multiple_of(2).then(|| digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";

    #[test]
    fn splits_as_the_kernel_does() {
        let parameters = split("  a b=c  d=\"e f\" \"g=h i\" k=\"l\n");
        let expected = [("a", None), ("b", Some("c")), ("d", Some("e f")), ("g", Some("h i")), ("k", Some("l\n"))];
        let expected: Vec<_> = expected.into_iter().map(|(k, v)| (k.to_owned(), v.map(str::to_owned))).collect();
        assert_eq!(parameters, expected);
    }

    #[test]
    fn reads_the_settings() {
        let line = format!(
            "roothash={HASH} ingot.timeout=5 ingot.verify=full modprobe.blacklist=a-b,c nvme-core.io_timeout=3 usb.x"
        );
        let settings = parse(&line).unwrap();
        assert_eq!(settings.root_hash[..3], [0, 0x11, 0x22]);
        assert_eq!(settings.timeout, Duration::from_secs(5));
        assert!(settings.verify_all);
        assert_eq!(settings.blacklist.iter().map(String::as_str).collect::<Vec<_>>(), ["a_b", "c"]);
        assert_eq!(settings.module_parameters["nvme_core"], "io_timeout=3");
        assert_eq!(settings.module_parameters["usb"], "x");
    }

    #[test]
    fn refuses_a_missing_or_bad_hash() {
        assert_eq!(parse("quiet"), Err(CommandLineError::NoRootHash));
        assert!(matches!(parse("roothash=12"), Err(CommandLineError::BadRootHash(_))));
        assert!(matches!(parse(&format!("roothash={HASH}0")), Err(CommandLineError::BadRootHash(_))));
        assert!(matches!(
            parse(&format!("roothash={HASH} ingot.verify=yes")),
            Err(CommandLineError::BadValue { key: "ingot.verify", .. })
        ));
    }

    #[test]
    fn panic_says_what_follows_a_failure() {
        assert_eq!(after_failure("quiet"), AfterFailure::Reboot(Duration::from_mins(1)));
        assert_eq!(after_failure("panic=5 panic=0"), AfterFailure::Wait);
        assert_eq!(after_failure("panic=-1"), AfterFailure::Reboot(Duration::ZERO));
        assert_eq!(after_failure("panic=9"), AfterFailure::Reboot(Duration::from_secs(9)));
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_read_without_a_panic(line in "(?s).{0,200}") {
            let _ = (parse(&line), after_failure(&line), wants_debug(&line));
        }

        #[test]
        fn what_is_quoted_comes_back(words in proptest::collection::vec(("[a-z]{1,8}", "[a-z ]{1,8}"), 0..8)) {
            let line = words.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect::<Vec<_>>().join(" ");
            let expected: Vec<_> = words.into_iter().map(|(key, value)| (key, Some(value))).collect();
            proptest::prop_assert_eq!(split(&line), expected);
        }
    }
}
