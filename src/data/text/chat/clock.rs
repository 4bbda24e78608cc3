//! `strftime_now`: today's date as a template asks for it, in UTC, so that it is the same on every machine.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// `now` as Python's `strftime` writes it in the C locale; `-` behind the `%` leaves out leading zeros.
///
/// # Errors
/// Names the directive that is not known.
pub(crate) fn strftime(now: SystemTime, format: &str) -> Result<String, String> {
    let seconds = match now.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_secs() as i64,
        Err(before) => -(before.duration().as_secs_f64().ceil() as i64),
    };
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let of_year = days - days_before(year) + 1;
    let weekday = (days + 4).rem_euclid(7);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let half = if hour % 12 == 0 { 12 } else { hour % 12 };
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let (mut code, mut bare) = (rest.next(), false);
        if code == Some('-') {
            (code, bare) = (rest.next(), true);
        }
        let (number, width) = match code {
            Some('Y') => (year, 4),
            Some('m') => (month, 2),
            Some('d') => (day, 2),
            Some('H') => (hour, 2),
            Some('I') => (half, 2),
            Some('M') => (minute, 2),
            Some('S') => (second, 2),
            Some('y') => (year.rem_euclid(100), 2),
            Some('j') => (of_year, 3),
            Some('u') => (if weekday == 0 { 7 } else { weekday }, 1),
            Some('w') => (weekday, 1),
            Some('s') => (seconds, 1),
            other => {
                match other {
                    Some('B') => out.push_str(MONTHS[month as usize - 1]),
                    Some('b' | 'h') => out.push_str(&MONTHS[month as usize - 1][..3]),
                    Some('A') => out.push_str(DAYS[weekday as usize]),
                    Some('a') => out.push_str(&DAYS[weekday as usize][..3]),
                    Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
                    Some('e') => drop(write!(out, "{day:2}")),
                    Some('F') => drop(write!(out, "{year:04}-{month:02}-{day:02}")),
                    Some('T') => drop(write!(out, "{hour:02}:{minute:02}:{second:02}")),
                    Some('Z') => out.push_str("UTC"),
                    Some('z') => out.push_str("+0000"),
                    Some('%') => out.push('%'),
                    Some(c) => return Err(format!("strftime_now: %{c} is not supported")),
                    None => return Err("strftime_now: the format ends in %".into()),
                }
                continue;
            }
        };
        let width = if bare { 1 } else { width };
        let _ = write!(out, "{number:0width$}");
    }
    Ok(out)
}

/// Days from 1970-01-01 to the first of January.
fn days_before(year: i64) -> i64 {
    let y = year - 1;
    365 * (year - 1970) + (y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400)) - 477
}

/// Year, month and day of a day since 1970-01-01, in the Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    let mut year = 1970 + days.div_euclid(366);
    while days_before(year + 1) <= days {
        year += 1;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut day = days - days_before(year);
    let mut month = 1;
    for length in [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    (year, month, day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64, format: &str) -> String {
        strftime(UNIX_EPOCH + Duration::from_secs(seconds), format).unwrap()
    }

    // Expected strings are those of Python's datetime in UTC.
    #[test]
    fn dates_are_pythons() {
        assert_eq!(at(1_721_995_200, "%d %b %Y"), "26 Jul 2024");
        assert_eq!(
            at(0, "%A %a %B %-d %e %y %j %H:%M:%S %I%p %u%w %%"),
            "Thursday Thu January 1  1 70 001 00:00:00 12AM 44 %"
        );
        assert_eq!(at(951_782_399, "%F %T %j"), "2000-02-28 23:59:59 059");
        assert_eq!(at(951_782_400, "%F %a"), "2000-02-29 Tue");
        assert_eq!(at(4_107_542_400, "%F %j"), "2100-03-01 060");
        assert_eq!(at(1_735_689_599, "%F %j %Z%z"), "2024-12-31 366 UTC+0000");
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(strftime(before, "%F %T").unwrap(), "1969-12-31 23:59:59");
        assert!(strftime(UNIX_EPOCH, "%Q").unwrap_err().contains("%Q"));
        assert!(strftime(UNIX_EPOCH, "%").is_err());
    }
}
