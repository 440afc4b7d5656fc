//! Envoy's choice of a virtual host and of a route.

use malla_xds_proto::matcher::string_matcher::MatchPattern;
use malla_xds_proto::route::query_parameter_matcher::QueryParameterMatchSpecifier;
use malla_xds_proto::route::route_match::PathSpecifier;
use malla_xds_proto::route::{Route, RouteConfiguration, RouteMatch, VirtualHost};

use serde_json::Value;

use super::{Request, claims, text};

/// Exact domains, then the longest `*.suffix`, then the longest `prefix.*`, then `*`.
pub(crate) fn virtual_host<'a>(
    routes: &'a RouteConfiguration,
    authority: &str,
) -> Option<&'a VirtualHost> {
    let host = authority.to_ascii_lowercase();
    let host = if routes.ignore_port_in_host_matching {
        without_port(&host)
    } else {
        &host
    };
    let score = |domain: &String| -> Option<(u8, usize)> {
        let domain = domain.to_ascii_lowercase();
        if domain == "*" {
            Some((0, 0))
        } else if let Some(suffix) = domain.strip_prefix('*') {
            (host.ends_with(suffix) && host.len() > suffix.len()).then_some((2, suffix.len()))
        } else if let Some(prefix) = domain.strip_suffix('*') {
            (host.starts_with(prefix) && host.len() > prefix.len()).then_some((1, prefix.len()))
        } else {
            (domain == host).then_some((3, 0))
        }
    };
    routes
        .virtual_hosts
        .iter()
        .filter_map(|vhost| Some((vhost.domains.iter().filter_map(score).max()?, vhost)))
        .max_by_key(|(score, _)| *score)
        .map(|(_, vhost)| vhost)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty() => {
            // Not the last part of an IPv6 address without brackets.
            if name.contains(':') && !name.ends_with(']') {
                host
            } else {
                name
            }
        }
        _ => host,
    }
}

pub(crate) fn matches(route: &Route, request: &Request, claims: Option<&Value>) -> bool {
    let Some(of) = &route.r#match else {
        return false;
    };
    path(of, request)
        && of
            .headers
            .iter()
            .all(|matcher| text::header(matcher, request))
        && of.query_parameters.iter().all(|matcher| {
            let value = query_value(&request.path, &matcher.name);
            match (&matcher.query_parameter_match_specifier, value) {
                (Some(QueryParameterMatchSpecifier::StringMatch(matcher)), Some(value)) => {
                    text::string(matcher, value)
                }
                (Some(QueryParameterMatchSpecifier::PresentMatch(wanted)), value) => {
                    value.is_some() == *wanted
                }
                (None, value) => value.is_some(),
                (Some(_), None) => false,
            }
        })
        && of
            .dynamic_metadata
            .iter()
            .all(|matcher| claims::fit(matcher, claims))
}

fn path(of: &RouteMatch, request: &Request) -> bool {
    let path = request.path.split(['?', '#']).next().unwrap_or_default();
    let folds = of.case_sensitive.is_some_and(|sensitive| !sensitive.value);
    let plain = |pattern| {
        let matcher = malla_xds_proto::matcher::StringMatcher {
            ignore_case: folds,
            match_pattern: Some(pattern),
        };
        text::string(&matcher, path)
    };
    match &of.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => plain(MatchPattern::Prefix(prefix.clone())),
        Some(PathSpecifier::Path(exact)) => plain(MatchPattern::Exact(exact.clone())),
        Some(PathSpecifier::SafeRegex(pattern)) => text::regex(pattern, path),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            plain(MatchPattern::Exact(prefix.clone()))
                || plain(MatchPattern::Prefix(format!("{prefix}/")))
        }
        _ => false,
    }
}

fn query_value<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = path.split_once('?')?;
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}
