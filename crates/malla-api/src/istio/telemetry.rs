//! Telemetry: metrics, traces and access logs of workloads.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::common::{
    ONE_ATTACHMENT, ONE_ATTACHMENT_MESSAGE, PolicyTargetReference, WorkloadSelector,
};
use crate::duration::Duration;
use crate::schema::{at_most_one, limit, nullable, required, rule};

/// Metrics, traces and access logs of workloads.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = rule(ONE_ATTACHMENT, ONE_ATTACHMENT_MESSAGE))]
pub struct TelemetrySpec {
    /// Only these workloads; absent is the whole namespace, or the mesh in the root namespace.
    pub selector: Option<WorkloadSelector>,
    /// Only for this object.
    pub target_ref: Option<PolicyTargetReference>,
    /// Only for these objects.
    #[schemars(transform = limit("maxItems", 16))]
    pub target_refs: Vec<PolicyTargetReference>,
    /// Traces.
    pub tracing: Vec<Tracing>,
    /// Metrics.
    pub metrics: Vec<Metrics>,
    /// Access logs.
    pub access_logging: Vec<AccessLogging>,
}

/// A back end, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("name"))]
pub struct ProviderRef {
    /// Name of an extension provider of the mesh configuration.
    #[schemars(transform = limit("minLength", 1))]
    pub name: String,
}

/// Which side of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WorkloadMode {
    ClientAndServer,
    Client,
    Server,
}

/// Which side of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct SideMatch {
    /// Absent is both.
    pub mode: Option<WorkloadMode>,
}

/// Traces.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Tracing {
    /// Which side of a call.
    #[serde(rename = "match")]
    pub side: Option<SideMatch>,
    /// Back ends.
    pub providers: Vec<ProviderRef>,
    /// Share of requests that are traced, in percent.
    #[schemars(transform = nullable, transform = limit("minimum", 0), transform = limit("maximum", 100))]
    pub random_sampling_percentage: Option<f64>,
    /// Do not report spans; only pass the context on.
    #[schemars(transform = nullable)]
    pub disable_span_reporting: Option<bool>,
    /// Further tags of every span.
    pub custom_tags: BTreeMap<String, CustomTag>,
    /// Let the request id decide about sampling; absent is true.
    #[schemars(transform = nullable)]
    pub use_request_id_for_trace_sampling: Option<bool>,
    /// Add Istio's own tags; absent is true.
    #[schemars(transform = nullable)]
    pub enable_istio_tags: Option<bool>,
    /// Do not pass the context on.
    #[schemars(transform = nullable)]
    pub disable_context_propagation: Option<bool>,
}

/// A tag of every span.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = at_most_one("literal environment header formatter"))]
pub struct CustomTag {
    /// A fixed text.
    pub literal: Option<TagValue>,
    /// A variable of the proxy's environment.
    pub environment: Option<TagSource>,
    /// A request header.
    pub header: Option<TagSource>,
    /// Access log commands.
    pub formatter: Option<TagFormat>,
}

/// A fixed text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("value"))]
pub struct TagValue {
    /// The text.
    #[schemars(transform = limit("minLength", 1))]
    pub value: String,
}

/// A named source of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("name"))]
pub struct TagSource {
    /// Name of the variable or header.
    #[schemars(transform = limit("minLength", 1))]
    pub name: String,
    /// Text where it is missing.
    pub default_value: Option<String>,
}

/// Access log commands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("value"))]
pub struct TagFormat {
    /// Such as `%REQ(:path)%`.
    #[schemars(transform = limit("minLength", 1))]
    pub value: String,
}

/// Metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Metrics {
    /// Back ends.
    pub providers: Vec<ProviderRef>,
    /// Changes to single metrics.
    pub overrides: Vec<MetricsOverride>,
    /// Time between reports of long connections.
    pub reporting_interval: Option<Duration>,
}

/// Changes to single metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct MetricsOverride {
    /// Which metrics; absent is all.
    #[serde(rename = "match")]
    pub metric: Option<MetricSelector>,
    /// Do not report them.
    #[schemars(transform = nullable)]
    pub disabled: Option<bool>,
    /// Changes to their labels, by name.
    pub tag_overrides: BTreeMap<String, TagOverride>,
}

/// Which metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = at_most_one("metric customMetric"))]
pub struct MetricSelector {
    /// One of Istio's.
    pub metric: Option<IstioMetric>,
    /// Another, by its name.
    #[schemars(transform = limit("minLength", 1))]
    pub custom_metric: Option<String>,
    /// Which side of a call; absent is both.
    pub mode: Option<WorkloadMode>,
}

/// Istio's standard metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum IstioMetric {
    AllMetrics,
    RequestCount,
    RequestDuration,
    RequestSize,
    ResponseSize,
    TcpOpenedConnections,
    TcpClosedConnections,
    TcpSentBytes,
    TcpReceivedBytes,
    GrpcRequestMessages,
    GrpcResponseMessages,
}

/// A change to a label.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = rule("((has(self.operation) ? self.operation : '') == 'UPSERT') ? (has(self.value) && self.value != '') : true", "value must be set when operation is UPSERT"))]
#[schemars(transform = rule("((has(self.operation) ? self.operation : '') == 'REMOVE') ? !has(self.value) : true", "value must not be set when operation is REMOVE"))]
pub struct TagOverride {
    /// Absent is UPSERT.
    pub operation: Option<TagOperation>,
    /// A CEL expression.
    pub value: Option<String>,
}

/// What to do with a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TagOperation {
    Upsert,
    Remove,
}

/// Access logs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct AccessLogging {
    /// Which side of a call.
    #[serde(rename = "match")]
    pub side: Option<SideMatch>,
    /// Back ends.
    pub providers: Vec<ProviderRef>,
    /// Switches logging off.
    #[schemars(transform = nullable)]
    pub disabled: Option<bool>,
    /// Only requests for which this holds.
    pub filter: Option<LogFilter>,
}

/// Which requests are logged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct LogFilter {
    /// A CEL expression.
    pub expression: Option<String>,
}
