//! GRPCRoutes.

use malla_model::Host;
use malla_model::matching::{Pattern, StringMatch};

use super::super::GatewayKind;
use super::{CLASS, Cluster, GATEWAY, conditions, route, route_conditions, status};

#[test]
fn grpc_calls_are_matched_by_service_and_method() {
    let to_grpc = "parentRefs: [{name: edge, namespace: infra}], rules: [{matches: [{METHOD}]}]";
    let path = |method: &str| {
        let spec = to_grpc.replace("METHOD", method);
        let route = route(&spec).replace("HTTPRoute", "GRPCRoute");
        let outcome = Cluster::new(&format!("{CLASS}{GATEWAY}{route}")).lower();
        let rules = outcome.virtual_services.first().unwrap();
        rules.http[0].matches[0].uri.clone().unwrap()
    };
    let regex = |text: &str| StringMatch::Regex(Pattern::new(text).unwrap());
    for (method, want) in [
        ("", StringMatch::Prefix("/".into())),
        (
            "method: {service: shop.Cart, method: Add}",
            StringMatch::Exact("/shop.Cart/Add".into()),
        ),
        (
            "method: {service: shop.Cart}",
            StringMatch::Prefix("/shop.Cart/".into()),
        ),
        ("method: {method: Add}", regex("/[^/]+/Add")),
        (
            "method: {type: RegularExpression, service: 'shop[.].*|a', method: Add|Get}",
            regex("/(?:shop[.].*|a)/(?:Add|Get)"),
        ),
    ] {
        assert_eq!(path(method), want, "{method}");
    }
}

#[test]
fn a_grpc_route_says_what_became_of_it() {
    let to = "parentRefs: [{name: edge, namespace: infra}]";
    let check = |spec: &str, want: [&str; 2]| {
        let route = route(&format!("{to}, {spec}")).replace("HTTPRoute", "GRPCRoute");
        let said = route_conditions(&format!("{CLASS}{GATEWAY}{route}"));
        assert_eq!(said, want, "{spec}");
    };
    let good = "ResolvedRefs=True ResolvedRefs";
    check(
        "rules: [{backendRefs: [{name: web, port: 8080}]}]",
        ["Accepted=True Accepted", good],
    );
    check(
        "rules: [{backendRefs: [{name: none, port: 8080}]}]",
        [
            "Accepted=True Accepted",
            "ResolvedRefs=False BackendNotFound",
        ],
    );
    check(
        "rules: [{matches: [{method: {type: RegularExpression, service: '('}}]}]",
        ["Accepted=False UnsupportedValue", good],
    );
    check(
        "rules: [{filters: [{type: ExtensionRef}]}]",
        ["Accepted=False IncompatibleFilters", good],
    );
}

/// Of routes for HTTP and for gRPC that share a name the oldest has it.
#[test]
fn routes_of_different_kinds_share_no_name() {
    let route = |kind: &str, name: &str, created: &str, host: &str| {
        format!(
            "
kind: {kind}
metadata: {{name: {name}, namespace: shop, creationTimestamp: '{created}'}}
spec: {{parentRefs: [{{name: edge, namespace: infra}}], hostnames: ['{host}'], rules: [{{backendRefs: []}}]}}
---
"
        )
    };
    let yaml = [
        CLASS.to_owned(),
        GATEWAY.to_owned(),
        route("HTTPRoute", "late", "2026-01-02T00:00:00Z", "a.b.com"),
        route("GRPCRoute", "early", "2026-01-01T00:00:00Z", "*.b.com"),
        route("HTTPRoute", "apart", "2026-01-03T00:00:00Z", "b.com"),
    ];
    let outcome = Cluster::new(&yaml.concat()).lower();
    let accepted = |kind, name: &str| {
        let status = status(&outcome, kind, name);
        conditions(&status["parents"][0])[0].clone()
    };
    let (http, grpc) = (GatewayKind::HttpRoute, GatewayKind::GrpcRoute);
    assert_eq!(accepted(grpc, "early"), "Accepted=True Accepted");
    assert_eq!(accepted(http, "late"), "Accepted=False Conflicted");
    assert_eq!(accepted(http, "apart"), "Accepted=True Accepted");
    let hosts: Vec<&Host> = outcome
        .virtual_services
        .iter()
        .flat_map(|vs| &vs.hosts)
        .collect();
    assert_eq!(hosts, [&Host::new("*.b.com"), &Host::new("b.com")]);
    let gateway = status(&outcome, GatewayKind::Gateway, "edge");
    assert_eq!(gateway["listeners"][0]["attachedRoutes"], 2);
}
