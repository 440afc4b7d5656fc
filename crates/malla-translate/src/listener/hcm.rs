//! HTTP connection managers, with Istio's settings.

use malla_model::settings::PathNormalization;
use malla_xds_proto::core::Http1ProtocolOptions;
use malla_xds_proto::hcm::http_connection_manager::{
    CodecType, ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier,
    SetCurrentClientCertDetails, UpgradeConfig,
};
use malla_xds_proto::hcm::{HttpConnectionManager, HttpFilter, Rds};
use malla_xds_proto::listener::Filter;
use malla_xds_proto::route::RouteConfiguration;
use malla_xds_proto::wkt;

use super::filter;
use crate::metrics;
use crate::node::Profile;
use crate::route::NO_TIMEOUT;
use crate::telemetry::{self, logs};
use crate::tls;
use crate::view::View;

/// What a proxy of the mesh calls itself in responses.
const SERVER_NAME: &str = "istio-envoy";

/// Whose requests these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Of the workload, on their way out.
    Outbound,
    /// Of others, to the workload.
    Inbound,
    /// Of the world, into the mesh.
    Gateway,
}

/// Where routes come from.
#[derive(Debug)]
pub(crate) enum Routes {
    Named(String),
    Inline(Box<RouteConfiguration>),
}

/// A connection manager. The filters `first` (authorization) run before everything that acts on requests.
pub(crate) fn manager(
    view: &View<'_>,
    side: Side,
    stat_prefix: String,
    routes: Routes,
    first: Vec<HttpFilter>,
    grpc_web: bool,
) -> Filter {
    let mut http_filters: Vec<HttpFilter> = metrics::peers(view, side).into_iter().collect();
    http_filters.extend(first);
    http_filters.extend(filter::http_tail(view, side, grpc_web));
    let told = telemetry::side(side);
    let tracing = telemetry::tracing::of_manager(view, told);
    let by_request_id = tracing.as_ref().is_none_or(|it| it.sample_by_request_id);
    let paths = view.mesh.settings.path_normalization;
    let mut config = HttpConnectionManager {
        codec_type: CodecType::Auto.into(),
        stat_prefix,
        http_filters,
        route_specifier: Some(match routes {
            Routes::Named(name) => RouteSpecifier::Rds(Rds {
                config_source: Some(tls::ads()),
                route_config_name: name,
            }),
            Routes::Inline(routes) => RouteSpecifier::RouteConfig(*routes),
        }),
        access_log: logs::of(view, told, logs::Layer::Http),
        stream_idle_timeout: Some(NO_TIMEOUT),
        normalize_path: Some(wkt::boolean(paths != PathNormalization::None)),
        merge_slashes: matches!(
            paths,
            PathNormalization::MergeSlashes | PathNormalization::DecodeAndMergeSlashes
        ),
        path_with_escaped_slashes_action: match paths {
            PathNormalization::DecodeAndMergeSlashes => {
                PathWithEscapedSlashesAction::UnescapeAndForward
            }
            _ => PathWithEscapedSlashesAction::KeepUnchanged,
        }
        .into(),
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".into(),
            ..UpgradeConfig::default()
        }],
        use_remote_address: Some(wkt::boolean(side == Side::Gateway)),
        // UUIDs are what Malla's proxy makes anyway.
        request_id_extension: (view.node.profile == Profile::PlainEnvoy || !by_request_id)
            .then(|| filter::uuid_request_id(by_request_id)),
        tracing: tracing.map(|tracing| tracing.config),
        http_protocol_options: view.node.http10.then(|| Http1ProtocolOptions {
            accept_http_10: true,
            ..Http1ProtocolOptions::default()
        }),
        ..HttpConnectionManager::default()
    };
    match side {
        Side::Outbound => {}
        Side::Inbound => {
            config.server_name = SERVER_NAME.into();
            config.forward_client_cert_details = ForwardClientCertDetails::AppendForward.into();
            config.set_current_client_cert_details = Some(SetCurrentClientCertDetails {
                subject: Some(wkt::boolean(true)),
                dns: true,
                uri: true,
                ..SetCurrentClientCertDetails::default()
            });
        }
        Side::Gateway => {
            config.server_name = SERVER_NAME.into();
            config.forward_client_cert_details = ForwardClientCertDetails::SanitizeSet.into();
            config.set_current_client_cert_details = Some(SetCurrentClientCertDetails {
                subject: Some(wkt::boolean(true)),
                cert: true,
                dns: true,
                uri: true,
                ..SetCurrentClientCertDetails::default()
            });
        }
    }
    filter::network("envoy.filters.network.http_connection_manager", &config)
}
