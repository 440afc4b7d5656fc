//! Tracing of an HTTP connection manager: which requests, what their spans say, where spans go.
//!
//! Sampling is Envoy's: a share is compared with a number taken from the request id, so that every proxy on a request's
//! way decides alike.

use std::sync::Arc;

use crate::checked::{Cx, Invalid, ignorable, refuse, type_name};
use crate::format::{Field, Format, MetadataSource, Operator, Segment};
use crate::grpc_service::{GrpcService, HttpService};
use crate::pb::{Any, core, envoy_tracing as tag_pb, google, hcm, route, trace as pb, types};

/// Envoy cuts `http.url` there unless configured.
const DEFAULT_MAX_PATH: usize = 256;
/// Envoy's limit of a report.
const ZIPKIN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// Spans kept while the collector does not take them (`max_cache_size`).
const DEFAULT_CACHE: usize = 1024;

/// `HttpConnectionManager.Tracing`.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    /// Which requests, where the route does not say.
    pub sampling: Sampling,
    /// Tags beside the ones every span has.
    pub tags: Vec<CustomTag>,
    /// Bytes of the path in `http.url`.
    pub max_path: usize,
    /// A span for each try, beside the request's own.
    pub spawn_upstream: bool,
    /// Name of the request's span.
    pub operation: Option<Format>,
    /// Name of a try's span.
    pub upstream_operation: Option<Format>,
    /// Tell upstreams about the span.
    pub propagate: bool,
    /// Where spans go; without one there are none.
    pub tracer: Option<Arc<Tracer>>,
}

/// Shares of requests, all three decided by Envoy's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    /// Of those with `x-client-trace-id`.
    pub client: Share,
    /// Of all.
    pub random: Share,
    /// Upper limit of everything.
    pub overall: Share,
}

/// A share as Envoy counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    numerator: u32,
    denominator: u32,
}

impl Share {
    /// Everything.
    pub const ALL: Self = Self {
        numerator: 100,
        denominator: 100,
    };

    /// Of `value` percent, counted in parts of `denominator`: Envoy cuts percents of a hundred to whole ones and rounds
    /// the others.
    pub fn of_percent(value: f64, denominator: u32) -> Self {
        let parts = value.clamp(0.0, 100.0) * f64::from(denominator.max(1)) / 100.0;
        let parts = if denominator == 100 {
            parts
        } else {
            parts.round()
        };
        Self {
            numerator: parts as u32, // No more than the denominator.
            denominator: denominator.max(1),
        }
    }

    /// Decides for a number, evenly spread or not.
    pub fn holds(self, number: u64) -> bool {
        number % u64::from(self.denominator) < u64::from(self.numerator)
    }

    fn fractional(wire: Option<types::FractionalPercent>, cx: &Cx) -> Result<Self, Invalid> {
        use types::fractional_percent::DenominatorType;
        let Some(wire) = wire else {
            return Ok(Self::ALL);
        };
        let denominator = match cx.enumeration("denominator", wire.denominator)? {
            DenominatorType::Hundred => 100,
            DenominatorType::TenThousand => 10_000,
            DenominatorType::Million => 1_000_000,
        };
        Ok(Self {
            numerator: wire.numerator,
            denominator,
        })
    }
}

/// A tag from a format.
#[derive(Debug, Clone, PartialEq)]
pub struct CustomTag {
    /// Its name.
    pub name: Arc<str>,
    /// Its value.
    pub value: Format,
    /// Instead of a value that is not there; without one there is no tag.
    pub default: Option<String>,
    /// All it reads is there when the request goes upstream.
    pub early: bool,
}

/// What a route says about tracing.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteTracing {
    /// Instead of the manager's.
    pub sampling: Sampling,
    /// Before the manager's.
    pub tags: Vec<CustomTag>,
    /// Instead of the manager's and of the decorator's.
    pub operation: Option<Format>,
    /// Instead of the manager's.
    pub upstream_operation: Option<Format>,
}

/// Names spans (`Route.decorator`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decorator {
    /// The name.
    pub operation: String,
    /// Tell the other side of the hop.
    pub propagate: bool,
}

/// Where spans go and how they look.
#[derive(Debug, Clone, PartialEq)]
pub enum Tracer {
    /// OTLP; W3C trace context.
    OpenTelemetry(OpenTelemetry),
    /// Zipkin v2 JSON; B3.
    Zipkin(Zipkin),
}

/// `envoy.config.trace.v3.OpenTelemetryConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenTelemetry {
    /// The collector.
    pub collector: Collector,
    /// `service.name`; empty leaves it out.
    pub service_name: String,
    /// Further attributes of the resource.
    pub resource: Vec<(String, String)>,
    /// Add those of `OTEL_RESOURCE_ATTRIBUTES`.
    pub resource_from_environment: bool,
    /// Add `telemetry.sdk.*`.
    pub sdk_attributes: bool,
    /// Name the instrumentation scope.
    pub scope: bool,
    /// Sample every request, whatever anybody decided.
    pub always_on: bool,
    /// Spans kept while the collector does not take them.
    pub cache: usize,
}

/// How OTLP is spoken.
#[derive(Debug, Clone, PartialEq)]
pub enum Collector {
    /// `TraceService.Export`.
    Grpc(GrpcService),
    /// `POST` of protobuf.
    Http(HttpService),
}

/// `envoy.config.trace.v3.ZipkinConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct Zipkin {
    /// The collector.
    pub service: HttpService,
    /// Trace ids have 128 bits.
    pub wide_ids: bool,
    /// Client and server share a span.
    pub shared: bool,
    /// As [`Tracing::spawn_upstream`], by its older name.
    pub split: bool,
    /// Write and understand `traceparent` beside B3.
    pub w3c: bool,
}

impl Tracing {
    pub(crate) fn parse(
        wire: hcm::http_connection_manager::Tracing,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        let hcm::http_connection_manager::Tracing {
            client_sampling,
            random_sampling,
            overall_sampling,
            verbose,
            max_path_tag_length,
            custom_tags,
            provider,
            spawn_upstream_span,
            operation,
            upstream_operation,
            no_context_propagation,
        } = wire;
        // Events inside of spans, for debugging Envoy.
        ignorable!(cx; verbose);
        let tracer = match provider {
            None => None,
            Some(provider) => cx.field("provider", |cx| Tracer::parse(provider, cx))?,
        };
        let split = matches!(tracer.as_deref(), Some(Tracer::Zipkin(zipkin)) if zipkin.split);
        Ok(Self {
            sampling: Sampling {
                client: percent("client_sampling", client_sampling, 100, cx)?,
                random: percent("random_sampling", random_sampling, 10_000, cx)?,
                overall: percent("overall_sampling", overall_sampling, 100, cx)?,
            },
            tags: CustomTag::parse_all(custom_tags, cx)?,
            max_path: max_path_tag_length.map_or(DEFAULT_MAX_PATH, |max| max.value as usize),
            spawn_upstream: split || spawn_upstream_span.is_some_and(|on| on.value),
            operation: operation_format("operation", &operation, cx)?,
            upstream_operation: operation_format("upstream_operation", &upstream_operation, cx)?,
            propagate: !no_context_propagation,
            tracer,
        })
    }
}

fn percent(
    field: &str,
    wire: Option<types::Percent>,
    denominator: u32,
    cx: &Cx,
) -> Result<Share, Invalid> {
    let Some(types::Percent { value }) = wire else {
        return Ok(Share::ALL);
    };
    if !(0.0..=100.0).contains(&value) {
        return Err(cx.invalid(field, format!("{value} is not from 0 to 100")));
    }
    Ok(Share::of_percent(value, denominator))
}

fn operation_format(field: &str, text: &str, cx: &Cx) -> Result<Option<Format>, Invalid> {
    if text.is_empty() {
        return Ok(None);
    }
    Format::compile(text)
        .map(Some)
        .map_err(|reason| cx.invalid(field, reason))
}

impl RouteTracing {
    pub(crate) fn parse(wire: route::Tracing, cx: &mut Cx) -> Result<Self, Invalid> {
        let route::Tracing {
            client_sampling,
            random_sampling,
            overall_sampling,
            custom_tags,
            operation,
            upstream_operation,
        } = wire;
        let share =
            |field: &str, wire, cx: &mut Cx| cx.field(field, |cx| Share::fractional(wire, cx));
        Ok(Self {
            sampling: Sampling {
                client: share("client_sampling", client_sampling, cx)?,
                random: share("random_sampling", random_sampling, cx)?,
                overall: share("overall_sampling", overall_sampling, cx)?,
            },
            tags: CustomTag::parse_all(custom_tags, cx)?,
            operation: operation_format("operation", &operation, cx)?,
            upstream_operation: operation_format("upstream_operation", &upstream_operation, cx)?,
        })
    }
}

impl Decorator {
    pub(crate) fn parse(wire: route::Decorator, cx: &Cx) -> Result<Self, Invalid> {
        if wire.operation.is_empty() {
            return Err(cx.invalid("operation", "is required"));
        }
        Ok(Self {
            operation: wire.operation,
            propagate: wire.propagate.is_none_or(|propagate| propagate.value),
        })
    }
}

impl CustomTag {
    pub(crate) fn parse_all(
        wire: Vec<tag_pb::CustomTag>,
        cx: &mut Cx,
    ) -> Result<Vec<Self>, Invalid> {
        cx.each("custom_tags", wire, Self::parse)
    }

    fn parse(wire: tag_pb::CustomTag, cx: &mut Cx) -> Result<Self, Invalid> {
        use tag_pb::custom_tag::Type;
        let tag_pb::CustomTag { tag, r#type } = wire;
        if tag.is_empty() {
            return Err(cx.invalid("tag", "is required"));
        }
        let one = |operator| {
            Format(vec![Segment::Command {
                operator,
                max_length: None,
            }])
        };
        let (value, default) = match cx.required("type", r#type)? {
            Type::Literal(literal) => {
                (Format(vec![Segment::Literal(literal.value)]), String::new())
            }
            Type::Environment(from) => {
                let (name, unset) = (from.name, None);
                (
                    one(Operator::Environment { name, unset }),
                    from.default_value,
                )
            }
            Type::RequestHeader(from) => {
                let field = Field::parse(&from.name)
                    .map_err(|reason| cx.invalid("request_header.name", reason))?;
                (one(Operator::Request(field, None)), from.default_value)
            }
            Type::Metadata(from) => {
                let default = from.default_value.clone();
                let operator = cx.field("metadata", |cx| metadata(from, cx))?;
                (one(operator), default)
            }
            Type::Value(text) => {
                let format =
                    Format::compile(&text).map_err(|reason| cx.invalid("value", reason))?;
                (format, String::new())
            }
        };
        let early = value.0.iter().all(|segment| match segment {
            Segment::Literal(_) => true,
            Segment::Command { operator, .. } => matches!(
                operator,
                Operator::Environment { .. }
                    | Operator::Request(..)
                    | Operator::RequestWithoutQuery(..)
                    | Operator::QueryParam(_)
                    | Operator::Path { .. }
            ),
        });
        Ok(Self {
            name: tag.into(),
            value,
            default: Some(default).filter(|text| !text.is_empty()),
            early,
        })
    }
}

fn metadata(wire: tag_pb::custom_tag::Metadata, cx: &Cx) -> Result<Operator, Invalid> {
    use crate::pb::metadata_type::metadata_key::path_segment::Segment as Wire;
    use crate::pb::metadata_type::metadata_kind::Kind;
    let kind = wire.kind.and_then(|kind| kind.kind);
    let source = match cx.required("kind", kind)? {
        Kind::Request(_) => MetadataSource::Dynamic,
        Kind::Route(_) => MetadataSource::Route,
        Kind::Cluster(_) => MetadataSource::Cluster,
        Kind::Host(_) => MetadataSource::UpstreamHost,
    };
    let key = cx.required("metadata_key", wire.metadata_key)?;
    let path = key.path.into_iter().map(|segment| match segment.segment {
        Some(Wire::Key(key)) => Ok(key),
        _ => Err(cx.invalid("metadata_key.path", "only keys are supported by this proxy")),
    });
    Ok(Operator::Metadata {
        source,
        namespace: key.key,
        path: path.collect::<Result<_, _>>()?,
    })
}

impl Tracer {
    fn parse(wire: pb::tracing::Http, cx: &mut Cx) -> Result<Option<Arc<Self>>, Invalid> {
        let pb::tracing::Http { name, config_type } = wire;
        let Some(pb::tracing::http::ConfigType::TypedConfig(any)) = config_type else {
            return Err(cx.invalid("typed_config", "is required"));
        };
        let tracer = cx.field("typed_config", |cx| match type_name(&any).as_str() {
            "envoy.config.trace.v3.OpenTelemetryConfig" => {
                OpenTelemetry::parse(cx.unpack("", &any)?, cx).map(Self::OpenTelemetry)
            }
            "envoy.config.trace.v3.ZipkinConfig" => {
                Zipkin::parse(cx.unpack("", &any)?, cx).map(Self::Zipkin)
            }
            other => Err(cx.invalid(
                "",
                format!("tracer {name} ({other}) is not supported by this proxy"),
            )),
        })?;
        Ok(Some(Arc::new(tracer)))
    }
}

impl Collector {
    /// `ways` names the fields of which one is to be set.
    pub(crate) fn parse(
        grpc: Option<core::GrpcService>,
        http: Option<core::HttpService>,
        ways: &str,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        match (grpc, http) {
            (Some(grpc), None) => cx.field("grpc_service", |cx| {
                GrpcService::parse(grpc, cx).map(Self::Grpc)
            }),
            (None, Some(http)) => cx.field("http_service", |cx| {
                HttpService::parse(http, cx).map(Self::Http)
            }),
            _ => Err(cx.invalid("grpc_service", format!("exactly one of {ways} is required"))),
        }
    }
}

impl OpenTelemetry {
    fn parse(wire: pb::OpenTelemetryConfig, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::OpenTelemetryConfig {
            grpc_service,
            http_service,
            exporter,
            service_name,
            resource_detectors,
            sampler,
            max_cache_size,
            set_telemetry_sdk_resource_attributes,
            set_service_name_resource_attribute,
            set_instrumentation_scope,
        } = wire;
        refuse!(cx; exporter);
        let on = |wire: Option<google::BoolValue>| wire.is_none_or(|on| on.value);
        let ways = "grpc_service and http_service";
        let collector = Collector::parse(grpc_service, http_service, ways, cx)?;
        let service_name = match (on(set_service_name_resource_attribute), service_name) {
            (false, _) => String::new(),
            (true, name) if name.is_empty() => "unknown_service:envoy".to_owned(),
            (true, name) => name,
        };
        let mut out = Self {
            collector,
            service_name,
            resource: Vec::new(),
            resource_from_environment: false,
            sdk_attributes: on(set_telemetry_sdk_resource_attributes),
            scope: on(set_instrumentation_scope),
            always_on: always_on(sampler, cx)?,
            cache: max_cache_size.map_or(DEFAULT_CACHE, |max| max.value as usize),
        };
        for (index, detector) in resource_detectors.into_iter().enumerate() {
            cx.field(&format!("resource_detectors[{index}]"), |cx| {
                out.add_detector(detector, cx)
            })?;
        }
        Ok(out)
    }

    fn add_detector(
        &mut self,
        wire: core::TypedExtensionConfig,
        cx: &mut Cx,
    ) -> Result<(), Invalid> {
        use crate::pb::extensions::tracers::opentelemetry::resource_detectors::v3 as detectors;
        const PREFIX: &str = "envoy.extensions.tracers.opentelemetry.resource_detectors.v3.";
        let any = cx.required("typed_config", wire.typed_config)?;
        match type_name(&any).strip_prefix(PREFIX) {
            Some("EnvironmentResourceDetectorConfig") => self.resource_from_environment = true,
            Some("StaticConfigResourceDetectorConfig") => {
                let detectors::StaticConfigResourceDetectorConfig { attributes } =
                    cx.unpack("typed_config", &any)?;
                self.resource.extend(attributes);
                self.resource.sort_unstable();
            }
            _ => return Err(unsupported(&any, cx)),
        }
        Ok(())
    }
}

fn unsupported(any: &Any, cx: &Cx) -> Invalid {
    let name = type_name(any);
    cx.invalid(
        "typed_config",
        format!("{name} is not supported by this proxy"),
    )
}

/// The only sampler beside Envoy's own decision.
fn always_on(wire: Option<core::TypedExtensionConfig>, cx: &mut Cx) -> Result<bool, Invalid> {
    let Some(any) = wire.and_then(|wire| wire.typed_config) else {
        return Ok(false);
    };
    if type_name(&any) != "envoy.extensions.tracers.opentelemetry.samplers.v3.AlwaysOnSamplerConfig"
    {
        return Err(cx.field("sampler", |cx| unsupported(&any, cx)));
    }
    Ok(true)
}

impl Zipkin {
    fn parse(wire: pb::ZipkinConfig, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::zipkin_config::{CollectorEndpointVersion as Version, TraceContextOption};
        let pb::ZipkinConfig {
            collector_cluster,
            collector_endpoint,
            trace_id_128bit,
            shared_span_context,
            collector_endpoint_version,
            collector_hostname,
            split_spans_for_request,
            trace_context_option,
            collector_service,
            timestamp_trace_ids,
        } = wire;
        refuse!(cx; timestamp_trace_ids);
        // The newer spelling of where to, which has headers besides.
        let service = match collector_service {
            None => None,
            Some(wire) => Some(cx.field("collector_service", |cx| HttpService::parse(wire, cx))?),
        };
        if service.is_none() && collector_cluster.is_empty() {
            return Err(cx.invalid("collector_cluster", "is required"));
        }
        match cx.enumeration("collector_endpoint_version", collector_endpoint_version)? {
            Version::HttpJson => {}
            Version::HttpProto | Version::DeprecatedAndUnavailableDoNotUse | Version::Grpc => {
                return Err(cx.invalid(
                    "collector_endpoint_version",
                    "only HTTP_JSON is supported by this proxy",
                ));
            }
        }
        let service = match service {
            Some(service) => service,
            None => {
                let path = collector_endpoint.parse().ok();
                let path =
                    path.filter(|path: &http::uri::PathAndQuery| path.as_str().starts_with('/'));
                let host = if collector_hostname.is_empty() {
                    &collector_cluster
                } else {
                    &collector_hostname
                };
                HttpService {
                    path: cx.required("collector_endpoint", path)?,
                    authority: http::HeaderValue::from_str(host)
                        .map_err(|_| cx.invalid("collector_hostname", "is not a host"))?,
                    cluster: collector_cluster.into(),
                    timeout: ZIPKIN_TIMEOUT,
                    headers: Vec::new(),
                }
            }
        };
        let option: TraceContextOption =
            cx.enumeration("trace_context_option", trace_context_option)?;
        Ok(Self {
            service,
            wide_ids: trace_id_128bit,
            shared: shared_span_context.is_none_or(|on| on.value),
            split: split_spans_for_request,
            w3c: option == TraceContextOption::UseB3WithW3cPropagation,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Share;

    #[test]
    fn shares_count_as_envoy_counts() {
        let share = |numerator, denominator| Share {
            numerator,
            denominator,
        };
        let hits = |share: Share| (0..10_000).filter(|number| share.holds(*number)).count();
        assert_eq!(hits(share(100, 10_000)), 100);
        assert_eq!(hits(share(1, 100)), 100);
        assert_eq!(hits(Share::ALL), 10_000);
        assert_eq!(hits(share(0, 100)), 0);
    }
}
