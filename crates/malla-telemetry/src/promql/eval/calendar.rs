//! Days, months and hours of a Unix time, in UTC.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// The part of the date that a function is named after.
pub(super) fn part(name: &str, seconds: f64) -> f64 {
    let Some(date) = date(seconds) else {
        return f64::NAN;
    };
    match name {
        "minute" => f64::from(date.minute()),
        "hour" => f64::from(date.hour()),
        "day_of_month" => f64::from(date.day()),
        "day_of_week" => f64::from(date.weekday().to_sunday_zero_offset()),
        "day_of_year" => f64::from(date.day_of_year()),
        "days_in_month" => f64::from(date.days_in_month()),
        "month" => f64::from(date.month()),
        _ => f64::from(date.year()),
    }
}

fn date(seconds: f64) -> Option<DateTime> {
    if seconds.is_nan() {
        return None;
    }
    let time = Timestamp::from_second(seconds as i64).ok()?;
    Some(TimeZone::UTC.to_datetime(time))
}
