//! Finds the tokens of a request.

use std::borrow::Cow;

use http::HeaderName;
use malla_proxy_config::http_filter::{JwtAuthn, TokenLocation};
use malla_proxy_config::request::RequestView;

/// A token where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) text: String,
    /// The providers that look there.
    pub(super) providers: Vec<usize>,
    pub(super) place: Place,
}

/// Where it can be taken off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Header(HeaderName),
    Param(String),
    Cookie,
}

/// The tokens for these providers, in the order they are checked.
pub(super) fn tokens(
    config: &JwtAuthn,
    providers: &[usize],
    request: &RequestView<'_>,
) -> Vec<Found> {
    let mut locations: Vec<(&TokenLocation, Vec<usize>)> = Vec::new();
    for index in providers {
        let Some(provider) = config.providers.get(*index) else {
            continue;
        };
        for location in &provider.locations {
            match locations.iter_mut().find(|(known, _)| *known == location) {
                Some((_, who)) => who.push(*index),
                None => locations.push((location, vec![*index])),
            }
        }
    }
    // Headers by name and prefix, then parameters, then cookies; Envoy checks the last one first.
    locations.sort_by_key(|(location, _)| match location {
        TokenLocation::Header(name, prefix) => (0, format!("{name}{prefix}")),
        TokenLocation::Param(name) => (1, name.clone()),
        TokenLocation::Cookie(name) => (2, name.clone()),
    });
    let mut out = Vec::new();
    for (location, providers) in locations.into_iter().rev() {
        let found = match location {
            TokenLocation::Header(name, prefix) => {
                in_header(request, name, prefix).map(|text| (text, Place::Header(name.clone())))
            }
            TokenLocation::Param(name) => param(request.query(), name)
                .map(|text| (text.into_owned(), Place::Param(name.clone()))),
            TokenLocation::Cookie(name) => request
                .cookie(name)
                .map(|text| (text.to_owned(), Place::Cookie)),
        };
        out.extend(found.map(|(text, place)| Found {
            text,
            providers,
            place,
        }));
    }
    out
}

fn in_header(request: &RequestView<'_>, name: &HeaderName, prefix: &str) -> Option<String> {
    let whole = malla_proxy_config::request::joined(request.headers, name)?;
    if prefix.is_empty() {
        return Some(whole.into_owned());
    }
    let after = whole.get(whole.find(prefix)? + prefix.len()..)?;
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match after.find(part) {
        Some(start) => after.get(start..).map(str::to_owned),
        None => Some(whole.into_owned()),
    }
}

/// The first value of a parameter, decoded.
pub(super) fn param<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key) == name).then(|| decoded(value))
    })
}

/// Percent-decoded; what is no UTF-8 then stays as it is.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let byte = (*first == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            Some(byte) => {
                out.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(out).map_or(Cow::Borrowed(text), Cow::Owned)
}

/// A path without a query parameter; the others stay as they are, in their order.
pub(super) fn without_param(path: &str, name: &str) -> String {
    let (bare, query) = match path.split_once('?') {
        Some((bare, query)) => (bare, query),
        None => return path.to_owned(),
    };
    let (query, fragment) = match query.split_once('#') {
        Some((query, _)) => (query, query.len()),
        None => (query, query.len()),
    };
    let after = path.get(bare.len() + 1 + fragment..).unwrap_or_default();
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| {
            let key = pair.split_once('=').map_or(*pair, |(key, _)| key);
            decoded(key) != name
        })
        .collect();
    match kept.is_empty() {
        true => format!("{bare}{after}"),
        false => format!("{bare}?{}{after}", kept.join("&")),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, Method};
    use malla_proxy_config::request::RequestView;

    use super::{in_header, param, without_param};

    #[test]
    fn tokens_begin_with_what_a_token_may_hold() {
        let name = HeaderName::from_static("authorization");
        let check = |value: &str, prefix: &str, want: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(&name, value.parse().unwrap());
            let view = RequestView {
                method: &Method::GET,
                path: "/",
                scheme: "http",
                headers: &headers,
                state: None,
            };
            assert_eq!(in_header(&view, &name, prefix).as_deref(), want, "{value}");
        };
        check("Bearer a.b.c", "Bearer ", Some("a.b.c"));
        check(
            "Bearer a.b.c,Bearer d.e.f",
            "Bearer ",
            Some("a.b.c,Bearer d.e.f"),
        );
        check("Bearer   \"a.b.c\"", "Bearer ", Some("a.b.c\""));
        check("Basic a", "Bearer ", None);
        check("x jwt=a.b.c", "jwt=", Some("a.b.c"));
        check("a.b.c", "", Some("a.b.c"));
        check("Bearer ===", "Bearer ", Some("Bearer ==="));
    }

    #[test]
    fn parameters_are_decoded_and_taken_off() {
        assert_eq!(
            param("a=1&t%6Fken=x%2Ey&token=2", "token").as_deref(),
            Some("x.y")
        );
        assert_eq!(param("a=%zz", "a").as_deref(), Some("%zz"));
        let check = |path, want| assert_eq!(without_param(path, "t"), want, "{path}");
        check("/a?t=1", "/a");
        check("/a?b=1&t=1&c=2&t=3", "/a?b=1&c=2");
        check("/a", "/a");
        check("/a?b=1&t=2#f", "/a?b=1#f");
    }
}
