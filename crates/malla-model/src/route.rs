//! Routes (Istio: VirtualService).

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::host::Host;
use crate::id::Meta;
use crate::matching::{HttpMatch, MatchScope, Pattern, StringMatch};
use crate::service::Visibility;

/// The name of the gateway that stands for all sidecars.
pub const MESH_GATEWAY: &str = "mesh";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualService {
    pub meta: Meta,
    /// Resolved; empty only for a delegate.
    pub hosts: Vec<Host>,
    /// `namespace/name`, or [`MESH_GATEWAY`]. Never empty: absent means `mesh`.
    pub gateways: Vec<Arc<str>>,
    pub http: Vec<HttpRoute>,
    pub tls: Vec<TlsRoute>,
    pub tcp: Vec<TcpRoute>,
    pub visibility: Visibility,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpRoute {
    pub name: Arc<str>,
    /// Any of them; none means every request.
    pub matches: Vec<HttpMatch>,
    pub action: HttpAction,
    pub rewrite: Option<Rewrite>,
    /// `None` is no limit (Istio's default, not Envoy's 15 s).
    pub timeout: Option<Duration>,
    /// `None` is the mesh's default policy.
    pub retries: Option<Retries>,
    pub fault: Option<Fault>,
    pub mirrors: Vec<Mirror>,
    pub cors: Option<Cors>,
    pub headers: HeaderOps,
    /// What is answered where the destination does not exist: 404, 500, or 503 (`None`).
    pub missing_backend: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpAction {
    /// To services; one entry ignores its weight, entries of weight zero are dropped.
    Forward(Vec<WeightedDestination>),
    Redirect(Redirect),
    Direct {
        status: u16,
        body: Vec<u8>,
    },
    /// To another VirtualService (one level).
    Delegate {
        namespace: Arc<str>,
        name: Arc<str>,
    },
}

impl Default for HttpAction {
    fn default() -> Self {
        Self::Forward(Vec::new())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    pub host: Host,
    pub subset: Option<Arc<str>>,
    /// `None`: the service's only port, else the listener's.
    pub port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightedDestination {
    pub destination: Destination,
    pub weight: u32,
    pub headers: HeaderOps,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub code: u16,
    pub path: Option<RedirectPath>,
    pub authority: Option<Arc<str>>,
    pub scheme: Option<Arc<str>>,
    pub port: Option<RedirectPort>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedirectPath {
    Full(Arc<str>),
    Prefix(Arc<str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedirectPort {
    Number(u16),
    ProtocolDefault,
    RequestPort,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rewrite {
    pub uri: Option<Arc<str>>,
    pub authority: Option<Arc<str>>,
    pub regex: Option<(Pattern, Arc<str>)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Retries {
    /// Zero disables retries.
    pub attempts: u32,
    pub per_try_timeout: Option<Duration>,
    /// As written; empty takes the default conditions.
    pub retry_on: Vec<Arc<str>>,
    pub remote_localities: bool,
    /// `None` is Istio's default: true unless the route hashes.
    pub ignore_previous_hosts: Option<bool>,
    pub backoff: Option<Duration>,
}

/// Hundredths of percents of percents: Envoy's MILLION denominator, so 100 % is 1,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PerMillion(pub u32);

impl PerMillion {
    pub const ALL: Self = Self(1_000_000);
    pub const NONE: Self = Self(0);

    /// From a percentage, 0.0 to 100.0; out of range is clamped.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped to 0..=1e6 first
    pub fn from_percent(percent: f64) -> Self {
        Self((percent * 10_000.0).round().clamp(0.0, 1_000_000.0) as u32)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fault {
    pub delay: Option<(Duration, PerMillion)>,
    pub abort: Option<(AbortStatus, PerMillion)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortStatus {
    Http(u16),
    Grpc(u32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    pub destination: Destination,
    pub share: PerMillion,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cors {
    pub allow_origins: Vec<StringMatch>,
    pub allow_methods: Vec<Arc<str>>,
    pub allow_headers: Vec<Arc<str>>,
    pub expose_headers: Vec<Arc<str>>,
    pub max_age: Option<Duration>,
    pub allow_credentials: Option<bool>,
    /// `unmatchedPreflights: IGNORE`; the default forwards them.
    pub ignore_unmatched_preflights: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderOps {
    pub request: HeaderEdit,
    pub response: HeaderEdit,
}

/// Ordered, so that the same rule always yields the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderEdit {
    pub set: Vec<(Arc<str>, Arc<str>)>,
    pub add: Vec<(Arc<str>, Arc<str>)>,
    pub remove: Vec<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsRoute {
    pub matches: Vec<TlsMatch>,
    pub destinations: Vec<WeightedDestination>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsMatch {
    pub sni_hosts: Vec<Host>,
    pub destination_subnets: Vec<IpNet>,
    pub scope: MatchScope,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpRoute {
    pub matches: Vec<TcpMatch>,
    pub destinations: Vec<WeightedDestination>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TcpMatch {
    pub destination_subnets: Vec<IpNet>,
    pub scope: MatchScope,
}
