//! What routes, policies and logs look at in a request, and how they compare it.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, Method, header};

use crate::checked::{Cx, Invalid};
use crate::format::Field;
use crate::matcher::{StringMatcher, StringPattern};
use crate::pb::{matcher as string, route as pb};
use crate::stream_state::StreamState;

/// A request head after normalisation; the authority is in `Host` whatever the protocol.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    /// Method.
    pub method: &'a Method,
    /// Path and query; empty for a CONNECT without `:path`.
    pub path: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Header fields.
    pub headers: &'a HeaderMap,
    /// What filters have noted about it; `None` is nothing.
    pub state: Option<&'a StreamState>,
}

impl<'a> RequestView<'a> {
    /// The path without query and fragment, as every path matcher sees it.
    pub fn path_only(&self) -> &'a str {
        split_path(self.path).0
    }

    /// The query without its `?`; empty if there is none.
    pub fn query(&self) -> &'a str {
        let after = split_path(self.path).1;
        let query = after.strip_prefix('?').unwrap_or("");
        query.split_once('#').map_or(query, |(query, _)| query)
    }

    /// Host and port as sent.
    pub fn authority(&self) -> &'a str {
        self.headers.get(header::HOST).map_or("", text)
    }

    /// The value of a field; several header lines are joined by commas, as logs and hashes see them.
    pub fn get(&self, field: &Field) -> Option<Cow<'a, str>> {
        match field {
            Field::Method => Some(Cow::Borrowed(self.method.as_str())),
            Field::Path => (!self.path.is_empty()).then_some(Cow::Borrowed(self.path)),
            Field::Scheme => Some(Cow::Borrowed(self.scheme)),
            Field::Authority => self
                .headers
                .get(header::HOST)
                .map(|value| Cow::Borrowed(text(value))),
            Field::Status => None,
            Field::Header(name) => joined(self.headers, name),
        }
    }

    /// Whether a test holds for any value of a field; `None` where the field is missing.
    ///
    /// Each header line counts alone, as in Envoy: a rule on a value must not be evaded by sending
    /// a second line.
    fn any(&self, field: &Field, test: impl Fn(&str) -> bool) -> Option<bool> {
        match field {
            Field::Header(name) => any_line(self.headers, name, test),
            _ => self.get(field).map(|value| test(&value)),
        }
    }

    /// The first value of a query parameter, as it was sent.
    pub fn query_param(&self, name: &str) -> Option<&'a str> {
        self.query().split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    }

    /// The value of a cookie.
    pub fn cookie(&self, name: &str) -> Option<&'a str> {
        self.headers
            .get_all(header::COOKIE)
            .iter()
            .flat_map(|line| text(line).split(';'))
            .find_map(|pair| {
                let (key, value) = pair.trim_start().split_once('=')?;
                (key == name).then(|| value.trim_end().trim_matches('"'))
            })
    }
}

/// Splits before the query or fragment.
pub fn split_path(path: &str) -> (&str, &str) {
    let end = path
        .bytes()
        .position(|byte| byte == b'?' || byte == b'#')
        .unwrap_or(path.len());
    path.split_at(end)
}

/// Header values joined by commas; borrowed when there is one.
pub fn joined<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Option<Cow<'a, str>> {
    let mut values = headers.get_all(name).iter();
    // Not dropped where it is not UTF-8: a deny rule on a prefix must still see the prefix.
    let mut out = String::from_utf8_lossy(values.next()?.as_bytes());
    for more in values {
        let all = out.to_mut();
        all.push(',');
        all.push_str(&String::from_utf8_lossy(more.as_bytes()));
    }
    Some(out)
}

fn any_line(
    headers: &HeaderMap,
    name: &http::HeaderName,
    test: impl Fn(&str) -> bool,
) -> Option<bool> {
    let mut lines = headers.get_all(name).iter().peekable();
    lines.peek()?;
    // Not dropped where it is not UTF-8: a deny rule on a prefix must still see the prefix.
    Some(lines.any(|line| test(&String::from_utf8_lossy(line.as_bytes()))))
}

/// A header value as text; empty where it is not UTF-8.
pub fn text(value: &HeaderValue) -> &str {
    std::str::from_utf8(value.as_bytes()).unwrap_or("")
}

/// `envoy.config.route.v3.HeaderMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderMatcher {
    /// Which field.
    pub field: Field,
    /// The opposite counts.
    pub invert: bool,
    /// A missing field is compared as an empty one.
    pub missing_as_empty: bool,
    /// How it is compared.
    pub test: HeaderTest,
}

/// How a header is compared.
#[derive(Debug, Clone, PartialEq)]
pub enum HeaderTest {
    /// Is there, or is not there.
    Present(bool),
    /// An integer in `start <= value < end`.
    Range(i64, i64),
    /// A string.
    Text(StringMatcher),
}

impl HeaderMatcher {
    pub(crate) fn parse(wire: pb::HeaderMatcher, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::header_matcher::HeaderMatchSpecifier as Wire;
        use string::string_matcher::MatchPattern;
        let pb::HeaderMatcher {
            name,
            invert_match,
            treat_missing_header_as_empty,
            header_match_specifier,
        } = wire;
        let field = Field::parse(&name).map_err(|reason| cx.invalid("name", reason))?;
        let plain = |pattern| {
            HeaderTest::Text(StringMatcher {
                pattern,
                ignore_case: false,
            })
        };
        let matcher = |pattern, cx: &mut Cx| {
            StringMatcher::parse(
                string::StringMatcher {
                    match_pattern: Some(pattern),
                    ignore_case: false,
                },
                cx,
            )
        };
        let test = match header_match_specifier {
            None => HeaderTest::Present(true),
            Some(Wire::PresentMatch(present)) => HeaderTest::Present(present),
            Some(Wire::RangeMatch(range)) => HeaderTest::Range(range.start, range.end),
            Some(Wire::ExactMatch(text)) if text.is_empty() => HeaderTest::Present(true),
            Some(Wire::ExactMatch(text)) => plain(StringPattern::Exact(text)),
            Some(Wire::PrefixMatch(text)) => plain(StringPattern::Prefix(text)),
            Some(Wire::SuffixMatch(text)) => plain(StringPattern::Suffix(text)),
            Some(Wire::ContainsMatch(text)) => plain(StringPattern::Contains(text)),
            Some(Wire::SafeRegexMatch(regex)) => {
                HeaderTest::Text(matcher(MatchPattern::SafeRegex(regex), cx)?)
            }
            Some(Wire::StringMatch(text)) => {
                HeaderTest::Text(cx.field("string_match", |cx| StringMatcher::parse(text, cx))?)
            }
        };
        Ok(Self {
            field,
            invert: invert_match,
            missing_as_empty: treat_missing_header_as_empty,
            test,
        })
    }

    /// True if the request fits.
    pub fn is_match(&self, request: &RequestView<'_>) -> bool {
        self.judge(request.any(&self.field, |value| self.test.holds(value)))
    }

    /// The same for a header of a response.
    pub fn matches_headers(&self, headers: &HeaderMap, status: http::StatusCode) -> bool {
        let hit = match &self.field {
            Field::Header(name) => any_line(headers, name, |value| self.test.holds(value)),
            Field::Status => Some(self.test.holds(status.as_str())),
            Field::Method | Field::Path | Field::Scheme | Field::Authority => None,
        };
        self.judge(hit)
    }

    /// The same for a value at hand.
    pub fn matches_text(&self, value: Option<&str>) -> bool {
        self.judge(value.map(|value| self.test.holds(value)))
    }

    /// From whether any value of the field holds; `None` where there is none.
    fn judge(&self, hit: Option<bool>) -> bool {
        let hit = match (hit, &self.test) {
            (Some(hit), _) => hit,
            (None, test) if self.missing_as_empty => test.holds(""),
            (None, HeaderTest::Present(present)) => !present,
            // Missing never matches, not even inverted.
            (None, HeaderTest::Range(..) | HeaderTest::Text(_)) => return false,
        };
        hit != self.invert
    }
}

impl HeaderTest {
    /// Whether it holds for a value that is there.
    fn holds(&self, value: &str) -> bool {
        match self {
            Self::Present(present) => *present,
            Self::Range(start, end) => value
                .parse()
                .is_ok_and(|number: i64| (*start..*end).contains(&number)),
            Self::Text(matcher) => matcher.is_match(value),
        }
    }
}

/// `envoy.config.route.v3.QueryParameterMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryMatcher {
    /// Parameter.
    pub name: String,
    /// How it is compared; `None` only asks whether it is there (or not, see `present`).
    pub test: Option<StringMatcher>,
    /// With `test` absent: must be there, or must not.
    pub present: bool,
}

impl QueryMatcher {
    pub(crate) fn parse(wire: pb::QueryParameterMatcher, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::query_parameter_matcher::QueryParameterMatchSpecifier as Wire;
        let pb::QueryParameterMatcher {
            name,
            query_parameter_match_specifier,
        } = wire;
        let (test, present) = match query_parameter_match_specifier {
            None => (None, true),
            Some(Wire::PresentMatch(present)) => (None, present),
            Some(Wire::StringMatch(matcher)) => (
                Some(cx.field("string_match", |cx| StringMatcher::parse(matcher, cx))?),
                true,
            ),
        };
        Ok(Self {
            name,
            test,
            present,
        })
    }

    /// True if the request fits.
    pub fn is_match(&self, request: &RequestView<'_>) -> bool {
        match (request.query_param(&self.name), &self.test) {
            (value, None) => value.is_some() == self.present,
            (Some(value), Some(test)) => test.is_match(value),
            (None, Some(_)) => false,
        }
    }
}

/// `envoy.config.route.v3.CookieMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub struct CookieMatcher {
    /// Cookie.
    pub name: String,
    /// How it is compared.
    pub test: StringMatcher,
    /// The opposite counts.
    pub invert: bool,
}

impl CookieMatcher {
    pub(crate) fn parse(wire: pb::CookieMatcher, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::CookieMatcher {
            name,
            string_match,
            invert_match,
        } = wire;

        let matcher = cx.required("string_match", string_match)?;
        Ok(Self {
            name,
            test: cx.field("string_match", |cx| StringMatcher::parse(matcher, cx))?,
            invert: invert_match,
        })
    }

    /// True if the request fits.
    pub fn is_match(&self, request: &RequestView<'_>) -> bool {
        request
            .cookie(&self.name)
            .is_some_and(|value| self.test.is_match(value))
            != self.invert
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::{HeaderMatcher, HeaderTest, RequestView};
    use crate::format::Field;
    use crate::matcher::StringMatcher;

    fn view<'a>(headers: &'a HeaderMap, path: &'a str) -> RequestView<'a> {
        RequestView {
            method: &Method::GET,
            path,
            scheme: "http",
            headers,
            state: None,
        }
    }

    #[test]
    fn header_matchers_follow_envoys_truth_table() {
        let mut headers = HeaderMap::new();
        headers.append("x-a", "1".parse().unwrap());
        headers.append("x-a", "2".parse().unwrap());
        let request = view(&headers, "/");
        let check =
            |name: &str, test: HeaderTest, invert: bool, missing_as_empty: bool, want: bool| {
                let matcher = HeaderMatcher {
                    field: Field::parse(name).unwrap(),
                    invert,
                    missing_as_empty,
                    test,
                };
                assert_eq!(matcher.is_match(&request), want, "{matcher:?}");
            };
        let exact = |text: &str| HeaderTest::Text(StringMatcher::exact(text));
        // Each line counts alone.
        check("x-a", exact("1,2"), false, false, false);
        check("x-a", exact("1"), false, false, true);
        check("x-a", exact("2"), false, false, true);
        check("x-a", exact("2"), true, false, false);
        check("x-a", HeaderTest::Range(2, 3), false, false, true);
        check("x-b", exact("1"), true, false, false); // Missing never matches, not even inverted…
        check("x-b", exact("1"), true, true, true); // …unless it counts as empty.
        check("x-b", HeaderTest::Present(true), false, false, false);
        check("x-b", HeaderTest::Present(true), true, false, true);
        check("x-b", HeaderTest::Present(false), false, false, true);
        check("x-a", HeaderTest::Present(false), false, false, false);
        check(":method", exact("GET"), false, false, true);
    }

    #[test]
    fn query_and_cookies() {
        let mut headers = HeaderMap::new();
        headers.append("cookie", "a=1; b=\"two\"".parse().unwrap());
        let request = view(&headers, "/p?x=1&flag&x=2#f");
        assert_eq!(request.path_only(), "/p");
        assert_eq!(request.query_param("x"), Some("1"));
        assert_eq!(request.query_param("flag"), Some(""));
        assert_eq!(request.query_param("y"), None);
        assert_eq!(
            (
                request.cookie("a"),
                request.cookie("b"),
                request.cookie("c")
            ),
            (Some("1"), Some("two"), None)
        );
    }
}
