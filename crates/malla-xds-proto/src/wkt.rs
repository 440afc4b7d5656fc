//! The small message types protobuf wraps values in.

use std::time::Duration as StdDuration;

use crate::pb::google::protobuf::value::Kind;
use crate::pb::google::protobuf::{
    BoolValue, Duration, ListValue, StringValue, Struct, UInt32Value, UInt64Value, Value,
};

/// Seconds beyond what a protobuf duration can say (10,000 years) are clamped to that.
#[must_use]
pub fn duration(value: StdDuration) -> Duration {
    const MAX_SECONDS: i64 = 315_576_000_000;
    Duration {
        seconds: i64::try_from(value.as_secs()).map_or(MAX_SECONDS, |s| s.min(MAX_SECONDS)),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or_default(),
    }
}

/// `None` when it is negative or out of range.
#[must_use]
pub fn to_std(value: &Duration) -> Option<StdDuration> {
    let seconds = u64::try_from(value.seconds).ok()?;
    let nanos = u32::try_from(value.nanos)
        .ok()
        .filter(|n| *n < 1_000_000_000)?;
    Some(StdDuration::new(seconds, nanos))
}

#[must_use]
pub const fn uint32(value: u32) -> UInt32Value {
    UInt32Value { value }
}

#[must_use]
pub const fn uint64(value: u64) -> UInt64Value {
    UInt64Value { value }
}

#[must_use]
pub const fn boolean(value: bool) -> BoolValue {
    BoolValue { value }
}

#[must_use]
pub fn string_value(value: &str) -> StringValue {
    StringValue {
        value: value.to_owned(),
    }
}

/// A `Struct` of these fields.
#[must_use]
pub fn structure<K: Into<String>>(fields: impl IntoIterator<Item = (K, Value)>) -> Struct {
    Struct {
        fields: fields.into_iter().map(|(k, v)| (k.into(), v)).collect(),
    }
}

/// A text, as a value of a [`structure`].
#[must_use]
pub fn string(text: &str) -> Value {
    Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    }
}

/// Yes or no, as a value of a [`structure`].
#[must_use]
pub const fn truth(value: bool) -> Value {
    Value {
        kind: Some(Kind::BoolValue(value)),
    }
}

/// A list, as a value of a [`structure`].
#[must_use]
pub fn list(values: Vec<Value>) -> Value {
    Value {
        kind: Some(Kind::ListValue(ListValue { values })),
    }
}

/// An object, as a value of a [`structure`].
#[must_use]
pub fn object<K: Into<String>>(fields: impl IntoIterator<Item = (K, Value)>) -> Value {
    Value {
        kind: Some(Kind::StructValue(structure(fields))),
    }
}

/// The text under `key`, where there is one and it is a text.
#[must_use]
pub fn get_str<'a>(object: &'a Struct, key: &str) -> Option<&'a str> {
    match object.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration as StdDuration;

    use super::{Duration, duration, to_std};

    #[test]
    fn durations_survive_or_are_refused() {
        for value in [StdDuration::ZERO, StdDuration::from_millis(1500)] {
            assert_eq!(to_std(&duration(value)), Some(value));
        }
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000)] {
            assert_eq!(to_std(&Duration { seconds, nanos }), None);
        }
        assert_eq!(duration(StdDuration::MAX).seconds, 315_576_000_000);
    }
}
