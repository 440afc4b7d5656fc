//! Tokens and external authorization: what proxies are told, walked through.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says what went wrong by failing

mod call;
mod support;

use call::{by_peer, call, outcome, trace, with_claims};
use malla_model::Mesh;
use malla_translate::simulate::Entry;
use malla_translate::unresolved;
use serde_json::{Value, json};
use support::{INGRESS, router, sidecar, world};

fn whole() -> Mesh {
    world(&format!(
        "{INGRESS}\n---\n{}",
        include_str!("worlds/security.yaml")
    ))
}

const APP: &str = "inbound|8080||";
const HTTP: &str = "outbound|8000||authz.auth.svc.cluster.local";
const GRPC: &str = "outbound|9000||authz.auth.svc.cluster.local";

#[test]
fn claims_decide_where_tokens_are_checked() {
    let mesh = whole();
    let resources = sidecar(&mesh, "app-0.base");
    let check = |text: &str, claims: Option<Value>, want: &str| {
        let mut call = by_peer(call(&mesh, text), "ns/base/sa/web");
        if let Some(claims) = claims {
            call = with_claims(call, claims);
        }
        let seen = outcome(&trace(&resources, Entry::Inbound, &call));
        assert_eq!(seen, want, "{text}");
    };
    let token = |issuer: &str, subject: &str| Some(json!({"iss": issuer, "sub": subject}));
    let no_identity = "denied by ns[base]-policy[tokens]-rule[0]";
    let not_web = "denied by ns[base]-policy[tokens]-rule[1]";
    check("http://app:8080/", None, APP);
    check("http://app:8080/me", None, no_identity);
    check("http://app:8080/me", token("inline", "alice"), APP);
    check("http://app:8080/", token("inline", "mallory"), not_web);
    check(
        "http://app:8080/",
        Some(json!({"iss": "inline", "sub": "mallory", "azp": "web"})),
        APP,
    );
    check(
        "http://app:8080/",
        token("https://issuer.example.com", "anybody"),
        not_web,
    );
}

#[test]
fn authorizers_are_asked_about_what_their_policies_match() {
    let mesh = whole();
    let resources = sidecar(&mesh, "app-0.base");
    let check = |text: &str, want: &[&str]| {
        let call = by_peer(call(&mesh, text), "ns/base/sa/web");
        let trace = trace(&resources, Entry::Inbound, &call);
        assert_eq!(trace.asks, want, "{text}");
    };
    check("http://app:8080/", &[]);
    check("http://app:8080/admin", &[HTTP]);
    check("POST http://app:8080/", &[GRPC]);
    check("POST http://app:8080/admin/x", &[GRPC, HTTP]);
    // Bytes have no method, so the authorizer by gRPC is asked about all of them.
    check("tcp://app:5432", &[GRPC]);
    for cluster in [HTTP, GRPC, "outbound|8080||authz.auth.svc.cluster.local"] {
        assert!(
            resources.clusters.iter().any(|it| *it.name == *cluster),
            "{cluster} is hidden from workloads, not from proxies"
        );
    }
}

#[test]
fn gateways_route_by_claims() {
    let mesh = whole();
    let resources = router(&mesh, "istio-ingressgateway-0.istio-system");
    let check = |claims: Option<Value>, want: &str| {
        let mut call = call(&mesh, "http://app.example.com:80/@10.1.0.1");
        if let Some(claims) = claims {
            call = with_claims(call, claims);
        }
        let trace = trace(&resources, Entry::Open, &call);
        assert_eq!(trace.route.unwrap().name, want);
    };
    check(None, "others");
    check(Some(json!({"group": "admin"})), "admins");
    check(Some(json!({"group": ["users", "admin"]})), "admins");
    check(Some(json!({"group": "users"})), "others");
    check(Some(json!({"realm": {"roles": ["beta-1"]}})), "testers");
    check(
        Some(json!({"realm": {"roles": ["beta-1"]}, "sub": "mallory"})),
        "others",
    );
}

#[test]
fn an_authorizer_that_is_not_there_lets_nothing_through() {
    for (mesh_config, want) in [
        ("{}", None),
        (
            "{extensionProviders: [{name: x, envoyExtAuthzGrpc: {service: no.base.svc.cluster.local, port: 1}}]}",
            Some(
                "spec.provider.name: host \"no.base.svc.cluster.local\" is no service of the mesh",
            ),
        ),
        (
            "{extensionProviders: [{name: x, envoyExtAuthzHttp: {service: app.base.svc.cluster.local, port: 1}}]}",
            Some("spec.provider.name: host app.base.svc.cluster.local has no port 1"),
        ),
    ] {
        let mesh = world(&format!(
            "
kind: Settings
spec: {{meshConfig: {mesh_config}}}
---
kind: Deployment
metadata: {{name: app, namespace: base}}
spec: {{template: {{metadata: {{labels: {{app: app}}}}}}}}
---
kind: Service
metadata: {{name: app, namespace: base}}
spec: {{selector: {{app: app}}, ports: [{{name: http, port: 8080}}]}}
---
kind: AuthorizationPolicy
metadata: {{name: ask, namespace: base}}
spec: {{action: CUSTOM, provider: {{name: x}}, rules: [{{to: [{{operation: {{paths: [/admin]}}}}]}}]}}
"
        ));
        let resources = sidecar(&mesh, "app-0.base");
        let call = call(&mesh, "http://app:8080/");
        let seen = outcome(&trace(&resources, Entry::Inbound, &call));
        assert_eq!(
            seen, "denied by default-deny-all-due-to-bad-CUSTOM-action",
            "{mesh_config}"
        );
        let missing: Vec<String> = unresolved(&mesh).iter().map(ToString::to_string).collect();
        let want = want.map(|want| format!("AuthorizationPolicy base/ask: {want}"));
        assert_eq!(missing, Vec::from_iter(want));
    }
}

#[test]
fn keys_of_servers_that_are_not_there_are_told() {
    let mesh = world(
        "
kind: Service
metadata: {name: idp, namespace: base}
spec: {selector: {app: idp}, ports: [{name: http, port: 8080}]}
---
kind: RequestAuthentication
metadata: {name: ra, namespace: base}
spec:
  jwtRules:
  - {issuer: a, jwksUri: 'http://idp.base:8080/keys'}
  - {issuer: b, jwksUri: 'http://idp.base/keys'}
  - {issuer: c, jwksUri: 'http://no.base.svc.cluster.local/keys'}
  - {issuer: d, jwksUri: 'https://idp.example.com/keys'}
",
    );
    let missing: Vec<String> = unresolved(&mesh).iter().map(ToString::to_string).collect();
    assert_eq!(
        missing,
        [
            "RequestAuthentication base/ra: spec.jwtRules[1].jwksUri: host idp.base.svc.cluster.local has no port 80",
            "RequestAuthentication base/ra: spec.jwtRules[2].jwksUri: host \"no.base.svc.cluster.local\" is no service of the mesh",
        ]
    );
}
