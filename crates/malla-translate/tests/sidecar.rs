//! Sidecars, and workloads that are not in Kubernetes: which services a proxy knows, through which
//! listeners, and which ports it serves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says what went wrong by failing

mod call;
mod support;

use std::collections::BTreeSet;

use call::{call, outcome, trace};
use malla_translate::simulate::Entry;
use malla_translate::{Interception, NodeKind, translate};
use serde_json::Value;
use support::{dump, node, sidecar, world};

/// Three namespaces, injected, with a service each and one that speaks TCP; `web` of `base` calls.
const BASE: &str = "
kind: Namespace
metadata: {name: base, labels: {istio-injection: enabled}}
---
kind: Deployment
metadata: {name: web, namespace: base}
spec: {template: {metadata: {labels: {app: web}}}}
---
kind: Service
metadata: {name: web, namespace: base}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}, {name: http-admin, port: 9000}]}
---
kind: Service
metadata: {name: order, namespace: base}
spec: {ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: cart, namespace: shop}
spec: {ports: [{name: http, port: 80}, {name: http-b, port: 8000}]}
---
kind: Service
metadata: {name: stock, namespace: store}
spec: {ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: db, namespace: store}
spec: {ports: [{name: tcp, port: 3306}]}
---
";

const ORDER: &str = "outbound|80||order.base.svc.cluster.local";
const CART: &str = "outbound|80||cart.shop.svc.cluster.local";
const STOCK: &str = "outbound|80||stock.store.svc.cluster.local";
const DB: &str = "outbound|3306||db.store.svc.cluster.local";

/// Calls from `web`, and the hosts of services it has clusters for, all but `web`'s own.
#[track_caller]
fn check(yaml: &str, calls: &[(&str, &str)], known: &[&str]) {
    let mesh = world(&format!("{BASE}{yaml}"));
    let resources = sidecar(&mesh, "web-0.base");
    for (text, want) in calls {
        let trace = trace(&resources, Entry::Outbound, &call(&mesh, text));
        assert_eq!(outcome(&trace), *want, "{text}\n{trace:#?}");
    }
    let there: BTreeSet<&str> = resources
        .clusters
        .iter()
        .map(|cluster| &*cluster.name)
        .filter(|name| name.starts_with("outbound|") && !name.contains("||web.base"))
        .collect();
    assert_eq!(there, known.iter().copied().collect());
}

/// A Sidecar of `base` with that spec.
fn of_base(spec: &str) -> String {
    format!("kind: Sidecar\nmetadata: {{name: default, namespace: base}}\nspec: {spec}\n")
}

#[test]
fn hosts_say_what_is_known() {
    check(
        &of_base("{egress: [{hosts: ['./*', 'shop/cart.shop.svc.cluster.local']}]}"),
        &[
            ("http://order/", ORDER),
            ("http://cart.shop/", CART),
            ("http://stock.store/", "PassthroughCluster"),
        ],
        &[ORDER, CART, "outbound|8000||cart.shop.svc.cluster.local"],
    );
    check(
        &of_base("{egress: [{hosts: ['*/*', '~store/stock.store.svc.cluster.local', '~shop/*']}]}"),
        &[("http://stock.store/", "PassthroughCluster")],
        &[ORDER, DB],
    );
    check(
        &of_base("{egress: [{hosts: ['*/*.store.svc.cluster.local']}]}"),
        &[("http://stock.store/", STOCK)],
        &[STOCK, DB],
    );
    check(
        &of_base("{egress: [{hosts: ['~/*']}]}"),
        &[("http://order/", "PassthroughCluster")],
        &[],
    );
}

#[test]
fn what_an_imported_route_leads_to_is_known() {
    let vs = "---
kind: VirtualService
metadata: {name: order, namespace: base}
spec:
  hosts: [order]
  http:
  - {match: [{uri: {prefix: /cart}}], route: [{destination: {host: cart.shop.svc.cluster.local, port: {number: 80}}}]}
  - {match: [{sourceNamespace: elsewhere}], route: [{destination: {host: db.store.svc.cluster.local}}]}
  - {route: [{destination: {host: order}}], mirror: {host: stock.store.svc.cluster.local}}
";
    check(
        &format!("{}{vs}", of_base("{egress: [{hosts: ['./*']}]}")),
        &[
            ("http://order/cart", CART),
            ("http://order/", ORDER),
            // It is led to, not called.
            ("http://cart.shop/", "PassthroughCluster"),
        ],
        &[ORDER, CART, STOCK],
    );
}

/// The choice: the oldest that selects the workload, the namespace's, the root namespace's.
#[test]
fn the_nearest_sidecar_counts() {
    let of = |name: &str, namespace: &str, selector: &str, hosts: &str| {
        format!(
            "kind: Sidecar\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{selector}egress: [{{hosts: ['{hosts}']}}]}}\n---\n"
        )
    };
    let selecting = of(
        "a",
        "base",
        "workloadSelector: {labels: {app: web}}, ",
        "shop/*",
    );
    let other = of(
        "b",
        "base",
        "workloadSelector: {labels: {app: other}}, ",
        "*/*",
    );
    let namespace = of("c", "base", "", "store/*");
    let root = of("d", "istio-system", "", "./*");
    let cart = [CART, "outbound|8000||cart.shop.svc.cluster.local"];
    check(&format!("{other}{root}{namespace}{selecting}"), &[], &cart);
    check(&format!("{other}{root}{namespace}"), &[], &[STOCK, DB]);
    // `.` of the root namespace's is the workload's namespace.
    check(&format!("{other}{root}"), &[], &[ORDER]);
}

#[test]
fn a_listener_for_one_port_has_its_own_hosts() {
    check(
        &of_base(
            "{egress: [{port: {number: 80, protocol: HTTP, name: a}, hosts: ['shop/*']}, {hosts: ['./*', 'store/*']}]}",
        ),
        &[
            ("http://cart.shop/", CART),
            // The port has been taken, so the rest of the list has no say there.
            ("http://stock.store/", "PassthroughCluster"),
            ("tcp://db.store:3306", DB),
        ],
        // Only that port of `cart`.
        &[ORDER, CART, STOCK, DB],
    );
}

#[test]
fn unknown_hosts_go_where_the_sidecar_says() {
    let egress = "egress: [{hosts: ['./*']}]";
    check(
        &of_base(&format!(
            "{{{egress}, outboundTrafficPolicy: {{mode: REGISTRY_ONLY}}}}"
        )),
        &[
            ("http://elsewhere.com/", "answer 502"),
            ("tcp://elsewhere.com:9999", "BlackHoleCluster"),
        ],
        &[ORDER],
    );
    let through = "{egress: [{hosts: ['./*', 'shop/*']}], outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: cart.shop.svc.cluster.local, port: {number: 80}}}}";
    check(
        &of_base(through),
        &[
            ("http://elsewhere.com/", CART),
            ("tcp://elsewhere.com:9999", CART),
        ],
        &[ORDER, CART, "outbound|8000||cart.shop.svc.cluster.local"],
    );
}

/// Addresses, paths and ports that listeners open themselves.
#[test]
fn listeners_are_where_the_sidecar_puts_them() {
    let mesh = world(&format!(
        "{BASE}{}",
        of_base(
            "{egress: [{port: {number: 80, protocol: HTTP, name: a}, captureMode: NONE, bind: 127.0.0.7, hosts: ['shop/*']}, \
             {port: {number: 3306, protocol: TCP, name: b}, captureMode: NONE, hosts: ['store/*']}, \
             {port: {number: 0, protocol: HTTP, name: c}, bind: 'unix:///run/out.sock', hosts: ['store/stock.store.svc.cluster.local']}]}",
        )
    ));
    let emitted = dump(&sidecar(&mesh, "web-0.base"));
    let listener = |name: &str| &emitted["listeners"][name];
    assert!(listener("127.0.0.7_80")["bind_to_port"].is_null());
    assert_eq!(
        listener("127.0.0.1_3306")["address"]["socket_address"]["port_value"],
        3306
    );
    let socket = listener("unix:///run/out.sock_0");
    assert_eq!(socket["address"]["pipe"]["path"], "/run/out.sock");
    let hosts = &emitted["routes"]["unix:///run/out.sock"]["virtual_hosts"];
    assert!(
        hosts.to_string().contains("stock.store.svc.cluster.local"),
        "{hosts}"
    );
}

const INGRESS: &str = "{ingress: [{port: {number: 8080, protocol: HTTP, name: a}, defaultEndpoint: '127.0.0.1:9090', connectionPool: {tcp: {maxConnections: 3}}}, \
    {port: {number: 7000, protocol: TCP, name: b}, defaultEndpoint: 'unix:///run/in.sock'}, \
    {port: {number: 7001, protocol: TCP, name: c}, defaultEndpoint: '0.0.0.0:7002'}, \
    {port: {number: 7003, protocol: HTTP, name: d}, captureMode: NONE, bind: 127.0.0.9}], \
    inboundConnectionPool: {tcp: {maxConnections: 5}}, egress: [{hosts: ['./*']}]}";

#[test]
fn ingress_listeners_replace_the_services_ports() {
    let mesh = world(&format!("{BASE}{}", of_base(INGRESS)));
    let resources = sidecar(&mesh, "web-0.base");
    let emitted = dump(&resources);
    let cluster = |port: u16| &emitted["clusters"][format!("inbound|{port}||")];
    let address = |port: u16| {
        cluster(port)["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
            .clone()
    };
    let limit =
        |port: u16| cluster(port)["circuit_breakers"]["thresholds"][0]["max_connections"].clone();
    let socket = |address: &Value| {
        let socket = &address["socket_address"];
        format!(
            "{}:{}",
            socket["address"].as_str().unwrap(),
            socket["port_value"]
        )
    };
    assert_eq!(socket(&address(8080)), "127.0.0.1:9090");
    assert_eq!(limit(8080), 3);
    assert!(cluster(8080)["upstream_bind_config"].is_null());
    assert_eq!(address(7000)["pipe"]["path"], "/run/in.sock");
    assert_eq!(limit(7000), 5);
    assert_eq!(socket(&address(7001)), "10.1.0.1:7002");
    assert_eq!(
        cluster(7001)["upstream_bind_config"]["source_address"]["address"],
        "127.0.0.6"
    );
    assert_eq!(cluster(7003)["type"], "ORIGINAL_DST");
    assert!(
        cluster(9000).is_null(),
        "a port of the service that the Sidecar leaves out"
    );
    assert!(emitted["listeners"]["127.0.0.9_7003"].is_object());
    let at = |port: u16| {
        let to = call(&mesh, &format!("http://web:{port}/@10.1.0.1"));
        outcome(&trace(&resources, Entry::Inbound, &to))
    };
    assert_eq!(at(8080), "inbound|8080||");
    assert_eq!(at(9000), "InboundPassthroughCluster");
}

#[test]
fn tls_of_an_ingress_listener_ends_there_when_the_mesh_has_none() {
    let tls = "{ingress: [{port: {number: 8443, protocol: HTTPS, name: a}, defaultEndpoint: '127.0.0.1:9090', tls: {mode: SIMPLE, serverCertificate: cert.pem, privateKey: key.pem}}]}";
    let chain = |mode: &str| {
        let mesh = world(&format!(
            "{BASE}{}---\nkind: PeerAuthentication\nmetadata: {{name: default, namespace: base}}\nspec: {{mtls: {{mode: {mode}}}}}\n",
            of_base(tls)
        ));
        let emitted = dump(&sidecar(&mesh, "web-0.base"));
        let chains = emitted["listeners"]["virtualInbound"]["filter_chains"].clone();
        let mut of_port = chains.as_array().unwrap().iter();
        of_port
            .find(|chain| chain["filter_chain_match"]["destination_port"] == 8443)
            .unwrap()
            .to_string()
    };
    let own = chain("DISABLE");
    assert!(
        own.contains("cert.pem") && own.contains("http_connection_manager"),
        "{own}"
    );
    assert!(!chain("STRICT").contains("cert.pem"));
}

/// Nothing is captured: the proxy serves what the Sidecar names, and calls go to it on the loopback address.
#[test]
fn without_capture_listeners_open_their_ports() {
    let mesh = world(&format!("{BASE}{}", of_base(INGRESS)));
    let mut node = node(&mesh, NodeKind::Sidecar, "web-0.base");
    node.interception = Interception::None;
    let emitted = dump(&translate(&mesh, &node));
    let names: Vec<&String> = emitted["listeners"].as_object().unwrap().keys().collect();
    assert_eq!(
        names,
        [
            "0.0.0.0_7000",
            "0.0.0.0_7001",
            "0.0.0.0_8080",
            "127.0.0.1_80",
            "127.0.0.1_9000",
            "127.0.0.9_7003"
        ]
    );
    for (name, listener) in emitted["listeners"].as_object().unwrap() {
        assert!(listener["bind_to_port"].is_null(), "{name}");
    }
    node.unprivileged = true;
    let emitted = dump(&translate(&mesh, &node));
    assert!(emitted["listeners"]["127.0.0.1_80"].is_null());
}

/// Virtual machines beside pods: WorkloadEntries behind a Service and behind a ServiceEntry.
#[test]
fn workload_entries_are_endpoints_of_what_selects_them() {
    let mesh = world(&format!(
        "{BASE}
kind: WorkloadEntry
metadata: {{name: vm-1, namespace: base, labels: {{version: v2}}}}
spec: {{address: 192.0.2.7, labels: {{app: web, version: v1}}, ports: {{http: 8081}}, serviceAccount: vm, weight: 3, locality: r/z}}
---
kind: WorkloadEntry
metadata: {{name: vm-2, namespace: shop}}
spec: {{address: 192.0.2.8, labels: {{app: web}}}}
---
kind: ServiceEntry
metadata: {{name: legacy, namespace: base}}
spec:
  hosts: [legacy.example.com]
  location: MESH_INTERNAL
  resolution: STATIC
  workloadSelector: {{labels: {{app: web}}}}
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 8080}}]
"
    ));
    let emitted = dump(&sidecar(&mesh, "web-0.base"));
    let endpoints = |cluster: &str| -> Vec<String> {
        let localities = emitted["endpoints"][cluster]["endpoints"]
            .as_array()
            .unwrap();
        let endpoints = localities
            .iter()
            .flat_map(|it| it["lb_endpoints"].as_array().unwrap());
        endpoints
            .map(|it| {
                let at = &it["endpoint"]["address"]["socket_address"];
                let about = it["metadata"]["filter_metadata"]["istio"]["workload"].as_str();
                format!(
                    "{}:{} {} {}",
                    at["address"].as_str().unwrap(),
                    at["port_value"],
                    it["load_balancing_weight"],
                    about.unwrap()
                )
            })
            .collect()
    };
    let vm = "192.0.2.7:8081 3 vm-1;base;web;v2;Kubernetes";
    let pod = "10.1.0.1:8080 1 web;base;web;latest;Kubernetes";
    let mut of_service = endpoints("outbound|80||web.base.svc.cluster.local");
    of_service.sort();
    assert_eq!(of_service, [pod, vm]);
    let mut of_entry = endpoints("outbound|80||legacy.example.com");
    of_entry.sort();
    assert_eq!(of_entry, [pod, vm]);
    let cluster = emitted["clusters"]["outbound|80||legacy.example.com"].to_string();
    assert!(
        cluster.contains("spiffe://cluster.local/ns/base/sa/vm"),
        "{cluster}"
    );
}

/// What MeshConfig says where nothing nearer does.
#[test]
fn settings_of_the_mesh_hold_where_nothing_nearer_does() {
    let emitted = |settings: &str, yaml: &str| {
        let mesh = world(&format!(
            "kind: Settings\nspec: {{meshConfig: {settings}}}\n---{BASE}{yaml}"
        ));
        dump(&sidecar(&mesh, "web-0.base"))
    };
    let all = emitted(
        "{h2UpgradePolicy: UPGRADE, tcpKeepalive: {time: 7s}, inboundTrafficPolicy: {mode: LOCALHOST}, \
          pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}, defaultHttpRetryPolicy: {attempts: 5, retryOn: '5xx'}, \
          defaultInboundHttpRetryPolicy: {attempts: 0}}",
        "kind: DestinationRule\nmetadata: {name: cart, namespace: shop}\nspec: {host: cart, trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: DO_NOT_UPGRADE}}}}\n",
    );
    let cluster = |name: &str| &all["clusters"][name];
    let options = |name: &str| cluster(name)["typed_extension_protocol_options"].to_string();
    assert!(
        options(ORDER).contains("http2_protocol_options"),
        "{}",
        options(ORDER)
    );
    assert!(!options(CART).contains("http2_protocol_options"));
    let keepalive = &cluster(DB)["upstream_connection_options"]["tcp_keepalive"];
    assert_eq!(keepalive["keepalive_time"], 7);
    let inbound = cluster("inbound|8080||").to_string();
    assert!(inbound.contains("127.0.0.1"), "{inbound}");
    let arriving = all["listeners"]["virtualInbound"].to_string();
    assert!(
        arriving.contains("UNESCAPE_AND_FORWARD") && arriving.contains("\"merge_slashes\":true")
    );
    assert!(!arriving.contains("retry_policy"), "{arriving}");
    let routes = all["routes"]["80"].to_string();
    assert!(routes.contains("\"num_retries\":5") && routes.contains("\"retry_on\":\"5xx\""));
    let private = emitted(
        "{defaultVirtualServiceExportTo: ['.']}",
        "kind: VirtualService\nmetadata: {name: order, namespace: shop}\nspec: {hosts: [order.base.svc.cluster.local], http: [{name: theirs, route: [{destination: {host: cart}}]}]}\n",
    );
    assert!(!private["routes"]["80"].to_string().contains("theirs"));
}

/// What Services ask of their clients: the nearest endpoints, or those of the client's own machine only.
#[test]
fn services_say_which_endpoints_are_near() {
    let mesh = world(
        "kind: Deployment
metadata: {name: web, namespace: base}
spec: {template: {locality: r/a, metadata: {labels: {app: web}}}}
---
kind: Deployment
metadata: {name: far, namespace: base}
spec: {template: {locality: r/b, metadata: {labels: {app: web}}}}
---
kind: Service
metadata: {name: near, namespace: base}
spec: {selector: {app: web}, trafficDistribution: PreferSameZone, ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: local, namespace: base}
spec: {selector: {app: web}, internalTrafficPolicy: Local, ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: any, namespace: base}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
",
    );
    let mut node = node(&mesh, NodeKind::Sidecar, "web-0.base");
    let priorities = |emitted: &Value, name: &str| -> Vec<u64> {
        let cluster = format!("outbound|80||{name}.base.svc.cluster.local");
        let groups = emitted["endpoints"][cluster]["endpoints"]
            .as_array()
            .cloned();
        let groups = groups.unwrap_or_default();
        groups
            .iter()
            .map(|it| it["priority"].as_u64().unwrap_or_default())
            .collect()
    };
    let emitted = dump(&translate(&mesh, &node));
    assert_eq!(priorities(&emitted, "near"), [0, 1]);
    assert_eq!(priorities(&emitted, "any"), [0, 0]);
    assert_eq!(priorities(&emitted, "local").len(), 2);
    node.machine = "another".into();
    let emitted = dump(&translate(&mesh, &node));
    assert_eq!(priorities(&emitted, "local"), [0_u64; 0]);
}
