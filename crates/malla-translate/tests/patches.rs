//! EnvoyFilters: every kind of object they patch and every operation, on what is really emitted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says what went wrong by failing

mod support;

use malla_translate::{NodeKind, translate};
use serde_json::Value;
use support::{INGRESS, dump, node, world};

const BASE: &str = "
---
kind: Namespace
metadata: {name: base, labels: {istio-injection: enabled}}
---
kind: Deployment
metadata: {name: web, namespace: base}
spec: {template: {metadata: {labels: {app: web}}}}
---
kind: Service
metadata: {name: web, namespace: base}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
kind: Service
metadata: {name: db, namespace: base}
spec: {ports: [{name: tcp, port: 3306}]}
---
kind: Gateway
metadata: {name: gw, namespace: base}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}
---
kind: VirtualService
metadata: {name: web, namespace: base}
spec:
  hosts: ['*']
  gateways: [gw]
  http: [{name: old, match: [{uri: {prefix: /old}}], redirect: {uri: /}}, {name: rest, route: [{destination: {host: web}}]}]
";

/// An EnvoyFilter of `base` with these patches.
fn filter(name: &str, namespace: &str, rest: &str, patches: &str) -> String {
    format!(
        "---\nkind: EnvoyFilter\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  {rest}\n  configPatches:\n{patches}"
    )
}

fn emitted(kind: NodeKind, yaml: &str) -> Value {
    let mesh = world(&format!("{INGRESS}{BASE}{yaml}"));
    let name = match kind {
        NodeKind::Sidecar => "web-0.base",
        NodeKind::Router => "istio-ingressgateway-0.istio-system",
    };
    let mut node = node(&mesh, kind, name);
    node.version = "1.31.0".into();
    node.metadata
        .insert("CLUSTER_ID".into(), "Kubernetes".into());
    dump(&translate(&mesh, &node))
}

/// The sidecar of `web` under one EnvoyFilter of its namespace.
fn sidecar(patches: &str) -> Value {
    emitted(
        NodeKind::Sidecar,
        &filter(
            "f",
            "base",
            "workloadSelector: {labels: {app: web}}",
            patches,
        ),
    )
}

/// Names of the HTTP filters of a chain of `virtualInbound` for that port.
fn inbound_filters(emitted: &Value) -> Vec<String> {
    let chain = inbound_chain(emitted);
    http_filters(chain)
}

fn inbound_chain(emitted: &Value) -> &Value {
    let chains = &emitted["listeners"]["virtualInbound"]["filter_chains"];
    let mut chains = chains.as_array().unwrap().iter();
    let of_port = |chain: &&Value| chain["filter_chain_match"]["destination_port"] == 8080;
    chains.find(of_port).unwrap()
}

fn http_filters(chain: &Value) -> Vec<String> {
    let filters = chain["filters"].as_array().unwrap().last().unwrap();
    names(&filters["typed_config"]["http_filters"])
}

fn names(list: &Value) -> Vec<String> {
    let list = list.as_array().unwrap().iter();
    list.map(|it| it["name"].as_str().unwrap_or_default().to_owned())
        .collect()
}

const BUFFER: &str = "{name: buffer, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 7}}";

fn http_patch(operation: &str, sub_filter: &str, value: &str) -> String {
    let sub = match sub_filter {
        "" => String::new(),
        name => format!(", subFilter: {{name: {name}}}"),
    };
    format!(
        "  - applyTo: HTTP_FILTER
    match: {{context: SIDECAR_INBOUND, listener: {{portNumber: 8080, filterChain: {{filter: {{name: envoy.filters.network.http_connection_manager{sub}}}}}}}}}
    patch: {{operation: {operation}, value: {value}}}
"
    )
}

#[test]
fn http_filters_go_where_they_are_told() {
    let router = "envoy.filters.http.router";
    let fault = "envoy.filters.http.fault";
    let plain = inbound_filters(&sidecar("    []\n"));
    let at = |name: &str| plain.iter().position(|it| it == name).unwrap();
    for (operation, beside, want) in [
        ("INSERT_BEFORE", router, Some(at(router))),
        ("INSERT_AFTER", fault, Some(at(fault) + 1)),
        ("INSERT_FIRST", router, Some(0)),
        ("INSERT_BEFORE", "", Some(0)),
        ("INSERT_AFTER", "", Some(plain.len())),
        ("ADD", "", Some(plain.len())),
        ("REPLACE", fault, Some(at(fault))),
        ("INSERT_BEFORE", "unknown", None),
        ("REPLACE", "", None),
    ] {
        let found = inbound_filters(&sidecar(&http_patch(operation, beside, BUFFER)));
        let place = found.iter().position(|name| name == "buffer");
        assert_eq!(place, want, "{operation} {beside}: {found:?}");
    }
    let removed = inbound_filters(&sidecar(&http_patch("REMOVE", fault, "{}")));
    assert!(!removed.contains(&fault.to_owned()) && removed.len() == plain.len() - 1);
    let kept = inbound_filters(&sidecar(&http_patch("REMOVE", "", "{}")));
    assert_eq!(kept, plain, "a filter has to be named to be removed");
}

#[test]
fn configurations_of_filters_are_merged() {
    let merge = http_patch(
        "MERGE",
        "envoy.filters.http.router",
        "{typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, suppress_envoy_headers: true}}",
    );
    let manager = "  - applyTo: NETWORK_FILTER
    match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}}
    patch:
      operation: MERGE
      value:
        name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stream_idle_timeout: 77s
          common_http_protocol_options: {idle_timeout: 3600s}
";
    let emitted = sidecar(&format!("{merge}{manager}"));
    let manager = &inbound_chain(&emitted)["filters"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()["typed_config"];
    assert_eq!(manager["stream_idle_timeout"], "77s");
    assert_eq!(
        manager["common_http_protocol_options"]["idle_timeout"],
        "3600s"
    );
    assert_eq!(manager["server_name"], "istio-envoy", "the rest stays");
    let router = manager["http_filters"].as_array().unwrap().last().unwrap();
    assert_eq!(router["typed_config"]["suppress_envoy_headers"], true);
    // Only what the context says.
    let outbound = emitted["listeners"]["0.0.0.0_80"].to_string();
    assert!(!outbound.contains("77s"));
}

#[test]
fn listeners_and_chains_are_patched() {
    let emitted = sidecar(
        "  - applyTo: LISTENER
    match: {context: SIDECAR_INBOUND}
    patch: {operation: MERGE, value: {per_connection_buffer_limit_bytes: 4096}}
  - applyTo: LISTENER
    patch: {operation: ADD, value: {name: mine, address: {socket_address: {address: 127.0.0.1, port_value: 9999}}, filter_chains: [{}]}}
  - applyTo: LISTENER
    match: {listener: {portNumber: 3306}}
    patch: {operation: REMOVE}
  - applyTo: LISTENER_FILTER
    match: {context: SIDECAR_INBOUND, listener: {listenerFilter: envoy.filters.listener.original_dst}}
    patch: {operation: INSERT_BEFORE, value: {name: pp, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol}}}
  - applyTo: FILTER_CHAIN
    match: {context: SIDECAR_INBOUND, listener: {filterChain: {destinationPort: 8080, transportProtocol: raw_buffer}}}
    patch: {operation: REMOVE}
  - applyTo: FILTER_CHAIN
    match: {context: SIDECAR_INBOUND, listener: {filterChain: {destinationPort: 8080, transportProtocol: tls}}}
    patch:
      operation: MERGE
      value:
        transport_socket:
          name: envoy.transport_sockets.tls
          typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, session_timeout: 7s}
  - applyTo: NETWORK_FILTER
    match: {context: SIDECAR_OUTBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.tcp_proxy}}}}
    patch: {operation: INSERT_BEFORE, value: {name: echo, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}}
",
    );
    let listeners = &emitted["listeners"];
    let inbound = &listeners["virtualInbound"];
    assert_eq!(inbound["per_connection_buffer_limit_bytes"], 4096);
    assert!(listeners["virtualOutbound"]["per_connection_buffer_limit_bytes"].is_null());
    assert!(listeners["mine"].is_object());
    let all = listeners.as_object().unwrap().keys();
    assert!(
        !all.clone().any(|name| name.ends_with("_3306")),
        "{:?}",
        all.collect::<Vec<_>>()
    );
    assert_eq!(
        names(&inbound["listener_filters"])[..2],
        ["pp", "envoy.filters.listener.original_dst"]
    );
    let chains = inbound["filter_chains"].as_array().unwrap().iter();
    let of_port: Vec<&Value> = chains
        .filter(|chain| chain["filter_chain_match"]["destination_port"] == 8080)
        .collect();
    assert_eq!(of_port.len(), 1);
    let tls = &of_port[0]["transport_socket"]["typed_config"];
    assert_eq!(tls["session_timeout"], "7s");
    assert_eq!(tls["require_client_certificate"], true, "the rest stays");
    let outbound = listeners["virtualOutbound"].to_string();
    assert!(outbound.contains("\"name\":\"echo\""), "{outbound}");
}

#[test]
fn routes_are_patched() {
    let emitted = emitted(
        NodeKind::Router,
        &filter(
            "f",
            "istio-system",
            "priority: 0",
            "  - applyTo: ROUTE_CONFIGURATION
    match: {context: GATEWAY, routeConfiguration: {portNumber: 80}}
    patch: {operation: MERGE, value: {request_headers_to_remove: [x-a]}}
  - applyTo: VIRTUAL_HOST
    match: {context: GATEWAY, routeConfiguration: {vhost: {name: '*:80'}}}
    patch: {operation: MERGE, value: {response_headers_to_remove: [x-b]}}
  - applyTo: VIRTUAL_HOST
    match: {context: GATEWAY, routeConfiguration: {name: http.80}}
    patch: {operation: ADD, value: {name: added, domains: [added.example.com], routes: []}}
  - applyTo: HTTP_ROUTE
    match: {context: GATEWAY, routeConfiguration: {vhost: {name: '*:80', route: {action: ROUTE}}}}
    patch: {operation: MERGE, value: {route: {timeout: 3s}}}
  - applyTo: HTTP_ROUTE
    match: {context: GATEWAY, routeConfiguration: {vhost: {name: '*:80', route: {name: rest}}}}
    patch: {operation: INSERT_BEFORE, value: {name: between, match: {prefix: /between}, direct_response: {status: 204}}}
  - applyTo: HTTP_ROUTE
    match: {context: GATEWAY, routeConfiguration: {vhost: {name: '*:80', route: {name: old}}}}
    patch: {operation: REMOVE}
  - applyTo: HTTP_ROUTE
    match: {context: GATEWAY, routeConfiguration: {vhost: {name: '*:80'}}}
    patch: {operation: INSERT_FIRST, value: {name: first, match: {prefix: /first}, direct_response: {status: 204}}}
  - applyTo: HTTP_ROUTE
    match: {context: SIDECAR_OUTBOUND}
    patch: {operation: REMOVE}
",
        ),
    );
    let routes = &emitted["routes"]["http.80"];
    assert_eq!(
        routes["request_headers_to_remove"]
            .as_array()
            .unwrap()
            .last()
            .unwrap(),
        "x-a"
    );
    let hosts = routes["virtual_hosts"].as_array().unwrap();
    let host = hosts.iter().find(|host| host["name"] == "*:80").unwrap();
    assert_eq!(host["response_headers_to_remove"][0], "x-b");
    assert!(names(&routes["virtual_hosts"]).contains(&"added".to_owned()));
    assert_eq!(names(&host["routes"]), ["first", "between", "rest"]);
    let rest = host["routes"].as_array().unwrap().last().unwrap();
    assert_eq!(rest["route"]["timeout"], "3s");
    assert!(rest["route"]["cluster"].is_string(), "the rest stays");
}

#[test]
fn clusters_are_patched() {
    let emitted = sidecar(
        "  - applyTo: CLUSTER
    match: {context: SIDECAR_OUTBOUND, cluster: {service: db.base.svc.cluster.local, portNumber: 3306}}
    patch: {operation: MERGE, value: {connect_timeout: 1.5s, lb_policy: RANDOM}}
  - applyTo: CLUSTER
    match: {context: SIDECAR_INBOUND, cluster: {service: web.base.svc.cluster.local}}
    patch: {operation: MERGE, value: {per_connection_buffer_limit_bytes: 4096}}
  - applyTo: CLUSTER
    match: {cluster: {name: BlackHoleCluster}}
    patch: {operation: REMOVE}
  - applyTo: CLUSTER
    patch: {operation: ADD, value: {name: mine, type: STATIC, connect_timeout: 1s}}
  - applyTo: CLUSTER
    match: {context: SIDECAR_OUTBOUND, cluster: {service: web.base.svc.cluster.local}}
    patch:
      operation: MERGE
      value:
        transport_socket:
          name: envoy.transport_sockets.tls
          typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, max_session_keys: 7}
",
    );
    let cluster = |name: &str| &emitted["clusters"][name];
    let db = cluster("outbound|3306||db.base.svc.cluster.local");
    assert_eq!(
        (&db["connect_timeout"], &db["lb_policy"]),
        (&"1.500s".into(), &"RANDOM".into())
    );
    assert_eq!(
        cluster("inbound|8080||")["per_connection_buffer_limit_bytes"],
        4096
    );
    assert!(cluster("BlackHoleCluster").is_null());
    assert_eq!(
        cluster("mine")["type"].as_str().unwrap_or("STATIC"),
        "STATIC"
    );
    let web = cluster("outbound|80||web.base.svc.cluster.local");
    let sockets = &web["transport_socket_matches"];
    assert_eq!(
        sockets[0]["transport_socket"]["typed_config"]["max_session_keys"],
        7
    );
    assert!(sockets[0]["transport_socket"]["typed_config"]["sni"].is_string());
    assert!(web["transport_socket"].is_null());
}

/// A sidecar gets what is added for either of its directions, a gateway what is for gateways; each once.
#[test]
fn what_is_added_is_added_where_its_context_is() {
    let contexts = ["ANY", "SIDECAR_INBOUND", "SIDECAR_OUTBOUND", "GATEWAY"];
    let patch = |context: &&str| {
        format!(
            "  - applyTo: LISTENER
    match: {{context: {context}}}
    patch: {{operation: ADD, value: {{name: added-{context}}}}}
  - applyTo: CLUSTER
    match: {{context: {context}}}
    patch: {{operation: ADD, value: {{name: added-{context}}}}}
"
        )
    };
    let patches: String = contexts.iter().map(patch).collect();
    let of_mesh = filter("f", "istio-system", "", &patches);
    for (kind, wanted) in [
        (NodeKind::Sidecar, &contexts[..3]),
        (NodeKind::Router, &["ANY", "GATEWAY"]),
    ] {
        let emitted = emitted(kind, &of_mesh);
        for list in ["listeners", "clusters"] {
            let names = emitted[list].as_object().unwrap().keys();
            let mut added: Vec<_> = names.filter_map(|it| it.strip_prefix("added-")).collect();
            added.sort_unstable();
            assert_eq!(added, wanted, "{list} of a {kind:?}");
        }
    }
}

/// Which filters act, and in what order: priority, the root namespace, age.
#[test]
fn filters_are_chosen_and_ordered() {
    let name_it = |label: &str| http_patch("ADD", "", &format!("{{name: {label}}}"));
    let last: Value = emitted(
        NodeKind::Sidecar,
        &[
            filter("late", "base", "priority: 10", &name_it("late")),
            filter("own", "base", "priority: 0", &name_it("own")),
            filter("root", "istio-system", "priority: 0", &name_it("root")),
            filter("early", "base", "priority: -10", &name_it("early")),
            filter(
                "other",
                "base",
                "workloadSelector: {labels: {app: other}}",
                &name_it("other"),
            ),
            filter("elsewhere", "shop", "priority: 0", &name_it("elsewhere")),
        ]
        .concat(),
    );
    let found = inbound_filters(&last);
    assert_eq!(found[found.len() - 4..], ["early", "root", "own", "late"]);
    let proxy = |proxy: &str| {
        let patch = name_it("p").replace(
            "context: SIDECAR_INBOUND",
            &format!("context: ANY, proxy: {proxy}"),
        );
        inbound_filters(&sidecar(&patch)).contains(&"p".to_owned())
    };
    assert!(proxy("{proxyVersion: '^1\\.31'}") && !proxy("{proxyVersion: '^1\\.30'}"));
    assert!(proxy("{metadata: {CLUSTER_ID: Kubernetes}}") && !proxy("{metadata: {CLUSTER_ID: x}}"));
}
