//! Envoy's bootstrap: what it knows before the control plane has said anything.
//!
//! The same parts as Istio's: the node; static clusters to its own metrics, to the agent, to the
//! agent's secrets and to the control plane (through the agent); static listeners for metrics and
//! readiness; delta ADS for everything else.

use std::path::Path;

use serde_json::{Value, json};

use crate::node;
use crate::settings::Settings;

/// The static cluster of secrets, as the control plane's resources name it.
pub const SDS_CLUSTER: &str = "sds-grpc";
const XDS_CLUSTER: &str = "xds-grpc";

/// Stats Envoy keeps, beyond which it would hold hundreds per cluster: Istio's list, and, because
/// stock Envoy lacks Istio's own filters, its counts of requests and connections.
const STATS: [&str; 8] = [
    "cluster_manager",
    "listener_manager",
    "server",
    "cluster.xds-grpc",
    "reporter=",
    "component",
    "istio",
    "sds.",
];
const STATS_BY_REGEX: [&str; 3] = [
    r"http\.(inbound|outbound)_.*\.downstream_(rq|cx)_.*",
    r"cluster\.(inbound|outbound)\|.*\.upstream_(rq|cx)_.*",
    r"tcp\..*\.downstream_cx_.*",
];

/// The bootstrap; `xds` and `sds` are the agent's sockets.
#[must_use]
pub fn bootstrap(settings: &Settings, xds: &Path, sds: &Path) -> Value {
    let ports = settings.ports;
    json!({
        "node": {
            "id": node::id(settings),
            "cluster": node::cluster(settings),
            "metadata": node::metadata(settings),
        },
        "admin": {"address": socket("127.0.0.1", ports.admin)},
        "layered_runtime": {"layers": [
            {"name": "admin", "admin_layer": {}},
        ]},
        "overload_manager": {"resource_monitors": [{
            // Without a limit Envoy warns that it has none; this one is as good as none.
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": i32::MAX,
            },
        }]},
        "stats_config": stats(),
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": XDS_CLUSTER}}],
            },
            "cds_config": from_ads(),
            "lds_config": from_ads(),
        },
        "static_resources": {
            "clusters": [
                cluster("prometheus_stats", socket("127.0.0.1", ports.admin), false),
                cluster("agent", socket("127.0.0.1", ports.agent), false),
                cluster(SDS_CLUSTER, pipe(sds), true),
                cluster(XDS_CLUSTER, pipe(xds), true),
            ],
            "listeners": [
                listener("stats", ports.stats, "/stats/prometheus", "prometheus_stats"),
                listener("ready", ports.ready, "/healthz/ready", "agent"),
            ],
        },
    })
}

fn from_ads() -> Value {
    json!({"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"})
}

fn socket(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

fn pipe(path: &Path) -> Value {
    json!({"pipe": {"path": path}})
}

fn stats() -> Value {
    let prefixes = STATS.iter().map(|prefix| json!({"prefix": prefix}));
    let regexes = STATS_BY_REGEX
        .iter()
        .map(|regex| json!({"safe_regex": {"regex": regex}}));
    let patterns: Vec<Value> = prefixes.chain(regexes).collect();
    json!({
        "use_all_default_tags": false,
        "stats_tags": [
            // The control plane ends cluster names with `;` in stat names, because they hold dots.
            {"tag_name": "cluster_name", "regex": r"^cluster\.((.+?);\.)"},
            {"tag_name": "tcp_prefix", "regex": r"^tcp\.((.*?)\.)\w+?$"},
            {"tag_name": "response_code", "regex": r"_rq(_(\d{3}))$"},
            {"tag_name": "response_code_class", "regex": r"_rq(_(\dxx))$"},
            {"tag_name": "http_conn_manager_prefix", "regex": r"^http\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)"},
            {"tag_name": "listener_address", "regex": r"^listener\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)"},
        ],
        "stats_matcher": {"inclusion_list": {"patterns": patterns}},
    })
}

fn cluster(name: &str, address: Value, grpc: bool) -> Value {
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    });
    if grpc {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {
                    // Notices within half a minute that the control plane has vanished.
                    "connection_keepalive": {"interval": "20s", "timeout": "10s"},
                }},
            },
        });
    }
    cluster
}

fn listener(name: &str, port: u16, path: &str, cluster: &str) -> Value {
    json!({
        "name": name,
        "address": socket("0.0.0.0", port),
        "ignore_global_conn_limit": true,
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": name,
                "route_config": {"virtual_hosts": [{
                    "name": name,
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": path}, "route": {"cluster": cluster}}],
                }]},
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
                }],
            },
        }]}],
    })
}
