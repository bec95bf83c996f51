//! The clock that `fatfs` asks for a file's time: it always says what it was told.

use std::cell::Cell;

use fatfs::{Date, DateTime, Time, TimeProvider};

/// 1980-01-01 00:00:00 UTC: where FAT's time begins.
const FIRST: u64 = 315_532_800;
/// 2107-12-31 23:59:58 UTC: where it ends.
const LAST: u64 = 4_354_819_198;

thread_local! {
    // `fatfs` wants a clock that lives for ever; a volume is written by one thread, so the time is that thread's.
    static NOW: Cell<u64> = const { Cell::new(FIRST) };
}

/// The clock.
pub static CLOCK: Clock = Clock;

/// See [`set`].
#[derive(Debug)]
pub struct Clock;

/// What the clock says to this thread from now on: seconds since 1970, brought into FAT's range.
pub fn set(time: u64) {
    NOW.set(time.clamp(FIRST, LAST));
}

impl TimeProvider for Clock {
    fn get_current_date(&self) -> Date {
        self.get_current_date_time().date
    }

    fn get_current_date_time(&self) -> DateTime {
        civil(NOW.get())
    }
}

/// The calendar date and time of day in UTC.
fn civil(time: u64) -> DateTime {
    let (days, seconds) = (time / 86_400, time % 86_400);
    // Days since 0000-03-01, by eras of 400 years (H. Hinnant, "chrono-compatible low-level date algorithms").
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    // All of these are far below 65536: `set` clamps the year to 2107.
    let small = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
    DateTime {
        date: Date { year: small(year), month: small(month), day: small(day) },
        time: Time { hour: small(seconds / 3600), min: small(seconds / 60 % 60), sec: small(seconds % 60), millis: 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        let text = |time| {
            let DateTime { date, time } = civil(time);
            format!("{}-{:02}-{:02} {:02}:{:02}:{:02}", date.year, date.month, date.day, time.hour, time.min, time.sec)
        };
        assert_eq!(text(FIRST), "1980-01-01 00:00:00");
        assert_eq!(text(951_782_399), "2000-02-28 23:59:59");
        assert_eq!(text(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(text(1_790_000_001), "2026-09-21 14:13:21");
        assert_eq!(text(LAST), "2107-12-31 23:59:58");
    }

    #[test]
    fn the_clock_stays_in_range() {
        set(0);
        assert_eq!(CLOCK.get_current_date().year, 1980);
        set(u64::MAX);
        assert_eq!(CLOCK.get_current_date().year, 2107);
    }
}
