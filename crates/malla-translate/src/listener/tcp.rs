//! TCP proxies, and what counts before them.

use malla_model::Host;
use malla_model::traffic::ConnectionPool;
use malla_xds_proto::envoy_type::HashPolicy;
use malla_xds_proto::envoy_type::hash_policy::{PolicySpecifier, SourceIp};
use malla_xds_proto::listener::Filter;
use malla_xds_proto::tcp_proxy::TcpProxy;
use malla_xds_proto::tcp_proxy::tcp_proxy::weighted_cluster::ClusterWeight;
use malla_xds_proto::tcp_proxy::tcp_proxy::{ClusterSpecifier, WeightedCluster};
use malla_xds_proto::wkt;

use super::{Side, filter};
use crate::metrics;
use crate::names::{BLACK_HOLE, PASSTHROUGH, outbound_cluster, parse_outbound};
use crate::telemetry::{self, logs};
use crate::view::View;

/// To one cluster.
pub(crate) fn to_cluster(view: &View<'_>, side: Side, cluster: &str) -> Vec<Filter> {
    proxy(view, side, cluster, &[(cluster.to_owned(), 1)])
}

/// To clusters by weight, under the statistics prefix `stat_prefix`.
pub(crate) fn proxy(
    view: &View<'_>,
    side: Side,
    stat_prefix: &str,
    to: &[(String, u32)],
) -> Vec<Filter> {
    let specifier = match to {
        [] => ClusterSpecifier::Cluster(BLACK_HOLE.into()),
        [(only, _)] => ClusterSpecifier::Cluster(only.clone()),
        several => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: several
                .iter()
                .map(|(name, weight)| ClusterWeight {
                    name: name.clone(),
                    weight: *weight,
                    ..ClusterWeight::default()
                })
                .collect(),
        }),
    };
    let mut config = TcpProxy {
        stat_prefix: stat_prefix.to_owned(),
        cluster_specifier: Some(specifier),
        access_log: logs::of(view, telemetry::side(side), logs::Layer::Tcp),
        ..TcpProxy::default()
    };
    if let [(cluster, _), ..] = to
        && let Some((port, subset, host)) = parse_outbound(cluster)
    {
        apply_rule(view, &mut config, port, subset, &host);
    }
    let proxy = filter::network("envoy.filters.network.tcp_proxy", &config);
    metrics::tcp(view, side)
        .into_iter()
        .chain([proxy])
        .collect()
}

/// Where traffic to addresses nobody knows goes.
pub(crate) fn unknown(view: &View<'_>) -> Vec<Filter> {
    use malla_model::settings::OutboundPolicy;
    match view.scope().outbound(view.mesh) {
        OutboundPolicy::AllowAny => to_cluster(view, Side::Outbound, &unknown_cluster(view)),
        OutboundPolicy::RegistryOnly => to_cluster(view, Side::Outbound, BLACK_HOLE),
    }
}

/// The cluster of calls to hosts nobody knows, where they may be called.
pub(crate) fn unknown_cluster(view: &View<'_>) -> String {
    match view.scope().egress_proxy() {
        Some(proxy) => outbound_cluster(
            proxy.port.unwrap_or_default(),
            proxy.subset.as_deref().unwrap_or_default(),
            &proxy.host,
        ),
        None => PASSTHROUGH.to_owned(),
    }
}

fn apply_rule(view: &View<'_>, config: &mut TcpProxy, port: u16, subset: &str, host: &Host) {
    use malla_model::traffic::{Balance, HashKey};
    let Some(rule) = view.rule_of(host) else {
        return;
    };
    let policy = rule.policy(port, rule.subset(subset));
    if let Some(ConnectionPool {
        tcp_idle_timeout,
        max_connection_duration,
        ..
    }) = policy.connection_pool
    {
        config.idle_timeout = tcp_idle_timeout.map(wkt::duration);
        config.max_downstream_connection_duration = max_connection_duration.map(wkt::duration);
    }
    let by_source = policy.load_balancer.is_some_and(|lb| {
        matches!(
            lb.algorithm,
            Balance::Hash {
                key: HashKey::SourceIp,
                ..
            }
        )
    });
    if by_source {
        config.hash_policy = vec![HashPolicy {
            policy_specifier: Some(PolicySpecifier::SourceIp(SourceIp {})),
        }];
    }
}
