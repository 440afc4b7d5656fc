//! The commands of a format, by their Envoy names (1.40; docs/reference/access-log-operators.md lists them all).
//!
//! Invariant: what a command may take, an argument or a length, is what Envoy lets it take; anything else is an error
//! that names the command.

use std::sync::Arc;

use http::HeaderName;

use super::argument;
use super::time::TimeFormat;
use crate::expression::Expression;

/// Commands, by their Envoy names.
#[derive(Debug, Clone, PartialEq)]
pub enum Operator {
    /// `REQ(X?Y)`, `STREAM_INFO_REQ(X?Y)`.
    Request(Field, Option<Field>),
    /// `RESP(X?Y)`.
    Response(Field, Option<Field>),
    /// `TRAILER(X?Y)`.
    Trailer(Field, Option<Field>),
    /// `REQ_WITHOUT_QUERY(X?Y)`.
    RequestWithoutQuery(Field, Option<Field>),
    /// `QUERY_PARAM(X)`, decoded.
    QueryParam(String),
    /// `QUERY_PARAMS(DECODED)`; as they came it is [`Plain::QueryParams`].
    DecodedQuery,
    /// `PATH(query mode:original mode)`.
    Path {
        /// With `?query`.
        query: bool,
        /// Before or after rewriting.
        original: PathOrigin,
    },
    /// A moment of the wall clock: `START_TIME(format)`, `UPSTREAM_PEER_CERT_V_END(format)` and so on.
    Time {
        /// Which.
        of: Moment,
        /// How it is written.
        format: TimeFormat,
    },
    /// `COMMON_DURATION(start:end:precision)`.
    CommonDuration {
        /// From here.
        start: Milestone,
        /// To there.
        end: Milestone,
        /// In units of so many nanoseconds.
        unit: u32,
    },
    /// Everything without an argument.
    Plain(Plain),
    /// `*_ADDRESS_WITHOUT_PORT(bits)`: the network of an address.
    Network(Plain, u8),
    /// `REQUESTED_SERVER_NAME(X:Y)` that looks at the host, too.
    ServerName {
        /// The host comes before SNI.
        host_first: bool,
        /// Which host.
        host: HostOrigin,
    },
    /// `RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)`.
    Details,
    /// `GRPC_STATUS(SNAKE_STRING)`.
    GrpcStatusSnake,
    /// `METADATA(kind:namespace:key…)` and the older names for it.
    Metadata {
        /// Whose.
        source: MetadataSource,
        /// Namespace.
        namespace: String,
        /// Keys inside.
        path: Vec<String>,
    },
    /// `FILTER_STATE(key)`: JSON, or the text itself (`PLAIN`).
    FilterState {
        /// Which object.
        key: String,
        /// How.
        form: StateForm,
    },
    /// `ENVIRONMENT(X)`, looked up by the binary.
    Environment {
        /// Of the variable.
        name: String,
        /// What is said where it is not set: logs say `-`, also in JSON, tags nothing.
        unset: Option<&'static str>,
    },
    /// `FILE_CONTENT(path)`, followed as it changes.
    FileContent(Arc<str>),
    /// `XFCC_VALUE(key)`: a value of the request's `x-forwarded-client-cert`.
    ForwardedCert(String),
    /// `CEL(expression)`, and `TYPED_CEL(expression)`, whose numbers stay numbers in JSON.
    Expression {
        /// What.
        expression: Expression,
        /// It keeps its type.
        typed: bool,
    },
    /// `COALESCE({operators: …})`: the first that says something, each with its length.
    Coalesce(Vec<(Operator, Option<usize>)>),
}

/// Moments of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The request's, or connection's, begin.
    Start,
    /// When the line is written.
    Emit,
    /// The client's certificate is good from here.
    DownstreamPeerFrom,
    /// To there.
    DownstreamPeerUntil,
    /// The endpoint's certificate is good from here.
    UpstreamPeerFrom,
    /// To there.
    UpstreamPeerUntil,
}

/// Moments of a request, by Envoy's names: downstream and upstream, received, sent, connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Milestone {
    DownstreamHandshakeBegin,
    DownstreamHandshakeEnd,
    DownstreamReceiveBegin,
    DownstreamReceiveEnd,
    UpstreamConnectBegin,
    UpstreamConnectEnd,
    UpstreamHandshakeEnd,
    UpstreamSendBegin,
    UpstreamSendEnd,
    UpstreamReceiveBegin,
    UpstreamBodyBegin,
    UpstreamReceiveEnd,
    DownstreamSendBegin,
    DownstreamSendEnd,
    /// A moment that only an extension would set; none does.
    Other,
}

impl Milestone {
    pub(super) fn from_name(name: &str) -> Self {
        match name {
            "DS_HS_BEG" => Self::DownstreamHandshakeBegin,
            "DS_HS_END" => Self::DownstreamHandshakeEnd,
            "DS_RX_BEG" => Self::DownstreamReceiveBegin,
            "DS_RX_END" => Self::DownstreamReceiveEnd,
            "US_CX_BEG" => Self::UpstreamConnectBegin,
            "US_CX_END" => Self::UpstreamConnectEnd,
            "US_HS_END" => Self::UpstreamHandshakeEnd,
            "US_TX_BEG" => Self::UpstreamSendBegin,
            "US_TX_END" => Self::UpstreamSendEnd,
            "US_RX_BEG" => Self::UpstreamReceiveBegin,
            "US_RX_BODY_BEG" => Self::UpstreamBodyBegin,
            "US_RX_END" => Self::UpstreamReceiveEnd,
            "DS_TX_BEG" => Self::DownstreamSendBegin,
            "DS_TX_END" => Self::DownstreamSendEnd,
            _ => Self::Other,
        }
    }
}

/// Which path `PATH` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathOrigin {
    /// As it goes upstream.
    Current,
    /// As it came.
    Original,
    /// As it came if it was rewritten, which prints the same.
    OriginalOrCurrent,
}

/// Which host `REQUESTED_SERVER_NAME` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostOrigin {
    /// `:authority`.
    Current,
    /// `x-envoy-original-host`.
    Original,
    /// That if it is there, else `:authority`.
    OriginalOrCurrent,
}

/// How an object of filter state is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateForm {
    /// As it is.
    Plain,
    /// As JSON.
    Typed,
    /// A field of it; texts have none.
    Field,
    /// One of the upstream connection; those have none here.
    Upstream,
}

/// Whose metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataSource {
    /// Written by filters for this request.
    Dynamic,
    /// Of the upstream cluster.
    Cluster,
    /// Of the route.
    Route,
    /// Of the virtual host.
    VirtualHost,
    /// Of the upstream host.
    UpstreamHost,
    /// Of the listener.
    Listener,
    /// Of the filter chain.
    FilterChain,
}

/// A header, or a pseudo-header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// `:method`.
    Method,
    /// `:path`.
    Path,
    /// `:scheme`.
    Scheme,
    /// `:authority` or `host`.
    Authority,
    /// `:status`.
    Status,
    /// An ordinary header.
    Header(HeaderName),
}

/// Declares commands without an argument: the variant and its Envoy name.
macro_rules! plain {
    ($($name:ident = $text:literal),+ $(,)?) => {
        /// Commands without an argument.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Plain { $($name),+ }

        impl Plain {
            pub(super) fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

plain! {
    RequestDuration = "REQUEST_DURATION",
    RequestTxDuration = "REQUEST_TX_DURATION",
    ResponseDuration = "RESPONSE_DURATION",
    ResponseTxDuration = "RESPONSE_TX_DURATION",
    DownstreamHandshakeDuration = "DOWNSTREAM_HANDSHAKE_DURATION",
    RoundtripDuration = "ROUNDTRIP_DURATION",
    UpstreamConnectionPoolReadyDuration = "UPSTREAM_CONNECTION_POOL_READY_DURATION",
    Duration = "DURATION",
    BytesReceived = "BYTES_RECEIVED",
    BytesSent = "BYTES_SENT",
    Protocol = "PROTOCOL",
    UpstreamProtocol = "UPSTREAM_PROTOCOL",
    ResponseCode = "RESPONSE_CODE",
    ResponseCodeDetails = "RESPONSE_CODE_DETAILS",
    ResponseFlags = "RESPONSE_FLAGS",
    ResponseFlagsLong = "RESPONSE_FLAGS_LONG",
    ConnectionTerminationDetails = "CONNECTION_TERMINATION_DETAILS",
    RouteName = "ROUTE_NAME",
    VirtualClusterName = "VIRTUAL_CLUSTER_NAME",
    UpstreamHost = "UPSTREAM_HOST",
    UpstreamHostName = "UPSTREAM_HOST_NAME",
    UpstreamHostNameWithoutPort = "UPSTREAM_HOST_NAME_WITHOUT_PORT",
    UpstreamCluster = "UPSTREAM_CLUSTER",
    UpstreamClusterRaw = "UPSTREAM_CLUSTER_RAW",
    UpstreamLocalAddress = "UPSTREAM_LOCAL_ADDRESS",
    UpstreamLocalAddressWithoutPort = "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    UpstreamLocalPort = "UPSTREAM_LOCAL_PORT",
    UpstreamRemoteAddress = "UPSTREAM_REMOTE_ADDRESS",
    UpstreamRemoteAddressWithoutPort = "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    UpstreamRemotePort = "UPSTREAM_REMOTE_PORT",
    UpstreamTransportFailureReason = "UPSTREAM_TRANSPORT_FAILURE_REASON",
    UpstreamRequestAttemptCount = "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    UpstreamConnectionId = "UPSTREAM_CONNECTION_ID",
    UpstreamTlsVersion = "UPSTREAM_TLS_VERSION",
    UpstreamTlsCipher = "UPSTREAM_TLS_CIPHER",
    UpstreamPeerUriSan = "UPSTREAM_PEER_URI_SAN",
    UpstreamPeerDnsSan = "UPSTREAM_PEER_DNS_SAN",
    UpstreamPeerSubject = "UPSTREAM_PEER_SUBJECT",
    UpstreamPeerIssuer = "UPSTREAM_PEER_ISSUER",
    UpstreamPeerCert = "UPSTREAM_PEER_CERT",
    UpstreamLocalUriSan = "UPSTREAM_LOCAL_URI_SAN",
    DownstreamRemoteAddress = "DOWNSTREAM_REMOTE_ADDRESS",
    DownstreamRemoteAddressWithoutPort = "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    DownstreamRemotePort = "DOWNSTREAM_REMOTE_PORT",
    DownstreamDirectRemoteAddress = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    DownstreamDirectRemoteAddressWithoutPort = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    DownstreamDirectRemotePort = "DOWNSTREAM_DIRECT_REMOTE_PORT",
    DownstreamLocalAddress = "DOWNSTREAM_LOCAL_ADDRESS",
    DownstreamLocalAddressWithoutPort = "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    DownstreamLocalPort = "DOWNSTREAM_LOCAL_PORT",
    DownstreamDirectLocalAddress = "DOWNSTREAM_DIRECT_LOCAL_ADDRESS",
    DownstreamDirectLocalAddressWithoutPort = "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT",
    DownstreamDirectLocalPort = "DOWNSTREAM_DIRECT_LOCAL_PORT",
    ConnectionId = "CONNECTION_ID",
    RequestedServerName = "REQUESTED_SERVER_NAME",
    DownstreamTlsVersion = "DOWNSTREAM_TLS_VERSION",
    DownstreamTlsCipher = "DOWNSTREAM_TLS_CIPHER",
    DownstreamPeerUriSan = "DOWNSTREAM_PEER_URI_SAN",
    DownstreamPeerDnsSan = "DOWNSTREAM_PEER_DNS_SAN",
    DownstreamPeerSubject = "DOWNSTREAM_PEER_SUBJECT",
    DownstreamPeerIssuer = "DOWNSTREAM_PEER_ISSUER",
    DownstreamPeerSerial = "DOWNSTREAM_PEER_SERIAL",
    DownstreamPeerFingerprint256 = "DOWNSTREAM_PEER_FINGERPRINT_256",
    DownstreamPeerCert = "DOWNSTREAM_PEER_CERT",
    DownstreamLocalUriSan = "DOWNSTREAM_LOCAL_URI_SAN",
    DownstreamLocalDnsSan = "DOWNSTREAM_LOCAL_DNS_SAN",
    DownstreamLocalSubject = "DOWNSTREAM_LOCAL_SUBJECT",
    Hostname = "HOSTNAME",
    GrpcStatusNumber = "GRPC_STATUS_NUMBER",
    GrpcStatus = "GRPC_STATUS",
    FilterChainName = "FILTER_CHAIN_NAME",
    RequestHeadersBytes = "REQUEST_HEADERS_BYTES",
    ResponseHeadersBytes = "RESPONSE_HEADERS_BYTES",
    StreamId = "STREAM_ID",
    AccessLogType = "ACCESS_LOG_TYPE",
    QueryParams = "QUERY_PARAMS",
    CustomFlags = "CUSTOM_FLAGS",
    TraceId = "TRACE_ID",
    UniqueId = "UNIQUE_ID",
    LocalReplyBody = "LOCAL_REPLY_BODY",
    ListenerName = "LISTENER_NAME",
    ResponseTrailersBytes = "RESPONSE_TRAILERS_BYTES",
    BytesRetransmitted = "BYTES_RETRANSMITTED",
    PacketsRetransmitted = "PACKETS_RETRANSMITTED",
    UpstreamWireBytesSent = "UPSTREAM_WIRE_BYTES_SENT",
    UpstreamWireBytesReceived = "UPSTREAM_WIRE_BYTES_RECEIVED",
    UpstreamHeaderBytesSent = "UPSTREAM_HEADER_BYTES_SENT",
    UpstreamHeaderBytesReceived = "UPSTREAM_HEADER_BYTES_RECEIVED",
    UpstreamDecompressedHeaderBytesSent = "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
    UpstreamDecompressedHeaderBytesReceived = "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
    DownstreamWireBytesSent = "DOWNSTREAM_WIRE_BYTES_SENT",
    DownstreamWireBytesReceived = "DOWNSTREAM_WIRE_BYTES_RECEIVED",
    DownstreamHeaderBytesSent = "DOWNSTREAM_HEADER_BYTES_SENT",
    DownstreamHeaderBytesReceived = "DOWNSTREAM_HEADER_BYTES_RECEIVED",
    DownstreamDecompressedHeaderBytesSent = "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
    DownstreamDecompressedHeaderBytesReceived = "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
    UpstreamHostsAttempted = "UPSTREAM_HOSTS_ATTEMPTED",
    UpstreamHostsAttemptedWithoutPort = "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT",
    UpstreamHostNamesAttempted = "UPSTREAM_HOST_NAMES_ATTEMPTED",
    UpstreamHostNamesAttemptedWithoutPort = "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT",
    UpstreamConnectionIdsAttempted = "UPSTREAM_CONNECTION_IDS_ATTEMPTED",
    UpstreamRemoteAddressEndpointId = "UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID",
    DownstreamLocalAddressEndpointId = "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID",
    DownstreamDirectLocalAddressEndpointId = "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID",
    UpstreamTlsGroup = "UPSTREAM_TLS_GROUP",
    UpstreamPeerIpSan = "UPSTREAM_PEER_IP_SAN",
    UpstreamLocalDnsSan = "UPSTREAM_LOCAL_DNS_SAN",
    UpstreamLocalIpSan = "UPSTREAM_LOCAL_IP_SAN",
    UpstreamDetectedCloseType = "UPSTREAM_DETECTED_CLOSE_TYPE",
    UpstreamLocalCloseReason = "UPSTREAM_LOCAL_CLOSE_REASON",
    DownstreamCxRtt = "DOWNSTREAM_CX_RTT",
    DownstreamTlsGroup = "DOWNSTREAM_TLS_GROUP",
    DownstreamTransportFailureReason = "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    DownstreamDetectedCloseType = "DOWNSTREAM_DETECTED_CLOSE_TYPE",
    DownstreamLocalCloseReason = "DOWNSTREAM_LOCAL_CLOSE_REASON",
    DownstreamPeerIpSan = "DOWNSTREAM_PEER_IP_SAN",
    DownstreamPeerEmailSan = "DOWNSTREAM_PEER_EMAIL_SAN",
    DownstreamPeerOtherNameSan = "DOWNSTREAM_PEER_OTHERNAME_SAN",
    DownstreamPeerFingerprint1 = "DOWNSTREAM_PEER_FINGERPRINT_1",
    DownstreamPeerChainFingerprints1 = "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
    DownstreamPeerChainFingerprints256 = "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256",
    DownstreamPeerChainSerials = "DOWNSTREAM_PEER_CHAIN_SERIALS",
    DownstreamPeerIssuerSerial = "DOWNSTREAM_PEER_ISSUER_SERIAL",
    DownstreamPeerIssuerFingerprint256 = "DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256",
    DownstreamLocalIpSan = "DOWNSTREAM_LOCAL_IP_SAN",
    DownstreamLocalEmailSan = "DOWNSTREAM_LOCAL_EMAIL_SAN",
    DownstreamLocalOtherNameSan = "DOWNSTREAM_LOCAL_OTHERNAME_SAN",
    SpanId = "SPAN_ID",
    UpstreamServerName = "UPSTREAM_SERVER_NAME",
    RouteResolutionCount = "ROUTE_RESOLUTION_COUNT",
    RouteResolutionTime = "ROUTE_RESOLUTION_TIME_US",
}

impl Plain {
    /// Addresses whose network can be asked for.
    fn has_network(self) -> bool {
        matches!(
            self,
            Self::UpstreamLocalAddressWithoutPort
                | Self::UpstreamRemoteAddressWithoutPort
                | Self::DownstreamRemoteAddressWithoutPort
                | Self::DownstreamDirectRemoteAddressWithoutPort
                | Self::DownstreamLocalAddressWithoutPort
                | Self::DownstreamDirectLocalAddressWithoutPort
        )
    }
}

/// Commands that may be cut to a length.
const CUTS: [&str; 21] = [
    "REQ",
    "REQUEST_HEADER",
    "STREAM_INFO_REQ",
    "REQ_WITHOUT_QUERY",
    "RESP",
    "RESPONSE_HEADER",
    "TRAILER",
    "RESPONSE_TRAILER",
    "QUERY_PARAM",
    "QUERY_PARAMS",
    "PATH",
    "METADATA",
    "DYNAMIC_METADATA",
    "FILTER_STATE",
    "UPSTREAM_FILTER_STATE",
    "ENVIRONMENT",
    "FILE_CONTENT",
    "XFCC_VALUE",
    "CEL",
    "TYPED_CEL",
    "COALESCE",
];

impl Operator {
    /// A command by its name, with what was in its parentheses.
    ///
    /// # Errors
    /// When there is no such command, or it takes no such argument or length.
    pub(super) fn parse(name: &str, argument: Option<&str>, cut: bool) -> Result<Self, String> {
        let argument = argument.filter(|argument| !argument.is_empty());
        let operator = Self::from_parts(name, argument)?;
        if cut && !CUTS.contains(&name) {
            return Err(format!("%{name}% takes no length"));
        }
        Ok(operator)
    }

    fn from_parts(name: &str, argument: Option<&str>) -> Result<Self, String> {
        let needs = || argument.ok_or_else(|| format!("%{name}% needs an argument in parentheses"));
        let fields = || argument::fields(name, argument);
        if let Some(of) = Moment::from_name(name.trim_end_matches("_LOCAL")) {
            let local = name.ends_with("_LOCAL");
            if local && !matches!(of, Moment::Start | Moment::Emit) {
                return Err(format!("%{name}% is not supported by this proxy"));
            }
            let format = TimeFormat::parse(argument, local)
                .map_err(|reason| format!("%{name}%: {reason}"))?;
            return Ok(Self::Time { of, format });
        }
        Ok(match name {
            "REQ" | "REQUEST_HEADER" | "STREAM_INFO_REQ" => {
                fields().map(|(main, other)| Self::Request(main, other))?
            }
            "RESP" | "RESPONSE_HEADER" => {
                fields().map(|(main, other)| Self::Response(main, other))?
            }
            "TRAILER" | "RESPONSE_TRAILER" => {
                fields().map(|(main, other)| Self::Trailer(main, other))?
            }
            "REQ_WITHOUT_QUERY" => {
                fields().map(|(main, other)| Self::RequestWithoutQuery(main, other))?
            }
            "QUERY_PARAM" => Self::QueryParam(needs()?.to_owned()),
            "QUERY_PARAMS" => argument::query(argument)?,
            "PATH" => argument::path(argument)?,
            "COMMON_DURATION" => argument::duration(needs()?)?,
            "METADATA" => argument::metadata(needs()?)?,
            "DYNAMIC_METADATA" => argument::tree(MetadataSource::Dynamic, needs()?),
            "CLUSTER_METADATA" => argument::tree(MetadataSource::Cluster, needs()?),
            "UPSTREAM_METADATA" => argument::tree(MetadataSource::UpstreamHost, needs()?),
            "FILTER_STATE" => argument::filter_state(needs()?, false)?,
            "UPSTREAM_FILTER_STATE" => argument::filter_state(needs()?, true)?,
            "ENVIRONMENT" => Self::Environment {
                name: needs()?.to_owned(),
                unset: Some("-"),
            },
            "FILE_CONTENT" => argument::file(needs()?)?,
            "XFCC_VALUE" => Self::ForwardedCert(needs()?.to_owned()),
            "CEL" | "TYPED_CEL" => Self::Expression {
                expression: Expression::parse(needs()?)
                    .map_err(|reason| format!("%{name}%: {reason}"))?,
                typed: name == "TYPED_CEL",
            },
            "COALESCE" => argument::coalesce(needs()?)?,
            "GRPC_STATUS" => argument::grpc_status(argument)?,
            "REQUESTED_SERVER_NAME" => argument::server_name(argument)?,
            // What else stands there is ignored, as in Envoy.
            "RESPONSE_CODE_DETAILS" => match argument {
                Some("ALLOW_WHITESPACES") => Self::Details,
                _ => Self::Plain(Plain::ResponseCodeDetails),
            },
            name => match (Plain::from_name(name), argument) {
                (Some(plain), None) => Self::Plain(plain),
                (Some(plain), Some(bits)) if plain.has_network() => argument::network(plain, bits)?,
                (Some(_), Some(_)) => return Err(format!("%{name}% takes no argument")),
                (None, _) => return Err(format!("%{name}% is not supported by this proxy")),
            },
        })
    }

    /// Calls `see` with the command, and with those inside of it.
    pub fn visit<'a>(&'a self, see: &mut impl FnMut(&'a Operator)) {
        see(self);
        if let Self::Coalesce(operators) = self {
            for (operator, _) in operators {
                operator.visit(see);
            }
        }
    }
}

impl Moment {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "START_TIME" => Self::Start,
            "EMIT_TIME" => Self::Emit,
            "DOWNSTREAM_PEER_CERT_V_START" => Self::DownstreamPeerFrom,
            "DOWNSTREAM_PEER_CERT_V_END" => Self::DownstreamPeerUntil,
            "UPSTREAM_PEER_CERT_V_START" => Self::UpstreamPeerFrom,
            "UPSTREAM_PEER_CERT_V_END" => Self::UpstreamPeerUntil,
            _ => return None,
        })
    }
}

impl Field {
    /// A header or pseudo-header by name, in any case.
    pub fn parse(name: &str) -> Result<Self, String> {
        Ok(match name.to_ascii_lowercase().as_str() {
            ":method" => Self::Method,
            ":path" => Self::Path,
            ":scheme" => Self::Scheme,
            ":authority" | "host" => Self::Authority,
            ":status" => Self::Status,
            lower => Self::Header(
                lower
                    .parse()
                    .map_err(|_| format!("`{name}` is not a header name"))?,
            ),
        })
    }
}
