//! Moments of the wall clock, as formats write them.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use malla_proxy_config::format::{Moment, TimeFormat};

use super::{Source, Value};

impl<'a> Source<'a> {
    /// A moment by its name.
    pub(super) fn moment(&self, of: Moment, format: &TimeFormat) -> Value<'a> {
        let record = self.record;
        let down = || record.connection.tls.as_ref()?.peer.as_deref();
        let up = || record.attempt.tls.as_deref()?.peer.as_deref();
        let moment = match of {
            Moment::Start => Some(record.start_wall),
            Moment::Emit => Some(SystemTime::now()),
            Moment::DownstreamPeerFrom => down().and_then(|peer| peer.not_before),
            Moment::DownstreamPeerUntil => down().and_then(|peer| peer.not_after),
            Moment::UpstreamPeerFrom => up().and_then(|peer| peer.not_before),
            Moment::UpstreamPeerUntil => up().and_then(|peer| peer.not_after),
        };
        let Some(moment) = moment else {
            return Value::None;
        };
        match (&format.text, format.local) {
            (None, false) => Value::Time(moment),
            (None, true) => self.strftime(moment, "%Y-%m-%dT%H:%M:%S.%3f%z", true),
            (Some(text), local) => self.strftime(moment, text, local),
        }
    }

    fn strftime(&self, moment: SystemTime, format: &str, local: bool) -> Value<'a> {
        let Ok(timestamp) = Timestamp::try_from(moment) else {
            return Value::None;
        };
        let zone = match local {
            true => self.environment.zone.clone(),
            false => TimeZone::UTC,
        };
        let zoned = timestamp.to_zoned(zone);
        jiff::fmt::strtime::format(format, &zoned).map_or(Value::None, Value::Owned)
    }
}

/// `2026-11-21T03:04:05.678Z`, by hand: this is in every log line.
pub(super) fn write_time(time: SystemTime, out: &mut Vec<u8>) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let mut digits = |mut number: u64, width: usize, end: u8| {
        let mut text = [b'0'; 8];
        for slot in text.iter_mut().take(width).rev() {
            *slot = b'0' + u8::try_from(number % 10).unwrap_or(0);
            number /= 10;
        }
        out.extend(text.into_iter().take(width));
        out.push(end);
    };
    digits(year, 4, b'-');
    digits(month, 2, b'-');
    digits(day, 2, b'T');
    digits(second / 3600, 2, b':');
    digits(second / 60 % 60, 2, b':');
    digits(second % 60, 2, b'.');
    digits(since.subsec_millis().into(), 3, b'Z');
}

/// Days since 1970 to a date (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::{prop_assert_eq, proptest};

    use super::write_time;

    proptest! {
        #[test]
        fn moments_print_as_jiff_prints_them(millis in 0_u64..7_000_000_000_000) {
            let mut out = Vec::new();
            write_time(UNIX_EPOCH + Duration::from_millis(millis), &mut out);
            let want = jiff::Timestamp::from_millisecond(i64::try_from(millis).unwrap()).unwrap();
            prop_assert_eq!(String::from_utf8(out).unwrap(), want.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string());
        }
    }
}
