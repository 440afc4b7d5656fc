//! Parameters of the query, and of `x-forwarded-client-cert`.

use std::borrow::Cow;

use http::HeaderName;
use malla_proxy_config::format::Field;

use super::{Source, Value};

pub(in crate::telemetry::access_log) const CLIENT_CERT: HeaderName =
    HeaderName::from_static("x-forwarded-client-cert");

impl<'a> Source<'a> {
    fn query(&self) -> Option<&'a str> {
        self.record.path.as_ref().and_then(|path| path.query())
    }

    /// The first parameter of a name, decoded.
    pub(super) fn query_param(&self, name: &str) -> Value<'a> {
        let query = self.query().unwrap_or("");
        let found = query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (*decoded(key, false) == *name.as_bytes()).then_some(value)
        });
        found.map_or(Value::None, |value| Value::Bytes(decoded(value, false)))
    }

    /// The query with what a reader can read decoded.
    pub(super) fn decoded_query(&self) -> Value<'a> {
        self.query()
            .map_or(Value::None, |query| Value::Bytes(decoded(query, true)))
    }

    /// What the first element of `x-forwarded-client-cert` that has such a key says there.
    pub(super) fn forwarded_cert(&self, key: &str) -> Value<'a> {
        let header = self.request_field(&Field::Header(CLIENT_CERT));
        let Some(text) = header.as_text() else {
            return Value::None;
        };
        let mut pairs = split(&text, ',').flat_map(|element| split(element, ';'));
        let found = pairs.find_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            name.trim().eq_ignore_ascii_case(key).then_some(value)
        });
        found.map_or(Value::None, |value| Value::Owned(unquoted(value.trim())))
    }
}

/// With `%XX` decoded: all of them, or those of characters that print and separate nothing.
fn decoded(text: &str, visible: bool) -> Cow<'_, [u8]> {
    if !text.contains('%') {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let byte = match after {
            [high, low, ..] if *first == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match byte.map(|(high, low)| high * 16 + low) {
            Some(byte) if !visible || is_visible(byte) => {
                out.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    Cow::Owned(out)
}

fn is_visible(byte: u8) -> bool {
    byte.is_ascii_graphic()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// The parts between separators that stand outside of quotes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    text.split(move |c: char| {
        if escaped {
            escaped = false;
            return false;
        }
        escaped = c == '\\';
        quoted ^= c == '"';
        c == separator && !quoted
    })
}

fn unquoted(text: &str) -> String {
    let inner = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    inner.map_or_else(|| text.to_owned(), |inner| inner.replace("\\\"", "\""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::{decoded, split, unquoted};

    #[test]
    fn what_prints_is_decoded() {
        let check = |text: &str, visible: bool, want: &[u8]| {
            assert_eq!(&*decoded(text, visible), want, "{text}");
        };
        check("a%20b%41", false, b"a bA");
        check("a%20b%41", true, b"a%20bA");
        check("100%", false, b"100%");
        check("%zz%4", false, b"%zz%4");
        check("%e4%00", false, b"\xe4\x00");
    }

    #[test]
    fn separators_in_quotes_separate_nothing() {
        let check = |text: &str, want: &[&str]| {
            assert_eq!(split(text, ';').collect::<Vec<_>>(), want, "{text}");
        };
        check(
            r#"By=a;Subject="O=x;y\";z";URI=b"#,
            &["By=a", r#"Subject="O=x;y\";z""#, "URI=b"],
        );
        check("", &[""]);
        assert_eq!(unquoted(r#""a\"b""#), "a\"b");
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = (decoded(&text, true), split(&text, ',').count(), unquoted(&text));
        }
    }
}
