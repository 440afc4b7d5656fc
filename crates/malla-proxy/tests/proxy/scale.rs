//! A large mesh: ten thousand clusters and fifty thousand routes load, and what changes touches what it concerns.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use malla_proxy::live::Live;
use malla_proxy::tls::TlsSetup;
use malla_proxy::upstream::cluster::Clusters;
use malla_proxy_config::Snapshot;
use malla_proxy_config::cluster::Cluster;
use malla_proxy_config::endpoints::EndpointSet;
use malla_proxy_config::request::RequestView;
use malla_proxy_config::route::RouteConfig;
use malla_xds_proto::{cluster, core, endpoint, route};

const CLUSTERS: usize = 10_000;
const ENDPOINTS: usize = 10;
const ROUTES: usize = 50_000;
/// Far more than it takes, also where nothing is optimised and others use the machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn name(index: usize) -> String {
    format!("outbound|80||service-{index}.shop.svc.cluster.local")
}

fn cluster(index: usize) -> Cluster {
    let wire = cluster::Cluster {
        name: name(index),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::Eds as i32,
        )),
        eds_cluster_config: Some(cluster::cluster::EdsClusterConfig {
            eds_config: Some(core::ConfigSource {
                config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
                    Default::default(),
                )),
                ..core::ConfigSource::default()
            }),
            service_name: String::new(),
        }),
        ..cluster::Cluster::default()
    };
    Cluster::from_proto(wire).unwrap().value
}

fn endpoints(index: usize, count: usize) -> EndpointSet {
    let one = |at: usize| {
        let address = core::SocketAddress {
            address: format!("10.{}.{}.{}", index >> 8 & 255, index & 255, at + 1),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(80)),
            ..core::SocketAddress::default()
        };
        let address = core::Address {
            address: Some(core::address::Address::SocketAddress(address)),
        };
        endpoint::LbEndpoint {
            host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
                endpoint::Endpoint {
                    address: Some(address),
                    ..endpoint::Endpoint::default()
                },
            )),
            ..endpoint::LbEndpoint::default()
        }
    };
    let wire = endpoint::ClusterLoadAssignment {
        cluster_name: name(index),
        endpoints: vec![endpoint::LocalityLbEndpoints {
            lb_endpoints: (0..count).map(one).collect(),
            ..endpoint::LocalityLbEndpoints::default()
        }],
        ..endpoint::ClusterLoadAssignment::default()
    };
    EndpointSet::from_proto(wire).unwrap().value
}

/// Five routes for each service, in a virtual host of its own.
fn routes() -> RouteConfig {
    let per_host = ROUTES / CLUSTERS;
    let one = |service: usize, at: usize| route::Route {
        r#match: Some(route::RouteMatch {
            path_specifier: Some(route::route_match::PathSpecifier::Prefix(format!(
                "/v{at}/"
            ))),
            ..route::RouteMatch::default()
        }),
        action: Some(route::route::Action::Route(route::RouteAction {
            cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(name(
                service,
            ))),
            ..route::RouteAction::default()
        })),
        ..route::Route::default()
    };
    let wire = route::RouteConfiguration {
        name: "80".into(),
        virtual_hosts: (0..CLUSTERS)
            .map(|service| route::VirtualHost {
                name: name(service),
                domains: vec![format!("service-{service}.shop")],
                routes: (0..per_host).map(|at| one(service, at)).collect(),
                ..route::VirtualHost::default()
            })
            .collect(),
        ..route::RouteConfiguration::default()
    };
    RouteConfig::from_proto(wire).unwrap().value
}

/// KiB of memory in use.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Where each cluster's configuration and endpoints are.
fn places(snapshot: &Snapshot) -> HashMap<Arc<str>, (usize, usize)> {
    let entries = snapshot.clusters().map(|entry| {
        let endpoints = entry.endpoints.load_full();
        let endpoints = endpoints.map_or(0, |set| Arc::as_ptr(&set) as usize);
        let config = Arc::as_ptr(&entry.config) as usize;
        (Arc::clone(&entry.config.name), (config, endpoints))
    });
    entries.collect()
}

fn changed(
    before: &Snapshot,
    after: &HashMap<Arc<str>, (usize, usize)>,
    old: &HashMap<Arc<str>, (usize, usize)>,
) -> Vec<Arc<str>> {
    let names = before
        .clusters()
        .map(|entry| Arc::clone(&entry.config.name));
    names
        .filter(|name| after.get(name) != old.get(name))
        .collect()
}

#[tokio::test]
#[allow(clippy::print_stdout, reason = "figures for whoever runs it")]
async fn a_large_mesh_loads_and_one_change_touches_one_cluster() {
    let (started, before) = (Instant::now(), resident());
    let live = Live::default();
    live.update_now(|draft| {
        for index in 0..CLUSTERS {
            draft.put_cluster(cluster(index));
            draft.put_endpoints(endpoints(index, ENDPOINTS));
        }
        draft.put_route(routes());
    });
    let clusters = {
        let provider = malla_identity::default_provider();
        let env = Arc::new(|_: &str| None);
        let setup = TlsSetup::new(&provider, env);
        Clusters::new(tokio::runtime::Handle::current(), setup, live.clone())
    };
    let snapshot = live.load_full();
    let loaded = resident().saturating_sub(before);
    // As if every one of them were in use.
    let in_use: Vec<_> = snapshot
        .clusters()
        .map(|entry| clusters.get(entry))
        .collect();
    assert!(
        in_use
            .iter()
            .all(|cluster| cluster.hosts().hosts.len() == ENDPOINTS)
    );
    println!(
        "{CLUSTERS} clusters of {ENDPOINTS} endpoints, {ROUTES} routes: {:?}, {loaded} KiB loaded, {} KiB in use",
        started.elapsed(),
        resident().saturating_sub(before)
    );
    assert!(started.elapsed() < PATIENCE);

    let rebuilt = || -> u64 {
        in_use
            .iter()
            .map(|cluster| cluster.membership_changes())
            .sum()
    };
    let (old, built) = (places(&snapshot), rebuilt());
    let routes_before = Arc::clone(snapshot.route("80").unwrap());
    live.update_now(|draft| draft.put_endpoints(endpoints(4711, ENDPOINTS - 1)));
    let next = live.load_full();
    let sizes: usize = in_use
        .iter()
        .map(|cluster| cluster.hosts().hosts.len())
        .sum();
    assert_eq!(sizes, CLUSTERS * ENDPOINTS - 1);
    assert_eq!(rebuilt() - built, 1, "one set of hosts is built anew");
    assert_eq!(
        changed(&snapshot, &places(&next), &old),
        [Arc::from(name(4711))]
    );
    assert!(Arc::ptr_eq(&routes_before, next.route("80").unwrap()));

    // Routing finds its way at both ends of the table.
    let headers =
        |host: String| http::HeaderMap::from_iter([(http::header::HOST, host.parse().unwrap())]);
    for service in [0, CLUSTERS / 2, CLUSTERS - 1] {
        let headers = headers(format!("service-{service}.shop"));
        let request = RequestView {
            method: &http::Method::GET,
            path: "/v4/x",
            scheme: "http",
            headers: &headers,
            state: None,
        };
        let vhost = next
            .route("80")
            .unwrap()
            .vhost(request.authority())
            .unwrap();
        assert_eq!(*vhost.name, *name(service));
        assert_eq!(vhost.route_index(&request, 0), Some(4));
    }
}
