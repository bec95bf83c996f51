//! Amounts: bytes, ranges of bytes, and shares of the memory.
//!
//! `G` is 10^9 bytes, as disks are sold; `GiB` is 2^30. A share such as `"1% of RAM"` becomes bytes on the node.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// A number of bytes: `"500G"`, `"3.5T"`, `"8GiB"`, `"4096"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// The units, the longest name first, so that `GiB` is not read as a `B`.
const UNITS: [(&str, u64); 16] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("PiB", 1 << 50),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
    ("K", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("B", 1),
];

const AMOUNT_HELP: &str = "is no amount; write for example \"500G\" (10^9 bytes each) or \"8GiB\" (2^30)";

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let unit = UNITS.iter().find(|(name, _)| text.ends_with(name));
        let (number, unit) = unit.map_or((text, 1), |(name, unit)| (&text[..text.len() - name.len()], *unit));
        let hundredths = hundredths(number.trim_end()).ok_or(AMOUNT_HELP)?;
        let bytes = hundredths.checked_mul(u128::from(unit)).ok_or("is more than any disk has")?;
        if bytes % 100 != 0 {
            return Err("is not a whole number of bytes".into());
        }
        u64::try_from(bytes / 100).map(Self).map_err(|_| "is more than any disk has".into())
    }
}

/// A decimal number with at most two digits after the point, times 100.
fn hundredths(text: &str) -> Option<u128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 2 {
        return None;
    }
    let fraction: u128 = format!("{fraction:0<2}").parse().ok()?;
    whole.parse::<u128>().ok()?.checked_mul(100)?.checked_add(fraction)
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, unit) in UNITS.iter().filter(|(name, _)| name.len() != 2).rev() {
            // Exact or not at all: what is shown reads back as the same number.
            if *unit > 1 && self.0 > 0 && self.0.is_multiple_of(*unit) && self.0 / unit < 10_000 {
                return write!(f, "{}{name}", self.0 / unit);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl Bytes {
    /// For people who compare it with what stands on a disk: `4.00 TB`.
    pub fn rounded(self) -> String {
        let units = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
        units.iter().find(|(unit, _)| self.0 >= *unit).map_or_else(
            || format!("{} B", self.0),
            |(unit, name)| format!("{}.{:02} {name}", self.0 / unit, self.0 % unit * 100 / unit),
        )
    }
}

/// A range of sizes: `"3.5T..4T"` (both ends belong to it), `">=1T"`, `"<=512GiB"`, `">1T"`, `"<2T"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeRange {
    /// The smallest size that is in it.
    pub least: u64,
    /// The largest size that is in it.
    pub most: u64,
}

impl SizeRange {
    /// Whether a size is in it.
    pub fn contains(self, bytes: u64) -> bool {
        (self.least..=self.most).contains(&bytes)
    }
}

impl FromStr for SizeRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let range = if let Some((least, most)) = text.split_once("..") {
            Self { least: least.parse::<Bytes>()?.0, most: most.parse::<Bytes>()?.0 }
        } else if let Some(least) = text.strip_prefix(">=") {
            Self { least: least.parse::<Bytes>()?.0, most: u64::MAX }
        } else if let Some(most) = text.strip_prefix("<=") {
            Self { least: 0, most: most.parse::<Bytes>()?.0 }
        } else if let Some(least) = text.strip_prefix('>') {
            Self { least: least.parse::<Bytes>()?.0.saturating_add(1), most: u64::MAX }
        } else if let Some(most) = text.strip_prefix('<') {
            Self { least: 0, most: most.parse::<Bytes>()?.0.saturating_sub(1) }
        } else {
            return Err("no disk has exactly the size on its label; write a range: \"3.5T..4T\" or \">=1T\"".into());
        };
        if range.least > range.most { Err("ends before it begins".into()) } else { Ok(range) }
    }
}

impl fmt::Display for SizeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.least, self.most) {
            (least, u64::MAX) => write!(f, ">={}", Bytes(least)),
            (0, most) => write!(f, "<={}", Bytes(most)),
            (least, most) => write!(f, "{}..{}", Bytes(least), Bytes(most)),
        }
    }
}

/// A share of the machine's memory, in hundredths of a percent, with bounds: `"1% of RAM"`,
/// `"0.5% of RAM, at least 64MiB, at most 8GiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Hundredths of a percent: 100 is 1 %.
    pub hundredths: u64,
    /// The least that it gives.
    pub least: u64,
    /// The most that it gives.
    pub most: u64,
}

impl Share {
    /// The bytes that it is of a memory.
    pub fn of(self, memory: u64) -> u64 {
        let bytes = u128::from(memory) * u128::from(self.hundredths) / 10_000;
        u64::try_from(bytes).unwrap_or(u64::MAX).clamp(self.least, self.most)
    }

    /// Whether a text is meant as a share, right or wrong.
    pub fn is_meant(text: &str) -> bool {
        text.contains('%')
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "is no share of the memory; write \"1% of RAM\" or \"1% of RAM, at most 8GiB\"".to_owned();
        let mut parts = text.split(',').map(str::trim);
        let (number, rest) = parts.next().and_then(|share| share.split_once('%')).ok_or_else(wrong)?;
        if !matches!(rest.trim(), "" | "of RAM") {
            return Err(wrong());
        }
        let hundredths = hundredths(number.trim()).and_then(|number| u64::try_from(number).ok()).ok_or_else(wrong)?;
        let mut share = Self { hundredths, least: 0, most: u64::MAX };
        if share.hundredths == 0 || share.hundredths > 9_000 {
            return Err("must be more than 0 % and at most 90 % of the memory".into());
        }
        for bound in parts {
            if let Some(least) = bound.strip_prefix("at least ") {
                share.least = least.parse::<Bytes>()?.0;
            } else if let Some(most) = bound.strip_prefix("at most ") {
                share.most = most.parse::<Bytes>()?.0;
            } else {
                return Err(wrong());
            }
        }
        if share.least > share.most { Err("its least is above its most".into()) } else { Ok(share) }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.hundredths / 100)?;
        if !self.hundredths.is_multiple_of(100) {
            write!(f, ".{:02}", self.hundredths % 100)?;
        }
        f.write_str("% of RAM")?;
        if self.least > 0 {
            write!(f, ", at least {}", Bytes(self.least))?;
        }
        if self.most < u64::MAX {
            write!(f, ", at most {}", Bytes(self.most))?;
        }
        Ok(())
    }
}

macro_rules! shown_as_text {
    ($($name:ident),+) => {
        $(impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        })+
    };
}
shown_as_text!(Bytes, SizeRange, Share);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_the_units_of_disks_and_of_memory() {
        for (text, bytes) in [
            ("4T", 4_000_000_000_000),
            ("3.5TB", 3_500_000_000_000),
            ("8GiB", 8 << 30),
            ("1.5 GiB", 3 << 29),
            ("4096", 4096),
            ("0", 0),
            ("12B", 12),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "T", "-1G", "1.234T", "1e9", "4 Tera", "0.001", "99999999P", "1.5", "٣G"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
        assert_eq!(Bytes(3_840_755_982_336).rounded(), "3.84 TB");
        assert_eq!(Bytes(8 << 30).to_string(), "8GiB");
    }

    #[test]
    fn ranges_have_their_ends() {
        let range: SizeRange = "3.5T..4T".parse().unwrap();
        assert!(range.contains(4_000_000_000_000) && range.contains(3_500_000_000_000));
        assert!(!range.contains(4_000_000_000_001) && !range.contains(1));
        let above: SizeRange = ">1K".parse().unwrap();
        assert!(!above.contains(1000) && above.contains(1001));
        for text in ["4T", "4T..3T", "..", ">=", "1T...2T", "~4T"] {
            assert!(text.parse::<SizeRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn shares_have_bounds() {
        let share: Share = "0.5% of RAM, at least 64MiB, at most 8GiB".parse().unwrap();
        assert_eq!(share.of(1 << 40), 5_497_558_138);
        assert_eq!(share.of(1 << 42), 8 << 30);
        assert_eq!(share.of(1 << 30), 64 << 20);
        assert_eq!("5%".parse::<Share>().unwrap().to_string(), "5% of RAM");
        for text in ["0% of RAM", "91%", "% of RAM", "5% of disk", "5%, about 1G", "1%, at least 2G, at most 1G"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_reads_back(text in "(>=|<=|<|>)?[0-9]{1,4}(\\.[0-9]{1,2})?[KMGTPiB%]{0,3}(\\.\\.[0-9]{1,3}[MGT]| of RAM|, at (least|most) [0-9]M)?") {
            macro_rules! round_trip { ($($t:ty),+) => { $(if let Ok(value) = text.parse::<$t>() {
                proptest::prop_assert_eq!(value.to_string().parse::<$t>().ok(), Some(value));
            })+ } }
            round_trip!(Bytes, SizeRange, Share);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = (text.parse::<Bytes>(), text.parse::<SizeRange>(), text.parse::<Share>());
        }
    }
}
