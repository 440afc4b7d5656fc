//! Mutual TLS by workload, the policies, and the proxies' certificates.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use malla_api::Kind;
use serde_json::{Value, json};

use super::services::workload;
use crate::mirror::{Object, Watched, has_proxy, selects};
use crate::server::App;

pub(crate) async fn get(State(app): State<Arc<App>>) -> Json<Value> {
    let mut rules = app.mirror.list(Watched::Istio(Kind::PeerAuthentication));
    // Of several for the same thing Istio takes the oldest.
    rules.sort_by(|a, b| {
        a.text("/metadata/creationTimestamp")
            .cmp(b.text("/metadata/creationTimestamp"))
    });
    let mut mtls = BTreeMap::new();
    for pod in app
        .mirror
        .list(Watched::Pod)
        .iter()
        .filter(|pod| has_proxy(&pod.value))
    {
        let (mode, from) = effective(&rules, pod, &app.root_namespace);
        mtls.insert((pod.namespace().to_owned(), workload(pod)), (mode, from));
    }
    let mtls = mtls.into_iter().map(|((namespace, workload), (mode, from))| {
        json!({"namespace": namespace, "workload": workload, "mode": mode, "from": from})
    });
    let kinds = [
        Kind::PeerAuthentication,
        Kind::RequestAuthentication,
        Kind::AuthorizationPolicy,
    ];
    let policies = kinds
        .into_iter()
        .flat_map(|kind| app.mirror.list(Watched::Istio(kind)));
    let identities = app.identities.all().into_iter().map(|identity| {
        json!({
            "pod": identity.pod, "namespace": identity.namespace, "spiffe": identity.spiffe,
            "expires": identity.expires, "serial": identity.serial,
        })
    });
    Json(json!({
        "mtls": mtls.collect::<Vec<_>>(),
        "policies": policies.map(|policy| described(&policy, &app.root_namespace)).collect::<Vec<_>>(),
        "identities": identities.collect::<Vec<_>>(),
    }))
}

/// What a pod accepts, and what says so: its own rule, else its namespace's, else the mesh's; one
/// that says UNSET, or nothing, leaves it to the next.
pub(crate) fn effective(rules: &[Arc<Object>], pod: &Object, root: &str) -> (&'static str, String) {
    let selector = |rule: &Object| rule.value.pointer("/spec/selector/matchLabels").cloned();
    let own = |rule: &&Arc<Object>| {
        rule.namespace() == pod.namespace()
            && selector(rule).is_some_and(|selector| selects(&selector, &pod.value))
    };
    let of_namespace =
        |rule: &&Arc<Object>| rule.namespace() == pod.namespace() && selector(rule).is_none();
    let of_mesh = |rule: &&Arc<Object>| rule.namespace() == root && selector(rule).is_none();
    let scopes = [
        rules.iter().find(own),
        rules.iter().find(of_namespace),
        rules.iter().find(of_mesh),
    ];
    for rule in scopes.into_iter().flatten() {
        let mode = match rule.text("/spec/mtls/mode") {
            "STRICT" => "STRICT",
            "PERMISSIVE" => "PERMISSIVE",
            "DISABLE" => "DISABLE",
            _ => continue,
        };
        return (mode, format!("{}/{}", rule.namespace(), rule.name()));
    }
    ("PERMISSIVE", "default".to_owned())
}

fn described(policy: &Object, root: &str) -> Value {
    let kind = policy.text("/kind");
    let selector = policy
        .value
        .pointer("/spec/selector/matchLabels")
        .and_then(Value::as_object);
    let scope = match selector.filter(|labels| !labels.is_empty()) {
        Some(labels) => {
            let labels = labels
                .iter()
                .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()));
            labels.collect::<Vec<_>>().join(",")
        }
        None if policy.namespace() == root => "mesh".to_owned(),
        None => "namespace".to_owned(),
    };
    let mut shown = json!({
        "kind": kind, "namespace": policy.namespace(), "name": policy.name(),
        "scope": scope, "summary": summary(policy),
    });
    if kind == "AuthorizationPolicy" {
        shown["action"] = json!(action(policy));
    }
    shown
}

fn action(policy: &Object) -> &str {
    match policy.text("/spec/action") {
        "" => "ALLOW",
        said => said,
    }
}

/// A policy in a few words.
pub(crate) fn summary(policy: &Object) -> String {
    let count = |pointer: &str| {
        policy
            .value
            .pointer(pointer)
            .and_then(Value::as_array)
            .map(Vec::len)
    };
    match policy.text("/kind") {
        "PeerAuthentication" => match policy.text("/spec/mtls/mode") {
            "" => "mutual TLS as its parent says".to_owned(),
            mode => format!("mutual TLS {mode}"),
        },
        "RequestAuthentication" => {
            let rules = policy
                .value
                .pointer("/spec/jwtRules")
                .and_then(Value::as_array);
            let issuers = rules
                .into_iter()
                .flatten()
                .filter_map(|rule| rule.get("issuer")?.as_str());
            format!("tokens of {}", issuers.collect::<Vec<_>>().join(", "))
        }
        "AuthorizationPolicy" => match (action(policy), count("/spec/rules")) {
            ("ALLOW", None) => "allows nothing".to_owned(),
            (action, None) => format!("{action} without rules: never applies"),
            (action, Some(rules)) => format!(
                "{action}, {rules} rule{}",
                if rules == 1 { "" } else { "s" }
            ),
        },
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(namespace: &str, name: &str, spec: Value) -> Arc<Object> {
        let value = json!({"kind": "PeerAuthentication", "metadata": {"namespace": namespace, "name": name}, "spec": spec});
        Arc::new(Object {
            value,
            writer: None,
        })
    }

    #[test]
    fn the_nearest_rule_that_says_something_counts() {
        let pod = Object {
            value: json!({"metadata": {"namespace": "base", "labels": {"app": "cart"}}}),
            writer: None,
        };
        let check = |rules: &[Arc<Object>]| effective(rules, &pod, "istio-system");
        let strict = json!({"mtls": {"mode": "STRICT"}});
        let mesh = rule("istio-system", "mesh", strict.clone());
        let unset = rule("base", "unset", json!({"mtls": {"mode": "UNSET"}}));
        let own = rule(
            "base",
            "own",
            json!({"selector": {"matchLabels": {"app": "cart"}}, "mtls": {"mode": "DISABLE"}}),
        );
        let other = rule(
            "base",
            "other",
            json!({"selector": {"matchLabels": {"app": "order"}}, "mtls": {"mode": "DISABLE"}}),
        );
        assert_eq!(check(&[]), ("PERMISSIVE", "default".to_owned()));
        assert_eq!(
            check(std::slice::from_ref(&mesh)),
            ("STRICT", "istio-system/mesh".to_owned())
        );
        assert_eq!(
            check(&[unset.clone(), other, mesh.clone()]),
            ("STRICT", "istio-system/mesh".to_owned())
        );
        assert_eq!(
            check(&[unset, own, mesh]),
            ("DISABLE", "base/own".to_owned())
        );
        assert_eq!(
            check(&[rule("elsewhere", "a", strict)]),
            ("PERMISSIVE", "default".to_owned())
        );
    }
}
