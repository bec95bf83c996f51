//! Dates and times of day, in UTC: for the real-time clock's chip, for certificates and for people.

use std::fmt;

/// A moment in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Civil {
    /// The year: 2026.
    pub year: i64,
    /// The month, 1 to 12.
    pub month: u8,
    /// The day of the month, 1 to 31.
    pub day: u8,
    /// The hour, 0 to 23.
    pub hour: u8,
    /// The minute, 0 to 59.
    pub minute: u8,
    /// The second, 0 to 59.
    pub second: u8,
}

/// The last second of the year 9999; what lies behind it is no time of a computer.
const LAST: u64 = 253_402_300_799;

impl Civil {
    /// Of the seconds since 1970; what lies behind the year 9999 is its last second.
    pub fn of(seconds: u64) -> Self {
        let seconds = i64::try_from(seconds.min(LAST)).unwrap_or_default();
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        // Days of a year that begins in March: the leap day is then the last one.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let small = |number: i64| u8::try_from(number).unwrap_or_default();
        Self {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month: small(month),
            day: small(day_of_year - (153 * month_from_march + 2) / 5 + 1),
            hour: small(rest / 3600),
            minute: small(rest / 60 % 60),
            second: small(rest % 60),
        }
    }

    /// The seconds since 1970; `None` where it is no moment from 1970 to 9999.
    pub fn seconds(&self) -> Option<u64> {
        let inside = (1970..=9999).contains(&self.year)
            && (1..=12).contains(&self.month)
            && (1..=31).contains(&self.day)
            && self.hour < 24
            && self.minute < 60
            && self.second < 60;
        if !inside {
            return None;
        }
        let year = self.year - i64::from(self.month <= 2);
        let (era, year_of_era) = (year / 400, year % 400);
        let month_from_march = (i64::from(self.month) + 9) % 12;
        let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        let seconds =
            days * 86_400 + i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second);
        let seconds = u64::try_from(seconds).ok()?;
        // The 31st of June is no day.
        (Self::of(seconds) == *self).then_some(seconds)
    }

    /// The time of day: `16:36:05`.
    pub fn time_of_day(&self) -> String {
        format!("{:02}:{:02}:{:02}", self.hour, self.minute, self.second)
    }
}

impl fmt::Display for Civil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02} {} UTC", self.year, self.month, self.day, self.time_of_day())
    }
}

/// The seconds since 1970 of a moment as programs write it to each other: `2026-09-21T14:13:20.496Z` (RFC 3339, in UTC).
/// `None` where it is anything else.
pub fn seconds_of(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = |text: Option<&str>, digits: usize| {
        let text = text.filter(|text| text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit()))?;
        text.parse::<u16>().ok()
    };
    let (mut date, mut time) = (date.split('-'), time.split(':'));
    let (year, two) = (number(date.next(), 4)?, |text| u8::try_from(number(text, 2)?).ok());
    let civil = Civil {
        year: i64::from(year),
        month: two(date.next())?,
        day: two(date.next())?,
        hour: two(time.next())?,
        minute: two(time.next())?,
        second: two(time.next())?,
    };
    if date.next().is_some() || time.next().is_some() { None } else { civil.seconds() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_as_programs_write_them() {
        assert_eq!(seconds_of("2026-09-21T14:13:20Z"), Some(1_790_000_000));
        assert_eq!(seconds_of("2026-09-21T14:13:20.496525531Z"), Some(1_790_000_000));
        for no in
            ["", "Z", "2026-09-21T14:13:20", "2026-09-21T14:13:20+02:00", "2026-9-21T14:13:20Z", "2026-09-31T14:13:20Z"]
        {
            assert_eq!(seconds_of(no), None, "{no}");
        }
        for no in [
            "2026-09-21T14:13Z",
            "2026-09-21T14:13:20.Z",
            "2026-09-21T14:13:20:00Z",
            "2026-09-21-01T14:13:20Z",
            "+026-09-21T14:13:20Z",
        ] {
            assert_eq!(seconds_of(no), None, "{no}");
        }
    }

    #[test]
    fn known_moments() {
        assert_eq!(Civil::of(0).to_string(), "1970-01-01 00:00:00 UTC");
        assert_eq!(Civil::of(951_782_400).to_string(), "2000-02-29 00:00:00 UTC");
        assert_eq!(Civil::of(1_790_000_000).to_string(), "2026-09-21 14:13:20 UTC");
        assert_eq!(Civil::of(u64::MAX).to_string(), "9999-12-31 23:59:59 UTC");
        let no_day = Civil { year: 2026, month: 2, day: 29, hour: 0, minute: 0, second: 0 };
        assert_eq!(no_day.seconds(), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "[0-9TZ:.+-]{0,30}|.{0,20}") {
            let _ = seconds_of(&text);
        }

        #[test]
        fn it_reads_back_and_agrees_with_another_calendar(seconds in 0..=LAST) {
            let civil = Civil::of(seconds);
            proptest::prop_assert_eq!(civil.seconds(), Some(seconds));
            let written = civil.to_string().replacen(' ', "T", 1).replace(" UTC", "Z");
            proptest::prop_assert_eq!(seconds_of(&written), Some(seconds));
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            let http = httpdate::fmt_http_date(time);
            let date = format!("{:02}", civil.day);
            proptest::prop_assert!(http.contains(&civil.time_of_day()) && http[5..7] == date, "{} {}", http, civil);
        }
    }
}
