//! What a gateway does with the world's calls.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says what went wrong by failing

mod call;
mod support;

use call::{call, outcome, trace};
use malla_translate::simulate::Entry;
use support::{INGRESS, router, world};

const BASE: &str = "
---
kind: Deployment
metadata: {name: web, namespace: base}
spec: {template: {metadata: {labels: {app: web}}}}
---
kind: Service
metadata: {name: web, namespace: base}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: api, namespace: base}
spec: {ports: [{name: http, port: 80}]}
---
";

const HTTP_GATEWAY: &str = "
kind: Gateway
metadata: {name: gw, namespace: base}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: ['*']
---";

const WEB: &str = "outbound|80||web.base.svc.cluster.local";
const API: &str = "outbound|80||api.base.svc.cluster.local";

#[track_caller]
fn check(yaml: &str, calls: &[(&str, &str)]) {
    let mesh = world(&format!("{INGRESS}{BASE}{yaml}"));
    let resources = router(&mesh, "istio-ingressgateway-0.istio-system");
    for (text, want) in calls {
        let trace = trace(&resources, Entry::Open, &call(&mesh, text));
        assert_eq!(outcome(&trace), *want, "{text}\n{trace:#?}");
    }
}

fn rule(name: &str, host: &str, http: &str) -> String {
    format!(
        "
kind: VirtualService
metadata: {{name: {name}, namespace: base}}
spec: {{hosts: ['{host}'], gateways: [gw], http: [{http}]}}
---"
    )
}

#[test]
fn rules_of_one_host_are_merged_catch_alls_last() {
    let rules = [
        rule("a", "*", "{route: [{destination: {host: web}}]}"),
        rule(
            "b",
            "*",
            "{match: [{uri: {prefix: /api}}], route: [{destination: {host: api}}]}",
        ),
        rule("c", "x.example.com", "{directResponse: {status: 204}}"),
    ];
    check(
        &format!("{HTTP_GATEWAY}{}", rules.concat()),
        &[
            ("http://any.example.com/", WEB),
            ("http://any.example.com/api/1", API),
            ("http://any.example.com:80/api/1", API),
            ("http://x.example.com/api/1", "answer 204"),
        ],
    );
}

#[test]
fn a_gateway_without_rules_says_404() {
    check(HTTP_GATEWAY, &[("http://any.example.com/", "404")]);
    // A rule for sidecars only is none of the gateway's.
    check(
        &format!(
            "{HTTP_GATEWAY}
kind: VirtualService
metadata: {{name: a, namespace: base}}
spec: {{hosts: ['*.example.com'], http: [{{directResponse: {{status: 204}}}}]}}"
        ),
        &[("http://any.example.com/", "404")],
    );
}

#[test]
fn servers_admit_hosts_by_name_and_namespace() {
    let gateway = HTTP_GATEWAY.replace("['*']", "['base/*.example.com', 'other/b.test']");
    let rules = [
        rule("a", "a.example.com", "{directResponse: {status: 201}}"),
        rule("b", "b.test", "{directResponse: {status: 202}}"),
        rule("c", "*", "{directResponse: {status: 203}}"),
    ];
    check(
        &format!("{gateway}{}", rules.concat()),
        &[
            ("http://a.example.com/", "answer 201"),
            // `*` overlaps what the server admits, so it is bound with the host it names.
            ("http://b.test/", "answer 203"),
        ],
    );
}

#[test]
fn ports_are_the_services() {
    let gateway = "
kind: Gateway
metadata: {name: gw, namespace: base}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: [a.example.com]
    tls: {mode: SIMPLE, credentialName: a-cert}
  - port: {number: 443, name: https-b, protocol: HTTPS}
    hosts: [b.example.com]
    tls: {mode: MUTUAL, credentialName: b-cert}
  - port: {number: 443, name: tls, protocol: TLS}
    hosts: [c.example.com]
    tls: {mode: PASSTHROUGH}
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: ['*.example.com']
    tls: {httpsRedirect: true}
  - port: {number: 9000, name: tcp, protocol: TCP}
    hosts: ['*']
---";
    let rules = [
        rule("a", "*.example.com", "{route: [{destination: {host: web}}]}"),
        "
kind: VirtualService
metadata: {name: tls, namespace: base}
spec:
  hosts: [c.example.com]
  gateways: [gw]
  tls: [{match: [{port: 443, sniHosts: [c.example.com]}], route: [{destination: {host: api}}]}]
---
kind: VirtualService
metadata: {name: tcp, namespace: base}
spec:
  hosts: ['*']
  gateways: [gw]
  tcp: [{match: [{port: 9000}], route: [{destination: {host: web}, weight: 1}, {destination: {host: api}, weight: 3}]}]
---"
            .to_owned(),
    ];
    check(
        &format!("{gateway}{}", rules.concat()),
        &[
            // The ingress Service maps 443 to 8443.
            ("https://a.example.com:8443/", WEB),
            ("https://b.example.com:8443/", WEB),
            ("https://c.example.com:8443/", API),
            (
                "https://d.example.com:8443/",
                "closed: no filter chain matches",
            ),
            (
                "http://a.example.com:8443/",
                "closed: no filter chain matches",
            ),
            ("http://a.example.com/", "redirect to https"),
            ("tcp://1.2.3.4:9000", &format!("1 {WEB} + 3 {API}")),
        ],
    );
}

#[test]
fn other_workloads_carry_none_of_it() {
    let mesh = world(&format!("{INGRESS}{BASE}{HTTP_GATEWAY}"));
    assert!(router(&mesh, "web-0.base").listeners.is_empty());
}

#[test]
fn a_server_with_a_secret_of_another_namespace_is_left_out() {
    let gateway = "
kind: Gateway
metadata: {name: gw, namespace: base}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: own, protocol: HTTPS}
    hosts: [own.example.com]
    tls: {mode: SIMPLE, credentialName: istio-system/own}
  - port: {number: 443, name: stolen, protocol: HTTPS}
    hosts: [stolen.example.com]
    tls: {mode: SIMPLE, credentialName: bank/cert}
  - port: {number: 443, name: roots, protocol: HTTPS}
    hosts: [roots.example.com]
    tls: {mode: MUTUAL, credentialName: own, caCertCredentialName: bank/cert}
---";
    let rule = rule(
        "a",
        "*.example.com",
        "{route: [{destination: {host: web}}]}",
    );
    let closed = "closed: no filter chain matches";
    check(
        &format!("{gateway}{rule}"),
        &[
            ("https://own.example.com:8443/", WEB),
            ("https://stolen.example.com:8443/", closed),
            ("https://roots.example.com:8443/", closed),
        ],
    );
}
