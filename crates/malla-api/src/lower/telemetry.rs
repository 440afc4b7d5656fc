//! Telemetry to what workloads tell.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use malla_model::MeshSettings;
use malla_model::telemetry::{
    LoggingRule, MetricName, MetricOverride, MetricsRule, Mode, ProviderKind, Share, TagSource,
    Tags, Telemetry, TracingRule,
};
use serde_json::Value;

use super::meta::{meta, selector, text};
use super::{Context, Lowered, Refused, by_selector_only, decode};
use crate::istio::telemetry as raw;
use crate::kind::Kind;

/// Lowers a Telemetry.
///
/// # Errors
/// When the spec is malformed, or attached to an object instead of workloads: then it must not act on a whole namespace.
pub fn lower(
    metadata: &ObjectMeta,
    spec: &Value,
    settings: &MeshSettings,
) -> Result<Lowered<Telemetry>, Refused> {
    let written: raw::TelemetrySpec = decode(Kind::Telemetry, metadata, spec)?;
    by_selector_only(
        Kind::Telemetry,
        metadata,
        written.target_ref.as_ref(),
        &written.target_refs,
    )?;
    let mut cx = Context::new(metadata, "");
    let mut logging = Vec::new();
    for (at, rule) in written.access_logging.iter().enumerate() {
        logging.push(log(rule, at, &mut cx));
    }
    let value = Telemetry {
        meta: meta(Kind::Telemetry.name(), metadata),
        selector: selector(written.selector.as_ref().map(|s| &s.match_labels)),
        tracing: written.tracing.iter().map(tracing).collect(),
        logging,
        metrics: written.metrics.iter().map(metrics).collect(),
    };
    unknown_providers(&written, settings, &mut cx);
    Ok(cx.finish(Kind::Telemetry, spec, value))
}

/// Notes providers that nobody has configured, or that do not take what they are named for.
fn unknown_providers(written: &raw::TelemetrySpec, settings: &MeshSettings, cx: &mut Context<'_>) {
    let mut check =
        |path: String, providers: &[raw::ProviderRef], takes: fn(&ProviderKind) -> bool| {
            for (at, provider) in providers.iter().enumerate() {
                let path = format!("{path}.providers[{at}]");
                match settings.telemetry.provider(&provider.name) {
                    Some(kind) if takes(&kind) => {}
                    Some(ProviderKind::Other(kind)) => {
                        cx.note(
                            path,
                            format!("Malla does not act on providers of kind {kind} yet"),
                        );
                    }
                    Some(_) => cx.note(
                        path,
                        format!("provider {:?} is for something else", &*provider.name),
                    ),
                    None => cx.note(
                        path,
                        format!(
                            "the mesh configuration has no provider {:?} in extensionProviders",
                            &*provider.name
                        ),
                    ),
                }
            }
        };
    for (at, rule) in written.tracing.iter().enumerate() {
        check(format!("spec.tracing[{at}]"), &rule.providers, |kind| {
            matches!(
                kind,
                ProviderKind::OpenTelemetry(_) | ProviderKind::Zipkin(_)
            )
        });
    }
    for (at, rule) in written.access_logging.iter().enumerate() {
        check(
            format!("spec.accessLogging[{at}]"),
            &rule.providers,
            |kind| {
                matches!(
                    kind,
                    ProviderKind::File { .. }
                        | ProviderKind::HttpLogs(_)
                        | ProviderKind::TcpLogs(_)
                )
            },
        );
    }
    for (at, rule) in written.metrics.iter().enumerate() {
        check(format!("spec.metrics[{at}]"), &rule.providers, |kind| {
            matches!(kind, ProviderKind::Prometheus)
        });
    }
}

fn mode(written: Option<raw::WorkloadMode>) -> Mode {
    match written {
        None | Some(raw::WorkloadMode::ClientAndServer) => Mode::Both,
        Some(raw::WorkloadMode::Client) => Mode::Client,
        Some(raw::WorkloadMode::Server) => Mode::Server,
    }
}

fn side(written: Option<&raw::SideMatch>) -> Mode {
    mode(written.and_then(|side| side.mode))
}

fn names(providers: &[raw::ProviderRef]) -> Vec<Arc<str>> {
    providers
        .iter()
        .map(|provider| Arc::from(provider.name.as_str()))
        .collect()
}

fn tracing(rule: &raw::Tracing) -> TracingRule {
    TracingRule {
        mode: side(rule.side.as_ref()),
        providers: names(&rule.providers),
        sampling: rule.random_sampling_percentage.map(Share::of_percent),
        disabled: rule.disable_span_reporting,
        tags: (!rule.custom_tags.is_empty()).then(|| tags(&rule.custom_tags)),
        sample_by_request_id: rule.use_request_id_for_trace_sampling,
        istio_tags: rule.enable_istio_tags,
        no_propagation: rule.disable_context_propagation,
    }
}

/// Tags that say where their value is from; others are none.
pub(super) fn tags(written: &BTreeMap<String, raw::CustomTag>) -> Tags {
    let source = |tag: &raw::CustomTag| {
        let named = |source: &raw::TagSource| {
            let default = source.default_value.as_deref().unwrap_or_default();
            (Arc::from(source.name.as_str()), Arc::from(default))
        };
        if let Some(literal) = &tag.literal {
            return Some(TagSource::Literal(literal.value.as_str().into()));
        }
        if let Some(environment) = &tag.environment {
            let (name, default) = named(environment);
            return Some(TagSource::Environment { name, default });
        }
        if let Some(header) = &tag.header {
            let (name, default) = named(header);
            return Some(TagSource::Header { name, default });
        }
        let format = tag.formatter.as_ref()?;
        Some(TagSource::Format(format.value.as_str().into()))
    };
    written
        .iter()
        .filter_map(|(name, tag)| Some((Arc::from(name.as_str()), source(tag)?)))
        .collect()
}

fn log(rule: &raw::AccessLogging, at: usize, cx: &mut Context<'_>) -> LoggingRule {
    let filter = rule
        .filter
        .as_ref()
        .and_then(|filter| text(&filter.expression));
    if rule.disabled == Some(true) && filter.is_some() {
        cx.note(
            format!("spec.accessLogging[{at}].filter"),
            "nothing is left to filter, because disabled is true",
        );
    }
    LoggingRule {
        mode: side(rule.side.as_ref()),
        providers: names(&rule.providers),
        disabled: rule.disabled,
        filter,
    }
}

fn metrics(rule: &raw::Metrics) -> MetricsRule {
    MetricsRule {
        providers: names(&rule.providers),
        overrides: rule.overrides.iter().map(metric_override).collect(),
        reporting_interval: rule.reporting_interval.as_ref().map(|time| time.0),
    }
}

fn metric_override(written: &raw::MetricsOverride) -> MetricOverride {
    let selected = written.metric.as_ref();
    let metric = match selected {
        None => MetricName::All,
        Some(selector) => match (&selector.custom_metric, selector.metric) {
            (Some(name), _) => MetricName::Custom(name.as_str().into()),
            (None, None | Some(raw::IstioMetric::AllMetrics)) => MetricName::All,
            (None, Some(metric)) => MetricName::Standard(standard(metric).into()),
        },
    };
    let labels = written.tag_overrides.iter().map(|(label, change)| {
        let removed = change.operation == Some(raw::TagOperation::Remove);
        let value = change.value.as_deref().filter(|_| !removed);
        (Arc::from(label.as_str()), value.map(Arc::from))
    });
    MetricOverride {
        metric,
        mode: mode(selected.and_then(|selector| selector.mode)),
        disabled: written.disabled,
        labels: labels.collect(),
    }
}

/// The word in the API.
fn standard(metric: raw::IstioMetric) -> &'static str {
    match metric {
        raw::IstioMetric::AllMetrics => "ALL_METRICS",
        raw::IstioMetric::RequestCount => "REQUEST_COUNT",
        raw::IstioMetric::RequestDuration => "REQUEST_DURATION",
        raw::IstioMetric::RequestSize => "REQUEST_SIZE",
        raw::IstioMetric::ResponseSize => "RESPONSE_SIZE",
        raw::IstioMetric::TcpOpenedConnections => "TCP_OPENED_CONNECTIONS",
        raw::IstioMetric::TcpClosedConnections => "TCP_CLOSED_CONNECTIONS",
        raw::IstioMetric::TcpSentBytes => "TCP_SENT_BYTES",
        raw::IstioMetric::TcpReceivedBytes => "TCP_RECEIVED_BYTES",
        raw::IstioMetric::GrpcRequestMessages => "GRPC_REQUEST_MESSAGES",
        raw::IstioMetric::GrpcResponseMessages => "GRPC_RESPONSE_MESSAGES",
    }
}
