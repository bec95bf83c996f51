//! A moment of an archive's past, as snapshot services name it: `20261101T000000Z`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a URL has where the id of a snapshot goes.
pub const VARIABLE: &str = "${snapshot}";

/// A moment in UTC, to the second: `YYYYMMDDTHHMMSSZ`, basic format of ISO 8601.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Snapshot {
    id: String,
    seconds: u64,
}

impl Snapshot {
    /// Seconds since 1970.
    pub fn seconds(&self) -> u64 {
        self.seconds
    }

    /// The id as it stands in URLs.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

impl FromStr for Snapshot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match seconds(text) {
            Some(seconds) => Ok(Self { id: text.to_owned(), seconds }),
            None => Err(format!(
                "`{text}` is no moment of an archive; write it in UTC as YYYYMMDDTHHMMSSZ, such as 20261101T000000Z"
            )),
        }
    }
}

impl TryFrom<String> for Snapshot {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Snapshot> for String {
    fn from(snapshot: Snapshot) -> Self {
        snapshot.id
    }
}

fn seconds(text: &str) -> Option<u64> {
    let sound = text.len() == 16
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        });
    if !sound {
        return None;
    }
    let number = |from: usize, to: usize| text[from..to].parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let (hour, minute, second) = (number(9, 11)?, number(11, 13)?, number(13, 15)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    u64::try_from(days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second).ok()
}

/// Days from 1970-01-01 to a day of the proleptic Gregorian calendar, counting years from March.
pub(crate) fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_moment_is_read_and_anything_else_refused_with_an_example() {
        let snapshot: Snapshot = "20240229T235959Z".parse().unwrap();
        assert_eq!((snapshot.seconds(), snapshot.id()), (1_709_251_199, "20240229T235959Z"));
        for wrong in [
            "",
            "yes",
            "20261101",
            "20261101T000000",
            "2026-11-01T00:00:00Z",
            "20230229T000000Z",
            "20261301T000000Z",
            "20261101T240000Z",
            "20261101t000000z",
            "19691231T235959Z",
            "../../../../../Z",
            "2026110１T00000Z",
        ] {
            let problem = wrong.parse::<Snapshot>().unwrap_err();
            assert!(problem.contains("such as 20261101T000000Z"), "{problem}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in "\\PC{0,18}|[0-9]{8}T[0-9]{6}Z") {
            if let Ok(snapshot) = text.parse::<Snapshot>() {
                prop_assert_eq!(snapshot.to_string(), text);
            }
        }
    }
}
