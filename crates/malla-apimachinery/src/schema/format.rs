//! The string and number formats that kube-apiserver checks.
//!
//! Unknown formats are ignored, as Kubernetes does (OpenAPI calls them hints).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use regex::Regex;
use serde_json::Value;

/// A format that is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Int32,
    Int64,
    Byte,
    Date,
    DateTime,
    Duration,
    Email,
    Hostname,
    Ipv4,
    Ipv6,
    Cidr,
    Mac,
    Uri,
    Uuid,
}

const FORMATS: &[(&str, Format)] = &[
    ("int32", Format::Int32),
    ("int64", Format::Int64),
    ("byte", Format::Byte),
    ("date", Format::Date),
    ("date-time", Format::DateTime),
    ("datetime", Format::DateTime),
    ("duration", Format::Duration),
    ("email", Format::Email),
    ("hostname", Format::Hostname),
    ("ipv4", Format::Ipv4),
    ("ipv6", Format::Ipv6),
    ("cidr", Format::Cidr),
    ("mac", Format::Mac),
    ("uri", Format::Uri),
    ("uuid", Format::Uuid),
];

impl Format {
    /// `None` for formats that are not checked.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        FORMATS
            .iter()
            .find(|(name, _)| *name == word)
            .map(|(_, format)| *format)
    }

    pub(crate) fn name(self) -> &'static str {
        FORMATS
            .iter()
            .find(|(_, format)| *format == self)
            .map_or("", |(name, _)| name)
    }

    pub(crate) fn admits_number(self, value: &Value) -> bool {
        let whole = value.as_i64().or_else(|| {
            value
                .as_f64()
                .filter(|number| number.fract() == 0.0 && number.abs() < 9.2e18)
                .map(|number| number as i64)
        });
        match self {
            Self::Int32 => whole.is_some_and(|number| i32::try_from(number).is_ok()),
            Self::Int64 => whole.is_some(),
            _ => true,
        }
    }

    pub(crate) fn admits_text(self, text: &str) -> bool {
        match self {
            Self::Int32 | Self::Int64 => true,
            Self::Byte => STANDARD.decode(text).is_ok(),
            Self::Date => jiff::civil::Date::strptime("%Y-%m-%d", text).is_ok(),
            Self::DateTime => jiff::Timestamp::from_str(text).is_ok(),
            Self::Duration => go_duration(text).is_some(),
            Self::Email => text
                .split_once('@')
                .is_some_and(|(user, host)| !user.is_empty() && is_hostname(host)),
            Self::Hostname => is_hostname(text),
            Self::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Self::Ipv6 => text.parse::<Ipv6Addr>().is_ok(),
            Self::Cidr => text.parse::<IpNet>().is_ok(),
            Self::Mac => is_mac(text),
            Self::Uri => is_uri(text),
            Self::Uuid => is_uuid(text),
        }
    }
}

fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

fn is_mac(text: &str) -> bool {
    let separator = if text.contains('-') { '-' } else { ':' };
    let parts: Vec<&str> = text.split(separator).collect();
    matches!(parts.len(), 6 | 8)
        && parts
            .iter()
            .all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Go's `url.ParseRequestURI`: an absolute URI or an absolute path.
fn is_uri(text: &str) -> bool {
    if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return false;
    }
    match text.split_once(':') {
        _ if text.starts_with('/') => true,
        Some((scheme, _)) => {
            scheme.starts_with(|first: char| first.is_ascii_alphabetic())
                && scheme
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
        }
        None => false,
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Parses Go's duration syntax (`1h30m`, `1.5s`, `-2ms`, `0`) into nanoseconds, within the range of Go's 64 bits.
pub(crate) fn go_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|symbol: char| !symbol.is_ascii_digit() && symbol != '.')?;
        let number: f64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let (length, nanoseconds) = duration_unit(rest)?;
        total += number * nanoseconds;
        rest = rest.get(length..)?;
    }
    let total = if negative { -total } else { total };
    (total.abs() < i64::MAX as f64).then_some(total as i64)
}

fn duration_unit(text: &str) -> Option<(usize, f64)> {
    const UNITS: &[(&str, f64)] = &[
        ("ns", 1.0),
        ("us", 1e3),
        ("µs", 1e3),
        ("ms", 1e6),
        ("s", 1e9),
        ("m", 6e10),
        ("h", 3.6e12),
    ];
    UNITS
        .iter()
        .find(|(unit, _)| text.starts_with(unit))
        .map(|(unit, size)| (unit.len(), *size))
}

/// Compiles a pattern in the dialect shared by ECMA 262 and Go, with a limit on its size.
pub(crate) fn compile_pattern(pattern: &str) -> Result<Regex, String> {
    const MAX_COMPILED_BYTES: usize = 1 << 20;
    let builder = regex::RegexBuilder::new(pattern)
        .size_limit(MAX_COMPILED_BYTES)
        .build();
    builder.map_err(|error| match error {
        regex::Error::CompiledTooBig(limit) => {
            format!("pattern is too large: more than {limit} bytes compiled")
        }
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::{Format, go_duration};

    #[test]
    fn formats_accept_what_kubernetes_accepts() {
        let check = |format: &str, good: &[&str], bad: &[&str]| {
            let parsed = Format::parse(format).unwrap();
            for text in good {
                assert!(parsed.admits_text(text), "{format} should accept {text:?}");
            }
            for text in bad {
                assert!(!parsed.admits_text(text), "{format} should refuse {text:?}");
            }
        };
        check("ipv4", &["10.0.0.1"], &["10.0.0", "::1", "010.0.0.1"]);
        check("ipv6", &["::1"], &["10.0.0.1"]);
        check("cidr", &["10.0.0.0/8", "fd00::/8"], &["10.0.0.0"]);
        check(
            "duration",
            &["5s", "1h30m", "1.5s", "0", "-2ms"],
            &["5", "s", "", "1d", "."],
        );
        check(
            "date-time",
            &["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.5+01:00"],
            &["2026-01-02", "now"],
        );
        check("date", &["2026-01-02"], &["2026-1-40"]);
        check("hostname", &["a.example"], &["-a", "a..b", "a_b"]);
        check("byte", &["aGk="], &["a"]);
        check("uri", &["https://x/y", "/a", "urn:x"], &["x y", "abc"]);
        check("uuid", &["123e4567-e89b-12d3-a456-426614174000"], &["123"]);
        check("email", &["a@b.c"], &["a", "@b"]);
    }

    #[test]
    fn go_durations_are_nanoseconds() {
        assert_eq!(go_duration("1h1m1.5s"), Some(3_661_500_000_000));
        assert_eq!(go_duration("-1ms"), Some(-1_000_000));
        assert_eq!(go_duration("9999999999h"), None);
    }
}
