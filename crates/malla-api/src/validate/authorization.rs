//! AuthorizationPolicy.

use super::names;
use crate::istio::authorization_policy::{
    Action, AuthorizationPolicySpec, Condition, Operation, Rule, Source,
};
use crate::lower::authorization::condition_key;
use crate::lower::meta::ip_block;
use crate::report::Report;

pub(super) fn check(spec: &AuthorizationPolicySpec, report: &mut Report) {
    names::selector(spec.selector.as_ref(), "spec.selector", report);
    let attachments = [
        spec.selector.is_some(),
        spec.target_ref.is_some(),
        !spec.target_refs.is_empty(),
    ];
    if attachments.iter().filter(|set| **set).count() > 1 {
        report
            .error("spec", "only one of selector, targetRefs may be set")
            .done();
    }
    let action = spec.action.unwrap_or_default();
    if spec.rules.is_empty() && matches!(action, Action::Deny | Action::Custom) {
        report
            .error(
                "spec.rules",
                format!("without rules a {action:?} policy never matches").to_lowercase(),
            )
            .fix("add an empty rule, rules: [{}], to match every request");
    }
    provider(spec, action, report);
    for (at, rule) in spec.rules.iter().enumerate() {
        let path = format!("spec.rules[{at}]");
        check_rule(rule, &path, report);
        if action == Action::Custom {
            custom(rule, &path, report);
        }
        if action == Action::Deny && denies_all_tcp(rule) {
            report
                .warn(
                    &path,
                    "uses only HTTP attributes, so on TCP ports it denies everything",
                )
                .fix("add the ports it is about");
        }
    }
}

fn provider(spec: &AuthorizationPolicySpec, action: Action, report: &mut Report) {
    let name = spec
        .provider
        .as_ref()
        .and_then(|provider| provider.name.as_deref());
    match (action, &spec.provider) {
        (Action::Custom, _) if name.unwrap_or_default().is_empty() => {
            report
                .error("spec.provider.name", "is required by action CUSTOM")
                .done();
        }
        (Action::Custom, _) | (_, None) => {}
        (_, Some(_)) => report
            .error("spec.provider", "only action CUSTOM has a provider")
            .fix("set action: CUSTOM, or remove it"),
    }
}

/// Conditions that an external authorizer cannot be limited by.
fn custom(rule: &Rule, path: &str, report: &mut Report) {
    let why = "is not supported with action CUSTOM";
    for (at, from) in rule.from.iter().enumerate() {
        let Some(s) = &from.source else { continue };
        for (list, name) in [
            (&s.namespaces, "namespaces"),
            (&s.not_namespaces, "notNamespaces"),
            (&s.principals, "principals"),
            (&s.not_principals, "notPrincipals"),
            (&s.request_principals, "requestPrincipals"),
            (&s.not_request_principals, "notRequestPrincipals"),
        ] {
            if !list.is_empty() {
                report
                    .error(format!("{path}.from[{at}].source.{name}"), why)
                    .done();
            }
        }
    }
    for (at, condition) in rule.when.iter().enumerate() {
        let key = condition.key.as_str();
        if matches!(key, "source.namespace" | "source.principal")
            || key.starts_with("request.auth.")
        {
            report
                .error(format!("{path}.when[{at}].key"), why)
                .value(format!("{key:?}"))
                .done();
        }
    }
}

/// HTTP attributes are left out on TCP ports, so what is left of the rule matches every connection.
fn denies_all_tcp(rule: &Rule) -> bool {
    let tcp_source = |s: &Source| {
        [
            &s.principals,
            &s.not_principals,
            &s.namespaces,
            &s.not_namespaces,
            &s.service_accounts,
            &s.not_service_accounts,
            &s.ip_blocks,
            &s.not_ip_blocks,
            &s.remote_ip_blocks,
            &s.not_remote_ip_blocks,
            &s.trust_domains,
            &s.not_trust_domains,
        ]
        .iter()
        .any(|list| !list.is_empty())
    };
    let tcp_from = rule
        .from
        .iter()
        .filter_map(|from| from.source.as_ref())
        .any(tcp_source);
    let tcp_to = rule
        .to
        .iter()
        .filter_map(|to| to.operation.as_ref())
        .any(|o| !o.ports.is_empty() || !o.not_ports.is_empty());
    (!rule.from.is_empty() && rule.to.is_empty() && !tcp_from) || (!rule.to.is_empty() && !tcp_to)
}

fn check_rule(rule: &Rule, path: &str, report: &mut Report) {
    for (at, from) in rule.from.iter().enumerate() {
        let path = format!("{path}.from[{at}].source");
        match &from.source {
            Some(source) if *source != Source::default() => check_source(source, &path, report),
            _ => report
                .error(path, "names no caller")
                .fix("set namespaces, principals or ipBlocks"),
        }
    }
    for (at, to) in rule.to.iter().enumerate() {
        let path = format!("{path}.to[{at}].operation");
        match &to.operation {
            Some(operation) if *operation != Operation::default() => {
                check_operation(operation, &path, report);
            }
            _ => report
                .error(path, "names no operation")
                .fix("set methods, paths, hosts or ports"),
        }
    }
    for (at, condition) in rule.when.iter().enumerate() {
        check_condition(condition, &format!("{path}.when[{at}]"), report);
    }
}

fn check_source(s: &Source, path: &str, report: &mut Report) {
    let blocks = [
        (&s.ip_blocks, "ipBlocks"),
        (&s.not_ip_blocks, "notIpBlocks"),
        (&s.remote_ip_blocks, "remoteIpBlocks"),
        (&s.not_remote_ip_blocks, "notRemoteIpBlocks"),
    ];
    for (list, name) in blocks {
        for (at, text) in list
            .iter()
            .enumerate()
            .filter(|(_, text)| ip_block(text).is_none())
        {
            report
                .error(
                    format!("{path}.{name}[{at}]"),
                    "is neither an IP address nor a CIDR block",
                )
                .value(format!("{text:?}"))
                .fix("write it as 10.1.2.3 or 10.0.0.0/8");
        }
    }
    let texts = [
        (&s.principals, "principals"),
        (&s.not_principals, "notPrincipals"),
        (&s.request_principals, "requestPrincipals"),
        (&s.not_request_principals, "notRequestPrincipals"),
        (&s.namespaces, "namespaces"),
        (&s.not_namespaces, "notNamespaces"),
        (&s.service_accounts, "serviceAccounts"),
        (&s.not_service_accounts, "notServiceAccounts"),
        (&s.trust_domains, "trustDomains"),
        (&s.not_trust_domains, "notTrustDomains"),
    ];
    for (list, name) in texts {
        no_empty_values(list, &format!("{path}.{name}"), report);
    }
    let accounts = !s.service_accounts.is_empty() || !s.not_service_accounts.is_empty();
    let others = [
        &s.principals,
        &s.not_principals,
        &s.namespaces,
        &s.not_namespaces,
    ];
    if accounts && others.iter().any(|list| !list.is_empty()) {
        report
            .error(
                format!("{path}.serviceAccounts"),
                "cannot stand beside principals or namespaces",
            )
            .done();
    }
    for (at, principal) in s.principals.iter().enumerate() {
        if let Some(bare) = principal.strip_prefix("spiffe://") {
            report
                .warn(
                    format!("{path}.principals[{at}]"),
                    "spiffe:// is added by itself, so this never matches",
                )
                .fix(format!("write {bare:?}"));
        }
    }
}

fn check_operation(o: &Operation, path: &str, report: &mut Report) {
    for (list, name) in [
        (&o.hosts, "hosts"),
        (&o.not_hosts, "notHosts"),
        (&o.methods, "methods"),
        (&o.not_methods, "notMethods"),
        (&o.paths, "paths"),
        (&o.not_paths, "notPaths"),
    ] {
        no_empty_values(list, &format!("{path}.{name}"), report);
    }
    for (list, name) in [(&o.ports, "ports"), (&o.not_ports, "notPorts")] {
        for (at, text) in list.iter().enumerate() {
            let path = format!("{path}.{name}[{at}]");
            match text.parse::<u32>() {
                Ok(number) => names::port(number, &path, report),
                Err(_) => report
                    .error(path, "is not a port number")
                    .value(format!("{text:?}"))
                    .done(),
            }
        }
    }
    for (list, name) in [(&o.paths, "paths"), (&o.not_paths, "notPaths")] {
        for (at, text) in list
            .iter()
            .enumerate()
            .filter(|(_, text)| text.contains(['{', '}']))
        {
            if !is_path_template(text) {
                report
                    .error(format!("{path}.{name}[{at}]"), "is not a path template")
                    .value(format!("{text:?}"))
                    .fix("{*} stands for one whole segment, {**} for any number, at most once");
            }
        }
    }
}

/// `{*}` and `{**}` as whole segments, the latter at most once and not followed by `{*}`.
fn is_path_template(text: &str) -> bool {
    let Some(rest) = text.strip_prefix('/') else {
        return false;
    };
    let mut seen_any = false;
    for segment in rest.split('/') {
        match segment {
            "{**}" if seen_any => return false,
            "{**}" => seen_any = true,
            "{*}" if seen_any => return false,
            "{*}" => {}
            plain if plain.contains(['{', '}', '*']) => return false,
            _ => {}
        }
    }
    true
}

fn no_empty_values(list: &[String], path: &str, report: &mut Report) {
    for (at, _) in list.iter().enumerate().filter(|(_, text)| text.is_empty()) {
        report
            .error(format!("{path}[{at}]"), "is empty")
            .fix("use \"*\" for any value");
    }
}

fn check_condition(condition: &Condition, path: &str, report: &mut Report) {
    let key = condition.key.as_str();
    let known = condition_key(key).is_some() || key.starts_with("experimental.envoy.filters.");
    if !known {
        report
            .error(
                format!("{path}.key"),
                "is not an attribute that can be matched",
            )
            .value(format!("{key:?}"))
            .fix("use one such as request.headers[x-tier], source.namespace or destination.port");
    }
    if condition.values.is_empty() && condition.not_values.is_empty() {
        report.error(path, "needs values or notValues").done();
    }
    for (list, name) in [
        (&condition.values, "values"),
        (&condition.not_values, "notValues"),
    ] {
        for (at, text) in list.iter().enumerate() {
            let path = format!("{path}.{name}[{at}]");
            let readable = match key {
                "source.ip" | "remote.ip" | "destination.ip" => ip_block(text).is_some(),
                "destination.port" => text.parse::<u16>().is_ok_and(|port| port != 0),
                _ => true,
            };
            if !readable {
                report
                    .error(path, format!("is not a value {key} can have"))
                    .value(format!("{text:?}"))
                    .done();
            }
        }
    }
}
