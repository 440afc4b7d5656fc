//! Policies' texts and networks as Envoy's matchers.

use std::net::IpAddr;

use ipnet::IpNet;
use malla_model::policy::Glob;
use malla_xds_proto::core::CidrRange;
use malla_xds_proto::matcher::string_matcher::MatchPattern;
use malla_xds_proto::matcher::{RegexMatcher, StringMatcher};
use malla_xds_proto::route::HeaderMatcher;
use malla_xds_proto::route::header_matcher::HeaderMatchSpecifier;
use malla_xds_proto::wkt;

/// A network, or one address.
pub(super) fn network(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse().ok().or_else(address)
}

pub(super) fn cidr(net: &IpNet) -> CidrRange {
    CidrRange {
        address_prefix: net.addr().to_string(),
        prefix_len: Some(wkt::uint32(net.prefix_len().into())),
    }
}

/// A policy's text as a matcher of texts that start with `prefix`. Envoy refuses empty prefixes and
/// suffixes, so "present" is a regular expression.
pub(crate) fn glob(value: &Glob, prefix: &str, ignore_case: bool) -> StringMatcher {
    let pattern = match value {
        Glob::Present => MatchPattern::SafeRegex(regex(".+".into())),
        Glob::Exact(text) => MatchPattern::Exact(format!("{prefix}{text}")),
        Glob::Prefix(text) => MatchPattern::Prefix(format!("{prefix}{text}")),
        Glob::Suffix(text) if prefix.is_empty() => MatchPattern::Suffix(text.to_string()),
        Glob::Suffix(text) => {
            MatchPattern::SafeRegex(regex(format!("{prefix}.*{}", regex::escape(text))))
        }
    };
    StringMatcher {
        match_pattern: Some(pattern),
        ignore_case,
    }
}

/// A regular expression for the whole text.
pub(super) fn pattern(text: String) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(MatchPattern::SafeRegex(regex(text))),
        ..StringMatcher::default()
    }
}

fn regex(text: String) -> RegexMatcher {
    RegexMatcher {
        regex: text,
        ..RegexMatcher::default()
    }
}

pub(super) fn present_header(name: &str) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
        ..HeaderMatcher::default()
    }
}
