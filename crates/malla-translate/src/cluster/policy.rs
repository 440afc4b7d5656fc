//! DestinationRule blocks as settings of a cluster. Where a rule is silent these are Istio's
//! defaults: practically unlimited pools, not Envoy's 1024.

use std::time::Duration;

use malla_model::Protocol;
use malla_model::traffic::{
    Balance, ConnectionPool, H2Upgrade, HashTable, Keepalive, LoadBalancer, OutlierDetection,
    RetryBudget, Warmup,
};
use malla_xds_proto::cluster::circuit_breakers::Thresholds;
use malla_xds_proto::cluster::circuit_breakers::thresholds;
use malla_xds_proto::cluster::cluster::{
    CommonLbConfig, LbConfig, LbPolicy, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig,
    RoundRobinLbConfig, SlowStartConfig,
};
use malla_xds_proto::cluster::{self, Cluster, UpstreamConnectionOptions};
use malla_xds_proto::core::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CommonOptions,
    RuntimeDouble, TcpKeepalive,
};
use malla_xds_proto::envoy_type::Percent;
use malla_xds_proto::upstream_http::HttpProtocolOptions;
use malla_xds_proto::upstream_http::http_protocol_options::explicit_http_config::ProtocolConfig;
use malla_xds_proto::upstream_http::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
};
use malla_xds_proto::wkt;

use crate::tls::Within;

/// How long connections to places nobody registered are kept unused (Istio's).
const PASSTHROUGH_IDLE: Duration = Duration::from_secs(300);

/// No limit that anybody would reach.
pub(crate) fn unlimited() -> Thresholds {
    let max = Some(wkt::uint32(u32::MAX));
    Thresholds {
        max_connections: max,
        max_pending_requests: max,
        max_requests: max,
        max_retries: max,
        track_remaining: true,
        ..Thresholds::default()
    }
}

pub(crate) fn breakers(pool: Option<&ConnectionPool>, budget: Option<&RetryBudget>) -> Thresholds {
    let mut limits = unlimited();
    if let Some(pool) = pool {
        let set = |limit: &mut Option<_>, value: Option<u32>| {
            if let Some(value) = value {
                *limit = Some(wkt::uint32(value));
            }
        };
        set(&mut limits.max_connections, pool.max_connections);
        set(
            &mut limits.max_pending_requests,
            pool.http1_max_pending_requests,
        );
        set(&mut limits.max_requests, pool.http2_max_requests);
        set(&mut limits.max_retries, pool.max_retries);
    }
    if let Some(budget) = budget {
        limits.max_retries = None; // A budget takes its place.
        limits.retry_budget = Some(thresholds::RetryBudget {
            budget_percent: Some(Percent {
                value: f64::from(budget.percent_milli) / 1000.0,
            }),
            min_retry_concurrency: Some(wkt::uint32(budget.min_retry_concurrency)),
            ..thresholds::RetryBudget::default()
        });
    }
    limits
}

/// Timeouts and keep-alive of connections.
pub(crate) fn apply_connections(cluster: &mut Cluster, pool: &ConnectionPool) {
    if let Some(timeout) = pool.connect_timeout {
        cluster.connect_timeout = Some(wkt::duration(timeout));
    }
    if let Some(keepalive) = &pool.tcp_keepalive {
        keep_alive(cluster, keepalive);
    }
}

pub(crate) fn keep_alive(cluster: &mut Cluster, keepalive: &Keepalive) {
    let seconds =
        |d: std::time::Duration| wkt::uint32(u32::try_from(d.as_secs()).unwrap_or(u32::MAX).max(1));
    cluster.upstream_connection_options = Some(UpstreamConnectionOptions {
        tcp_keepalive: Some(TcpKeepalive {
            keepalive_probes: keepalive.probes.map(wkt::uint32),
            keepalive_time: keepalive.time.map(seconds),
            keepalive_interval: keepalive.interval.map(seconds),
        }),
        ..UpstreamConnectionOptions::default()
    });
}

/// How HTTP is spoken upstream; `None` is Envoy's default, plain HTTP/1.1.
pub(crate) fn protocol(
    port: Protocol,
    pool: Option<&ConnectionPool>,
) -> Option<HttpProtocolOptions> {
    if !port.is_http() && port != Protocol::Sniffed {
        return None;
    }
    let streams = pool.and_then(|pool| pool.max_concurrent_streams);
    let http2 = || Http2ProtocolOptions {
        max_concurrent_streams: streams.map(wkt::uint32),
        ..Http2ProtocolOptions::default()
    };
    let follow = port == Protocol::Sniffed || pool.is_some_and(|pool| pool.use_client_protocol);
    let upgrade = pool.is_some_and(|pool| pool.h2_upgrade == H2Upgrade::Upgrade);
    let common = pool.map(common_options).unwrap_or_default();
    let protocol = if follow && !upgrade {
        UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: Some(Http1ProtocolOptions::default()),
            http2_protocol_options: Some(http2()),
            ..UseDownstreamHttpConfig::default()
        })
    } else if port.is_http2() || upgrade {
        explicit(ProtocolConfig::Http2ProtocolOptions(http2()))
    } else if common == CommonOptions::default() {
        return None;
    } else {
        explicit(ProtocolConfig::HttpProtocolOptions(
            Http1ProtocolOptions::default(),
        ))
    };
    Some(HttpProtocolOptions {
        common_http_protocol_options: (common != CommonOptions::default()).then_some(common),
        upstream_protocol_options: Some(protocol),
        ..HttpProtocolOptions::default()
    })
}

/// Whatever the client spoke, to wherever it was going: connections nobody uses end after five minutes.
pub(crate) fn passthrough_protocol() -> HttpProtocolOptions {
    let common = CommonOptions {
        idle_timeout: Some(wkt::duration(PASSTHROUGH_IDLE)),
        ..CommonOptions::default()
    };
    HttpProtocolOptions {
        common_http_protocol_options: Some(common),
        ..protocol(Protocol::Sniffed, None).unwrap_or_default()
    }
}

/// HTTP/1.1 said in so many words, for options that need to be said with something.
pub(crate) fn http1() -> HttpProtocolOptions {
    HttpProtocolOptions {
        upstream_protocol_options: Some(explicit(ProtocolConfig::HttpProtocolOptions(
            Http1ProtocolOptions::default(),
        ))),
        ..HttpProtocolOptions::default()
    }
}

/// What is spoken whatever the client speaks.
pub(crate) fn within(port: Protocol, pool: Option<&ConnectionPool>) -> Within {
    let http = port.is_http() || port == Protocol::Sniffed;
    let upgrades = pool.is_some_and(|pool| pool.h2_upgrade == H2Upgrade::Upgrade);
    let follows = port == Protocol::Sniffed || pool.is_some_and(|pool| pool.use_client_protocol);
    if http && upgrades {
        Within::Http2
    } else if !http || follows {
        Within::Anything
    } else if port.is_http2() {
        Within::Http2
    } else {
        Within::Http1
    }
}

fn explicit(protocol: ProtocolConfig) -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
        protocol_config: Some(protocol),
    })
}

fn common_options(pool: &ConnectionPool) -> CommonOptions {
    CommonOptions {
        idle_timeout: pool
            .http_idle_timeout
            .or(pool.tcp_idle_timeout)
            .map(wkt::duration),
        max_connection_duration: pool.max_connection_duration.map(wkt::duration),
        // Zero is Istio's "no limit", which Envoy says by leaving it out.
        max_requests_per_connection: pool
            .max_requests_per_connection
            .filter(|max| *max > 0)
            .map(wkt::uint32),
        ..CommonOptions::default()
    }
}

pub(crate) fn apply_balance(cluster: &mut Cluster, balancer: Option<&LoadBalancer>) {
    let default = LoadBalancer::default();
    let balancer = balancer.unwrap_or(&default);
    let slow_start = balancer.warmup.as_ref().map(slow_start);
    let (policy, config) = match &balancer.algorithm {
        Balance::LeastRequest | Balance::Passthrough => (
            LbPolicy::LeastRequest,
            slow_start.map(|slow_start| {
                LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
                    slow_start_config: Some(slow_start),
                    ..LeastRequestLbConfig::default()
                })
            }),
        ),
        Balance::RoundRobin => (
            LbPolicy::RoundRobin,
            slow_start.map(|slow_start| {
                LbConfig::RoundRobinLbConfig(RoundRobinLbConfig {
                    slow_start_config: Some(slow_start),
                })
            }),
        ),
        Balance::Random => (LbPolicy::Random, None),
        Balance::Hash { table, .. } => match table {
            HashTable::Ring { minimum_size } => (
                LbPolicy::RingHash,
                Some(LbConfig::RingHashLbConfig(RingHashLbConfig {
                    minimum_ring_size: Some(wkt::uint64(*minimum_size)),
                    ..RingHashLbConfig::default()
                })),
            ),
            HashTable::Maglev { size } => (
                LbPolicy::Maglev,
                Some(LbConfig::MaglevLbConfig(MaglevLbConfig {
                    table_size: Some(wkt::uint64(*size)),
                })),
            ),
        },
    };
    cluster.lb_policy = policy.into();
    cluster.lb_config = config;
}

fn slow_start(warmup: &Warmup) -> SlowStartConfig {
    SlowStartConfig {
        slow_start_window: Some(wkt::duration(warmup.duration)),
        aggression: Some(RuntimeDouble {
            default_value: f64::from(warmup.aggression) / 1000.0,
            runtime_key: String::new(),
        }),
        min_weight_percent: Some(Percent {
            value: warmup.minimum_percent.into(),
        }),
    }
}

pub(crate) fn apply_outlier(cluster: &mut Cluster, outlier: &OutlierDetection) {
    let enforce = |count: u32| Some(wkt::uint32(if count > 0 { 100 } else { 0 }));
    let mut out = cluster::OutlierDetection {
        // Istio ejects by counting failures only.
        enforcing_success_rate: Some(wkt::uint32(0)),
        interval: outlier.interval.map(wkt::duration),
        base_ejection_time: outlier.base_ejection_time.map(wkt::duration),
        max_ejection_percent: outlier
            .max_ejection_percent
            .filter(|p| *p > 0)
            .map(wkt::uint32),
        ..cluster::OutlierDetection::default()
    };
    if let Some(count) = outlier.consecutive_5xx {
        out.consecutive_5xx = Some(wkt::uint32(count));
        out.enforcing_consecutive_5xx = enforce(count);
    }
    if let Some(count) = outlier.consecutive_gateway_errors {
        out.consecutive_gateway_failure = Some(wkt::uint32(count));
        out.enforcing_consecutive_gateway_failure = enforce(count);
    }
    if outlier.split_external_local_origin_errors {
        out.split_external_local_origin_errors = true;
        out.enforcing_local_origin_success_rate = Some(wkt::uint32(0));
        if let Some(count) = outlier.consecutive_local_origin_failures.filter(|c| *c > 0) {
            out.consecutive_local_origin_failure = Some(wkt::uint32(count));
            out.enforcing_consecutive_local_origin_failure = enforce(count);
        }
    }
    cluster.outlier_detection = Some(out);
    panic_threshold(cluster, outlier.min_health_percent.unwrap_or(0));
}

/// Below that share of healthy endpoints all are used; 0 never uses unhealthy ones.
pub(crate) fn panic_threshold(cluster: &mut Cluster, percent: u32) {
    let common = cluster
        .common_lb_config
        .get_or_insert_with(CommonLbConfig::default);
    common.healthy_panic_threshold = Some(Percent {
        value: percent.into(),
    });
}
