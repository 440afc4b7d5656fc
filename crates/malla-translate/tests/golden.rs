//! What proxies are sent, in full, for the lessons and for one world of each feature; and stock
//! Envoy's word that it would take it.
//!
//! `UPDATE_EXPECT=1 cargo test -p malla-translate` writes the files anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says what went wrong by failing

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use expect_test::expect_file;
use malla_model::Mesh;
use malla_proxy_config::cluster::Cluster;
use malla_proxy_config::endpoints::EndpointSet;
use malla_proxy_config::listener::Listener;
use malla_proxy_config::route::RouteConfig;
use malla_translate::{NodeKind, Profile, Resources, translate};
use malla_xds_proto::{self as pb, any};
use serde_json::{Value, json};
use support::{INGRESS, dump, node, world};

fn lessons() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/lessons");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut text = INGRESS.to_owned();
    for file in files {
        text.push_str("\n---\n");
        text.push_str(&fs::read_to_string(file).unwrap());
    }
    text
}

#[track_caller]
fn check(name: &str, world: &Mesh, kind: NodeKind, workload: &str) {
    let mut node = node(world, kind, workload);
    let golden = dump(&translate(world, &node));
    let text = serde_json::to_string_pretty(&golden).unwrap();
    expect_file![format!("golden/{name}.json")].assert_eq(&text);
    taken_by_envoy(golden);
    node.profile = Profile::Malla;
    taken_by_malla(&translate(world, &node));
}

/// Fields that only Envoy's statistics and spans depend on.
const STATISTICS: [&str; 2] = ["stat_prefix", "trace_sampled"];

/// Malla's own proxy must not refuse any of it either, nor leave anything out.
#[track_caller]
fn taken_by_malla(resources: &Resources) {
    macro_rules! check {
        ($list:expr, $wire:ty, $checked:ty) => {
            for resource in &$list {
                let wire: $wire = any::unpack(&resource.body).unwrap();
                match <$checked>::from_proto(wire) {
                    Ok(mut checked) => {
                        checked.warnings.retain(|warning| {
                            !STATISTICS.iter().any(|s| warning.path.ends_with(s))
                        });
                        assert!(
                            checked.warnings.is_empty(),
                            "{}: {:#?}",
                            resource.name,
                            checked.warnings
                        );
                    }
                    Err(invalid) => panic!("{}: {invalid}", resource.name),
                }
            }
        };
    }
    check!(resources.listeners, pb::listener::Listener, Listener);
    check!(resources.routes, pb::route::RouteConfiguration, RouteConfig);
    check!(resources.clusters, pb::cluster::Cluster, Cluster);
    check!(
        resources.endpoints,
        pb::endpoint::ClusterLoadAssignment,
        EndpointSet
    );
}

#[test]
fn lessons_for_a_caller() {
    check(
        "lessons-frontend",
        &world(&lessons()),
        NodeKind::Sidecar,
        "frontend-0.base",
    );
}

#[test]
fn lessons_for_the_gateway() {
    check(
        "lessons-gateway",
        &world(&lessons()),
        NodeKind::Router,
        "istio-ingressgateway-0.istio-system",
    );
}

#[test]
fn every_action_of_a_route() {
    let mesh = world(include_str!("worlds/routes.yaml"));
    check("routes", &mesh, NodeKind::Sidecar, "web-0.base");
}

#[test]
fn every_block_of_a_destination_rule() {
    let mesh = world(include_str!("worlds/clusters.yaml"));
    check("clusters", &mesh, NodeKind::Sidecar, "web-0.base");
}

#[test]
fn every_kind_of_port_and_policy() {
    let mesh = world(include_str!("worlds/inbound.yaml"));
    check("inbound", &mesh, NodeKind::Sidecar, "app-0.base");
}

#[test]
fn every_kind_of_server() {
    let mesh = world(&format!(
        "{INGRESS}\n---\n{}",
        include_str!("worlds/gateway.yaml")
    ));
    check(
        "gateway",
        &mesh,
        NodeKind::Router,
        "istio-ingressgateway-0.istio-system",
    );
}

#[test]
fn every_kind_of_route() {
    let mesh = world(include_str!("worlds/gateway-api.yaml"));
    check("gateway-api", &mesh, NodeKind::Router, "edge-istio-0.base");
}

fn security() -> Mesh {
    world(&format!(
        "{INGRESS}\n---\n{}",
        include_str!("worlds/security.yaml")
    ))
}

#[test]
fn tokens_and_authorizers_of_a_workload() {
    check("security", &security(), NodeKind::Sidecar, "app-0.base");
}

#[test]
fn routes_by_claims_of_a_gateway() {
    check(
        "claims",
        &security(),
        NodeKind::Router,
        "istio-ingressgateway-0.istio-system",
    );
}

/// Names of the HTTP filters, and of the network filters that are not HTTP, of each listener's chains.
fn filters(resources: &Resources) -> (BTreeSet<Vec<String>>, BTreeSet<Vec<String>>) {
    let (mut http, mut tcp) = (BTreeSet::new(), BTreeSet::new());
    for resource in &resources.listeners {
        let listener: pb::listener::Listener = any::unpack(&resource.body).unwrap();
        let chains = listener.filter_chains.iter();
        for chain in chains.chain(&listener.default_filter_chain) {
            let names = |filters: &[pb::listener::Filter]| -> Vec<String> {
                filters.iter().map(|filter| filter.name.clone()).collect()
            };
            let last = chain.filters.last().unwrap().config_type.clone().unwrap();
            let pb::listener::filter::ConfigType::TypedConfig(last) = last else {
                continue;
            };
            match any::unpack::<pb::hcm::HttpConnectionManager>(&last) {
                Ok(manager) => {
                    let filters = manager.http_filters.iter();
                    http.insert(filters.map(|filter| filter.name.clone()).collect());
                }
                Err(_) => {
                    tcp.insert(names(&chain.filters));
                }
            }
        }
    }
    (http, tcp)
}

#[test]
fn malla_is_sent_istios_filters_in_istios_order() {
    let mesh = world(include_str!("worlds/inbound.yaml"));
    let mut node = node(&mesh, NodeKind::Sidecar, "app-0.base");
    let (http, tcp) = filters(&translate(&mesh, &node));
    let all = || http.iter().chain(&tcp).flatten();
    assert!(
        !all().any(|name| name.starts_with("istio.")),
        "stock Envoy has none of them"
    );
    node.profile = Profile::Malla;
    let (http, tcp) = filters(&translate(&mesh, &node));
    for names in &http {
        assert_eq!(names.first().unwrap(), "istio.metadata_exchange");
        let [.., cors, stats, router] = &names[..] else {
            panic!("{names:?}");
        };
        assert!(cors.ends_with(".cors") && stats == "istio.stats" && router.ends_with(".router"));
    }
    let inbound: Vec<_> = tcp.iter().filter(|names| names.len() > 2).collect();
    assert!(!inbound.is_empty());
    for names in inbound {
        let [exchange, policies @ .., stats, _proxy] = &names[..] else {
            panic!("{names:?}");
        };
        assert!(exchange == "istio.metadata_exchange" && stats == "istio.stats");
        assert!(
            policies.iter().all(|name| name.ends_with(".rbac")),
            "{policies:?}"
        );
    }
    assert!(
        tcp.iter()
            .all(|names| names.iter().any(|name| name == "istio.stats"))
    );
}

#[test]
fn everything_that_is_told() {
    let mesh = world(include_str!("worlds/telemetry.yaml"));
    check("telemetry", &mesh, NodeKind::Sidecar, "web-0.base");
}

#[track_caller]
fn taken_by_envoy(golden: Value) {
    let envoy = std::env::var("MALLA_ENVOY").unwrap_or_else(|_| "envoy".into());
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("bootstrap.json");
    fs::write(&file, serde_json::to_string(&bootstrap(golden)).unwrap()).unwrap();
    let output = Command::new(&envoy)
        .args(["--mode", "validate", "-l", "error", "-c"])
        .arg(&file)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/worlds")) // certificates
        .output()
        .unwrap_or_else(|e| panic!("{envoy}: {e} (set MALLA_ENVOY to an Envoy 1.40 binary)"));
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}

/// The resources as static ones, so that Envoy looks at all of them without a control plane.
fn bootstrap(mut golden: Value) -> Value {
    let routes = golden["routes"].clone();
    inline_routes(&mut golden["listeners"], &routes);
    let mut clusters: Vec<Value> = values(&golden["clusters"]);
    for (at, assignment) in values(&golden["endpoints"]).into_iter().enumerate() {
        clusters.push(json!({
            "name": format!("endpoints-{at}"), "type": "STATIC", "load_assignment": assignment,
        }));
    }
    for name in ["sds-grpc", "xds-grpc"] {
        clusters.push(json!({
            "name": name,
            "type": "STATIC",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }},
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {
                "address": {"pipe": {"path": "/no/such/socket"}}}}]}]},
        }));
    }
    json!({
        "node": {"id": "test", "cluster": "test"},
        "dynamic_resources": {"ads_config": {
            "api_type": "GRPC", "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
        }},
        "static_resources": {"listeners": values(&golden["listeners"]), "clusters": clusters},
    })
}

fn values(object: &Value) -> Vec<Value> {
    object.as_object().unwrap().values().cloned().collect()
}

fn inline_routes(value: &mut Value, routes: &Value) {
    match value {
        Value::Object(fields) => {
            if let Some(rds) = fields.remove("rds") {
                let name = rds["route_config_name"].as_str().unwrap();
                assert!(
                    routes[name].is_object(),
                    "listener names unknown routes {name}"
                );
                fields.insert("route_config".into(), routes[name].clone());
            }
            fields
                .values_mut()
                .for_each(|value| inline_routes(value, routes));
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|value| inline_routes(value, routes)),
        _ => {}
    }
}
