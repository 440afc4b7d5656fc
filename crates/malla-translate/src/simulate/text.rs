//! Envoy's matchers of texts, headers and addresses.

use std::net::IpAddr;

use ipnet::IpNet;
use malla_xds_proto::core::CidrRange;
use malla_xds_proto::matcher::string_matcher::MatchPattern;
use malla_xds_proto::matcher::{RegexMatcher, StringMatcher};
use malla_xds_proto::route::HeaderMatcher;
use malla_xds_proto::route::header_matcher::HeaderMatchSpecifier;

use super::Request;

pub(crate) fn string(matcher: &StringMatcher, text: &str) -> bool {
    let fold = |text: &str| {
        if matcher.ignore_case {
            text.to_ascii_lowercase()
        } else {
            text.to_owned()
        }
    };
    let text_folded = fold(text);
    match &matcher.match_pattern {
        Some(MatchPattern::Exact(wanted)) => text_folded == fold(wanted),
        Some(MatchPattern::Prefix(wanted)) => text_folded.starts_with(&fold(wanted)),
        Some(MatchPattern::Suffix(wanted)) => text_folded.ends_with(&fold(wanted)),
        Some(MatchPattern::Contains(wanted)) => text_folded.contains(&fold(wanted)),
        Some(MatchPattern::SafeRegex(pattern)) => regex(pattern, text),
        Some(MatchPattern::Custom(_)) | None => false,
    }
}

/// The whole text has to match.
pub(crate) fn regex(pattern: &RegexMatcher, text: &str) -> bool {
    regex::Regex::new(&format!("^(?:{})$", pattern.regex)).is_ok_and(|regex| regex.is_match(text))
}

pub(crate) fn header(matcher: &HeaderMatcher, request: &Request) -> bool {
    let value = header_value(request, &matcher.name);
    let value = value.or_else(|| matcher.treat_missing_header_as_empty.then(String::new));
    let found = match (&matcher.header_match_specifier, value) {
        (Some(HeaderMatchSpecifier::PresentMatch(wanted)), value) => value.is_some() == *wanted,
        (None, value) => value.is_some(),
        // A missing header matches nothing, not even the inverse.
        (Some(_), None) => return false,
        (Some(HeaderMatchSpecifier::StringMatch(matcher)), Some(value)) => string(matcher, &value),
        // Older spellings, which this crate does not emit.
        (Some(_), Some(_)) => false,
    };
    found != matcher.invert_match
}

/// Several headers of one name are one, joined by commas.
fn header_value(request: &Request, name: &str) -> Option<String> {
    match name {
        ":method" => return Some(request.method.clone()),
        ":authority" => return Some(request.authority.clone()),
        ":path" => return Some(request.path.clone()),
        ":scheme" => return Some("http".into()),
        _ => {}
    }
    let values: Vec<&str> = request
        .headers
        .iter()
        .filter(|(key, _)| key == name)
        .map(|(_, value)| &**value)
        .collect();
    (!values.is_empty()).then(|| values.join(","))
}

pub(crate) fn network(range: &CidrRange) -> Option<IpNet> {
    let address: IpAddr = range.address_prefix.parse().ok()?;
    let length = range.prefix_len.map_or(0, |length| length.value);
    IpNet::new(address, u8::try_from(length).ok()?).ok()
}

pub(crate) fn within(range: &CidrRange, address: IpAddr) -> bool {
    network(range).is_some_and(|net| net.contains(&address))
}
