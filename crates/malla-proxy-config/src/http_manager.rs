//! The HTTP connection manager: codecs, limits, identity headers, filters, routes, logs.

pub mod local_reply;
mod parse;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use ipnet::IpNet;

use crate::access_log::AccessLog;
use crate::cluster::{CommonHttp, Http1Options, Http2Options};
use crate::config_source::Reference;
use crate::http_filter::{HttpFilter, RouterFilter};
use crate::route::RouteConfig;
use crate::tracing::Tracing;
use local_reply::LocalReply;

/// `HttpConnectionManager`.
#[derive(Debug, Clone)]
pub struct HttpManager {
    /// Prefix of its statistics.
    pub stat_prefix: Arc<str>,
    /// Which protocols.
    pub codec: Codec,
    /// Where routes come from.
    pub routes: RouteSource,
    /// Filters before the router.
    pub filters: Vec<HttpFilter>,
    /// The router.
    pub router: RouterFilter,
    /// One record for each request.
    pub access_logs: Vec<Arc<AccessLog>>,
    /// What answers of the proxy's own look like.
    pub local_reply: Option<Box<LocalReply>>,
    /// Limits that both protocols share.
    pub common: CommonHttp,
    /// HTTP/1 settings.
    pub http1: Http1Options,
    /// HTTP/2 settings.
    pub http2: Http2Options,
    /// KiB of header in a request.
    pub max_request_headers_kb: u32,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// `server` header.
    pub server: ServerHeader,
    /// Where the client's address is taken from.
    pub remote: RemoteAddress,
    /// Forwarded client certificate.
    pub client_cert: ClientCert,
    /// `x-request-id`.
    pub request_id: RequestId,
    /// `via` value.
    pub via: Option<HeaderValue>,
    /// Path and host clean-up.
    pub normalise: Normalise,
    /// Upgrade types and whether they are on, lower case.
    pub upgrades: Vec<(String, bool)>,
    /// Pass `expect: 100-continue` upstream instead of answering it.
    pub proxy_100_continue: bool,
    /// `:scheme` is always this.
    pub scheme_overwrite: Option<&'static str>,
    /// Add `x-forwarded-port`.
    pub append_forwarded_port: bool,
    /// Spans; `None` is no tracing at all.
    pub tracing: Option<Arc<Tracing>>,
}

/// `CodecType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// By ALPN or by the first bytes.
    Auto,
    /// HTTP/1.x only.
    Http1,
    /// HTTP/2 only.
    Http2,
}

/// Where routes come from.
#[derive(Debug, Clone)]
pub enum RouteSource {
    /// Written in the manager.
    Inline(Arc<RouteConfig>),
    /// From the snapshot, by name; it may not be there (yet).
    Rds(Reference),
}

/// `None` is off.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeouts {
    /// No progress on a stream; routes may override it.
    pub stream_idle: Option<Duration>,
    /// Until the whole request is there.
    pub request: Option<Duration>,
    /// Until the request's header is there.
    pub request_headers: Option<Duration>,
    /// How long a connection that was idle or is too old is still read from.
    pub drain: Duration,
    /// That is longer by up to this part of it.
    pub drain_jitter: f64,
    /// How long a client may take to close once it was told to.
    pub delayed_close: Duration,
}

/// `server_name` and `server_header_transformation`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerHeader {
    /// The name.
    pub name: HeaderValue,
    /// When it is written.
    pub mode: ServerHeaderMode,
}

/// `ServerHeaderTransformation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerHeaderMode {
    /// Always.
    Overwrite,
    /// If the upstream gave none.
    AppendIfAbsent,
    /// Never.
    PassThrough,
}

/// Where the client's address is taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteAddress {
    /// From the connection (an edge proxy), not from `x-forwarded-for`.
    pub use_connection: bool,
    /// Trusted proxies before us.
    pub trusted_hops: u32,
    /// Leave `x-forwarded-for` as it is.
    pub skip_append: bool,
    /// Addresses that count as internal; `None` is no address.
    pub internal: Option<Vec<IpNet>>,
}

/// `forward_client_cert_details` and what is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientCert {
    /// What happens with the header.
    pub mode: ClientCertMode,
    /// Write `Subject`.
    pub subject: bool,
    /// Write `Cert`.
    pub cert: bool,
    /// Write `Chain`.
    pub chain: bool,
    /// Write `DNS`.
    pub dns: bool,
    /// Write `URI`.
    pub uri: bool,
}

/// `ForwardClientCertDetails`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertMode {
    /// Remove it.
    Sanitize,
    /// Pass it if the connection is mutual TLS.
    ForwardOnly,
    /// Pass it and append ours if the connection is mutual TLS.
    AppendForward,
    /// Replace it by ours if the connection is mutual TLS.
    SanitizeSet,
    /// Pass it.
    AlwaysForwardOnly,
}

/// `x-request-id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    /// Make one where there is none.
    pub generate: bool,
    /// Keep the one of an external request.
    pub preserve_external: bool,
    /// Send it back.
    pub in_response: bool,
    /// Write into it why the request is traced.
    pub packs_trace_reason: bool,
    /// Decide by it whether the request is traced.
    pub decides_sampling: bool,
}

/// Path and host clean-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Normalise {
    /// Resolve `.` and `..`, decode unreserved characters.
    pub path: bool,
    /// `//` becomes `/`.
    pub merge_slashes: bool,
    /// `%2F` and `%5C`.
    pub escaped_slashes: EscapedSlashes,
    /// Which port is cut off the host.
    pub strip_port: StripPort,
    /// A dot at the end of the host is cut off.
    pub strip_trailing_dot: bool,
}

/// `PathWithEscapedSlashesAction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// Left as they are.
    Keep,
    /// 400.
    Reject,
    /// Decoded, and the client sent there.
    Redirect,
    /// Decoded.
    Forward,
}

/// Which port is cut off the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StripPort {
    /// None.
    Never,
    /// The listener's own.
    Matching,
    /// Any.
    Any,
}
