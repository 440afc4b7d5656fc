//! A VirtualService's match as Envoy's.

use std::sync::Arc;

use malla_model::matching::{ClaimMatch, HttpMatch, StringMatch};
use malla_xds_proto::matcher::string_matcher::MatchPattern;
use malla_xds_proto::matcher::{MetadataMatcher, RegexMatcher, StringMatcher};
use malla_xds_proto::route::header_matcher::HeaderMatchSpecifier;
use malla_xds_proto::route::query_parameter_matcher::QueryParameterMatchSpecifier;
use malla_xds_proto::route::route_match::PathSpecifier;
use malla_xds_proto::route::{HeaderMatcher, QueryParameterMatcher, RouteMatch};
use malla_xds_proto::wkt;

use crate::jwt;

/// Matches of headers by these names are about the request line; Istio ignores them.
const NOT_HEADERS: [&str; 4] = ["uri", "scheme", "method", "authority"];

/// Every request.
pub(crate) fn everything() -> RouteMatch {
    RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix("/".into())),
        ..RouteMatch::default()
    }
}

pub(crate) fn route_match(of: &HttpMatch) -> RouteMatch {
    let named = |(name, _): &(&Arc<str>, &StringMatch)| !NOT_HEADERS.contains(&&***name);
    let mut headers: Vec<HeaderMatcher> = of
        .headers
        .iter()
        .filter(named)
        .map(|(name, value)| header(name, value))
        .collect();
    headers.extend(
        of.without_headers
            .iter()
            .filter(named)
            .map(|(name, value)| HeaderMatcher {
                invert_match: true,
                treat_missing_header_as_empty: !matches!(value, StringMatch::Present),
                ..header(name, value)
            }),
    );
    for (name, value) in [
        (":method", &of.method),
        (":authority", &of.authority),
        (":scheme", &of.scheme),
    ] {
        if let Some(value) = value {
            headers.push(header(name, value));
        }
    }
    RouteMatch {
        path_specifier: Some(path(of.uri.as_ref())),
        case_sensitive: Some(wkt::boolean(!of.ignore_uri_case)),
        headers,
        query_parameters: of
            .query_params
            .iter()
            .map(|(name, value)| query(name, value))
            .collect(),
        dynamic_metadata: of.claims.iter().map(claim).collect(),
        ..RouteMatch::default()
    }
}

/// Whether every request satisfies it, so that routes after it are never reached.
pub(crate) fn is_catch_all(of: &RouteMatch) -> bool {
    let any_path = match &of.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => prefix == "/",
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => prefix == "/",
        Some(PathSpecifier::SafeRegex(regex)) => regex.regex == ".*",
        _ => false,
    };
    any_path
        && of.headers.is_empty()
        && of.query_parameters.is_empty()
        && of.dynamic_metadata.is_empty()
}

fn path(uri: Option<&StringMatch>) -> PathSpecifier {
    match uri {
        None | Some(StringMatch::Present) => PathSpecifier::Prefix("/".into()),
        Some(StringMatch::Exact(path)) => PathSpecifier::Path(path.to_string()),
        Some(StringMatch::Prefix(prefix)) => PathSpecifier::Prefix(prefix.to_string()),
        Some(StringMatch::PathSegments(prefix)) if matches!(&**prefix, "" | "/") => {
            PathSpecifier::Prefix("/".into())
        }
        Some(StringMatch::PathSegments(prefix)) => {
            PathSpecifier::PathSeparatedPrefix(prefix.to_string())
        }
        Some(StringMatch::Regex(pattern)) => PathSpecifier::SafeRegex(regex(pattern.as_str())),
    }
}

fn header(name: &str, value: &StringMatch) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(match string(value) {
            Some(matcher) => HeaderMatchSpecifier::StringMatch(matcher),
            None => HeaderMatchSpecifier::PresentMatch(true),
        }),
        ..HeaderMatcher::default()
    }
}

fn claim(of: &ClaimMatch) -> MetadataMatcher {
    let anything = || StringMatcher {
        match_pattern: Some(MatchPattern::SafeRegex(regex(".*"))),
        ..StringMatcher::default()
    };
    let value = string(&of.value).unwrap_or_else(anything);
    MetadataMatcher {
        invert: of.invert,
        ..jwt::claim(of.path.iter().map(|part| &**part), value)
    }
}

fn query(name: &str, value: &StringMatch) -> QueryParameterMatcher {
    QueryParameterMatcher {
        name: name.to_owned(),
        query_parameter_match_specifier: Some(match string(value) {
            Some(matcher) => QueryParameterMatchSpecifier::StringMatch(matcher),
            None => QueryParameterMatchSpecifier::PresentMatch(true),
        }),
    }
}

/// `None` where presence is all that is asked.
pub(crate) fn string(value: &StringMatch) -> Option<StringMatcher> {
    let pattern = match value {
        StringMatch::Present => return None,
        StringMatch::Exact(text) => MatchPattern::Exact(text.to_string()),
        StringMatch::Prefix(text) | StringMatch::PathSegments(text) if text.is_empty() => {
            return None;
        }
        StringMatch::Prefix(text) | StringMatch::PathSegments(text) => {
            MatchPattern::Prefix(text.to_string())
        }
        StringMatch::Regex(pattern) => MatchPattern::SafeRegex(regex(pattern.as_str())),
    };
    Some(StringMatcher {
        match_pattern: Some(pattern),
        ..StringMatcher::default()
    })
}

pub(crate) fn regex(text: &str) -> RegexMatcher {
    RegexMatcher {
        regex: text.to_owned(),
        ..RegexMatcher::default()
    }
}
