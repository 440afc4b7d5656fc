//! Ages as `kubectl` prints them (`k8s.io/apimachinery/pkg/util/duration`).

use std::str::FromStr;

use jiff::Timestamp;

/// `5m30s`, `3h`, `2d4h`, `1y20d`: about two significant units. Negative durations are `<invalid>` beyond a second.
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    let pair = |big: i64, big_unit: char, small: i64, small_unit: char| match small {
        0 => format!("{big}{big_unit}"),
        small => format!("{big}{big_unit}{small}{small_unit}"),
    };
    match seconds {
        i64::MIN..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => pair(days, 'd', hours % 24, 'h'),
        _ if days < 730 => format!("{days}d"),
        _ if days < 2920 => pair(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

/// The age of a `metav1.Time`; `<unknown>` if it is none.
pub(super) fn since(time: &str, now: Timestamp) -> String {
    match Timestamp::from_str(time) {
        Ok(time) => human_duration(now.as_second() - time.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::human_duration;

    #[test]
    fn two_units_at_most() {
        let check =
            |seconds: i64, want: &str| assert_eq!(human_duration(seconds), want, "{seconds}");
        let (minute, hour, day) = (60, 3600, 86400);
        check(-5, "<invalid>");
        check(-1, "0s");
        check(0, "0s");
        check(119, "119s");
        check(2 * minute, "2m");
        check(5 * minute + 30, "5m30s");
        check(10 * minute + 30, "10m");
        check(3 * hour, "3h");
        check(3 * hour + 5 * minute, "3h5m");
        check(8 * hour + 5 * minute, "8h");
        check(47 * hour, "47h");
        check(2 * day + 3 * hour, "2d3h");
        check(8 * day + hour, "8d");
        check(800 * day, "2y70d");
        check(3000 * day, "8y");
    }
}
