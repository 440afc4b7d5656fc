//! Access logs: to whom, in what form, of which requests; from Telemetry, else from MeshConfig's `accessLogFile`.

use malla_model::telemetry::{LogFormat, LogService, ProviderKind, Side};
use malla_xds_proto::accesslog::access_log::ConfigType;
use malla_xds_proto::accesslog::access_log_filter::FilterSpecifier;
use malla_xds_proto::accesslog::{
    AccessLog, AccessLogFilter, AndFilter, ExtensionFilter, ResponseFlagFilter, extension_filter,
};
use malla_xds_proto::any;
use malla_xds_proto::core::ApiVersion;
use malla_xds_proto::pb::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use malla_xds_proto::pb::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig,
};

use crate::access_log;
use crate::providers::grpc_service;
use crate::view::View;

/// What a log is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    /// Requests.
    Http,
    /// Connections.
    Tcp,
    /// Connections that no filter chain took.
    Unrouted,
}

/// The logs of a filter or a listener.
pub(crate) fn of(view: &View<'_>, side: Side, layer: Layer) -> Vec<AccessLog> {
    let unrouted = || {
        let flags = vec!["NR".into()];
        FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter { flags })
    };
    let base = (layer == Layer::Unrouted).then(unrouted);
    let settings = &view.mesh.settings;
    let Some(logs) = view.telemetry().logging(side) else {
        return access_log::of_mesh(settings, filter([base]))
            .into_iter()
            .collect();
    };
    let enabled = logs.into_iter().filter(|(_, log)| !log.disabled);
    let logs = enabled.filter_map(|(name, log)| {
        let of = filter([base.clone(), log.filter.map(expression)]);
        match settings.telemetry.provider(name)? {
            ProviderKind::File { path, format } => {
                Some(access_log::file(&path, &format, settings, of))
            }
            ProviderKind::HttpLogs(log) if layer == Layer::Http => http_log(view, &log, of),
            ProviderKind::TcpLogs(log) if layer != Layer::Http => tcp_log(view, &log, of),
            _ => None,
        }
    });
    logs.collect()
}

/// All of these.
fn filter<const N: usize>(of: [Option<FilterSpecifier>; N]) -> Option<AccessLogFilter> {
    let mut filters: Vec<AccessLogFilter> = of
        .into_iter()
        .flatten()
        .map(|specifier| AccessLogFilter {
            filter_specifier: Some(specifier),
        })
        .collect();
    match filters.len() {
        0 | 1 => filters.pop(),
        _ => Some(AccessLogFilter {
            filter_specifier: Some(FilterSpecifier::AndFilter(AndFilter { filters })),
        }),
    }
}

/// A CEL expression.
fn expression(text: &str) -> FilterSpecifier {
    let config = ExpressionFilter {
        expression: text.to_owned(),
        ..ExpressionFilter::default()
    };
    FilterSpecifier::ExtensionFilter(ExtensionFilter {
        name: "envoy.access_loggers.extension_filters.cel".into(),
        config_type: Some(extension_filter::ConfigType::TypedConfig(any::pack(
            &config,
        ))),
    })
}

fn http_log(view: &View<'_>, log: &LogService, of: Option<AccessLogFilter>) -> Option<AccessLog> {
    let texts = |list: &[std::sync::Arc<str>]| list.iter().map(ToString::to_string).collect();
    let config = HttpGrpcAccessLogConfig {
        common_config: Some(common(view, log, "http_envoy_accesslog")?),
        additional_request_headers_to_log: texts(&log.request_headers),
        additional_response_headers_to_log: texts(&log.response_headers),
        additional_response_trailers_to_log: texts(&log.trailers),
    };
    Some(AccessLog {
        name: "envoy.access_loggers.http_grpc".into(),
        filter: of,
        config_type: Some(ConfigType::TypedConfig(any::pack(&config))),
    })
}

fn tcp_log(view: &View<'_>, log: &LogService, of: Option<AccessLogFilter>) -> Option<AccessLog> {
    let config = TcpGrpcAccessLogConfig {
        common_config: Some(common(view, log, "tcp_envoy_accesslog")?),
    };
    Some(AccessLog {
        name: "envoy.access_loggers.tcp_grpc".into(),
        filter: of,
        config_type: Some(ConfigType::TypedConfig(any::pack(&config))),
    })
}

fn common(view: &View<'_>, log: &LogService, name: &str) -> Option<CommonGrpcAccessLogConfig> {
    Some(CommonGrpcAccessLogConfig {
        log_name: log.log_name.as_deref().unwrap_or(name).to_owned(),
        grpc_service: Some(grpc_service(view, &log.target)?),
        transport_api_version: ApiVersion::V3.into(),
        ..CommonGrpcAccessLogConfig::default()
    })
}

/// A provider's form, where it has one of its own.
pub(crate) fn own_format(format: &LogFormat) -> Option<(&str, bool)> {
    match format {
        LogFormat::Mesh => None,
        LogFormat::Text(text) => Some((text, false)),
        LogFormat::Labels(json) => Some((json, true)),
    }
}
