//! The Prometheus text format, version 0.0.4.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>
//!
//! Samples keep the text of their series (`name{label="value"}`), so that a caller that has seen
//! it before needs not take it apart again. Invariant: no input panics, and nothing is allocated
//! that is larger than the input.

use crate::metrics::NAME;

/// Labels of one series; more are refused.
pub const MOST_LABELS: usize = 64;
/// Bytes of one label's name or value; longer ones are refused.
pub const LONGEST_LABEL: usize = 4096;

/// Where and why a text isn't in the format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct BadText {
    pub line: usize,
    pub reason: &'static str,
}

/// One line that says something.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Line<'a> {
    Sample {
        series: &'a str,
        value: f64,
        /// Unix milliseconds, when the exposition gives one.
        timestamp: Option<i64>,
    },
    Type {
        name: &'a str,
        kind: &'a str,
    },
    Help {
        name: &'a str,
        /// As written, escapes included.
        text: &'a str,
    },
}

/// The lines of an exposition, blank ones and comments left out.
pub fn lines(text: &str) -> impl Iterator<Item = Result<Line<'_>, BadText>> {
    text.split('\n').enumerate().filter_map(|(at, raw)| {
        let raw = raw.strip_suffix('\r').unwrap_or(raw).trim_matches(BLANK);
        let parsed = match raw.strip_prefix('#') {
            Some(comment) => return comment_line(comment).map(Ok),
            None if raw.is_empty() => return None,
            None => sample(raw),
        };
        Some(parsed.map_err(|reason| BadText {
            line: at + 1,
            reason,
        }))
    })
}

const BLANK: [char; 2] = [' ', '\t'];

fn comment_line(comment: &str) -> Option<Line<'_>> {
    let comment = comment.trim_start_matches(BLANK);
    let (keyword, rest) = comment.split_once(BLANK)?;
    let rest = rest.trim_start_matches(BLANK);
    let (name, text) = rest.split_once(BLANK).unwrap_or((rest, ""));
    if name.is_empty() {
        return None;
    }
    match keyword {
        "TYPE" => Some(Line::Type {
            name,
            kind: text.trim_matches(BLANK),
        }),
        "HELP" => Some(Line::Help { name, text }),
        _ => None,
    }
}

fn sample(raw: &str) -> Result<Line<'_>, &'static str> {
    let end = series_end(raw)?;
    let (series, rest) = raw.split_at_checked(end).ok_or("not a series")?;
    let mut words = rest.split(BLANK).filter(|word| !word.is_empty());
    let value = words.next().ok_or("a value is missing")?;
    let value = number(value).ok_or("the value is not a number")?;
    let timestamp = match words.next() {
        Some(word) => Some(word.parse().map_err(|_| "the timestamp is not a number")?),
        None => None,
    };
    if words.next().is_some() {
        return Err("something follows the timestamp");
    }
    Ok(Line::Sample {
        series: series.trim_end_matches(BLANK),
        value,
        timestamp,
    })
}

/// As Go's `ParseFloat` reads it.
fn number(word: &str) -> Option<f64> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"+-.".contains(&c);
    word.bytes().all(plain).then(|| word.parse().ok())?
}

/// Where the series' text ends: after its braces, or at the first blank.
fn series_end(raw: &str) -> Result<usize, &'static str> {
    let bytes = raw.as_bytes();
    let name = bytes.iter().take_while(|b| is_name(**b)).count();
    if name == 0 || bytes.first().is_some_and(u8::is_ascii_digit) {
        return Err("a metric name is expected");
    }
    let blanks = |b: &&u8| matches!(b, b' ' | b'\t');
    let gap = bytes.iter().skip(name).take_while(blanks).count();
    match bytes.get(name + gap) {
        Some(b'{') => {}
        Some(_) if gap > 0 => return Ok(name),
        Some(_) => return Err("a metric name has a letter it may not have"),
        None => return Err("a value is missing"),
    }
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in bytes.iter().enumerate().skip(name + gap + 1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Ok(at + 1),
            _ => {}
        }
    }
    Err("the labels are not closed")
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':'
}

/// Name and labels of a series' text.
///
/// # Errors
/// When it isn't one, or is larger than the limits.
pub fn labels(series: &str) -> Result<Vec<(String, String)>, &'static str> {
    let (name, rest) = match series.split_once('{') {
        Some((name, rest)) => (name.trim_end_matches(BLANK), rest),
        None => (series, "}"),
    };
    if name.len() > LONGEST_LABEL {
        return Err("a metric name is too long");
    }
    let mut found = vec![(NAME.to_owned(), name.to_owned())];
    let mut rest = rest.trim_start_matches(BLANK);
    loop {
        if let Some(end) = rest.strip_prefix('}') {
            return match end.trim_matches(BLANK) {
                "" => Ok(found),
                _ => Err("something follows the labels"),
            };
        }
        if found.len() > MOST_LABELS {
            return Err("a series has too many labels");
        }
        let (label, after) = rest.split_once('=').ok_or("a label has no value")?;
        let label = label.trim_matches(BLANK);
        let legal = label.bytes().all(|b| is_name(b) && b != b':');
        if label.is_empty() || !legal || label.starts_with(|c: char| c.is_ascii_digit()) {
            return Err("a label name has a letter it may not have");
        }
        let after = after.trim_start_matches(BLANK);
        let quoted = after
            .strip_prefix('"')
            .ok_or("a label value is not quoted")?;
        let (value, after) = unquote(quoted)?;
        if label.len() > LONGEST_LABEL || value.len() > LONGEST_LABEL {
            return Err("a label is too long");
        }
        if found.iter().any(|(name, _)| name == label) {
            return Err("a label is given twice");
        }
        found.push((label.to_owned(), value));
        rest = after.trim_start_matches(BLANK);
        rest = match rest.strip_prefix(',') {
            Some(rest) => rest.trim_start_matches(BLANK),
            None if rest.starts_with('}') => rest,
            None => return Err("a comma or the end of the labels is expected"),
        };
    }
}

/// Reads up to the closing quote, replacing `\\`, `\"` and `\n`.
fn unquote(text: &str) -> Result<(String, &str), &'static str> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, text.get(at + 1..).unwrap_or_default())),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, c @ ('\\' | '"'))) => value.push(c),
                // As Prometheus: an unknown escape stands for itself.
                Some((_, c)) => value.extend(['\\', c]),
                None => break,
            },
            c => value.push(c),
        }
    }
    Err("a label value is not closed")
}

/// Replaces the escapes of a help text.
#[must_use]
pub fn help(text: &str) -> String {
    text.replace("\\\\", "\u{0}")
        .replace("\\n", "\n")
        .replace('\u{0}', "\\")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, proptest};

    #[track_caller]
    fn check(text: &str, want: &str) {
        let shown: Vec<String> = lines(text)
            .map(|line| match line {
                Ok(Line::Sample {
                    series,
                    value,
                    timestamp,
                }) => match labels(series) {
                    Ok(labels) => {
                        let at = timestamp.map(|t| format!("@{t}")).unwrap_or_default();
                        let labels: Vec<String> =
                            labels.iter().map(|(n, v)| format!("{n}={v:?}")).collect();
                        format!("{} {value}{at}", labels.join(","))
                    }
                    Err(reason) => format!("error: {reason}"),
                },
                Ok(Line::Type { name, kind }) => format!("type {name} {kind}"),
                Ok(Line::Help { name, text }) => format!("help {name} {:?}", help(text)),
                Err(error) => format!("error: {error}"),
            })
            .collect();
        assert_eq!(shown.join("\n"), want);
    }

    #[test]
    fn the_example_of_the_format_is_read() {
        check(
            "# HELP http_requests_total The total\\nnumber.\n# TYPE http_requests_total counter\n\
             http_requests_total{method=\"post\",code=\"200\"} 1027 1395066363000\n\n\
             # a comment\nmsdos_file_access_time_seconds{path=\"C:\\\\DIR\\\\FILE.TXT\",error=\"Cannot find file:\\n\\\"FILE.TXT\\\"\"} 1.458255915e9\n\
             metric_without_timestamp_and_labels 12.47\nsomething_weird{problem=\"division by zero\"} +Inf -3982045\n\
             rpc_duration_seconds_bucket { le = \"+Inf\" , } 2693\r\nx NaN",
            "help http_requests_total \"The total\\nnumber.\"\ntype http_requests_total counter\n\
             __name__=\"http_requests_total\",method=\"post\",code=\"200\" 1027@1395066363000\n\
             __name__=\"msdos_file_access_time_seconds\",path=\"C:\\\\DIR\\\\FILE.TXT\",error=\"Cannot find file:\\n\\\"FILE.TXT\\\"\" 1458255915\n\
             __name__=\"metric_without_timestamp_and_labels\" 12.47\n\
             __name__=\"something_weird\",problem=\"division by zero\" inf@-3982045\n\
             __name__=\"rpc_duration_seconds_bucket\",le=\"+Inf\" 2693\n__name__=\"x\" NaN",
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        check(
            "a 1\n{b=\"c\"} 1",
            "__name__=\"a\" 1\nerror: line 2: a metric name is expected",
        );
        check("a{b=\"}\"", "error: line 1: the labels are not closed");
        check(
            "a{b=\"c\" d=\"e\"} 1",
            "error: a comma or the end of the labels is expected",
        );
        check("a{b=c} 1", "error: a label value is not quoted");
        check("a{b=\"1\",b=\"2\"} 1", "error: a label is given twice");
        check("a one", "error: line 1: the value is not a number");
        check("a 1 2 3", "error: line 1: something follows the timestamp");
        check(
            "a-b 1",
            "error: line 1: a metric name has a letter it may not have",
        );
        check("a", "error: line 1: a value is missing");
        check(
            &format!("a{{b=\"{}\"}} 1", "x".repeat(LONGEST_LABEL + 1)),
            "error: a label is too long",
        );
    }

    fn escape(value: &str) -> String {
        value
            .replace('\\', "\\\\")
            .replace('\n', "\\n")
            .replace('"', "\\\"")
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text in any::<String>()) {
            for line in lines(&text).flatten() {
                if let Line::Sample { series, .. } = line {
                    labels(series).ok();
                }
            }
        }

        #[test]
        fn near_misses_are_survived(text in "[a-c{}=\",\\\\# \n0-9+.eN-]{0,60}") {
            for line in lines(&text).flatten() {
                if let Line::Sample { series, .. } = line {
                    prop_assert!(labels(series).is_err() || !series.is_empty());
                }
            }
        }

        #[test]
        fn what_is_written_is_read(
            values in prop::collection::vec(".*".prop_map(|v| v.replace('\r', "")), 0..5),
            number: f64,
        ) {
            let inner: Vec<String> = values
                .iter()
                .enumerate()
                .map(|(at, v)| format!("l{at}=\"{}\"", escape(v)))
                .collect();
            let text = format!("m{{{}}} {number:?}\n", inner.join(","));
            let Some(Ok(Line::Sample { series, value, .. })) = lines(&text).next() else {
                panic!("{text}");
            };
            prop_assert!(value == number || (value.is_nan() && number.is_nan()));
            let read: Vec<String> = labels(series).unwrap().into_iter().skip(1).map(|l| l.1).collect();
            prop_assert_eq!(read, values);
        }
    }
}
