//! The mesh-wide settings (Istio: MeshConfig), with Istio's defaults.

use std::sync::Arc;
use std::time::Duration;

use crate::id::TrustDomain;
use crate::route::Retries;
use crate::telemetry::TelemetrySettings;
use crate::traffic::{Keepalive, LocalityBalancing};

/// What holds for the whole mesh, unless something nearer says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshSettings {
    pub root_namespace: Arc<str>,
    pub domain: Arc<str>,
    pub trust_domain: TrustDomain,
    pub trust_domain_aliases: Vec<TrustDomain>,
    pub cluster_id: Arc<str>,
    pub connect_timeout: Duration,
    /// `None` waits for ever (Istio's default of 0 s).
    pub protocol_detection_timeout: Option<Duration>,
    pub auto_mtls: bool,
    pub outbound: OutboundPolicy,
    /// Workloads are called on their loopback address, not on the one the client meant.
    pub inbound_loopback: bool,
    /// `None` is off; `/dev/stdout` in the demo.
    pub access_log_file: Option<Arc<str>>,
    /// `None` is Istio's default text format.
    pub access_log_format: Option<Arc<str>>,
    pub access_log_json: bool,
    /// Whether listeners log connections that come to nothing.
    pub listener_log: bool,
    /// For clusters whose DestinationRule has none of its own.
    pub locality: LocalityBalancing,
    pub tcp_keepalive: Option<Keepalive>,
    /// Plain HTTP/1.1 ports of services are spoken to in HTTP/2.
    pub h2_upgrade: bool,
    /// How often proxies ask for names whose answer has no time to live.
    pub dns_refresh: Duration,
    pub path_normalization: PathNormalization,
    /// `None` is Istio's policy.
    pub retries: Option<Retries>,
    /// The same for requests that arrive at a workload.
    pub inbound_retries: Option<Retries>,
    pub export: ExportDefaults,
    pub telemetry: TelemetrySettings,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            root_namespace: "istio-system".into(),
            domain: "cluster.local".into(),
            trust_domain: TrustDomain::default(),
            trust_domain_aliases: Vec::new(),
            cluster_id: "Kubernetes".into(),
            connect_timeout: Duration::from_secs(10),
            protocol_detection_timeout: None,
            auto_mtls: true,
            outbound: OutboundPolicy::AllowAny,
            inbound_loopback: false,
            access_log_file: None,
            access_log_format: None,
            access_log_json: false,
            listener_log: true,
            locality: LocalityBalancing::default(),
            tcp_keepalive: None,
            h2_upgrade: false,
            dns_refresh: Duration::from_secs(60),
            path_normalization: PathNormalization::default(),
            retries: None,
            inbound_retries: None,
            export: ExportDefaults::default(),
            telemetry: TelemetrySettings::default(),
        }
    }
}

/// What happens to calls to hosts the mesh does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutboundPolicy {
    AllowAny,
    RegistryOnly,
}

/// What becomes of a request's path before it is matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PathNormalization {
    None,
    /// By RFC 3986.
    #[default]
    Base,
    MergeSlashes,
    DecodeAndMergeSlashes,
}

/// `exportTo` of objects that do not say; empty is everybody.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExportDefaults {
    pub services: Vec<Arc<str>>,
    pub virtual_services: Vec<Arc<str>>,
    pub destination_rules: Vec<Arc<str>>,
}
