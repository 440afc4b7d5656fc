//! What a gateway does with the world's calls.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says what went wrong by failing

mod call;
mod support;

use call::{call, outcome, trace};
use malla_translate::simulate::Entry;
use malla_translate::{NodeKind, NodeView, View, unresolved};
use support::{INGRESS, WEB_AND_API, dump, router, sidecar, world};

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
    let mesh = world(&format!("{INGRESS}{WEB_AND_API}{yaml}"));
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
    let mesh = world(&format!("{INGRESS}{WEB_AND_API}{HTTP_GATEWAY}"));
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

/// The entry of another network: TLS of the mesh goes to the service its name spells, unopened, so the cluster
/// behind must not encrypt once more.
#[test]
fn auto_passthrough_does_not_encrypt_twice() {
    let mesh = world(&format!(
        "{INGRESS}
---
kind: Namespace
metadata: {{name: base, labels: {{istio-injection: enabled}}}}
---
kind: Deployment
metadata: {{name: web, namespace: base}}
spec: {{template: {{metadata: {{labels: {{app: web, version: v1}}}}}}}}
---
kind: Service
metadata: {{name: web, namespace: base}}
spec: {{selector: {{app: web}}, ports: [{{name: http, port: 80}}]}}
---
kind: DestinationRule
metadata: {{name: web, namespace: base}}
spec:
  host: web
  trafficPolicy: {{tls: {{mode: ISTIO_MUTUAL}}, connectionPool: {{tcp: {{maxConnections: 7}}}}}}
  subsets: [{{name: v1, labels: {{version: v1}}}}]
---
kind: Gateway
metadata: {{name: between, namespace: base}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: 15443, name: tls, protocol: TLS}}, hosts: ['*.local'], tls: {{mode: AUTO_PASSTHROUGH}}}}]
"
    ));
    let emitted = dump(&router(&mesh, "istio-ingressgateway-0.istio-system"));
    for subset in ["", "v1"] {
        let name = format!("outbound_.80_.{subset}_.web.base.svc.cluster.local");
        let cluster = &emitted["clusters"][&name];
        assert_eq!(cluster["type"], "EDS", "{cluster:#}");
        assert!(
            cluster["transport_socket"].is_null() && cluster["transport_socket_matches"].is_null()
        );
        assert_eq!(
            cluster["circuit_breakers"]["thresholds"][0]["max_connections"],
            7
        );
        let endpoints = &emitted["endpoints"][&name];
        assert_eq!(
            endpoints["endpoints"][0]["lb_endpoints"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
        let listener = emitted["listeners"]["0.0.0.0_15443"].to_string();
        assert!(
            listener.contains(&format!("\"cluster\":\"{name}\"")),
            "{listener}"
        );
    }
}

/// A gateway cannot go to where the client was going: that is the gateway.
#[test]
fn gateways_know_the_pods_of_headless_services() {
    let mesh = world(&format!(
        "{INGRESS}
---
kind: Deployment
metadata: {{name: db, namespace: base}}
spec: {{replicas: 2, template: {{metadata: {{labels: {{app: db}}}}}}}}
---
kind: Service
metadata: {{name: db, namespace: base}}
spec: {{clusterIP: None, selector: {{app: db}}, ports: [{{name: tcp, port: 3306}}]}}
"
    ));
    let name = "outbound|3306||db.base.svc.cluster.local";
    let gateway = dump(&router(&mesh, "istio-ingressgateway-0.istio-system"));
    assert_eq!(gateway["clusters"][name]["type"], "EDS");
    let endpoints = &gateway["endpoints"][name]["endpoints"][0]["lb_endpoints"];
    assert_eq!(endpoints.as_array().unwrap().len(), 2);
    let beside = dump(&sidecar(&mesh, "db-0.base"));
    assert_eq!(beside["clusters"][name]["type"], "ORIGINAL_DST");
}

const TLS_GATEWAY: &str = "
kind: Gateway
metadata: {name: gw, namespace: base}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: [a.example.com]
    tls: {mode: MUTUAL, credentialName: pair, caCertCredentialName: roots}
  - port: {number: 443, name: several, protocol: HTTPS}
    hosts: [b.example.com]
    tls: {mode: SIMPLE, credentialNames: [pair, later]}
  - port: {number: 443, name: stolen, protocol: HTTPS}
    hosts: [c.example.com]
    tls: {mode: SIMPLE, credentialName: bank/cert}
---";

fn secret(name: &str, data: &str, readers: &str) -> String {
    format!(
        "
kind: Secret
metadata: {{name: {name}, namespace: istio-system}}
stringData: {{{data}}}
readers: {{{readers}}}
---"
    )
}

/// What the status of the Gateway says of its Secrets.
fn said(yaml: &str) -> Vec<String> {
    let mesh = world(&format!("{INGRESS}---{TLS_GATEWAY}{yaml}"));
    unresolved(&mesh).iter().map(ToString::to_string).collect()
}

const STOLEN: &str = "Gateway base/gw: spec.servers[2].tls.credentialName: Secret \"bank/cert\" is of another namespace than the gateway's pods, which may only read those of istio-system";

#[test]
fn a_gateway_says_which_secrets_it_lacks() {
    assert_eq!(said(""), [STOLEN], "of what was not read nothing is said");
    let pair = secret("pair", "tls.crt: c, tls.key: k", "default: true");
    assert_eq!(
        said(&pair),
        [
            "Gateway base/gw: spec.servers[0].tls.caCertCredentialName: there is no Secret istio-system/roots",
            "Gateway base/gw: spec.servers[1].tls.credentialNames[1]: there is no Secret istio-system/later",
            STOLEN,
        ]
    );
    let rest = [
        secret("roots-cacert", "ca.crt: r", ""),
        secret("later", "tls.crt: c", ""),
    ];
    assert_eq!(
        said(&format!("{pair}{}", rest.concat())),
        [
            "Gateway base/gw: spec.servers[1].tls.credentialNames[1]: Secret istio-system/later: expected the keys tls.crt and tls.key (or cert and key) with a value each, found tls.crt",
            STOLEN,
        ]
    );
    let forbidden = said(&pair.replace("true", "false"));
    assert!(
        forbidden[0].contains("tls.credentialName: service account default of namespace istio-system may not list Secrets"),
        "{forbidden:?}"
    );
}

#[test]
fn a_proxy_gets_secrets_of_its_own_namespace_as_its_account_may() {
    let both = "tls.crt: c, tls.key: k, ca.crt: r";
    let yaml = secret("pair", both, "default: true, other: false");
    let mesh = world(&format!("{INGRESS}{WEB_AND_API}{yaml}"));
    let gets = |namespace: &str, account: &str, name: &str| {
        let mut node = NodeView::new(NodeKind::Router, "x", namespace, [10, 0, 0, 1].into());
        node.service_account = account.into();
        let view = View::new(&mesh, &node);
        match view.secret(name)? {
            Ok(secret) => Some(secret.name.to_string()),
            Err(why) => Some(why.to_string()),
        }
    };
    let pair = "kubernetes://istio-system/pair";
    let roots = "kubernetes://istio-system/pair-cacert";
    assert_eq!(gets("istio-system", "default", pair).as_deref(), Some(pair));
    assert_eq!(
        gets("istio-system", "default", roots).as_deref(),
        Some(roots)
    );
    let refused = gets("istio-system", "other", pair).unwrap();
    assert!(refused.contains("may not list Secrets"), "{refused}");
    // Trust anchors are no secret within the namespace.
    assert_eq!(gets("istio-system", "other", roots).as_deref(), Some(roots));
    for name in [pair, roots] {
        let refused = gets("base", "default", name).unwrap();
        assert!(refused.contains("may not list Secrets"), "{refused}");
    }
    assert_eq!(gets("istio-system", "default", "default"), None);
}
