//! Durations as Istio's YAML spells them: `7s`, `7000ms`, `1.5s`, `1h30m`.
//!
//! Istio reads them with Go's `time.ParseDuration` and CEL's `duration()` reads the same grammar, so
//! a text that passes the CRD's rule always parses here, to the same nanosecond.

use std::borrow::Cow;
use std::time::Duration as StdDuration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use crate::schema::rule;

/// A duration of at least one millisecond: the CRDs refuse anything shorter, as Istio's do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Duration(pub StdDuration);

/// A duration that may be zero, where zero means something (`tcp.idleTimeout: 0s` is "never").
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DurationOrZero(pub StdDuration);

/// The CEL rule of [`Duration`].
pub(crate) const AT_LEAST_1MS: &str = "duration(self) >= duration('1ms')";
/// The schema format of [`DurationOrZero`]; Kubernetes checks it itself.
pub(crate) const FORMAT: &str = "duration";

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration (write it as 500ms, 7s, 1.5s or 1h)")]
pub struct NotADuration {
    pub text: String,
}

/// Reads Go's duration grammar: one or more decimal numbers, each with a unit; no sign but `+`.
///
/// # Errors
/// On any other text, on negative durations and on ones beyond Go's 292 years.
pub fn parse(text: &str) -> Result<StdDuration, NotADuration> {
    parse_nanoseconds(text)
        .filter(|nanos| *nanos <= i64::MAX as u64)
        .map(StdDuration::from_nanos)
        .ok_or_else(|| NotADuration {
            text: text.to_owned(),
        })
}

fn parse_nanoseconds(text: &str) -> Option<u64> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        total = total.checked_add(scale(number, nanoseconds_of(unit)?)?)?;
        rest = next;
    }
    Some(total)
}

fn nanoseconds_of(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// `number` is digits with at most one point; the fraction is cut below a nanosecond, as in Go.
fn scale(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut nanos = whole.checked_mul(unit)?;
    let mut place = unit;
    for digit in fraction.bytes() {
        place /= 10;
        nanos = nanos.checked_add(u64::from(digit - b'0') * place)?;
    }
    Some(nanos)
}

fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<StdDuration, D::Error> {
    let text = Cow::<'de, str>::deserialize(deserializer)?;
    parse(&text).map_err(de::Error::custom)
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for DurationOrZero {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer).map(Self)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut schema = json_schema!({ "type": "string" });
        rule(AT_LEAST_1MS, "must be a valid duration of at least 1ms")(&mut schema);
        schema
    }
}

impl JsonSchema for DurationOrZero {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "DurationOrZero".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": FORMAT })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_reads_them() {
        for (text, nanos) in [
            ("7000ms", 7_000_000_000),
            ("7s", 7_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("1h", 3_600_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.0000000001s", 1_000_000_000),
            ("100us", 100_000),
            ("100µs", 100_000),
            ("+1s", 1_000_000_000),
            ("0", 0),
            ("0s", 0),
        ] {
            let want = StdDuration::from_nanos(nanos);
            assert_eq!(parse(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "7",
            "s",
            ".s",
            "-1s",
            "1..2s",
            "1 s",
            "7sec",
            "1d",
            "300000000000h",
            "0x1s",
            "1e3s",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[0-9.hmsnuµ+ -]{0,24}") {
            let _ = parse(&text);
        }

        #[test]
        fn whole_milliseconds_survive(millis in 0u64..1_000_000_000) {
            proptest::prop_assert_eq!(parse(&format!("{millis}ms")), Ok(StdDuration::from_millis(millis)));
        }
    }
}
