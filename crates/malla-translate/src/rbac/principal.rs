//! The `from` of a rule, and those of its conditions that are about the source or the request.

use std::sync::Arc;

use malla_model::policy::{Condition, ConditionKey, Glob, OneOf, Rule, Source};
use malla_xds_proto::core::CidrRange;
use malla_xds_proto::matcher::StringMatcher;
use malla_xds_proto::rbac::Principal;
use malla_xds_proto::rbac::principal::{Authenticated, Identifier, Set};
use malla_xds_proto::route::HeaderMatcher;
use malla_xds_proto::route::header_matcher::HeaderMatchSpecifier;

use super::Layer;
use super::text::{cidr, glob, network, pattern, present_header};
use super::token::{claim, request_principal};
use crate::tls::trust_domains;
use crate::view::View;

const SPIFFE: &str = "spiffe://";

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
            request_principal(name)
        });
    }
    add(&mut parts, &source.namespaces, namespace);
    add(
        &mut parts,
        &source.service_accounts,
        |(namespace, account)| service_account(namespace, account),
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
        ConditionKey::SourceServiceAccount => add(&mut parts, values, |text| {
            let parts = text.split_once('/');
            parts.map_or_else(never, |(namespace, account)| {
                service_account(namespace, account)
            })
        }),
        ConditionKey::SourceTrustDomain => {
            add(&mut parts, values, |text| match Glob::parse(text) {
                Glob::Exact(domain) => identity(view, &Glob::Prefix(format!("{domain}/").into())),
                other => identity(view, &other),
            })
        }
        ConditionKey::RequestPrincipal => {
            add(&mut parts, values, |text| {
                request_principal(&Glob::parse(text))
            });
        }
        ConditionKey::RequestAudiences => {
            add(&mut parts, values, |text| {
                claim(&["aud"], &Glob::parse(text))
            });
        }
        ConditionKey::RequestPresenter => {
            add(&mut parts, values, |text| {
                claim(&["azp"], &Glob::parse(text))
            });
        }
        ConditionKey::RequestClaim(path) => {
            let path: Vec<&str> = path.iter().map(|part| &**part).collect();
            add(&mut parts, values, |text| claim(&path, &Glob::parse(text)));
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

fn service_account(namespace: &str, account: &str) -> Principal {
    let (namespace, account) = (regex::escape(namespace), regex::escape(account));
    authenticated(pattern(format!(
        "spiffe://[^/]+/ns/{namespace}/sa/{account}"
    )))
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

fn address(text: &str, kind: fn(CidrRange) -> Identifier) -> Principal {
    match network(text) {
        Some(net) => principal(kind(cidr(&net))),
        None => never(),
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

pub(super) fn all(parts: Vec<Principal>) -> Principal {
    if parts.is_empty() {
        return any();
    }
    principal(Identifier::AndIds(Set { ids: parts }))
}

/// For values that cannot be what they should be; validation refuses them before they get here.
pub(super) fn never() -> Principal {
    principal(Identifier::NotId(Box::new(any())))
}

pub(super) fn principal(identifier: Identifier) -> Principal {
    Principal {
        identifier: Some(identifier),
    }
}
