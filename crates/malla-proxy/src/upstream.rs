//! The seam between handling a request and getting it to an endpoint.
//!
//! `http` and `tcp` ask through [`Upstreams`] and [`ClusterHandle`]; the implementation owns balancing, pools,
//! connections, circuit breakers and passive health. One implementation value belongs to one worker and never leaves
//! its thread: pools are plain `Rc<RefCell<…>>`, nothing here is `Send`, no call takes a lock.
//!
//! Duties of an implementation:
//! - [`ClusterHandle::send`] picks a host, takes or opens a connection and returns when the response head is there. It
//!   fills [`Attempt`] as soon as each fact is known, because the caller may drop the future at a timeout and still
//!   writes the log line.
//! - Dropping the future or the response body early cancels the stream (HTTP/2 reset, HTTP/1 close) and releases every
//!   slot it held.
//! - Circuit breakers count here: pending, connections, requests. Retries are admitted by [`ClusterHandle::admit_retry`].
//! - Passive health learns from `send` (connect failures, resets, status) on its own; timeouts that the caller imposes
//!   are reported through [`ClusterHandle::report_timeout`].
//! - Cluster statistics of answers, retries and timeouts (`upstream_rq_*`) are counted by the caller, those of connections
//!   and pools (`upstream_cx_*`, `upstream_rq_total`, `upstream_rq_pending_*`, `upstream_rq_active`, `lb_*`,
//!   `outlier_detection.*`) by the implementation.

pub mod body;
pub mod breaker;
pub mod cluster;
pub mod connect;
mod counted;
pub mod dns;
pub mod health;
pub mod host;
pub mod outlier;
mod pool;
pub mod worker;

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, Version};
use malla_proxy_config::Snapshot;
use malla_proxy_config::cluster::Cluster;
use malla_proxy_config::endpoints::Endpoint;
use malla_proxy_config::metadata::Metadata;
use malla_proxy_config::route::retry::AvoidHosts;
use rustls::sign::CertifiedKey;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::connection::{Connection, PeerCertificate};
use crate::http::body::RequestBody;
use crate::telemetry::codes::Zones;
use crate::telemetry::odometer::Trip;
use crate::telemetry::stats::ClusterStats;

/// Fields that hyper's HTTP/1 codec takes where it is not told. Told of any number, even this one, it clears a table of so
/// many for each head.
pub(crate) const CODEC_HEADERS: usize = 100;

/// All clusters, as one worker sees them; cheap to clone.
pub trait Upstreams: Clone + 'static {
    /// One cluster of this worker.
    type Handle: ClusterHandle;

    /// The cluster of this name in `snapshot`; `None` if there is none (`NC`).
    fn cluster(&self, snapshot: &Arc<Snapshot>, name: &str) -> Option<Self::Handle>;
}

/// One cluster of one worker; cheap to clone (an `Rc`).
pub trait ClusterHandle: Clone + 'static {
    /// The body of a response. Its `Drop` ends the stream; its end returns the connection to the pool.
    type Body: http_body::Body<Data = Bytes, Error = StreamError> + Unpin + 'static;
    /// Held by a retry in flight; its `Drop` frees the slot.
    type RetryGuard: 'static;

    /// The cluster's configuration, as in the snapshot the handle was taken from.
    fn config(&self) -> &Arc<Cluster>;

    /// This worker's counters of the cluster.
    fn stats(&self) -> &Arc<ClusterStats>;

    /// How many hosts it has that are healthy, and how many in all.
    fn membership(&self) -> (usize, usize);

    /// Admits one more retry, or refuses by the `max_retries` breaker or the retry budget.
    fn admit_retry(&self, high_priority: bool) -> Option<Self::RetryGuard>;

    /// Sends `request` to one host and waits for the response head.
    ///
    /// `request` has an origin-form target, the authority in `Host` (whatever the client spoke), no hop-by-hop fields and
    /// the version the client spoke; the implementation sets the version, the pseudo-headers and the framing for the
    /// connection it picks. A request with `Upgrade` and
    /// `Connection: upgrade` (HTTP/1), or with method CONNECT, is sent so that `hyper::upgrade::on` works on the
    /// returned response. `response.version()` says which protocol was spoken upstream.
    fn send(
        &self,
        request: Request<RequestBody>,
        choice: &Choice<'_>,
        attempt: &mut Attempt,
    ) -> impl Future<Output = Result<Response<Self::Body>, SendError>>;

    /// Tells passive health that `endpoint` let a timeout of the caller pass; `global` is the whole route's timeout,
    /// else it was one try's.
    fn report_timeout(&self, attempt: &Attempt, global: bool);
}

/// What a host is chosen by.
#[derive(Debug)]
pub struct Choice<'a> {
    /// The downstream connection: original destination, source address, SNI, ALPN.
    pub connection: &'a Connection,
    /// Hash for ring hash and Maglev; `None` if no policy gave one (then any host).
    pub hash: Option<u64>,
    /// Hosts tried before by this request; with `host_selection_attempts` > 1 they are avoided.
    pub tried: &'a [Arc<Endpoint>],
    /// Hosts to avoid, for tries after the first.
    pub avoid: Option<&'a AvoidHosts>,
    /// Prefer priorities not tried yet; `Some(n)` updates after every `n` tries (`previous_priorities`).
    pub avoid_priorities: Option<u32>,
    /// How often a host may be drawn again to avoid `tried`; at least 1.
    pub host_selection_attempts: u32,
    /// Only endpoints with this `envoy.lb` metadata.
    pub metadata_match: Option<&'a Metadata>,
    /// Priority class of the circuit breaker.
    pub high_priority: bool,
    /// Replace the request's `Host` by the chosen endpoint's hostname, if it has one (`auto_host_rewrite`).
    pub auto_host: bool,
    /// The request's scheme is `https` (`:scheme` of HTTP/2; HTTP/1 does not carry it).
    pub https: bool,
    /// A log asks for the bytes on the wire.
    pub metered: bool,
    /// Where the attempt's facts are shown while it is under way, for callers that cannot look.
    pub seen: Option<&'a RefCell<Attempt>>,
}

impl<'a> Choice<'a> {
    /// Any host, for a request that nothing is known of but its connection.
    pub fn any(connection: &'a Connection) -> Self {
        Self {
            connection,
            hash: None,
            tried: &[],
            avoid: None,
            avoid_priorities: None,
            host_selection_attempts: 1,
            metadata_match: None,
            high_priority: false,
            auto_host: false,
            https: false,
            metered: false,
            seen: None,
        }
    }
}

/// Facts about one try, filled by the implementation while it goes.
#[derive(Debug, Clone, Default)]
pub struct Attempt {
    /// The chosen endpoint (`%UPSTREAM_HOST%`); for DNS clusters with the resolved address.
    pub endpoint: Option<Arc<Endpoint>>,
    /// The address actually dialled.
    pub remote: Option<SocketAddr>,
    /// Own address of the connection (`%UPSTREAM_LOCAL_ADDRESS%`).
    pub local: Option<SocketAddr>,
    /// When the connection was ready for the request.
    pub connected: Option<Instant>,
    /// When the last byte of the request went out; set for bodiless requests when the head did.
    pub request_sent: Option<Instant>,
    /// When the response head came.
    pub first_byte: Option<Instant>,
    /// TLS or socket error text (`%UPSTREAM_TRANSPORT_FAILURE_REASON%`).
    pub transport_failure: Option<Arc<str>>,
    /// Protocol of the connection (`%UPSTREAM_PROTOCOL%`).
    pub protocol: Option<Version>,
    /// True if the connection had served a request before.
    pub reused: bool,
    /// TLS facts of the upstream connection.
    pub tls: Option<Rc<UpstreamTlsInfo>>,
    /// When the connection came about, which may be long before the request.
    pub opened: Option<Opened>,
    /// What it moved, where a log asks.
    pub trip: Option<Box<Trip>>,
    /// Number of the upstream connection (`%UPSTREAM_CONNECTION_ID%`).
    pub connection_id: Option<u64>,
    /// The endpoint's metadata calls it a canary.
    pub canary: bool,
    /// Where the proxy is and where the endpoint is, if both have a zone.
    pub zones: Option<Zones>,
}

/// A finished upstream handshake.
#[derive(Debug, Clone, Default)]
pub struct UpstreamTlsInfo {
    /// URI SANs of the server's certificate.
    pub peer_uri_sans: SmallVec<[Arc<str>; 1]>,
    /// The server's certificate.
    pub peer: Option<Arc<PeerCertificate>>,
    /// First URI SAN of our own certificate.
    pub local_uri_san: Option<Arc<str>>,
    /// Negotiated ALPN protocol.
    pub alpn: Option<Arc<str>>,
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// Suite name as OpenSSL writes it.
    pub cipher: &'static str,
    /// Name of the group the keys were agreed in, as BoringSSL writes it.
    pub group: &'static str,
    /// Our own certificate, for what logs tell of it.
    pub own: Option<Arc<CertifiedKey>>,
    /// SNI, as it was sent.
    pub server_name: Option<Arc<str>>,
}

/// When a connection to an endpoint came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// It was asked for.
    pub begun: Instant,
    /// The socket was connected.
    pub connected: Instant,
    /// The TLS handshake was over, where there was one.
    pub secured: Option<Instant>,
}

/// Why no response head came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No host may be used: flag `UH`.
    #[error("no healthy host")]
    NoHealthyHost,
    /// A circuit breaker is open: flag `UO`.
    #[error("circuit breaker open")]
    Overflow,
    /// The load assignment says to drop this request: flag `DO`, or `UDO` where it drops all.
    #[error("dropped by the load assignment's overload policy")]
    DropOverload {
        /// All requests are dropped.
        all: bool,
    },
    /// No connection: refused, unreachable, handshake failed. Flag `UF`. `reason` is Envoy's wording, such as
    /// `delayed connect error: Connection refused` or `TLS_error:…`, without any `transport failure reason:` prefix.
    #[error("connect failed: {reason}")]
    Connect {
        /// Details after Envoy's `transport failure reason:`; empty if there are none.
        reason: String,
        /// The connect timeout passed (`reset reason: connection timeout`).
        timeout: bool,
    },
    /// The stream ended before the response head.
    #[error("stream reset: {0}")]
    Reset(#[from] StreamError),
}

/// How a stream to an endpoint ended before its time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind:?}")]
pub struct StreamError {
    /// What happened.
    pub kind: ResetKind,
    /// Nothing of the request went out: safe to send again whatever the method.
    pub before_request: bool,
}

/// `Http::StreamResetReason`, as far as it can happen here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResetKind {
    /// RST_STREAM from the endpoint: flag `UR`.
    Remote,
    /// RST_STREAM REFUSED_STREAM, or GOAWAY below this stream: flag `UR`, retried under `refused-stream`.
    RemoteRefused,
    /// We reset it: flag `LR`.
    Local,
    /// The connection closed: flag `UC`.
    ConnectionTermination,
    /// The endpoint broke the protocol: flag `UPE`.
    ProtocolError,
    /// The request body failed on the downstream side: the client is gone.
    Downstream,
}
