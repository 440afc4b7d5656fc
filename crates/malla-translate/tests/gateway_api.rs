//! What becomes of calls where the Gateway API's routes act.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says what went wrong by failing

mod call;
mod support;

use call::{call, outcome, trace};
use malla_translate::simulate::Entry;
use malla_translate::{NodeKind, NodeView, View};
use support::{INGRESS, WEB_AND_API, router, sidecar, world};

const WEB: &str = "outbound|80||web.base.svc.cluster.local";
const API: &str = "outbound|80||api.base.svc.cluster.local";

const EDGE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: istio}
spec: {controllerName: istio.io/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: base}
spec:
  gatewayClassName: istio
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - {name: own, port: 80, protocol: HTTP, hostname: own.example.com}
  - {name: https, port: 443, protocol: HTTPS, hostname: s.example.com, tls: {certificateRefs: [{name: pair}]}}
---
kind: Deployment
metadata: {name: edge-istio, namespace: base}
spec: {template: {metadata: {labels: {gateway.networking.k8s.io/gateway-name: edge}}}}
---
kind: Deployment
metadata: {name: edge-istio, namespace: other}
spec: {template: {metadata: {labels: {gateway.networking.k8s.io/gateway-name: edge}}}}
---
kind: Secret
metadata: {name: pair, namespace: base}
stringData: {tls.crt: c, tls.key: k}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: own, namespace: base}
spec:
  parentRefs: [{name: edge, sectionName: own}]
  rules: [{backendRefs: [{name: api, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: base}
spec:
  parentRefs: [{name: edge}]
  rules:
  - {backendRefs: [{name: web, port: 80}]}
  - {matches: [{path: {value: /api}}], backendRefs: [{name: api, port: 80, weight: 3}, {name: web, port: 80}]}
  - {matches: [{path: {type: Exact, value: /api/gone}}], backendRefs: [{name: gone, port: 80}]}
  - {matches: [{path: {value: /old}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]}
  - {matches: [{path: {value: /none}}], backendRefs: []}
---
";

#[test]
fn an_http_route_acts_on_the_pods_of_its_gateway() {
    let mesh = world(&format!("{INGRESS}{WEB_AND_API}{EDGE}"));
    let edge = router(&mesh, "edge-istio-0.base");
    for (text, want) in [
        ("http://any.example.com/", WEB.to_owned()),
        ("http://any.example.com/apis", WEB.to_owned()),
        ("http://any.example.com/api/1", format!("3 {API} + 1 {WEB}")),
        (
            "http://any.example.com/api/gone",
            "outbound|80||invalid-backend.malla.invalid (missing)".to_owned(),
        ),
        (
            "http://any.example.com/old/1",
            "redirect to https".to_owned(),
        ),
        ("http://any.example.com/none", "answer 500".to_owned()),
        ("http://own.example.com/", API.to_owned()),
        ("https://s.example.com/", WEB.to_owned()),
        (
            "https://any.example.com/",
            "closed: no filter chain matches".to_owned(),
        ),
    ] {
        let trace = trace(&edge, Entry::Open, &call(&mesh, text));
        assert_eq!(outcome(&trace), want, "{text}\n{trace:#?}");
    }
    // Neither other gateways nor pods of another namespace carry it.
    for other in ["istio-ingressgateway-0.istio-system", "edge-istio-0.other"] {
        assert!(router(&mesh, other).listeners.is_empty(), "{other}");
    }
}

#[test]
fn a_granted_secret_is_for_the_gateway_it_was_granted_to() {
    let mesh = world(&format!("{INGRESS}{WEB_AND_API}{EDGE}"));
    let gets = |namespace: &str, label: &str| {
        let mut node = NodeView::new(NodeKind::Router, "x", namespace, [10, 0, 0, 1].into());
        let name = "gateway.networking.k8s.io/gateway-name";
        node.labels.insert(name.to_owned(), label.to_owned());
        View::new(&mesh, &node)
            .secret("kubernetes-gateway://base/pair")
            .is_some_and(|secret| secret.is_ok())
    };
    assert!(gets("base", "edge"));
    assert!(!gets("base", "other"));
    assert!(!gets("other", "edge"));
}

/// What the gateway of the world of all routes does with calls.
#[track_caller]
fn check(calls: &[(&str, &str)]) {
    let mesh = world(include_str!("worlds/gateway-api.yaml"));
    let edge = router(&mesh, "edge-istio-0.base");
    for (text, want) in calls {
        let trace = trace(&edge, Entry::Open, &call(&mesh, text));
        assert_eq!(outcome(&trace), *want, "{text}\n{trace:#?}");
    }
}

#[test]
fn grpc_calls_go_where_the_closest_match_sends_them() {
    let web = "outbound|9000||web.base.svc.cluster.local";
    let api = "9 outbound|9000||api.base.svc.cluster.local + 1 outbound|80||invalid-backend.malla.invalid (missing)";
    let host = "POST h2://grpc.example.com";
    for (path, want) in [
        ("/shop.Cart/Get", web),
        ("/shop.Cart/Add", web),
        ("/shop.Cart/Add, x-tenant: a1", api),
        ("/shop.Cart/Add, x-tenant: b1", web),
        ("/any.Service/Ping", web),
        ("/any.Service/Pong", "404"),
        ("/shop.Carts/Get", "404"),
    ] {
        check(&[(&format!("{host}{path}"), want)]);
    }
}

#[test]
fn connections_go_by_the_name_in_their_handshake_or_by_their_port() {
    let web = "outbound|5432||web.base.svc.cluster.local";
    let api = "outbound|5432||api.base.svc.cluster.local";
    let most = format!("3 {web} + 1 outbound|80||invalid-backend.malla.invalid (missing)");
    check(&[
        ("tls://a.through.example.com", &most),
        ("tls://b.through.example.com", api),
        ("tls://a.ended.example.com", &most),
        ("tls://b.ended.example.com", api),
        ("https://s.example.com/", WEB),
        ("tls://other.example.com", "closed: no filter chain matches"),
        ("tcp://192.0.2.1:5432", web),
    ]);
}

#[test]
fn a_set_adds_listeners_to_a_gateway() {
    check(&[
        ("http://added.example.com/", API),
        ("http://www.example.com/", WEB),
        ("http://any.example.com/", "404"),
        ("http://any.example.com:8080/", API),
    ]);
}

const SHOP: &str = "
kind: Namespace
metadata: {name: base, labels: {istio-injection: enabled}}
---
kind: Namespace
metadata: {name: client, labels: {istio-injection: enabled}}
---
kind: Deployment
metadata: {name: web, namespace: base}
spec: {template: {metadata: {labels: {app: web}}}}
---
kind: Deployment
metadata: {name: caller, namespace: client}
spec: {template: {metadata: {labels: {app: caller}}}}
---
kind: Service
metadata: {name: web, namespace: base}
spec: {selector: {app: web}, ports: [{name: http, port: 80}, {name: http-admin, port: 8080}]}
---
kind: Service
metadata: {name: api, namespace: base}
spec: {ports: [{name: http, port: 80}, {name: http-admin, port: 8080}]}
---
";

/// A route on the Service `web`, which sends what it matches to `api`.
fn on_web(name: &str, namespace: &str, parent: &str, path: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  parentRefs: [{{group: '', kind: Service, name: web, namespace: base{parent}}}]
  rules: [{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{{name: api, namespace: base, port: 80}}]}}]
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {{name: {name}, namespace: base}}
spec:
  from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: {namespace}}}]
  to: [{{group: '', kind: Service}}]
---"
    )
}

/// What the sidecar of `workload` does with calls to `web`, by path.
#[track_caller]
fn calls(yaml: &str, workload: &str, calls: &[(&str, &str)]) {
    let mesh = world(&format!("{SHOP}{yaml}"));
    let resources = sidecar(&mesh, workload);
    for (path, want) in calls {
        let text = format!("http://web.base{path}");
        let trace = trace(&resources, Entry::Outbound, &call(&mesh, &text));
        assert_eq!(outcome(&trace), *want, "{workload} {text}\n{trace:#?}");
    }
}

#[test]
fn a_route_on_a_service_acts_for_all_clients_or_for_those_of_its_namespace() {
    let admin = "outbound|8080||web.base.svc.cluster.local";
    let producer = on_web("all", "base", ", port: 80", "/a");
    for caller in ["web-0.base", "caller-0.client"] {
        calls(
            &producer,
            caller,
            &[("/a/1", API), ("/b", "404"), (":8080/a", admin)],
        );
    }
    let consumer = on_web("own", "client", "", "/c");
    calls(&consumer, "web-0.base", &[("/c", WEB), ("/a", WEB)]);
    let both = format!("{producer}{consumer}");
    calls(&both, "web-0.base", &[("/a", API), ("/c", "404")]);
    calls(
        &both,
        "caller-0.client",
        &[("/c", API), ("/a", "404"), (":8080/c", API)],
    );
}

/// Of rules that are for everybody the caller's own namespace's routes come before VirtualServices.
#[test]
fn routes_of_the_callers_namespace_come_before_virtual_services() {
    let rule = "
kind: VirtualService
metadata: {name: older, namespace: base}
spec: {hosts: [web], http: [{directResponse: {status: 204}}]}
---";
    let yaml = format!("{rule}{}", on_web("all", "base", "", "/"));
    calls(&yaml, "web-0.base", &[("/", API)]);
    calls(&yaml, "caller-0.client", &[("/", "answer 204")]);
}

/// A service that speaks no HTTP, its connections sent elsewhere.
#[test]
fn routes_on_a_service_say_where_its_connections_go() {
    let route = |kind: &str, name: &str, port: u16, more: &str| {
        format!(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: {name}, namespace: base}}
spec:
  parentRefs: [{{group: '', kind: Service, name: db, port: {port}}}]
  rules: [{{backendRefs: [{{name: api, port: 80}}]}}]{more}
---"
        )
    };
    let yaml = format!(
        "{SHOP}
kind: Service
metadata: {{name: db, namespace: base}}
spec: {{ports: [{{name: tcp, port: 5432}}, {{name: tls, port: 5433}}, {{name: tcp-b, port: 5434}}]}}
---{}{}",
        route("TCPRoute", "tcp", 5432, ""),
        route("TLSRoute", "tls", 5433, "\n  hostnames: [db.example.com]")
    );
    let mesh = world(&yaml);
    let resources = sidecar(&mesh, "web-0.base");
    let ip = "10.96.0.13";
    for (text, want) in [
        ("tcp://db:5432".to_owned(), API),
        (
            "tcp://db:5434".to_owned(),
            "outbound|5434||db.base.svc.cluster.local",
        ),
        (format!("tls://db.example.com:5433@{ip}"), API),
        (
            format!("tls://other.example.com:5433@{ip}"),
            "outbound|5433||db.base.svc.cluster.local",
        ),
    ] {
        let trace = trace(&resources, Entry::Outbound, &call(&mesh, &text));
        assert_eq!(outcome(&trace), want, "{text}\n{trace:#?}");
    }
}
