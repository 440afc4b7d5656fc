//! The `to` of a rule, and those of its conditions that are about the destination.

use std::sync::Arc;

use malla_model::policy::{ConditionKey, Glob, OneOf, Operation, Rule};
use malla_xds_proto::matcher::path_matcher;
use malla_xds_proto::matcher::{PathMatcher, StringMatcher};
use malla_xds_proto::rbac::Permission;
use malla_xds_proto::rbac::permission::{Rule as Kind, Set};
use malla_xds_proto::route::HeaderMatcher;
use malla_xds_proto::route::header_matcher::HeaderMatchSpecifier;

use super::Layer;
use super::text::{cidr, glob, network, pattern, present_header};

pub(crate) fn any() -> Permission {
    permission(Kind::Any(true))
}

/// One permission for each operation; any of them will do.
pub(crate) fn of_rule(rule: &Rule, layer: Layer) -> Vec<Permission> {
    let conditions = conditions(rule);
    if rule.to.is_empty() {
        return vec![all(conditions)];
    }
    rule.to
        .iter()
        .map(|operation| {
            let mut parts = of_operation(operation, layer);
            parts.extend(conditions.iter().cloned());
            all(parts)
        })
        .collect()
}

fn of_operation(operation: &Operation, layer: Layer) -> Vec<Permission> {
    let mut parts = Vec::new();
    if layer == Layer::Http {
        add(&mut parts, &operation.hosts, |host| {
            header(":authority", host, true)
        });
        add(&mut parts, &operation.methods, |method| {
            header(":method", method, false)
        });
        add(&mut parts, &operation.paths, path);
    }
    add(&mut parts, &operation.ports, |port| {
        permission(Kind::DestinationPort((*port).into()))
    });
    parts
}

fn conditions(rule: &Rule) -> Vec<Permission> {
    let mut parts = Vec::new();
    for condition in &rule.when {
        match condition.key {
            ConditionKey::DestinationIp => {
                add(&mut parts, &condition.values, |text| match network(text) {
                    Some(net) => permission(Kind::DestinationIp(cidr(&net))),
                    None => never(),
                })
            }
            ConditionKey::DestinationPort => add(&mut parts, &condition.values, |text| {
                text.parse().map_or_else(
                    |_| never(),
                    |port: u16| permission(Kind::DestinationPort(port.into())),
                )
            }),
            ConditionKey::ConnectionSni => add(&mut parts, &condition.values, |text: &Arc<str>| {
                permission(Kind::RequestedServerName(glob(
                    &Glob::parse(text),
                    "",
                    false,
                )))
            }),
            _ => {}
        }
    }
    parts
}

fn header(name: &str, value: &Glob, ignore_case: bool) -> Permission {
    let matcher = match value {
        Glob::Present => present_header(name),
        value => HeaderMatcher {
            name: name.to_owned(),
            header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(glob(
                value,
                "",
                ignore_case,
            ))),
            ..HeaderMatcher::default()
        },
    };
    permission(Kind::Header(matcher))
}

fn path(value: &Glob) -> Permission {
    let matcher = match value {
        Glob::Exact(text) if text.contains("{*}") || text.contains("{**}") => template(text),
        value => glob(value, "", false),
    };
    permission(Kind::UrlPath(PathMatcher {
        rule: Some(path_matcher::Rule::Path(matcher)),
    }))
}

/// `{*}` is one segment of a path, `{**}` any number of them.
fn template(text: &str) -> StringMatcher {
    let segments: Vec<String> = text
        .split('/')
        .map(|segment| match segment {
            "{*}" => "[^/]+".to_owned(),
            "{**}" => ".*".to_owned(),
            literal => regex::escape(literal),
        })
        .collect();
    pattern(segments.join("/"))
}

/// One of `any`, and none of `none`.
fn add<T>(parts: &mut Vec<Permission>, values: &OneOf<T>, each: impl Fn(&T) -> Permission) {
    let either = |values: &[T]| {
        permission(Kind::OrRules(Set {
            rules: values.iter().map(&each).collect(),
        }))
    };
    if !values.any.is_empty() {
        parts.push(either(&values.any));
    }
    if !values.none.is_empty() {
        parts.push(permission(Kind::NotRule(Box::new(either(&values.none)))));
    }
}

fn all(parts: Vec<Permission>) -> Permission {
    if parts.is_empty() {
        return any();
    }
    permission(Kind::AndRules(Set { rules: parts }))
}

/// For values that cannot be what they should be; validation refuses them before they get here.
fn never() -> Permission {
    permission(Kind::NotRule(Box::new(any())))
}

fn permission(kind: Kind) -> Permission {
    Permission { rule: Some(kind) }
}
