//! The Gateway API's CRDs are ones that an API server takes, and it refuses what upstream's refuse.

#![allow(clippy::unwrap_used)] // a test says what went wrong by failing

mod support;

use malla_api::gateway_api::GatewayKind;
use malla_api::gateway_api::crd::crds;

fn served(kind: GatewayKind, spec: &str) -> Vec<String> {
    let crd = crds()
        .into_iter()
        .find(|crd| crd["spec"]["names"]["kind"] == kind.name())
        .unwrap();
    support::served(&crd, spec)
}

#[test]
fn the_api_server_enforces_the_rules() {
    use GatewayKind::{GrpcRoute, HttpRoute, ListenerSet, TcpRoute, TlsRoute};
    for (kind, good, bad, part) in [
        (
            HttpRoute,
            "{rules: [{matches: [{path: {value: /a}}]}]}",
            "{rules: [{matches: [{path: {value: a}}]}]}",
            "value must be an absolute path",
        ),
        (
            GrpcRoute,
            "{rules: [{matches: [{method: {service: a.B, method: C}}]}]}",
            "{rules: [{matches: [{method: {}}]}]}",
            "One or both of 'service' or 'method' must be specified",
        ),
        (
            GrpcRoute,
            "{rules: [{matches: [{method: {type: RegularExpression, service: 'a/.*'}}]}]}",
            "{rules: [{matches: [{method: {service: 'a/.*'}}]}]}",
            "service must be a name such as package.Service",
        ),
        (
            GrpcRoute,
            "{rules: [{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [a]}}]}]}",
            "{rules: [{filters: [{type: URLRewrite, urlRewrite: {hostname: a}}]}]}",
            "type must be one of ['ResponseHeaderModifier'",
        ),
        (
            TlsRoute,
            "{hostnames: [a.com], rules: [{backendRefs: [{name: a, port: 1}]}]}",
            "{hostnames: [10.0.0.1], rules: [{backendRefs: [{name: a, port: 1}]}]}",
            "Hostnames cannot contain an IP",
        ),
        (
            TlsRoute,
            "{hostnames: ['*.a.com'], rules: [{backendRefs: [{name: a, port: 1}]}]}",
            "{rules: [{backendRefs: [{name: a, port: 1}]}]}",
            "spec.hostnames",
        ),
        (
            TcpRoute,
            "{rules: [{backendRefs: [{name: a, port: 1}]}]}",
            "{rules: [{backendRefs: []}]}",
            "spec.rules[0].backendRefs",
        ),
        (
            ListenerSet,
            "{parentRef: {name: a}, listeners: [{name: a, port: 80, protocol: HTTP}]}",
            "{parentRef: {name: a, kind: Service}, listeners: [{name: a, port: 80, protocol: HTTP}]}",
            "the parent must be a Gateway",
        ),
    ] {
        let name = kind.name();
        assert_eq!(served(kind, good), [""; 0], "{name} {good}");
        let refusal = served(kind, bad).join("; ");
        assert!(refusal.contains(part), "{name} {bad}: {refusal:?}");
    }
}
