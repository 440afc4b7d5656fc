//! The `from` of a rule, and those of its conditions that are about the source or the request.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use malla_model::policy::{Condition, ConditionKey, Glob, OneOf, Rule, Source};
use malla_xds_proto::core::CidrRange;
use malla_xds_proto::matcher::metadata_matcher::{PathSegment, path_segment};
use malla_xds_proto::matcher::string_matcher::MatchPattern;
use malla_xds_proto::matcher::{
    ListMatcher, MetadataMatcher, RegexMatcher, StringMatcher, ValueMatcher, list_matcher,
    value_matcher,
};
use malla_xds_proto::rbac::principal::{Authenticated, Identifier, Set};
use malla_xds_proto::rbac::{MetadataSource, Principal, SourcedMetadata};
use malla_xds_proto::route::HeaderMatcher;
use malla_xds_proto::route::header_matcher::HeaderMatchSpecifier;
use malla_xds_proto::wkt;

use super::Layer;
use crate::node::Profile;
use crate::tls::trust_domains;
use crate::view::View;

const SPIFFE: &str = "spiffe://";
const JWT_FILTER: &str = "envoy.filters.http.jwt_authn";
/// Where the JWT filter leaves a token's claims.
const JWT_PAYLOAD: &str = "payload";

pub(crate) fn any() -> Principal {
    principal(Identifier::Any(true))
}

/// One principal for each source; any of them will do.
pub(crate) fn of_rule(view: &View<'_>, rule: &Rule, layer: Layer) -> Vec<Principal> {
    let conditions: Vec<Principal> = rule
        .when
        .iter()
        .flat_map(|condition| of_condition(view, condition, layer))
        .collect();
    if rule.from.is_empty() {
        return vec![all(conditions)];
    }
    rule.from
        .iter()
        .map(|source| {
            let mut parts = of_source(view, source, layer);
            parts.extend(conditions.iter().cloned());
            all(parts)
        })
        .collect()
}

/// Whether only HTTP knows what the condition asks.
pub(crate) fn key_needs_http(key: &ConditionKey) -> bool {
    matches!(
        key,
        ConditionKey::RequestHeader(_)
            | ConditionKey::RequestPrincipal
            | ConditionKey::RequestAudiences
            | ConditionKey::RequestPresenter
            | ConditionKey::RequestClaim(_)
    )
}

fn of_source(view: &View<'_>, source: &Source, layer: Layer) -> Vec<Principal> {
    let mut parts = Vec::new();
    add(&mut parts, &source.principals, |name| identity(view, name));
    if layer == Layer::Http {
        add(&mut parts, &source.request_principals, |name| {
            request_principal(view, name)
        });
    }
    add(&mut parts, &source.namespaces, namespace);
    add(
        &mut parts,
        &source.service_accounts,
        |(namespace, account)| {
            let (namespace, account) = (regex::escape(namespace), regex::escape(account));
            authenticated(pattern(format!(
                "spiffe://[^/]+/ns/{namespace}/sa/{account}"
            )))
        },
    );
    add(&mut parts, &source.ip_blocks, |net| {
        principal(Identifier::DirectRemoteIp(cidr(net)))
    });
    add(&mut parts, &source.remote_ip_blocks, |net| {
        principal(Identifier::RemoteIp(cidr(net)))
    });
    parts
}

fn of_condition(view: &View<'_>, condition: &Condition, layer: Layer) -> Vec<Principal> {
    let mut parts = Vec::new();
    if layer == Layer::Tcp && key_needs_http(&condition.key) {
        return parts;
    }
    let values = &condition.values;
    match &condition.key {
        ConditionKey::RequestHeader(name) => add(&mut parts, values, |text| header(name, text)),
        ConditionKey::SourceIp => add(&mut parts, values, |text| {
            address(text, Identifier::DirectRemoteIp)
        }),
        ConditionKey::RemoteIp => add(&mut parts, values, |text| {
            address(text, Identifier::RemoteIp)
        }),
        ConditionKey::SourceNamespace => {
            add(&mut parts, values, |text| namespace(&Glob::parse(text)))
        }
        ConditionKey::SourcePrincipal => add(&mut parts, values, |text| {
            identity(view, &Glob::parse(text))
        }),
        ConditionKey::RequestPrincipal => {
            add(&mut parts, values, |text| {
                request_principal(view, &Glob::parse(text))
            });
        }
        ConditionKey::RequestAudiences => {
            add(&mut parts, values, |text| {
                claim(view, &["aud"], &Glob::parse(text))
            });
        }
        ConditionKey::RequestPresenter => {
            add(&mut parts, values, |text| {
                claim(view, &["azp"], &Glob::parse(text))
            });
        }
        ConditionKey::RequestClaim(path) => {
            let path: Vec<&str> = path.iter().map(|part| &**part).collect();
            add(&mut parts, values, |text| {
                claim(view, &path, &Glob::parse(text))
            });
        }
        ConditionKey::DestinationIp
        | ConditionKey::DestinationPort
        | ConditionKey::ConnectionSni => {}
    }
    parts
}

/// A workload's identity, under every name the mesh's trust domain goes by.
fn identity(view: &View<'_>, name: &Glob) -> Principal {
    let domains: Vec<&str> = trust_domains(view.mesh).collect();
    let aliased = |text: &Arc<str>| -> Vec<String> {
        match text.split_once('/') {
            Some((domain, rest)) if domains.contains(&domain) => domains
                .iter()
                .map(|domain| format!("{domain}/{rest}"))
                .collect(),
            _ => vec![text.to_string()],
        }
    };
    let globs: Vec<Glob> = match name {
        Glob::Exact(text) => aliased(text)
            .into_iter()
            .map(|text| Glob::Exact(text.into()))
            .collect(),
        Glob::Prefix(text) => aliased(text)
            .into_iter()
            .map(|text| Glob::Prefix(text.into()))
            .collect(),
        other => vec![other.clone()],
    };
    let mut ids: Vec<Principal> = globs
        .iter()
        .map(|name| authenticated(glob(name, SPIFFE, false)))
        .collect();
    match (ids.len(), ids.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            ids.extend(last);
            principal(Identifier::OrIds(Set { ids }))
        }
    }
}

fn namespace(name: &Glob) -> Principal {
    let text = match name {
        Glob::Present => ".*".to_owned(),
        Glob::Exact(text) => regex::escape(text),
        Glob::Prefix(text) => format!("{}.*", regex::escape(text)),
        Glob::Suffix(text) => format!(".*{}", regex::escape(text)),
    };
    authenticated(pattern(format!(".*/ns/{text}/.*")))
}

/// `issuer/subject`, where the issuer may hold slashes and the subject may not.
fn request_principal(view: &View<'_>, name: &Glob) -> Principal {
    let both = |issuer: &Glob, subject: &Glob| {
        all(vec![
            claim(view, &["iss"], issuer),
            claim(view, &["sub"], subject),
        ])
    };
    match name {
        Glob::Present => both(&Glob::Present, &Glob::Present),
        Glob::Exact(text) => match text.rsplit_once('/') {
            Some((issuer, subject)) => {
                both(&Glob::Exact(issuer.into()), &Glob::Exact(subject.into()))
            }
            None => never(),
        },
        Glob::Prefix(text) => {
            let issuer_only = both(&Glob::Prefix(text.clone()), &Glob::Present);
            match text.rsplit_once('/') {
                // The text may end within the subject, or within an issuer that holds slashes.
                Some((issuer, subject)) => {
                    let subject = if subject.is_empty() {
                        Glob::Present
                    } else {
                        Glob::Prefix(subject.into())
                    };
                    let split = both(&Glob::Exact(issuer.into()), &subject);
                    principal(Identifier::OrIds(Set {
                        ids: vec![split, issuer_only],
                    }))
                }
                None => issuer_only,
            }
        }
        Glob::Suffix(text) => match text.rsplit_once('/') {
            Some((issuer, subject)) => {
                let issuer = if issuer.is_empty() {
                    Glob::Present
                } else {
                    Glob::Suffix(issuer.into())
                };
                both(&issuer, &Glob::Exact(subject.into()))
            }
            None => both(&Glob::Present, &Glob::Suffix(text.clone())),
        },
    }
}

/// A claim of the request's token: a text, or a list that holds it.
fn claim(view: &View<'_>, path: &[&str], value: &Glob) -> Principal {
    if view.node.profile == Profile::Malla {
        // It verifies no tokens yet, so no request has claims.
        return never();
    }
    let text = || {
        Some(ValueMatcher {
            match_pattern: Some(value_matcher::MatchPattern::StringMatch(glob(
                value, "", false,
            ))),
        })
    };
    let matching = |value: Option<ValueMatcher>| {
        let matcher = MetadataMatcher {
            filter: JWT_FILTER.into(),
            path: std::iter::once(&JWT_PAYLOAD)
                .chain(path)
                .map(|key| PathSegment {
                    segment: Some(path_segment::Segment::Key((*key).to_owned())),
                })
                .collect(),
            value,
            ..MetadataMatcher::default()
        };
        principal(Identifier::SourcedMetadata(SourcedMetadata {
            metadata_matcher: Some(matcher),
            metadata_source: MetadataSource::Dynamic.into(),
        }))
    };
    let list = text().map(|one| ValueMatcher {
        match_pattern: Some(value_matcher::MatchPattern::ListMatch(Box::new(
            ListMatcher {
                match_pattern: Some(list_matcher::MatchPattern::OneOf(Box::new(one))),
            },
        ))),
    });
    principal(Identifier::OrIds(Set {
        ids: vec![matching(text()), matching(list)],
    }))
}

fn header(name: &str, text: &Arc<str>) -> Principal {
    let matcher = match Glob::parse(text) {
        Glob::Present => present_header(name),
        value => HeaderMatcher {
            name: name.to_owned(),
            header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(glob(
                &value, "", false,
            ))),
            ..HeaderMatcher::default()
        },
    };
    principal(Identifier::Header(matcher))
}

pub(crate) fn present_header(name: &str) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
        ..HeaderMatcher::default()
    }
}

fn address(text: &str, kind: fn(CidrRange) -> Identifier) -> Principal {
    match network(text) {
        Some(net) => principal(kind(cidr(&net))),
        None => never(),
    }
}

/// A network, or one address.
pub(crate) fn network(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse().ok().or_else(address)
}

pub(crate) fn cidr(net: &IpNet) -> CidrRange {
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
pub(crate) fn pattern(text: String) -> StringMatcher {
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

fn authenticated(name: StringMatcher) -> Principal {
    principal(Identifier::Authenticated(Authenticated {
        principal_name: Some(name),
    }))
}

/// One of `any`, and none of `none`.
fn add<T>(parts: &mut Vec<Principal>, values: &OneOf<T>, each: impl Fn(&T) -> Principal) {
    let either = |values: &[T]| {
        principal(Identifier::OrIds(Set {
            ids: values.iter().map(&each).collect(),
        }))
    };
    if !values.any.is_empty() {
        parts.push(either(&values.any));
    }
    if !values.none.is_empty() {
        parts.push(principal(Identifier::NotId(Box::new(either(&values.none)))));
    }
}

fn all(parts: Vec<Principal>) -> Principal {
    if parts.is_empty() {
        return any();
    }
    principal(Identifier::AndIds(Set { ids: parts }))
}

/// For values that cannot be what they should be; validation refuses them before they get here.
fn never() -> Principal {
    principal(Identifier::NotId(Box::new(any())))
}

fn principal(identifier: Identifier) -> Principal {
    Principal {
        identifier: Some(identifier),
    }
}
