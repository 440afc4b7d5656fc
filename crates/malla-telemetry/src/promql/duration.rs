//! Prometheus' durations: `1h30m`, largest unit first.

const UNITS: [(&str, i64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Milliseconds, or `None` for anything else.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut next_unit = 0;
    let mut total = 0_i64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at_checked(digits)?;
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at_checked(letters)?;
        let (at, (_, size)) = (UNITS.iter().enumerate())
            .skip(next_unit)
            .find(|(_, (name, _))| *name == unit)?;
        next_unit = at + 1;
        let part = number.parse::<i64>().ok()?.checked_mul(*size)?;
        total = total.checked_add(part)?;
        rest = after;
    }
    (next_unit > 0).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn durations() {
        for (text, want) in [
            ("5m", Some(300_000)),
            ("1h30m", Some(5_400_000)),
            ("1y2w3d4h5m6s7ms", Some(33_019_506_007)),
            ("0s", Some(0)),
            ("5", None),
            ("", None),
            ("m", None),
            ("5m1h", None),
            ("5mm", None),
            ("99999999999999999y", None),
        ] {
            assert_eq!(parse(text), want, "{text}");
        }
    }
}
