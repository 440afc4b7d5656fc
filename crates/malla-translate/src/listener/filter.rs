//! Filters by name and configuration, in the order Istio puts them.

use malla_xds_proto::core::data_source::Specifier;
use malla_xds_proto::core::substitution_format_string::Format;
use malla_xds_proto::core::{DataSource, SubstitutionFormatString};
use malla_xds_proto::envoy_type::Int32Range;
use malla_xds_proto::hcm::{HttpFilter, RequestIdExtension, http_filter};
use malla_xds_proto::http_filters::cors::v3::Cors;
use malla_xds_proto::http_filters::fault::v3::HttpFault;
use malla_xds_proto::http_filters::grpc_stats::v3::FilterConfig as GrpcStats;
use malla_xds_proto::http_filters::grpc_stats::v3::filter_config::PerMethodStatSpecifier;
use malla_xds_proto::http_filters::grpc_web::v3::GrpcWeb;
use malla_xds_proto::http_filters::router::v3::Router;
use malla_xds_proto::http_filters::set_filter_state::v3::Config as SetFilterState;
use malla_xds_proto::listener::listener_filter_chain_match_predicate::{MatchSet, Rule};
use malla_xds_proto::listener::{
    Filter, ListenerFilter, ListenerFilterChainMatchPredicate, filter, listener_filter,
};
use malla_xds_proto::listener_filters::http_inspector::v3::HttpInspector;
use malla_xds_proto::listener_filters::original_dst::v3::OriginalDst;
use malla_xds_proto::listener_filters::original_src::v3::OriginalSrc;
use malla_xds_proto::listener_filters::tls_inspector::v3::TlsInspector;
use malla_xds_proto::pb::envoy::extensions::filters::common::set_filter_state::v3::{
    FilterStateValue, filter_state_value,
};
use malla_xds_proto::pb::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use malla_xds_proto::{any, wkt};
use prost::{Message, Name};

use super::Side;
use crate::metrics;
use crate::node::Profile;
use crate::route::{CORS_FILTER, FAULT_FILTER};
use crate::view::View;

/// A network filter.
pub(crate) fn network<M: Message + Name>(name: &str, config: &M) -> Filter {
    Filter {
        name: name.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(any::pack(config))),
    }
}

/// An HTTP filter.
pub(crate) fn http<M: Message + Name>(name: &str, config: &M) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any::pack(config))),
        ..HttpFilter::default()
    }
}

fn of_listener<M: Message + Name>(name: &str, config: &M) -> ListenerFilter {
    ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(any::pack(config))),
        ..ListenerFilter::default()
    }
}

pub(crate) fn original_dst() -> ListenerFilter {
    of_listener("envoy.filters.listener.original_dst", &OriginalDst {})
}

/// Keeps the client's address on connections to the workload (TPROXY only).
pub(crate) fn original_src() -> ListenerFilter {
    /// What `malla init` routes back to the proxy.
    const MARK: u32 = 1337;
    of_listener(
        "envoy.filters.listener.original_src",
        &OriginalSrc {
            mark: MARK,
            ..OriginalSrc::default()
        },
    )
}

pub(crate) fn tls_inspector() -> ListenerFilter {
    of_listener(
        "envoy.filters.listener.tls_inspector",
        &TlsInspector::default(),
    )
}

pub(crate) fn http_inspector() -> ListenerFilter {
    of_listener("envoy.filters.listener.http_inspector", &HttpInspector {})
}

/// The filter, but not for connections to those ports: where the server speaks first, waiting for
/// the client's first bytes would never end.
pub(crate) fn except_for(mut filter: ListenerFilter, ports: &[u16]) -> ListenerFilter {
    let mut rules: Vec<_> = ports.iter().map(|port| to_port(*port)).collect();
    filter.filter_disabled = match rules.len() {
        0 => None,
        1 => rules.pop(),
        _ => Some(ListenerFilterChainMatchPredicate {
            rule: Some(Rule::OrMatch(MatchSet { rules })),
        }),
    };
    filter
}

fn to_port(port: u16) -> ListenerFilterChainMatchPredicate {
    ListenerFilterChainMatchPredicate {
        rule: Some(Rule::DestinationPortRange(Int32Range {
            start: port.into(),
            end: i32::from(port) + 1,
        })),
    }
}

/// The end of every HTTP chain: statistics of gRPC, faults, CORS, metrics and the router. Authorization
/// comes before them.
pub(crate) fn http_tail(view: &View<'_>, side: Side, grpc_web: bool) -> Vec<HttpFilter> {
    let mut filters = Vec::new();
    if view.node.profile == Profile::PlainEnvoy {
        // Malla's proxy counts gRPC by itself, and passes gRPC-Web on as it is.
        if grpc_web {
            filters.push(http("envoy.filters.http.grpc_web", &GrpcWeb {}));
        }
        filters.push(grpc_stats());
    }
    filters.push(http(FAULT_FILTER, &HttpFault::default()));
    filters.push(http(CORS_FILTER, &Cors {}));
    filters.extend(metrics::http(view, side));
    filters.push(http("envoy.filters.http.router", &Router::default()));
    filters
}

fn grpc_stats() -> HttpFilter {
    http(
        "envoy.filters.http.grpc_stats",
        &GrpcStats {
            emit_filter_state: true,
            per_method_stat_specifier: Some(PerMethodStatSpecifier::StatsForAllMethods(
                wkt::boolean(false),
            )),
            ..GrpcStats::default()
        },
    )
}

/// Says to whoever is called over mutual TLS that there is HTTP within, for ports where nothing else
/// says so. Istio has its `alpn` filter for that, Malla's proxy does it by itself; in a plain Envoy
/// the same filter state can be set by hand. Both versions are named, because the codec finds out.
pub(crate) fn http_alpn() -> HttpFilter {
    let value = FilterStateValue {
        key: Some(filter_state_value::Key::ObjectKey(
            "envoy.network.application_protocols".into(),
        )),
        value: Some(filter_state_value::Value::FormatString(
            SubstitutionFormatString {
                format: Some(Format::TextFormatSource(DataSource {
                    specifier: Some(Specifier::InlineString(
                        "istio-http/1.1,istio-h2,istio".into(),
                    )),
                    ..DataSource::default()
                })),
                ..SubstitutionFormatString::default()
            },
        )),
        ..FilterStateValue::default()
    };
    http(
        "envoy.filters.http.set_filter_state",
        &SetFilterState {
            on_request_headers: vec![value],
            ..SetFilterState::default()
        },
    )
}

/// Request ids as UUIDs, which also carry the decision to trace.
pub(crate) fn uuid_request_id(decides_sampling: bool) -> RequestIdExtension {
    RequestIdExtension {
        typed_config: Some(any::pack(&UuidRequestIdConfig {
            use_request_id_for_trace_sampling: Some(wkt::boolean(decides_sampling)),
            ..UuidRequestIdConfig::default()
        })),
    }
}
