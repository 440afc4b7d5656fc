//! Envoy's substitution format: text with `%COMMAND(argument):LENGTH%` in it, and JSON made of such texts.
//!
//! Compiled here once; evaluated by the proxy against the record of a request. A command this proxy does not have is
//! an error that names it, as in Envoy.

use http::HeaderName;

use crate::checked::{Cx, Invalid, refuse, type_name};
use crate::metadata::{Object, Value, parse_struct};
use crate::pb::core;

/// A compiled text format.
#[derive(Debug, Clone, PartialEq)]
pub struct Format(pub Vec<Segment>);

/// One piece of a format.
#[derive(Debug, Clone, PartialEq)]
pub enum Segment {
    /// Copied as it is.
    Literal(String),
    /// Filled in for each request.
    Command {
        /// What.
        operator: Operator,
        /// At most so many bytes of it.
        max_length: Option<usize>,
    },
}

/// A JSON value whose strings are formats.
#[derive(Debug, Clone, PartialEq)]
pub enum JsonFormat {
    /// Keys are written in alphabetical order, as Envoy does.
    Object(Vec<(String, JsonFormat)>),
    /// Items in order.
    List(Vec<JsonFormat>),
    /// A text; a single command keeps its type (a number stays a number).
    Text(Format),
    /// Anything else: already JSON.
    Literal(String),
}

/// Commands, by their Envoy names.
#[derive(Debug, Clone, PartialEq)]
pub enum Operator {
    /// `REQ(X?Y)`.
    Request(Field, Option<Field>),
    /// `RESP(X?Y)`.
    Response(Field, Option<Field>),
    /// `TRAILER(X?Y)`.
    Trailer(Field, Option<Field>),
    /// `REQ_WITHOUT_QUERY(X?Y)`.
    RequestWithoutQuery(Field, Option<Field>),
    /// `QUERY_PARAM(X)`.
    QueryParam(String),
    /// `PATH(query mode:original mode)`.
    Path {
        /// With `?query`.
        query: bool,
        /// Before or after rewriting.
        original: PathOrigin,
    },
    /// `START_TIME(format)`, UTC; `None` is ISO 8601 with milliseconds.
    StartTime(Option<String>),
    /// Everything without an argument.
    Plain(Plain),
    /// `METADATA(kind:namespace:key…)` and the older names for it.
    Metadata {
        /// Whose.
        source: MetadataSource,
        /// Namespace.
        namespace: String,
        /// Keys inside.
        path: Vec<String>,
    },
    /// `ENVIRONMENT(X)`, looked up by the binary.
    Environment(String),
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

/// Whose metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataSource {
    /// Written by filters for this request.
    Dynamic,
    /// Of the upstream cluster.
    Cluster,
    /// Of the route.
    Route,
    /// Of the upstream host.
    UpstreamHost,
    /// Of the listener.
    Listener,
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
            fn from_name(name: &str) -> Option<Self> {
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
}

impl Format {
    /// Compiles a text.
    pub fn compile(text: &str) -> Result<Self, String> {
        let mut segments = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            literal.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                literal.push('%');
                rest = after;
                continue;
            }
            if !literal.is_empty() {
                segments.push(Segment::Literal(std::mem::take(&mut literal)));
            }
            let (segment, after) = command(rest)?;
            segments.push(segment);
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            segments.push(Segment::Literal(literal));
        }
        Ok(Self(segments))
    }

    /// The text itself if there is no command in it.
    pub fn as_literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Segment::Literal(text)] => Some(text),
            _ => None,
        }
    }
}

/// One command, from after its first `%` to after its last.
fn command(text: &str) -> Result<(Segment, &str), String> {
    let malformed = || {
        format!(
            "`%{}` is not a command (write %% for a percent sign)",
            text.chars().take(20).collect::<String>()
        )
    };
    let name_length = text
        .find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
        .filter(|length| *length > 0)
        .ok_or_else(malformed)?;
    let (name, mut rest) = text.split_at(name_length);
    let mut argument = None;
    if let Some(inside) = rest.strip_prefix('(') {
        // The argument may hold `%` and `)`: it ends at the first `)` that a command end follows.
        let end = inside
            .match_indices(')')
            .map(|(at, _)| at)
            .find(|at| tail(&inside[at + 1..]).is_some());
        let end = end.ok_or_else(malformed)?;
        argument = Some(&inside[..end]);
        rest = &inside[end + 1..];
    }
    let (max_length, rest) = tail(rest).ok_or_else(malformed)?;
    let operator = Operator::from_parts(name, argument)?;
    Ok((
        Segment::Command {
            operator,
            max_length,
        },
        rest,
    ))
}

/// `:LENGTH%` or `%`.
fn tail(text: &str) -> Option<(Option<usize>, &str)> {
    if let Some(rest) = text.strip_prefix('%') {
        return Some((None, rest));
    }
    let (digits, rest) = text.strip_prefix(':')?.split_once('%')?;
    digits.parse().ok().map(|length| (Some(length), rest))
}

impl Operator {
    fn from_parts(name: &str, argument: Option<&str>) -> Result<Self, String> {
        let fields = || {
            let argument = argument.filter(|argument| !argument.is_empty());
            let argument =
                argument.ok_or_else(|| format!("%{name}% needs a header name in parentheses"))?;
            let (main, alternative) = match argument.split_once('?') {
                Some((main, alternative)) => (main, Some(Field::parse(alternative)?)),
                None => (argument, None),
            };
            Ok::<_, String>((Field::parse(main)?, alternative))
        };
        let needs = || {
            argument
                .map(str::to_owned)
                .ok_or_else(|| format!("%{name}% needs an argument in parentheses"))
        };
        Ok(match name {
            "REQ" | "REQUEST_HEADER" => fields().map(|(main, other)| Self::Request(main, other))?,
            "RESP" | "RESPONSE_HEADER" => {
                fields().map(|(main, other)| Self::Response(main, other))?
            }
            "TRAILER" | "RESPONSE_TRAILER" => {
                fields().map(|(main, other)| Self::Trailer(main, other))?
            }
            "REQ_WITHOUT_QUERY" => {
                fields().map(|(main, other)| Self::RequestWithoutQuery(main, other))?
            }
            "QUERY_PARAM" => Self::QueryParam(needs()?),
            "PATH" => path_operator(argument)?,
            "START_TIME" => Self::StartTime(argument.filter(|text| !text.is_empty()).map(strftime)),
            "METADATA" => {
                let argument = needs()?;
                let (kind, rest) = argument.split_once(':').unwrap_or((&argument, ""));
                let source = match kind {
                    "DYNAMIC" => MetadataSource::Dynamic,
                    "CLUSTER" => MetadataSource::Cluster,
                    "ROUTE" => MetadataSource::Route,
                    "UPSTREAM_HOST" => MetadataSource::UpstreamHost,
                    "LISTENER" => MetadataSource::Listener,
                    other => {
                        return Err(format!(
                            "%METADATA({other}:…)% is not supported by this proxy"
                        ));
                    }
                };
                metadata(source, rest)
            }
            "DYNAMIC_METADATA" => metadata(MetadataSource::Dynamic, &needs()?),
            "CLUSTER_METADATA" => metadata(MetadataSource::Cluster, &needs()?),
            "UPSTREAM_METADATA" => metadata(MetadataSource::UpstreamHost, &needs()?),
            "ENVIRONMENT" => Self::Environment(needs()?),
            "GRPC_STATUS" if argument == Some("NUMBER") => Self::Plain(Plain::GrpcStatusNumber),
            name => match Plain::from_name(name) {
                Some(plain) => Self::Plain(plain),
                None => return Err(format!("%{name}% is not supported by this proxy")),
            },
        })
    }
}

fn path_operator(argument: Option<&str>) -> Result<Operator, String> {
    let argument = argument.unwrap_or("");
    let (query, origin) = argument.split_once(':').unwrap_or((argument, ""));
    let query = match query {
        "" | "WQ" => true,
        "NQ" => false,
        other => return Err(format!("%PATH({other})% takes WQ or NQ")),
    };
    let original = match origin {
        "" | "ORIG_OR_PATH" => PathOrigin::OriginalOrCurrent,
        "ORIG" => PathOrigin::Original,
        "PATH" => PathOrigin::Current,
        other => return Err(format!("%PATH(:{other})% takes ORIG, PATH or ORIG_OR_PATH")),
    };
    Ok(Operator::Path { query, original })
}

fn metadata(source: MetadataSource, argument: &str) -> Operator {
    let mut parts = argument.split(':').map(str::to_owned);
    let namespace = parts.next().unwrap_or_default();
    Operator::Metadata {
        source,
        namespace,
        path: parts.collect(),
    }
}

/// Envoy's time formats in the spelling of `jiff`'s strftime: `%f` is nine digits, `%E3S` seconds with three.
fn strftime(text: &str) -> String {
    let mut out = text.to_owned();
    for digits in 1..=9 {
        out = out.replace(&format!("%E{digits}S"), &format!("%S.%{digits}f"));
        out = out.replace(&format!("%E{digits}f"), &format!("%{digits}f"));
    }
    out.replace("%E*S", "%S.%9f").replace("%f", "%9f")
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

impl JsonFormat {
    pub(crate) fn parse(wire: crate::pb::google::Struct) -> Result<Self, String> {
        Self::from_object(parse_struct(wire))
    }

    fn from_object(object: Object) -> Result<Self, String> {
        // `Object` is a sorted map already.
        let fields = object
            .into_iter()
            .map(|(key, value)| Ok::<_, String>((key, Self::from_value(value)?)));
        fields.collect::<Result<_, _>>().map(Self::Object)
    }

    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Object(object) => Self::from_object(object),
            Value::List(items) => items
                .into_iter()
                .map(Self::from_value)
                .collect::<Result<_, _>>()
                .map(Self::List),
            Value::String(text) => Format::compile(&text).map(Self::Text),
            other => Ok(Self::Literal(other.into_json().to_string())),
        }
    }
}

/// A text or JSON format as access logs and local replies have it.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// What is written.
    pub body: LayoutBody,
    /// Empty values are left out (JSON) or empty (text) instead of `-`.
    pub omit_empty: bool,
}

/// Text or JSON.
#[derive(Debug, Clone, PartialEq)]
pub enum LayoutBody {
    /// A text, with its line end if it has one.
    Text(Format),
    /// A JSON object and a line end.
    Json(JsonFormat),
}

/// Formatter extensions whose commands are built in here.
const KNOWN_FORMATTERS: [&str; 2] = [
    "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery",
    "envoy.extensions.formatter.metadata.v3.Metadata",
];

impl Layout {
    pub(crate) fn parse(
        wire: core::SubstitutionFormatString,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        use core::data_source::Specifier;
        use core::substitution_format_string::Format as Wire;
        let core::SubstitutionFormatString {
            omit_empty_values,
            content_type,
            formatters,
            json_format_options,
            format,
        } = wire;
        refuse!(cx; content_type);
        // Keys are sorted in any case.
        cx.ignorable("json_format_options", &json_format_options);
        for (index, formatter) in formatters.into_iter().enumerate() {
            let name = formatter
                .typed_config
                .as_ref()
                .map(type_name)
                .unwrap_or_default();
            if name == "envoy.extensions.formatter.cel.v3.Cel" {
                // Harmless while no %CEL(…)% is used, which would be refused as an unknown command.
                cx.warn(
                    &format!("formatters[{index}]"),
                    "CEL expressions are not supported by this proxy",
                );
            } else if !KNOWN_FORMATTERS.contains(&name.as_str()) {
                return Err(cx.invalid(
                    &format!("formatters[{index}]"),
                    format!("{name} is not supported by this proxy"),
                ));
            }
        }
        let text = |field: &str, text: &str| {
            Format::compile(text).map_err(|reason| cx.invalid(field, reason))
        };
        let body = match cx.required("format", format)? {
            Wire::TextFormat(format) => LayoutBody::Text(text("text_format", &format)?),
            Wire::JsonFormat(tree) => LayoutBody::Json(
                JsonFormat::parse(tree).map_err(|reason| cx.invalid("json_format", reason))?,
            ),
            Wire::TextFormatSource(source) => match source.specifier {
                Some(Specifier::InlineString(format)) => {
                    LayoutBody::Text(text("text_format_source.inline_string", &format)?)
                }
                _ => {
                    return Err(cx.invalid(
                        "text_format_source",
                        "only inline_string is supported by this proxy",
                    ));
                }
            },
        };
        Ok(Self {
            body,
            omit_empty: omit_empty_values,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Field, Format, Operator, Plain, Segment};

    fn one(text: &str) -> Segment {
        let Format(mut segments) = Format::compile(text).unwrap();
        assert_eq!(segments.len(), 1, "{text}");
        segments.remove(0)
    }

    #[test]
    fn commands_arguments_and_lengths() {
        let command = |operator, max_length| Segment::Command {
            operator,
            max_length,
        };
        assert_eq!(
            one("%DURATION%"),
            command(Operator::Plain(Plain::Duration), None)
        );
        assert_eq!(
            one("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH):12%"),
            command(
                Operator::Request(
                    Field::Header("x-envoy-original-path".parse().unwrap()),
                    Some(Field::Path)
                ),
                Some(12)
            )
        );
        assert_eq!(
            one("%START_TIME(%Y/%m/%d %H:%M:%S.%3f)%"),
            command(
                Operator::StartTime(Some("%Y/%m/%d %H:%M:%S.%3f".into())),
                None
            )
        );
        assert_eq!(one("100%% sure"), Segment::Literal("100% sure".into()));
    }

    #[test]
    fn mistakes_are_named() {
        let check =
            |text: &str, want: &str| assert_eq!(Format::compile(text).unwrap_err(), want, "{text}");
        check("%NOPE%", "%NOPE% is not supported by this proxy");
        check(
            "50% off",
            "`% off` is not a command (write %% for a percent sign)",
        );
        check("%REQ%", "%REQ% needs a header name in parentheses");
        check(
            "%REQ(:A",
            "`%REQ(:A` is not a command (write %% for a percent sign)",
        );
    }
}
