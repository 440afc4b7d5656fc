//! What a sidecar lets in: by PeerAuthentication and AuthorizationPolicy.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says what went wrong by failing

mod call;
mod support;

use call::{by_peer, call, outcome, trace};
use malla_translate::simulate::{Call, Entry, Hello};
use support::{sidecar, world};

/// `app` opens an HTTP port, a TCP port and one of unknown protocol; its address is 10.1.0.1.
const BASE: &str = "
kind: Namespace
metadata: {name: base, labels: {istio-injection: enabled}}
---
kind: Deployment
metadata: {name: app, namespace: base}
spec: {template: {metadata: {labels: {app: app}}}}
---
kind: Service
metadata: {name: app, namespace: base}
spec:
  selector: {app: app}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: tcp, port: 5432}
  - {name: any, port: 9000}
---
";

/// How somebody calls.
#[derive(Clone, Copy)]
enum By {
    /// In plaintext.
    Nobody,
    /// With mutual TLS of the mesh, as this identity.
    Peer(&'static str),
    /// With TLS of the application's own.
    ForeignTls,
}

const WEB: By = By::Peer("ns/base/sa/web");
const TEST: By = By::Peer("ns/test/sa/default");

#[track_caller]
fn check(yaml: &str, calls: &[(By, &str, &str)]) {
    let mesh = world(&format!("{BASE}{yaml}"));
    let resources = sidecar(&mesh, "app-0.base");
    for (by, text, want) in calls {
        let plain = call(&mesh, &format!("{text} @10.1.0.1"));
        let call = match by {
            By::Nobody => plain,
            By::Peer(peer) => by_peer(plain, peer),
            By::ForeignTls => Call {
                tls: Some(Hello {
                    sni: "app".into(),
                    alpn: vec!["h2".into()],
                    peer: None,
                }),
                ..plain
            },
        };
        let trace = trace(&resources, Entry::Inbound, &call);
        assert_eq!(outcome(&trace), *want, "{text}\n{trace:#?}");
    }
}

const HTTP: &str = "inbound|8080||";
const TCP: &str = "inbound|5432||";
const CLOSED: &str = "closed: no filter chain matches";

#[test]
fn permissive_takes_both_and_strict_only_the_mesh() {
    check(
        "",
        &[
            (By::Nobody, "http://app:8080/", HTTP),
            (WEB, "http://app:8080/", HTTP),
            (By::ForeignTls, "http://app:8080/", CLOSED),
            (By::Nobody, "tcp://app:5432", TCP),
            (WEB, "tcp://app:5432", TCP),
            (By::ForeignTls, "tcp://app:5432", TCP),
            (By::Nobody, "http://app:9000/", "inbound|9000||"),
            (By::Nobody, "tcp://app:9000", "inbound|9000||"),
            (WEB, "tcp://app:9000", "inbound|9000||"),
            (By::ForeignTls, "tcp://app:9000", "inbound|9000||"),
            (By::Nobody, "http://app:1234/", "InboundPassthroughCluster"),
            (By::Nobody, "tcp://app:1234", "InboundPassthroughCluster"),
            (By::Nobody, "tcp://app:15006", "BlackHoleCluster"),
        ],
    );
    check(
        "kind: PeerAuthentication\nmetadata: {name: p, namespace: base}\nspec: {mtls: {mode: STRICT}}",
        &[
            (By::Nobody, "http://app:8080/", CLOSED),
            (WEB, "http://app:8080/", HTTP),
            (By::Nobody, "tcp://app:5432", CLOSED),
            (WEB, "tcp://app:5432", TCP),
            (By::Nobody, "http://app:1234/", CLOSED),
            (WEB, "tcp://app:1234", "InboundPassthroughCluster"),
        ],
    );
    check(
        "kind: PeerAuthentication\nmetadata: {name: p, namespace: base}\nspec: {mtls: {mode: DISABLE}}",
        &[
            (By::Nobody, "http://app:8080/", HTTP),
            (By::Nobody, "tcp://app:5432", TCP),
            (By::ForeignTls, "tcp://app:5432", TCP),
            (By::Nobody, "http://app:9000/", "inbound|9000||"),
            (By::Nobody, "tcp://app:9000", "inbound|9000||"),
        ],
    );
}

#[test]
fn the_nearest_peer_authentication_wins() {
    check(
        "
kind: PeerAuthentication
metadata: {name: mesh, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
kind: PeerAuthentication
metadata: {name: app, namespace: base}
spec:
  selector: {matchLabels: {app: app}}
  mtls: {mode: UNSET}
  portLevelMtls: {'5432': {mode: DISABLE}, '1234': {mode: PERMISSIVE}}
---
kind: PeerAuthentication
metadata: {name: other, namespace: base}
spec: {selector: {matchLabels: {app: other}}, mtls: {mode: DISABLE}}
---
kind: PeerAuthentication
metadata: {name: ignored, namespace: istio-system}
spec: {selector: {matchLabels: {app: app}}, mtls: {mode: DISABLE}}
",
        &[
            (By::Nobody, "http://app:8080/", CLOSED),
            (By::Nobody, "tcp://app:5432", TCP),
            (By::Nobody, "tcp://app:1234", "InboundPassthroughCluster"),
            (By::Nobody, "tcp://app:1235", CLOSED),
        ],
    );
}

#[test]
fn deny_by_namespace() {
    check(
        "
kind: AuthorizationPolicy
metadata: {name: no-test, namespace: base}
spec: {action: DENY, rules: [{from: [{source: {namespaces: [test]}}]}]}
",
        &[
            (
                TEST,
                "http://app:8080/",
                "denied by ns[base]-policy[no-test]-rule[0]",
            ),
            (
                TEST,
                "tcp://app:5432",
                "denied by ns[base]-policy[no-test]-rule[0]",
            ),
            (
                TEST,
                "tcp://app:1234",
                "denied by ns[base]-policy[no-test]-rule[0]",
            ),
            (WEB, "http://app:8080/", HTTP),
            (By::Nobody, "http://app:8080/", HTTP),
        ],
    );
}

#[test]
fn allow_means_nobody_else() {
    check(
        "
kind: AuthorizationPolicy
metadata: {name: a, namespace: base}
spec:
  selector: {matchLabels: {app: app}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/base/sa/web]}}]
    to: [{operation: {methods: [GET], paths: [/open/*, '/files/{*}/meta']}}]
  - from: [{source: {serviceAccounts: [test/default]}}]
    to: [{operation: {ports: ['5432']}}]
",
        &[
            (WEB, "http://app:8080/open/1", HTTP),
            (WEB, "http://app:8080/files/a/meta", HTTP),
            (
                WEB,
                "http://app:8080/files/a/b/meta",
                "denied: nothing allows it",
            ),
            (
                WEB,
                "POST http://app:8080/open/1",
                "denied: nothing allows it",
            ),
            (WEB, "http://app:8080/", "denied: nothing allows it"),
            (
                By::Nobody,
                "http://app:8080/open/1",
                "denied: nothing allows it",
            ),
            // A rule that asks of bytes what only HTTP has allows none.
            (WEB, "tcp://app:5432", "denied: nothing allows it"),
            (TEST, "tcp://app:5432", TCP),
        ],
    );
    check(
        "kind: AuthorizationPolicy\nmetadata: {name: nobody, namespace: istio-system}\nspec: {}",
        &[(WEB, "http://app:8080/", "denied: nothing allows it")],
    );
    check(
        "kind: AuthorizationPolicy\nmetadata: {name: all, namespace: base}\nspec: {rules: [{}]}",
        &[
            (By::Nobody, "http://app:8080/", HTTP),
            (By::Nobody, "tcp://app:5432", TCP),
        ],
    );
}

#[test]
fn deny_stands_before_allow_and_widens_on_bytes() {
    check(
        "
kind: AuthorizationPolicy
metadata: {name: allow, namespace: base}
spec: {rules: [{}]}
---
kind: AuthorizationPolicy
metadata: {name: deny, namespace: base}
spec:
  action: DENY
  rules:
  - to: [{operation: {methods: [DELETE], hosts: ['*.EXAMPLE.com:8080']}}]
  - from: [{source: {ipBlocks: [192.0.2.0/24]}}]
  - when: [{key: 'request.headers[x-bad]', values: ['*']}]
    to: [{operation: {ports: ['8080']}}]
",
        &[
            (
                WEB,
                "DELETE http://a.example.com:8080/",
                "denied by ns[base]-policy[deny]-rule[0]",
            ),
            (WEB, "DELETE http://other.com:8080/", HTTP),
            (
                WEB,
                "http://app:8080/, x-bad: 1",
                "denied by ns[base]-policy[deny]-rule[2]",
            ),
            (
                WEB,
                "http://app:9000/, x-bad: 1",
                "denied by ns[base]-policy[deny]-rule[0]",
            ),
        ],
    );
    check(
        "
kind: AuthorizationPolicy
metadata: {name: deny, namespace: base}
spec: {action: DENY, rules: [{to: [{operation: {methods: [DELETE]}}]}]}
",
        &[
            (WEB, "http://app:8080/", HTTP),
            (
                WEB,
                "DELETE http://app:8080/",
                "denied by ns[base]-policy[deny]-rule[0]",
            ),
            (
                WEB,
                "tcp://app:5432",
                "denied by ns[base]-policy[deny]-rule[0]",
            ),
        ],
    );
}

#[test]
fn conditions_and_negations() {
    check(
        "
kind: AuthorizationPolicy
metadata: {name: deny, namespace: base}
spec:
  action: DENY
  rules:
  - when: [{key: 'request.headers[x-bad]', values: ['*']}]
  - from: [{source: {notNamespaces: [base, test]}}]
  - from: [{source: {namespaces: [test]}}]
    when: [{key: destination.port, notValues: ['8080']}]
",
        &[
            (
                WEB,
                "http://app:8080/, x-bad: 1",
                "denied by ns[base]-policy[deny]-rule[0]",
            ),
            (WEB, "http://app:8080/", HTTP),
            (
                By::Nobody,
                "http://app:8080/",
                "denied by ns[base]-policy[deny]-rule[1]",
            ),
            (
                By::Peer("ns/x/sa/y"),
                "http://app:8080/",
                "denied by ns[base]-policy[deny]-rule[1]",
            ),
            (TEST, "http://app:8080/", HTTP),
            (
                TEST,
                "http://app:9000/",
                "denied by ns[base]-policy[deny]-rule[0]",
            ),
        ],
    );
}

#[test]
fn accounts_and_trust_domains_are_conditions() {
    check(
        "
kind: AuthorizationPolicy
metadata: {name: a, namespace: base}
spec:
  rules:
  - when:
    - {key: source.serviceAccount, values: [web, test/web]}
    - {key: source.trustDomain, values: [cluster.local]}
",
        &[
            (By::Peer("ns/base/sa/web"), "http://app:8080/", HTTP),
            (By::Peer("ns/test/sa/web"), "http://app:8080/", HTTP),
            (
                By::Peer("ns/base/sa/other"),
                "http://app:8080/",
                "denied: nothing allows it",
            ),
            (By::Nobody, "http://app:8080/", "denied: nothing allows it"),
        ],
    );
    check(
        "
kind: AuthorizationPolicy
metadata: {name: a, namespace: base}
spec:
  rules: [{when: [{key: source.trustDomain, notValues: [cluster.local, 'test.*']}]}]
",
        &[(
            By::Peer("ns/base/sa/web"),
            "http://app:8080/",
            "denied: nothing allows it",
        )],
    );
}

#[test]
fn trust_domains_have_aliases() {
    check(
        "
kind: Settings
spec: {trustDomainAliases: [old.domain]}
---
kind: AuthorizationPolicy
metadata: {name: a, namespace: base}
spec: {rules: [{from: [{source: {principals: [old.domain/ns/base/sa/web]}}]}]}
",
        &[
            (WEB, "http://app:8080/", HTTP),
            (TEST, "http://app:8080/", "denied: nothing allows it"),
        ],
    );
}

#[test]
fn custom_and_dry_run() {
    check(
        "kind: AuthorizationPolicy\nmetadata: {name: c, namespace: base}\nspec: {action: CUSTOM, provider: {name: x}, rules: [{}]}",
        &[(
            WEB,
            "http://app:8080/",
            "denied by default-deny-all-due-to-bad-CUSTOM-action",
        )],
    );
    check(
        "
kind: AuthorizationPolicy
metadata: {name: tried, namespace: base, annotations: {istio.io/dry-run: 'true'}}
spec: {action: DENY, rules: [{}]}
",
        &[(WEB, "http://app:8080/", HTTP)],
    );
}
