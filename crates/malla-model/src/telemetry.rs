//! What workloads tell: where spans and log entries go, and which (Istio: Telemetry, and MeshConfig's providers).
//!
//! [`Telemetry`] is one object; [`effective`] is what all of them come to for one workload.

pub mod effective;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::authorizer::Authorizer;
use crate::id::{Labels, Meta};

/// A share in hundredths of a percent; 10,000 is everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(pub u16);

impl Share {
    pub const ALL: Self = Self(10_000);
    /// Istio traces one request of a hundred unless told otherwise.
    pub const TRACED: Self = Self(100);

    /// From percent; what is out of range is cut.
    #[must_use]
    pub fn of_percent(percent: f64) -> Self {
        // From 0 to 10,000 after the clamp.
        Self((percent.clamp(0.0, 100.0) * 100.0).round() as u16)
    }

    #[must_use]
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

/// Which side of a call a workload is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// It calls; gateways too.
    Client,
    /// It is called.
    Server,
}

/// Which sides a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    #[default]
    Both,
    Client,
    Server,
}

impl Mode {
    #[must_use]
    pub fn covers(self, side: Side) -> bool {
        match self {
            Self::Both => true,
            Self::Client => side == Side::Client,
            Self::Server => side == Side::Server,
        }
    }
}

/// One Telemetry object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telemetry {
    pub meta: Meta,
    /// `None` is the whole namespace (or mesh, in the root namespace).
    pub selector: Option<Labels>,
    pub tracing: Vec<TracingRule>,
    pub logging: Vec<LoggingRule>,
    pub metrics: Vec<MetricsRule>,
}

/// `spec.tracing[]`; what is `None` is inherited.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TracingRule {
    pub mode: Mode,
    pub providers: Vec<Arc<str>>,
    pub sampling: Option<Share>,
    /// Report no spans, only pass the context on.
    pub disabled: Option<bool>,
    pub tags: Option<Tags>,
    pub sample_by_request_id: Option<bool>,
    pub istio_tags: Option<bool>,
    pub no_propagation: Option<bool>,
}

/// Tags of spans by name.
pub type Tags = BTreeMap<Arc<str>, TagSource>;

/// Where the value of a tag is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagSource {
    Literal(Arc<str>),
    /// Of the proxy.
    Environment {
        name: Arc<str>,
        default: Arc<str>,
    },
    /// Of the request.
    Header {
        name: Arc<str>,
        default: Arc<str>,
    },
    /// Access log commands.
    Format(Arc<str>),
}

/// `spec.accessLogging[]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoggingRule {
    pub mode: Mode,
    pub providers: Vec<Arc<str>>,
    pub disabled: Option<bool>,
    /// CEL; only requests for which it holds.
    pub filter: Option<Arc<str>>,
}

/// `spec.metrics[]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MetricsRule {
    pub providers: Vec<Arc<str>>,
    pub overrides: Vec<MetricOverride>,
    /// Between reports of long connections.
    pub reporting_interval: Option<Duration>,
}

/// A change to metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricOverride {
    pub metric: MetricName,
    pub mode: Mode,
    pub disabled: Option<bool>,
    /// By label: an expression, or `None` where it is removed.
    pub labels: BTreeMap<Arc<str>, Option<Arc<str>>>,
}

/// Which metrics are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricName {
    All,
    /// By Istio's word for it, such as `REQUEST_COUNT`.
    Standard(Arc<str>),
    /// Another, by its name.
    Custom(Arc<str>),
}

/// A back end (MeshConfig `extensionProviders[]`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    pub name: Arc<str>,
    pub kind: ProviderKind,
}

/// What a provider is, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderKind {
    /// `envoyFileAccessLog`.
    File { path: Arc<str>, format: LogFormat },
    /// `envoyHttpAls`.
    HttpLogs(LogService),
    /// `envoyTcpAls`.
    TcpLogs(LogService),
    /// `opentelemetry`.
    OpenTelemetry(OpenTelemetry),
    /// `zipkin`.
    Zipkin(Zipkin),
    /// `prometheus`.
    Prometheus,
    /// `envoyExtAuthzHttp`, `envoyExtAuthzGrpc`.
    Authorizer(Box<Authorizer>),
    /// Known to Istio, not to Malla: by its field's name.
    Other(Arc<str>),
}

/// A service of the mesh and its port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `host`, or `namespace/host`.
    pub service: Arc<str>,
    pub port: u16,
}

/// How lines look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFormat {
    /// As the mesh says, or Istio's own.
    Mesh,
    Text(Arc<str>),
    /// JSON text of an object whose strings are formats.
    Labels(Arc<str>),
}

/// An access log service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogService {
    pub target: Target,
    /// `None` is Istio's name for it.
    pub log_name: Option<Arc<str>>,
    pub request_headers: Vec<Arc<str>>,
    pub response_headers: Vec<Arc<str>>,
    pub trailers: Vec<Arc<str>>,
}

/// An OTLP collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTelemetry {
    pub target: Target,
    /// `None` is gRPC.
    pub http: Option<OtlpHttp>,
    pub grpc_timeout: Option<Duration>,
    /// Sent with each call.
    pub grpc_headers: Vec<(Arc<str>, Arc<str>)>,
    pub max_path: Option<u32>,
    /// Take the proxy's `OTEL_RESOURCE_ATTRIBUTES`.
    pub resource_from_environment: bool,
}

/// OTLP over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpHttp {
    pub path: Arc<str>,
    pub timeout: Option<Duration>,
    pub headers: Vec<(Arc<str>, Arc<str>)>,
}

/// A Zipkin collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zipkin {
    pub target: Target,
    /// `None` is `/api/v2/spans`.
    pub path: Option<Arc<str>>,
    pub wide_ids: bool,
    pub w3c: bool,
    pub max_path: Option<u32>,
}

/// MeshConfig's word on telemetry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetrySettings {
    /// By name; `envoy` and `prometheus` are there in any case.
    pub providers: Vec<Provider>,
    pub default_tracing: Vec<Arc<str>>,
    pub default_logging: Vec<Arc<str>>,
    pub default_metrics: Vec<Arc<str>>,
    /// Whether `defaultConfig.tracing` counts where no Telemetry and no default provider does.
    pub tracing_enabled: bool,
    /// `defaultConfig.tracing.sampling`.
    pub sampling: Option<Share>,
    pub tags: Tags,
    pub max_path: Option<u32>,
    /// `defaultConfig.tracing.zipkin.address`, `HOST:PORT`.
    pub zipkin_address: Option<Arc<str>>,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self {
            providers: Vec::new(),
            default_tracing: Vec::new(),
            default_logging: Vec::new(),
            default_metrics: Vec::new(),
            tracing_enabled: true,
            sampling: None,
            tags: Tags::new(),
            max_path: None,
            zipkin_address: None,
        }
    }
}

/// Istio's provider that needs no configuration: lines on standard output.
pub const ENVOY: &str = "envoy";
const PROMETHEUS: &str = "prometheus";

impl TelemetrySettings {
    /// The provider of that name; those users configure come before the built-in ones.
    #[must_use]
    pub fn provider(&self, name: &str) -> Option<ProviderKind> {
        let configured = self.providers.iter().find(|known| &*known.name == name);
        match (configured, name) {
            (Some(provider), _) => Some(provider.kind.clone()),
            (None, ENVOY) => Some(ProviderKind::File {
                path: "/dev/stdout".into(),
                format: LogFormat::Mesh,
            }),
            (None, PROMETHEUS) => Some(ProviderKind::Prometheus),
            (None, _) => None,
        }
    }

    /// Services that some provider is at.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        self.providers
            .iter()
            .filter_map(|provider| match &provider.kind {
                ProviderKind::HttpLogs(log) | ProviderKind::TcpLogs(log) => Some(&log.target),
                ProviderKind::OpenTelemetry(otel) => Some(&otel.target),
                ProviderKind::Zipkin(zipkin) => Some(&zipkin.target),
                ProviderKind::Authorizer(authorizer) => Some(&authorizer.target),
                ProviderKind::File { .. } | ProviderKind::Prometheus | ProviderKind::Other(_) => {
                    None
                }
            })
    }
}
