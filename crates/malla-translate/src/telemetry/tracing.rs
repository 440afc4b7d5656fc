//! Spans of connection managers: provider, sampling and tags, from Telemetry, else from MeshConfig's `defaultConfig`.

use std::collections::BTreeMap;

use malla_model::telemetry::effective::Tracing as Effective;
use malla_model::telemetry::{
    OpenTelemetry, ProviderKind, Share, Side, TagSource, Tags, Target, Zipkin,
};
use malla_xds_proto::core::{self, HeaderValueOption, HttpService, HttpUri, TypedExtensionConfig};
use malla_xds_proto::envoy_type::Percent;
use malla_xds_proto::hcm::http_connection_manager::Tracing;
use malla_xds_proto::pb::envoy::config::trace::v3::zipkin_config::{
    CollectorEndpointVersion, TraceContextOption,
};
use malla_xds_proto::pb::envoy::config::trace::v3::{
    OpenTelemetryConfig, ZipkinConfig, tracing as provider,
};
use malla_xds_proto::pb::envoy::extensions::tracers::opentelemetry::resource_detectors::v3::EnvironmentResourceDetectorConfig;
use malla_xds_proto::pb::envoy::r#type::metadata::v3::metadata_key::{PathSegment, path_segment};
use malla_xds_proto::pb::envoy::r#type::metadata::v3::{MetadataKey, MetadataKind, metadata_kind};
use malla_xds_proto::pb::envoy::r#type::tracing::v3::CustomTag;
use malla_xds_proto::pb::envoy::r#type::tracing::v3::custom_tag::{
    Environment, Header, Literal, Metadata, Type,
};
use malla_xds_proto::pb::google::protobuf::Any;
use malla_xds_proto::{any, wkt};

use super::{canonical_revision, canonical_service};
use crate::providers::{cluster, grpc_service, header};
use crate::view::View;

/// Where Zipkin takes spans unless told otherwise.
const ZIPKIN_PATH: &str = "/api/v2/spans";
/// Limit of an OTLP call by HTTP that has none of its own.
const OTLP_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
/// Where RBAC filters in dry run write what they would have done.
const RBAC: &str = "envoy.filters.http.rbac";
const DRY_RUN: [(&str, &str); 4] = [
    (
        "istio.authorization.dry_run.allow_policy.name",
        "istio_dry_run_allow_shadow_effective_policy_id",
    ),
    (
        "istio.authorization.dry_run.allow_policy.result",
        "istio_dry_run_allow_shadow_engine_result",
    ),
    (
        "istio.authorization.dry_run.deny_policy.name",
        "istio_dry_run_deny_shadow_effective_policy_id",
    ),
    (
        "istio.authorization.dry_run.deny_policy.result",
        "istio_dry_run_deny_shadow_engine_result",
    ),
];

/// Tracing of one connection manager.
pub(crate) struct Managed {
    pub(crate) config: Tracing,
    /// The request id decides which requests are traced.
    pub(crate) sample_by_request_id: bool,
}

/// `None` where no spans have anywhere to go.
pub(crate) fn of_manager(view: &View<'_>, side: Side) -> Option<Managed> {
    let settings = &view.mesh.settings.telemetry;
    let said = view.telemetry().tracing(side);
    let by_default = Effective {
        provider: None,
        disabled: false,
        sampling: None,
        tags: None,
        sample_by_request_id: true,
        istio_tags: true,
        propagate: true,
    };
    let (tracing, provider) = match &said {
        Some(tracing) => (tracing, settings.provider(tracing.provider?)?),
        None if settings.tracing_enabled => (
            &by_default,
            ProviderKind::Zipkin(legacy_zipkin(settings.zipkin_address.as_deref()?, view)?),
        ),
        None => return None,
    };
    let (provider, max_path) = configured(view, &provider)?;
    let share = |share: Share| {
        Some(Percent {
            value: if tracing.disabled {
                0.0
            } else {
                share.percent()
            },
        })
    };
    let sampling = tracing.sampling.or(settings.sampling);
    let config = Tracing {
        client_sampling: share(Share::ALL),
        random_sampling: share(sampling.unwrap_or(Share::TRACED)),
        overall_sampling: share(Share::ALL),
        max_path_tag_length: max_path.or(settings.max_path).map(wkt::uint32),
        custom_tags: tags(
            view,
            tracing.istio_tags,
            tracing.tags.unwrap_or(&settings.tags),
        ),
        provider: Some(provider),
        no_context_propagation: !tracing.propagate,
        ..Tracing::default()
    };
    Some(Managed {
        config,
        sample_by_request_id: tracing.sample_by_request_id,
    })
}

/// `HOST:PORT` of `defaultConfig.tracing.zipkin.address`; a short host is of the root namespace.
fn legacy_zipkin(address: &str, view: &View<'_>) -> Option<Zipkin> {
    let (host, port) = address.rsplit_once(':')?;
    let settings = &view.mesh.settings;
    let (root, domain) = (&settings.root_namespace, &settings.domain);
    let service = match host.split('.').collect::<Vec<_>>()[..] {
        [name] => format!("{name}.{root}.svc.{domain}"),
        [name, namespace] => format!("{name}.{namespace}.svc.{domain}"),
        [name, namespace, "svc"] => format!("{name}.{namespace}.svc.{domain}"),
        _ => host.to_owned(),
    };
    Some(Zipkin {
        target: Target {
            service: service.into(),
            port: port.parse().ok()?,
        },
        path: None,
        wide_ids: true,
        w3c: false,
        max_path: None,
    })
}

/// The tracer of a provider, and how long it wants paths to be.
fn configured(view: &View<'_>, provider: &ProviderKind) -> Option<(provider::Http, Option<u32>)> {
    let (name, config, max_path) = match provider {
        ProviderKind::OpenTelemetry(otel) => (
            "envoy.tracers.opentelemetry",
            any::pack(&opentelemetry(view, otel)?),
            otel.max_path,
        ),
        ProviderKind::Zipkin(zipkin) => (
            "envoy.tracers.zipkin",
            any::pack(&zipkin_config(view, zipkin)?),
            zipkin.max_path,
        ),
        ProviderKind::File { .. }
        | ProviderKind::HttpLogs(_)
        | ProviderKind::TcpLogs(_)
        | ProviderKind::Prometheus
        | ProviderKind::Authorizer(_)
        | ProviderKind::Other(_) => return None,
    };
    Some((http(name, config), max_path))
}

fn http(name: &str, config: Any) -> provider::Http {
    provider::Http {
        name: name.into(),
        config_type: Some(provider::http::ConfigType::TypedConfig(config)),
    }
}

fn opentelemetry(view: &View<'_>, otel: &OpenTelemetry) -> Option<OpenTelemetryConfig> {
    let mut config = OpenTelemetryConfig {
        service_name: format!("{}.{}", canonical_service(view.node), view.node.namespace),
        ..OpenTelemetryConfig::default()
    };
    match &otel.http {
        Some(http) => {
            let (cluster_name, host) = cluster(view, &otel.target)?;
            let headers = http.headers.iter().map(|(name, value)| HeaderValueOption {
                header: Some(header(name, value)),
                ..HeaderValueOption::default()
            });
            config.http_service = Some(HttpService {
                http_uri: Some(HttpUri {
                    uri: format!("http://{host}:{}{}", otel.target.port, http.path),
                    timeout: Some(wkt::duration(http.timeout.unwrap_or(OTLP_TIMEOUT))),
                    http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster(
                        cluster_name,
                    )),
                }),
                request_headers_to_add: headers.collect(),
                ..HttpService::default()
            });
        }
        None => {
            let mut service = grpc_service(view, &otel.target)?;
            service.timeout = otel.grpc_timeout.map(wkt::duration);
            let metadata = otel.grpc_headers.iter();
            service.initial_metadata = metadata.map(|(name, value)| header(name, value)).collect();
            config.grpc_service = Some(service);
        }
    }
    if otel.resource_from_environment {
        config.resource_detectors = vec![TypedExtensionConfig {
            name: "envoy.tracers.opentelemetry.resource_detectors.environment".into(),
            typed_config: Some(any::pack(&EnvironmentResourceDetectorConfig {})),
        }];
    }
    Some(config)
}

fn zipkin_config(view: &View<'_>, zipkin: &Zipkin) -> Option<ZipkinConfig> {
    let (collector_cluster, host) = cluster(view, &zipkin.target)?;
    let option = match zipkin.w3c {
        true => TraceContextOption::UseB3WithW3cPropagation,
        false => TraceContextOption::UseB3,
    };
    Some(ZipkinConfig {
        collector_cluster,
        collector_endpoint: zipkin.path.as_deref().unwrap_or(ZIPKIN_PATH).to_owned(),
        collector_endpoint_version: CollectorEndpointVersion::HttpJson.into(),
        collector_hostname: host.to_string(),
        trace_id_128bit: zipkin.wide_ids,
        shared_span_context: Some(wkt::boolean(false)),
        trace_context_option: option.into(),
        ..ZipkinConfig::default()
    })
}

/// Istio's own tags and the configured ones, by name.
fn tags(view: &View<'_>, istio: bool, configured: &Tags) -> Vec<CustomTag> {
    let mut all: BTreeMap<String, Type> = BTreeMap::new();
    if istio {
        for (name, key) in DRY_RUN {
            all.insert(name.to_owned(), request_metadata(RBAC, key));
        }
        let literals = [
            ("istio.canonical_service", canonical_service(view.node)),
            ("istio.canonical_revision", canonical_revision(view.node)),
            ("istio.mesh_id", view.mesh.settings.trust_domain.as_str()),
            ("istio.namespace", &view.node.namespace),
            ("istio.cluster_id", &view.mesh.settings.cluster_id),
        ];
        for (name, value) in literals {
            let value = value.to_owned();
            all.insert(name.to_owned(), Type::Literal(Literal { value }));
        }
    }
    for (name, source) in configured {
        all.insert(name.to_string(), source_of(source));
    }
    all.into_iter()
        .map(|(tag, source)| CustomTag {
            tag,
            r#type: Some(source),
        })
        .collect()
}

fn request_metadata(namespace: &str, key: &str) -> Type {
    Type::Metadata(Metadata {
        kind: Some(MetadataKind {
            kind: Some(metadata_kind::Kind::Request(metadata_kind::Request {})),
        }),
        metadata_key: Some(MetadataKey {
            key: namespace.to_owned(),
            path: vec![PathSegment {
                segment: Some(path_segment::Segment::Key(key.to_owned())),
            }],
        }),
        default_value: String::new(),
    })
}

fn source_of(source: &TagSource) -> Type {
    match source {
        TagSource::Literal(value) => Type::Literal(Literal {
            value: value.to_string(),
        }),
        TagSource::Environment { name, default } => Type::Environment(Environment {
            name: name.to_string(),
            default_value: default.to_string(),
        }),
        TagSource::Header { name, default } => Type::RequestHeader(Header {
            name: name.to_string(),
            default_value: default.to_string(),
        }),
        TagSource::Format(text) => Type::Value(text.to_string()),
    }
}
