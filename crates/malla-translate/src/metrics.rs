//! Istio's standard metrics: the filters that keep them, and those by which proxies tell each other who they are.
//!
//! [`options`] is what the mesh asks for; the rest turns that into configuration. Stock Envoy has none of these
//! filters, so it is sent none.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use malla_model::telemetry::MetricName;
use malla_xds_proto::hcm::HttpFilter;
use malla_xds_proto::istio_filters::{
    DiscoveryMethod, DiscoverySpecifier, IstioHeaders, MetadataExchange, MetricConfig, Nothing,
    PeerMetadataConfig, PropagationMethod, PropagationSpecifier, StatsConfig,
};
use malla_xds_proto::listener::Filter;
use malla_xds_proto::{any, cluster, wkt};

use crate::listener::{Side, http_filter, network_filter};
use crate::node::Profile;
use crate::telemetry;
use crate::tls::PEER_EXCHANGE;
use crate::view::View;

const STATS_FILTER: &str = "istio.stats";
const PEER_FILTER: &str = "istio.metadata_exchange";
const PEER_HEADERS: [&str; 2] = ["x-envoy-peer-metadata", "x-envoy-peer-metadata-id"];

/// What is to be counted at one side of a proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MetricsOptions {
    /// Nothing at all.
    pub(crate) disabled: bool,
    /// Changes of single metrics; later ones win.
    pub(crate) overrides: Vec<MetricOverride>,
    /// How often open TCP connections are counted anew; `None` leaves it to the proxy (five seconds).
    pub(crate) reporting_interval: Option<Duration>,
}

/// A change of one metric, or of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MetricOverride {
    /// Name without `istio_`, such as `requests_total`; empty is every metric.
    pub(crate) metric: String,
    /// It is not counted.
    pub(crate) disabled: bool,
    /// Labels and their new values, as expressions (Istio: `tagOverrides` with UPSERT).
    pub(crate) set: BTreeMap<String, String>,
    /// Labels to leave out (REMOVE).
    pub(crate) remove: Vec<String>,
}

/// What `view`'s node is to count at `side`: everything, unless Telemetry says otherwise.
pub(crate) fn options(view: &View<'_>, side: Side) -> MetricsOptions {
    let side = telemetry::side(side);
    let mut out = MetricsOptions::default();
    for rule in view.telemetry().metrics() {
        out.reporting_interval = rule.reporting_interval.or(out.reporting_interval);
        for change in rule.overrides.iter().filter(|it| it.mode.covers(side)) {
            out.disabled = match (&change.metric, change.disabled) {
                (MetricName::All, Some(disabled)) => disabled,
                // Switched on alone, so the others are not.
                (_, Some(false)) => false,
                _ => out.disabled,
            };
            let labels = change.labels.iter();
            let set = labels.clone().filter_map(|(label, value)| {
                Some((label.to_string(), value.as_deref()?.to_owned()))
            });
            let removed = labels.filter(|(_, value)| value.is_none());
            out.overrides.push(MetricOverride {
                metric: metric_name(&change.metric).to_owned(),
                disabled: change.disabled == Some(true),
                set: set.collect(),
                remove: removed.map(|(label, _)| label.to_string()).collect(),
            });
        }
    }
    out
}

/// The name of a metric without `istio_`; empty for all.
fn metric_name(metric: &MetricName) -> &str {
    match metric {
        MetricName::All => "",
        MetricName::Custom(name) => name,
        MetricName::Standard(word) => match &**word {
            "REQUEST_COUNT" => "requests_total",
            "REQUEST_DURATION" => "request_duration_milliseconds",
            "REQUEST_SIZE" => "request_bytes",
            "RESPONSE_SIZE" => "response_bytes",
            "TCP_OPENED_CONNECTIONS" => "tcp_connections_opened_total",
            "TCP_CLOSED_CONNECTIONS" => "tcp_connections_closed_total",
            "TCP_SENT_BYTES" => "tcp_sent_bytes_total",
            "TCP_RECEIVED_BYTES" => "tcp_received_bytes_total",
            "GRPC_REQUEST_MESSAGES" => "request_messages_total",
            "GRPC_RESPONSE_MESSAGES" => "response_messages_total",
            other => other,
        },
    }
}

/// The HTTP filter that counts.
pub(crate) fn http(view: &View<'_>, side: Side) -> Option<HttpFilter> {
    Some(http_filter(STATS_FILTER, &stats(view, side)?))
}

/// The network filter that counts.
pub(crate) fn tcp(view: &View<'_>, side: Side) -> Option<Filter> {
    Some(network_filter(STATS_FILTER, &stats(view, side)?))
}

/// The HTTP filter by which proxies learn of each other.
pub(crate) fn peers(view: &View<'_>, side: Side) -> Option<HttpFilter> {
    if view.node.profile != Profile::Malla {
        return None;
    }
    let found = vec![
        discovery(DiscoverySpecifier::IstioHeaders(IstioHeaders::default())),
        discovery(DiscoverySpecifier::WorkloadDiscovery(Nothing {})),
    ];
    let told = |skip_external_clusters| {
        vec![PropagationMethod {
            method_specifier: Some(PropagationSpecifier::IstioHeaders(IstioHeaders {
                skip_external_clusters,
            })),
        }]
    };
    let config = match side {
        Side::Inbound => PeerMetadataConfig {
            downstream_discovery: found,
            downstream_propagation: told(false),
            ..PeerMetadataConfig::default()
        },
        // Names of workloads are nothing to whoever is outside of the mesh.
        Side::Outbound | Side::Gateway => PeerMetadataConfig {
            upstream_discovery: found,
            upstream_propagation: told(true),
            ..PeerMetadataConfig::default()
        },
    };
    Some(http_filter(PEER_FILTER, &config))
}

/// What a proxy without that filter has to take off requests by its routes: what others tell of themselves is nothing to
/// an application, and what a stranger tells must not get into the mesh.
pub(crate) fn headers_to_remove(view: &View<'_>) -> Vec<String> {
    match view.node.profile {
        Profile::Malla => Vec::new(),
        Profile::PlainEnvoy => PEER_HEADERS.map(String::from).to_vec(),
    }
}

/// The network filter by which servers learn of clients, on connections of bytes.
pub(crate) fn exchange(view: &View<'_>) -> Option<Filter> {
    (view.node.profile == Profile::Malla).then(|| network_filter(PEER_FILTER, &by_preamble()))
}

/// The same for clients, which is a filter of clusters.
pub(crate) fn cluster_exchange() -> cluster::Filter {
    cluster::Filter {
        name: PEER_FILTER.into(),
        typed_config: Some(any::pack(&by_preamble())),
        ..cluster::Filter::default()
    }
}

fn by_preamble() -> MetadataExchange {
    MetadataExchange {
        protocol: PEER_EXCHANGE.into(),
        enable_discovery: true,
        ..MetadataExchange::default()
    }
}

fn discovery(method: DiscoverySpecifier) -> DiscoveryMethod {
    DiscoveryMethod {
        method_specifier: Some(method),
    }
}

fn stats(view: &View<'_>, side: Side) -> Option<StatsConfig> {
    if view.node.profile != Profile::Malla {
        return None;
    }
    let options = options(view, side);
    (!options.disabled).then(|| StatsConfig {
        // Hosts that anybody may write must not become series.
        disable_host_header_fallback: side != Side::Outbound,
        tcp_reporting_duration: options.reporting_interval.map(wkt::duration),
        metrics: options.overrides.into_iter().map(change).collect(),
        ..StatsConfig::default()
    })
}

fn change(of: MetricOverride) -> MetricConfig {
    MetricConfig {
        name: of.metric,
        drop: of.disabled,
        dimensions: HashMap::from_iter(of.set),
        tags_to_remove: of.remove,
        ..MetricConfig::default()
    }
}
