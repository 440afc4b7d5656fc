//! Where a sidecar sends its workload's calls: YAML in, the call's way through the emitted
//! resources out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says what went wrong by failing

mod call;
mod support;

use call::{call, outcome, trace};
use malla_translate::simulate::Entry;
use support::{sidecar, world};

/// Two namespaces, injected; `order` has two versions.
const BASE: &str = "
kind: Namespace
metadata: {name: base, labels: {istio-injection: enabled}}
---
kind: Deployment
metadata: {name: web, namespace: base}
spec: {template: {metadata: {labels: {app: web}}}}
---
kind: Deployment
metadata: {name: order-v1, namespace: base}
spec: {template: {metadata: {labels: {app: order, version: v1}}}}
---
kind: Deployment
metadata: {name: order-v2, namespace: base}
spec: {template: {metadata: {labels: {app: order, version: v2}}}}
---
kind: Service
metadata: {name: order, namespace: base}
spec: {selector: {app: order}, ports: [{name: http, port: 7000}]}
---
kind: Service
metadata: {name: order, namespace: other}
spec: {ports: [{name: http, port: 7000}]}
---
kind: DestinationRule
metadata: {name: order, namespace: base}
spec:
  host: order
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
";

/// Each call from `web`, and what becomes of it.
#[track_caller]
fn check(yaml: &str, calls: &[(&str, &str)]) {
    let mesh = world(&format!("{BASE}{yaml}"));
    let resources = sidecar(&mesh, "web-0.base");
    for (text, want) in calls {
        let trace = trace(&resources, Entry::Outbound, &call(&mesh, text));
        assert_eq!(outcome(&trace), *want, "{text}\n{trace:#?}");
    }
}

const V1: &str = "outbound|7000|v1|order.base.svc.cluster.local";
const V2: &str = "outbound|7000|v2|order.base.svc.cluster.local";
const ORDER: &str = "outbound|7000||order.base.svc.cluster.local";

#[test]
fn a_service_goes_by_all_its_names() {
    check(
        "",
        &[
            ("http://order:7000/", ORDER),
            ("http://order.base:7000/", ORDER),
            ("http://order.base.svc:7000/", ORDER),
            ("http://order.base.svc.cluster.local:7000/", ORDER),
            ("http://order.base.svc.cluster.local.:7000/", ORDER),
            ("http://10.96.0.11:7000/", ORDER),
            (
                "http://order.other:7000/",
                "outbound|7000||order.other.svc.cluster.local",
            ),
            ("http://elsewhere.com:7000/", "PassthroughCluster"),
            ("tcp://order:7000", "PassthroughCluster"),
            ("tcp://elsewhere.com:9999", "PassthroughCluster"),
        ],
    );
}

#[test]
fn registry_only_lets_nobody_out() {
    check(
        "kind: Settings\nspec: {outbound: REGISTRY_ONLY}",
        &[
            ("http://order:7000/", ORDER),
            ("http://elsewhere.com:7000/", "answer 502"),
            ("tcp://elsewhere.com:9999", "BlackHoleCluster"),
        ],
    );
}

#[test]
fn requests_are_matched_by_what_they_are() {
    check(
        "
kind: VirtualService
metadata: {name: order, namespace: base}
spec:
  hosts: [order]
  http:
  - match:
    - {headers: {cookie: {exact: vip=true}}, uri: {prefix: /order}}
    - {queryParams: {version: {exact: '2'}}}
    - {method: {regex: 'PUT|POST'}}
    - {uri: {exact: /CaseLess}, ignoreUriCase: true}
    - {withoutHeaders: {x-beta: {}}, uri: {exact: /stable}}
    route: [{destination: {host: order, subset: v2}}]
  - match: [{uri: {regex: '/r[0-9]+'}}]
    directResponse: {status: 418}
  - match: [{headers: {x-beta: {regex: '.+'}}}]
    redirect: {authority: beta.example.com}
  - route: [{destination: {host: order, subset: v1}}]
",
        &[
            ("http://order:7000/order/1, cookie: vip=true", V2),
            ("http://order:7000/other, cookie: vip=true", V1),
            ("http://order:7000/order, cookie: vip=false", V1),
            ("http://order:7000/x?a=1&version=2", V2),
            ("http://order:7000/x?version=20", V1),
            ("POST http://order:7000/", V2),
            ("PATCH http://order:7000/", V1),
            ("http://order:7000/caseless", V2),
            ("http://order:7000/stable", V2),
            (
                "http://order:7000/stable, x-beta: 1",
                "redirect to beta.example.com",
            ),
            ("http://order:7000/r17", "answer 418"),
            ("http://order:7000/r17x", V1),
            // By another of its names it is still the same service.
            ("POST http://order.base.svc.cluster.local:7000/", V2),
        ],
    );
}

#[test]
fn without_a_last_resort_there_is_404() {
    check(
        "
kind: VirtualService
metadata: {name: order, namespace: base}
spec:
  hosts: [order]
  http:
  - match: [{uri: {prefix: /order}}]
    route: [{destination: {host: order, subset: v1}}]
",
        &[
            ("http://order:7000/order", V1),
            ("http://order:7000/", "404"),
        ],
    );
}

#[test]
fn weights_split_and_zero_is_nothing() {
    check(
        "
kind: VirtualService
metadata: {name: order, namespace: base}
spec:
  hosts: [order]
  http:
  - match: [{uri: {exact: /none}}]
    route:
    - {destination: {host: order, subset: v1}, weight: 100}
    - {destination: {host: order, subset: v2}, weight: 0}
  - route:
    - {destination: {host: order, subset: v1}, weight: 90}
    - {destination: {host: order, subset: v2}, weight: 10}
",
        &[
            ("http://order:7000/none", V1),
            ("http://order:7000/", &format!("90 {V1} + 10 {V2}")),
        ],
    );
}

#[test]
fn what_is_not_there_is_503_not_something_else() {
    check(
        "
kind: VirtualService
metadata: {name: order, namespace: base}
spec:
  hosts: [order]
  http:
  - match: [{uri: {exact: /subset}}]
    route: [{destination: {host: order, subset: v9}}]
  - route: [{destination: {host: nowhere, port: {number: 81}}}]
",
        &[
            (
                "http://order:7000/subset",
                "outbound|7000|v9|order.base.svc.cluster.local (missing)",
            ),
            (
                "http://order:7000/",
                "outbound|81||nowhere.base.svc.cluster.local (missing)",
            ),
        ],
    );
}

#[test]
fn sidecars_do_not_merge_the_oldest_wins() {
    let rule = |name: &str, subset: &str, path: &str| {
        format!(
            "
kind: VirtualService
metadata: {{name: {name}, namespace: base}}
spec:
  hosts: [order]
  http:
  - match: [{{uri: {{prefix: {path}}}}}]
    route: [{{destination: {{host: order, subset: {subset}}}}}]
---"
        )
    };
    check(
        &format!(
            "{}{}",
            rule("z-older", "v1", "/a"),
            rule("a-younger", "v2", "/b")
        ),
        &[("http://order:7000/a", V1), ("http://order:7000/b", "404")],
    );
}

#[test]
fn exact_hosts_stand_before_wildcards() {
    check(
        "
kind: VirtualService
metadata: {name: all, namespace: base}
spec:
  hosts: ['*.base.svc.cluster.local']
  http: [{directResponse: {status: 201}}]
---
kind: VirtualService
metadata: {name: order, namespace: base}
spec:
  hosts: [order]
  http: [{directResponse: {status: 202}}]
---
kind: Service
metadata: {name: cart, namespace: base}
spec: {ports: [{name: http, port: 7000}]}
",
        &[
            ("http://order:7000/", "answer 202"),
            ("http://cart:7000/", "answer 201"),
            (
                "http://order.other:7000/",
                "outbound|7000||order.other.svc.cluster.local",
            ),
        ],
    );
}

#[test]
fn scopes_are_about_the_client() {
    check(
        "
kind: VirtualService
metadata: {name: order, namespace: base}
spec:
  hosts: [order]
  http:
  - match: [{sourceLabels: {app: other}}]
    directResponse: {status: 201}
  - match: [{port: 81}]
    directResponse: {status: 202}
  - match: [{gateways: [base/gw]}]
    directResponse: {status: 203}
  - match: [{sourceNamespace: elsewhere}]
    directResponse: {status: 204}
  - match: [{sourceLabels: {app: web}, port: 7000, sourceNamespace: base}]
    directResponse: {status: 205}
",
        &[("http://order:7000/", "answer 205")],
    );
    // Where nothing of a rule is about the client, it is as if there were no rule.
    check(
        "
kind: VirtualService
metadata: {name: order, namespace: base}
spec:
  hosts: [order]
  http:
  - match: [{sourceLabels: {app: other}}]
    directResponse: {status: 201}
",
        &[("http://order:7000/", ORDER)],
    );
}

#[test]
fn rules_are_seen_where_they_are_exported() {
    let rule = |export: &str| {
        format!(
            "
kind: VirtualService
metadata: {{name: order, namespace: elsewhere}}
spec:
  hosts: [order.base.svc.cluster.local]
  exportTo: [{export}]
  http: [{{directResponse: {{status: 201}}}}]
"
        )
    };
    check(&rule("'*'"), &[("http://order:7000/", "answer 201")]);
    check(&rule("base"), &[("http://order:7000/", "answer 201")]);
    check(&rule("'.'"), &[("http://order:7000/", ORDER)]);
}

#[test]
fn delegates_narrow_and_inherit() {
    check(
        "
kind: VirtualService
metadata: {name: root, namespace: base}
spec:
  hosts: [order]
  http:
  - match: [{uri: {prefix: /a}}]
    delegate: {name: child, namespace: base}
  - match: [{uri: {prefix: /b}}]
    delegate: {name: nobody, namespace: base}
  - directResponse: {status: 299}
---
kind: VirtualService
metadata: {name: child, namespace: base}
spec:
  http:
  - match: [{uri: {prefix: /a/1}}]
    directResponse: {status: 201}
  - match: [{uri: {prefix: /c}}]
    directResponse: {status: 202}
  - match: [{headers: {x-y: {exact: z}}}]
    directResponse: {status: 203}
  - directResponse: {status: 204}
",
        &[
            ("http://order:7000/a/1", "answer 201"),
            ("http://order:7000/a/2, x-y: z", "answer 203"),
            ("http://order:7000/a/2", "answer 204"),
            ("http://order:7000/c", "answer 299"),
            ("http://order:7000/b", "answer 299"),
            ("http://order:7000/other, x-y: z", "answer 299"),
        ],
    );
}

#[test]
fn unregistered_hosts_are_served_on_port_80() {
    check(
        "
kind: VirtualService
metadata: {name: outside, namespace: base}
spec:
  hosts: [api.example.com]
  http: [{route: [{destination: {host: order, subset: v1}}]}]
---
kind: Service
metadata: {name: web, namespace: base}
spec: {ports: [{name: http, port: 80}]}
",
        &[
            ("http://api.example.com/", V1),
            ("http://api.example.com:7000/", "PassthroughCluster"),
        ],
    );
}

#[test]
fn tcp_services_have_listeners_of_their_own() {
    check(
        "
kind: Service
metadata: {name: db, namespace: base}
spec: {ports: [{name: tcp, port: 3306}]}
---
kind: Service
metadata: {name: cache, namespace: base}
spec: {ports: [{name: redis, port: 3306}]}
---
kind: VirtualService
metadata: {name: cache, namespace: base}
spec:
  hosts: [cache]
  tcp:
  - route:
    - {destination: {host: cache}, weight: 30}
    - {destination: {host: db}, weight: 70}
",
        &[
            ("tcp://db:3306", "outbound|3306||db.base.svc.cluster.local"),
            (
                "http://db:3306/",
                "outbound|3306||db.base.svc.cluster.local",
            ),
            (
                "tcp://cache:3306",
                "30 outbound|3306||cache.base.svc.cluster.local + 70 outbound|3306||db.base.svc.cluster.local",
            ),
        ],
    );
}

#[test]
fn undeclared_protocols_are_found_out() {
    check(
        "
kind: Service
metadata: {name: any, namespace: base}
spec: {ports: [{name: x, port: 7000}]}
",
        &[
            (
                "http://any:7000/",
                "outbound|7000||any.base.svc.cluster.local",
            ),
            (
                "h2://any:7000/",
                "outbound|7000||any.base.svc.cluster.local",
            ),
            // The listener is the service's own, so the host is not asked.
            (
                "http://whatever:7000/ @10.96.0.13",
                "outbound|7000||any.base.svc.cluster.local",
            ),
            (
                "tcp://any:7000",
                "outbound|7000||any.base.svc.cluster.local",
            ),
            (
                "tls://any:7000",
                "outbound|7000||any.base.svc.cluster.local",
            ),
        ],
    );
}

#[test]
fn tls_is_told_apart_by_name() {
    check(
        "
kind: ServiceEntry
metadata: {name: outside, namespace: base}
spec:
  hosts: [a.example.com, b.example.com]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: DNS
---
kind: VirtualService
metadata: {name: b, namespace: base}
spec:
  hosts: [b.example.com]
  tls:
  - match: [{port: 443, sniHosts: [b.example.com]}]
    route: [{destination: {host: a.example.com}}]
",
        &[
            ("tls://a.example.com", "outbound|443||a.example.com"),
            ("tls://b.example.com", "outbound|443||a.example.com"),
            ("tls://c.example.com", "PassthroughCluster"),
            ("tcp://c.example.com:443", "PassthroughCluster"),
        ],
    );
}

#[test]
fn headless_services_go_where_the_client_went() {
    check(
        "
kind: Service
metadata: {name: peers, namespace: base}
spec: {clusterIP: None, selector: {app: order}, ports: [{name: http, port: 7100}]}
---
kind: Service
metadata: {name: raft, namespace: base}
spec: {clusterIP: None, selector: {app: order}, ports: [{name: tcp, port: 7200}]}
",
        &[
            (
                "http://peers:7100/",
                "outbound|7100||peers.base.svc.cluster.local",
            ),
            (
                "http://order-v1-0.peers.base.svc.cluster.local:7100/",
                "outbound|7100||peers.base.svc.cluster.local",
            ),
            (
                "tcp://raft:7200",
                "outbound|7200||raft.base.svc.cluster.local",
            ),
            (
                "tcp://raft:7200 @10.1.0.3",
                "outbound|7200||raft.base.svc.cluster.local",
            ),
        ],
    );
}

#[test]
fn external_names_are_other_names() {
    check(
        "
kind: Service
metadata: {name: alias, namespace: base}
spec: {type: ExternalName, externalName: order.base.svc.cluster.local, ports: [{name: http, port: 7000}]}
---
kind: VirtualService
metadata: {name: w, namespace: base}
spec:
  hosts: [w.example.com]
  http: [{route: [{destination: {host: alias, subset: v1}}]}]
---
kind: Service
metadata: {name: web, namespace: base}
spec: {ports: [{name: http, port: 80}]}
",
        &[
            ("http://alias:7000/", ORDER),
            ("http://alias.base:7000/", ORDER),
            ("http://w.example.com/", V1),
        ],
    );
}
