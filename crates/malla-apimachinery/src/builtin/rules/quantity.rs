//! Resource quantities (`100m`, `1Gi`): syntax and comparison.

use serde_json::Value;

/// Kubernetes' explanation of a malformed quantity.
pub(super) const SYNTAX: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

const SUFFIXES: &[(&str, f64)] = &[
    ("", 1.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
];

/// The size of a quantity, exact enough to compare requests with limits.
pub(super) fn parse(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => parse_text(text),
        _ => None,
    }
}

fn parse_text(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits = unsigned
        .find(|symbol: char| !symbol.is_ascii_digit() && symbol != '.')
        .unwrap_or(unsigned.len());
    let number: f64 = unsigned.get(..digits)?.parse().ok()?;
    let suffix = unsigned.get(digits..)?;
    let factor = SUFFIXES
        .iter()
        .find(|(name, _)| *name == suffix)
        .map(|(_, factor)| *factor);
    let exponent = || {
        let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
        (power.abs() < 30).then(|| 10_f64.powi(power))
    };
    let size = number * factor.or_else(exponent)?;
    Some(if text.starts_with('-') { -size } else { size })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::parse;

    #[test]
    fn quantities_have_suffixes() {
        let check = |value: Value, want: Option<f64>| assert_eq!(parse(&value), want, "{value}");
        check(json!("100m"), Some(0.1));
        check(json!("1Gi"), Some(1_073_741_824.0));
        check(json!(2), Some(2.0));
        check(json!("1e3"), Some(1000.0));
        check(json!("-1"), Some(-1.0));
        for bad in ["", "m", "1.2.3", "1gb", "1 Gi", "Gi1", "1e99999999999"] {
            check(json!(bad), None);
        }
    }
}
