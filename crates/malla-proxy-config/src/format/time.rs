//! How moments are written: Envoy's spelling of `strftime` formats, checked once.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A format of `START_TIME` and its like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeFormat {
    /// In `jiff`'s spelling; `None` is ISO 8601 with milliseconds.
    pub text: Option<String>,
    /// In the zone of the host, not UTC.
    pub local: bool,
}

impl TimeFormat {
    /// Compiles a format.
    ///
    /// # Errors
    /// For a specifier that there is not, and for line ends, which no header may have.
    pub(super) fn parse(text: Option<&str>, local: bool) -> Result<Self, String> {
        let text = text.map(translate).transpose()?;
        if let Some(text) = &text {
            let moment = Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC);
            jiff::fmt::strtime::format(text, &moment)
                .map_err(|error| format!("the time format is not understood: {error}"))?;
        }
        Ok(Self { text, local })
    }
}

/// `%E3S` is seconds with three digits behind the point, `%E3f` and `%3f` are these digits, `%f` is nine.
fn translate(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len() + 8);
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let (before, command) = rest.split_at(at);
        out.push_str(before);
        let mut chars = command.chars();
        chars.next();
        let (first, second, third) = (chars.next(), chars.next(), chars.next());
        let (written, length) = match (first, second, third) {
            (Some('E'), Some(digit @ '1'..='9'), Some('S')) => (format!("%S.%{digit}f"), 4),
            (Some('E'), Some('*'), Some('S')) => ("%S%.f".to_owned(), 4),
            (Some('E'), Some(digit @ '1'..='9'), Some('f')) => (format!("%{digit}f"), 4),
            (Some('E'), Some('z'), _) => ("%:z".to_owned(), 3),
            (Some('f'), ..) => ("%9f".to_owned(), 2),
            (Some('n'), ..) | (Some('E' | 'O' | '-' | '_' | '0' | '^' | '#'), Some('n'), _) => {
                return Err("the time format has a line end".to_owned());
            }
            (Some('%'), ..) => ("%%".to_owned(), 2),
            (Some(_), ..) | (None, ..) => ("%".to_owned(), 1),
        };
        out.push_str(&written);
        rest = command.get(length..).unwrap_or_default();
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::{TimeFormat, translate};

    #[test]
    fn formats_are_written_as_jiff_reads_them() {
        let check = |text: &str, want: &str| assert_eq!(translate(text).unwrap(), want, "{text}");
        check("%Y/%m/%d %H:%M:%S.%3f", "%Y/%m/%d %H:%M:%S.%3f");
        check("%E4S %E*S %E6f %f %Ez", "%S.%4f %S%.f %6f %9f %:z");
        check("%%f 100%", "%%f 100%");
        translate("a%nb").unwrap_err();
        assert!(TimeFormat::parse(Some("%E?"), false).is_err());
        assert!(TimeFormat::parse(Some("%s.%9f %e %j"), true).is_ok());
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = TimeFormat::parse(Some(&text), false);
        }
    }
}
