//! Numbers and times as Prometheus writes them.

use jiff::Timestamp;

/// A value: shortest digits that read back the same, without an exponent.
#[must_use]
pub fn number(v: f64) -> String {
    if v.is_nan() {
        return "NaN".to_owned();
    }
    if v.is_infinite() {
        return if v > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    format!("{v}")
}

/// A time in Unix milliseconds as RFC 3339 in UTC; the epoch for times no calendar has.
#[must_use]
pub fn rfc3339(milliseconds: i64) -> String {
    let time = Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{time:.3}")
}

/// A time in Unix milliseconds as seconds, with three decimals if it needs them.
#[must_use]
pub fn seconds(milliseconds: i64) -> String {
    let (whole, part) = (milliseconds / 1000, (milliseconds % 1000).abs());
    let sign = if milliseconds < 0 && whole == 0 {
        "-"
    } else {
        ""
    };
    match part {
        0 => whole.to_string(),
        part => format!("{sign}{whole}.{part:03}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{number, rfc3339, seconds};

    #[test]
    fn times_are_exact() {
        assert_eq!(rfc3339(1_767_323_045_678), "2026-01-02T03:04:05.678Z");
        assert_eq!(rfc3339(i64::MAX), "1970-01-01T00:00:00.000Z");
        for (t, want) in [(1_500, "1.500"), (2_000, "2"), (-1, "-0.001"), (7, "0.007")] {
            assert_eq!(seconds(t), want);
        }
    }

    #[test]
    fn numbers_are_plain() {
        for (v, want) in [
            (1.0, "1"),
            (-0.5, "-0.5"),
            (1e21, "1000000000000000000000"),
            (1e-7, "0.0000001"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(number(v), want);
        }
    }
}
