//! Access logs: which requests, where to, in what form.

mod otlp;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::checked::{Cx, Invalid, ignorable, refuse, type_name};
use crate::expression::Expression;
use crate::format::{Format, JsonFormat, Layout, LayoutBody};
use crate::grpc_service::GrpcService;
use crate::matcher::Fraction;
use crate::pb::extensions::access_loggers as ext;
use crate::pb::{Any, accesslog as pb, core};
use crate::request::HeaderMatcher;
use crate::tracing::CustomTag;

pub use self::otlp::{OtlpExport, OtlpLog, OtlpValue};

/// What Envoy writes when no format is given.
pub const DEFAULT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
    \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// Envoy's `buffer_flush_interval`.
const DEFAULT_FLUSH: Duration = Duration::from_secs(1);
/// Envoy's `buffer_size_bytes`.
const DEFAULT_BUFFER: usize = 16_384;
/// Filters may nest, but not for ever.
const MAX_FILTER_DEPTH: u32 = 16;

/// `envoy.config.accesslog.v3.AccessLog`.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    /// Which requests; `None` means all.
    pub filter: Option<LogFilter>,
    /// Where to, and in what form.
    pub target: Target,
}

/// Where records go.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// Lines of text or JSON.
    Lines {
        /// Where to.
        sink: Sink,
        /// In what form.
        layout: Layout,
    },
    /// Envoy's access log service.
    Grpc(Arc<GrpcLog>),
    /// An OpenTelemetry collector.
    Otlp(Arc<OtlpLog>),
}

/// `CommonGrpcAccessLogConfig` and what is told from headers.
#[derive(Debug, Clone, PartialEq)]
pub struct GrpcLog {
    /// The stream, shared by all logs that say the same.
    pub stream: Arc<GrpcLogStream>,
    /// Request headers told.
    pub request_headers: Vec<HeaderName>,
    /// Response headers told.
    pub response_headers: Vec<HeaderName>,
    /// Trailers told.
    pub trailers: Vec<HeaderName>,
    /// Tags told.
    pub tags: Vec<CustomTag>,
}

/// One stream to an access log service.
#[derive(Debug, Clone, PartialEq)]
pub struct GrpcLogStream {
    /// The server.
    pub service: GrpcService,
    /// The server's name for the log.
    pub log_name: String,
    /// Entries of connections, not of requests.
    pub tcp: bool,
    /// The longest wait of an entry.
    pub flush_interval: Duration,
    /// Bytes at which entries go without waiting.
    pub buffer: usize,
}

/// Where records are written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Sink {
    /// A file, appended to (`/dev/stdout` too).
    File(Arc<Path>),
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// `AccessLogFilter`.
#[derive(Debug, Clone, PartialEq)]
pub enum LogFilter {
    /// On the response code (0 if there is none).
    Status(Comparison, u32),
    /// On the duration in milliseconds.
    Duration(Comparison, u32),
    /// A share of the records.
    Sample(Fraction),
    /// All of them.
    And(Vec<LogFilter>),
    /// Any of them.
    Or(Vec<LogFilter>),
    /// On a request header.
    Header(HeaderMatcher),
    /// Has any of these response flags; an empty list means any flag at all.
    Flags(Vec<String>),
    /// On the gRPC status.
    Grpc {
        /// Codes.
        statuses: Vec<i32>,
        /// Anything but them.
        exclude: bool,
    },
    /// Is traced.
    Traceable,
    /// The expression holds.
    Expression(Expression),
    /// Of these `AccessLogType`s.
    Types {
        /// Numbers in the protobuf enumeration.
        types: Vec<i32>,
        /// Anything but them.
        exclude: bool,
    },
    /// Is no health check that this proxy knows of.
    NotHealthCheck,
}

/// `ComparisonFilter.Op`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Greater or equal.
    AtLeast,
    /// Less or equal.
    AtMost,
    /// Not equal.
    NotEqual,
}

impl Comparison {
    /// Compares `have` with the configured `want`.
    pub fn holds(self, have: u64, want: u32) -> bool {
        let want = u64::from(want);
        match self {
            Self::Equal => have == want,
            Self::AtLeast => have >= want,
            Self::AtMost => have <= want,
            Self::NotEqual => have != want,
        }
    }
}

impl AccessLog {
    pub(crate) fn parse_all(
        field: &str,
        wire: Vec<pb::AccessLog>,
        cx: &mut Cx,
    ) -> Result<Vec<Arc<Self>>, Invalid> {
        cx.each(field, wire, |wire, cx| Self::parse(wire, cx).map(Arc::new))
    }

    fn parse(wire: pb::AccessLog, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::AccessLog {
            name: _,
            filter,
            config_type,
        } = wire;
        let filter = match filter {
            None => None,
            Some(filter) => Some(cx.field("filter", |cx| LogFilter::parse_whole(filter, cx))?),
        };
        let Some(pb::access_log::ConfigType::TypedConfig(any)) = config_type else {
            return Err(cx.invalid("typed_config", "is required"));
        };
        Ok(Self {
            filter,
            target: cx.field("typed_config", |cx| Target::parse(&any, cx))?,
        })
    }
}

impl Target {
    fn parse(any: &Any, cx: &mut Cx) -> Result<Self, Invalid> {
        match type_name(any).as_str() {
            "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig" => {
                let wire = cx.unpack("", any)?;
                GrpcLog::parse_http(wire, cx).map(|log| Self::Grpc(Arc::new(log)))
            }
            "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig" => {
                let wire = cx.unpack("", any)?;
                GrpcLog::parse_tcp(wire, cx).map(|log| Self::Grpc(Arc::new(log)))
            }
            "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig" => {
                let wire = cx.unpack("", any)?;
                OtlpLog::parse(wire, cx).map(|log| Self::Otlp(Arc::new(log)))
            }
            name => {
                let (sink, layout) = parse_sink(name, any, cx)?;
                Ok(Self::Lines { sink, layout })
            }
        }
    }
}

impl GrpcLog {
    fn parse_http(
        wire: ext::grpc::v3::HttpGrpcAccessLogConfig,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        let ext::grpc::v3::HttpGrpcAccessLogConfig {
            common_config,
            additional_request_headers_to_log,
            additional_response_headers_to_log,
            additional_response_trailers_to_log,
        } = wire;
        let common = cx.required("common_config", common_config)?;
        let (stream, tags) = cx.field("common_config", |cx| {
            GrpcLogStream::parse(common, false, cx)
        })?;
        let name = |text: String, cx: &mut Cx| {
            text.parse()
                .map_err(|_| cx.invalid("", format!("`{text}` is not a header name")))
        };
        Ok(Self {
            stream: Arc::new(stream),
            request_headers: cx.each(
                "additional_request_headers_to_log",
                additional_request_headers_to_log,
                name,
            )?,
            response_headers: cx.each(
                "additional_response_headers_to_log",
                additional_response_headers_to_log,
                name,
            )?,
            trailers: cx.each(
                "additional_response_trailers_to_log",
                additional_response_trailers_to_log,
                name,
            )?,
            tags,
        })
    }

    fn parse_tcp(
        wire: ext::grpc::v3::TcpGrpcAccessLogConfig,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        let common = cx.required("common_config", wire.common_config)?;
        let (stream, tags) =
            cx.field("common_config", |cx| GrpcLogStream::parse(common, true, cx))?;
        Ok(Self {
            stream: Arc::new(stream),
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            trailers: Vec::new(),
            tags,
        })
    }
}

/// `CommonGrpcAccessLogConfig`, as far as it is read.
struct CommonLog {
    log_name: String,
    service: Option<core::GrpcService>,
    flush_interval: Option<Duration>,
    buffer: Option<usize>,
    tags: Vec<CustomTag>,
}

impl CommonLog {
    fn parse(wire: ext::grpc::v3::CommonGrpcAccessLogConfig, cx: &mut Cx) -> Result<Self, Invalid> {
        let ext::grpc::v3::CommonGrpcAccessLogConfig {
            log_name,
            grpc_service,
            transport_api_version,
            buffer_flush_interval,
            buffer_size_bytes,
            filter_state_objects_to_log,
            grpc_stream_retry_policy,
            custom_tags,
        } = wire;
        // No filter of this proxy keeps such objects; a stream that broke is opened again in any case.
        ignorable!(cx; filter_state_objects_to_log, grpc_stream_retry_policy);
        if transport_api_version == core::ApiVersion::V2 as i32 {
            return Err(cx.invalid("transport_api_version", "must be V3"));
        }
        Ok(Self {
            log_name,
            service: grpc_service,
            flush_interval: cx.duration("buffer_flush_interval", buffer_flush_interval)?,
            buffer: buffer_size_bytes.map(|size| size.value as usize),
            tags: CustomTag::parse_all(custom_tags, cx)?,
        })
    }

    /// What another one says where this one says nothing.
    fn or(self, other: Self) -> Self {
        Self {
            log_name: match self.log_name.is_empty() {
                true => other.log_name,
                false => self.log_name,
            },
            service: self.service.or(other.service),
            flush_interval: self.flush_interval.or(other.flush_interval),
            buffer: self.buffer.or(other.buffer),
            tags: match self.tags.is_empty() {
                true => other.tags,
                false => self.tags,
            },
        }
    }

    /// The longest wait of a record.
    fn flush_interval(&self) -> Duration {
        let interval = self.flush_interval.filter(|interval| !interval.is_zero());
        interval.unwrap_or(DEFAULT_FLUSH)
    }

    /// Bytes at which records go without waiting.
    fn buffer(&self) -> usize {
        self.buffer.unwrap_or(DEFAULT_BUFFER)
    }
}

impl GrpcLogStream {
    fn parse(
        wire: ext::grpc::v3::CommonGrpcAccessLogConfig,
        tcp: bool,
        cx: &mut Cx,
    ) -> Result<(Self, Vec<CustomTag>), Invalid> {
        let common = CommonLog::parse(wire, cx)?;
        if common.log_name.is_empty() {
            return Err(cx.invalid("log_name", "is required"));
        }
        let (flush_interval, buffer) = (common.flush_interval(), common.buffer());
        let service = cx.required("grpc_service", common.service)?;
        let stream = Self {
            service: cx.field("grpc_service", |cx| GrpcService::parse(service, cx))?,
            log_name: common.log_name,
            tcp,
            flush_interval,
            buffer,
        };
        Ok((stream, common.tags))
    }
}

fn parse_sink(name: &str, any: &Any, cx: &mut Cx) -> Result<(Sink, Layout), Invalid> {
    match name {
        "envoy.extensions.access_loggers.file.v3.FileAccessLog" => {
            use ext::file::v3::file_access_log::AccessLogFormat;
            let ext::file::v3::FileAccessLog {
                path,
                access_log_format,
            } = cx.unpack("", any)?;
            if path.is_empty() {
                return Err(cx.invalid("path", "is required"));
            }
            let json = |field: &str, tree, cx: &Cx| {
                let tree = JsonFormat::parse(tree).map_err(|reason| cx.invalid(field, reason))?;
                Ok(Layout {
                    body: LayoutBody::Json(tree),
                    omit_empty: false,
                    content_type: None,
                })
            };
            let layout = match access_log_format {
                None => default_layout(cx)?,
                Some(AccessLogFormat::Format(text)) if text.is_empty() => default_layout(cx)?,
                Some(AccessLogFormat::Format(text)) => text_layout("format", &text, cx)?,
                Some(AccessLogFormat::JsonFormat(tree)) => json("json_format", tree, cx)?,
                Some(AccessLogFormat::TypedJsonFormat(tree)) => {
                    json("typed_json_format", tree, cx)?
                }
                Some(AccessLogFormat::LogFormat(format)) => {
                    cx.field("log_format", |cx| Layout::parse(format, cx))?
                }
            };
            Ok((Sink::File(Arc::from(Path::new(&path))), layout))
        }
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog" => {
            use ext::stream::v3::stdout_access_log::AccessLogFormat;
            let ext::stream::v3::StdoutAccessLog { access_log_format } = cx.unpack("", any)?;
            let format = access_log_format.map(|AccessLogFormat::LogFormat(format)| format);
            Ok((Sink::Stdout, stream_layout(format, cx)?))
        }
        "envoy.extensions.access_loggers.stream.v3.StderrAccessLog" => {
            use ext::stream::v3::stderr_access_log::AccessLogFormat;
            let ext::stream::v3::StderrAccessLog { access_log_format } = cx.unpack("", any)?;
            let format = access_log_format.map(|AccessLogFormat::LogFormat(format)| format);
            Ok((Sink::Stderr, stream_layout(format, cx)?))
        }
        other => Err(cx.invalid(
            "",
            format!("access logger {other} is not supported by this proxy"),
        )),
    }
}

fn stream_layout(
    format: Option<crate::pb::core::SubstitutionFormatString>,
    cx: &mut Cx,
) -> Result<Layout, Invalid> {
    match format {
        None => default_layout(cx),
        Some(format) => cx.field("log_format", |cx| Layout::parse(format, cx)),
    }
}

fn default_layout(cx: &Cx) -> Result<Layout, Invalid> {
    text_layout("format", DEFAULT_FORMAT, cx)
}

fn text_layout(field: &str, text: &str, cx: &Cx) -> Result<Layout, Invalid> {
    let format = Format::compile(text).map_err(|reason| cx.invalid(field, reason))?;
    Ok(Layout {
        body: LayoutBody::Text(format),
        omit_empty: false,
        content_type: None,
    })
}

impl LogFilter {
    /// Parses a filter with all that is inside.
    pub(crate) fn parse_whole(wire: pb::AccessLogFilter, cx: &mut Cx) -> Result<Self, Invalid> {
        Self::parse(wire, MAX_FILTER_DEPTH, cx)
    }

    fn parse(wire: pb::AccessLogFilter, depth: u32, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::access_log_filter::FilterSpecifier;
        let Some(depth) = depth.checked_sub(1) else {
            return Err(cx.invalid("", "nested too deeply"));
        };
        let unsupported = |field: &str| Err(cx.invalid(field, "not supported by this proxy"));
        Ok(
            match cx.required("filter_specifier", wire.filter_specifier)? {
                FilterSpecifier::StatusCodeFilter(filter) => {
                    let (op, value) =
                        comparison("status_code_filter.comparison", filter.comparison, cx)?;
                    Self::Status(op, value)
                }
                FilterSpecifier::DurationFilter(filter) => {
                    let (op, value) =
                        comparison("duration_filter.comparison", filter.comparison, cx)?;
                    Self::Duration(op, value)
                }
                FilterSpecifier::NotHealthCheckFilter(_) => Self::NotHealthCheck,
                FilterSpecifier::RuntimeFilter(filter) => {
                    let pb::RuntimeFilter {
                        runtime_key,
                        percent_sampled,
                        use_independent_randomness: _,
                    } = filter;
                    let default = match percent_sampled {
                        Some(share) => cx.field("runtime_filter.percent_sampled", |cx| {
                            Fraction::parse(share, cx)
                        })?,
                        None => Fraction::NEVER,
                    };
                    Self::Sample(cx.runtime_fraction(&runtime_key, default))
                }
                FilterSpecifier::AndFilter(filter) => Self::And(cx.field("and_filter", |cx| {
                    cx.each("filters", filter.filters, |filter, cx| {
                        Self::parse(filter, depth, cx)
                    })
                })?),
                FilterSpecifier::OrFilter(filter) => Self::Or(cx.field("or_filter", |cx| {
                    cx.each("filters", filter.filters, |filter, cx| {
                        Self::parse(filter, depth, cx)
                    })
                })?),
                FilterSpecifier::HeaderFilter(filter) => {
                    let header = cx.required("header_filter.header", filter.header)?;
                    Self::Header(cx.field("header_filter.header", |cx| {
                        HeaderMatcher::parse(header, cx)
                    })?)
                }
                FilterSpecifier::ResponseFlagFilter(filter) => Self::Flags(filter.flags),
                FilterSpecifier::GrpcStatusFilter(filter) => {
                    let pb::GrpcStatusFilter { statuses, exclude } = filter;
                    Self::Grpc { statuses, exclude }
                }
                FilterSpecifier::TraceableFilter(_) => Self::Traceable,
                FilterSpecifier::ExtensionFilter(filter) => {
                    cx.field("extension_filter", |cx| extension(filter, cx))?
                }
                FilterSpecifier::MetadataFilter(_) => return unsupported("metadata_filter"),
                FilterSpecifier::LogTypeFilter(filter) => {
                    let pb::LogTypeFilter { types, exclude } = filter;
                    Self::Types { types, exclude }
                }
            },
        )
    }
}

fn extension(wire: pb::ExtensionFilter, cx: &mut Cx) -> Result<LogFilter, Invalid> {
    let pb::ExtensionFilter { name, config_type } = wire;
    let Some(pb::extension_filter::ConfigType::TypedConfig(any)) = config_type else {
        return Err(cx.invalid("typed_config", "is required"));
    };
    if type_name(&any) != "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter" {
        let reason = format!("`{name}` is not supported by this proxy");
        return Err(cx.invalid("typed_config", reason));
    }
    cx.field("typed_config", |cx| {
        let ext::filters::cel::v3::ExpressionFilter {
            expression,
            cel_config,
        } = cx.unpack("", &any)?;
        refuse!(cx; cel_config);
        Expression::parse(&expression)
            .map(LogFilter::Expression)
            .map_err(|reason| cx.invalid("expression", reason))
    })
}

fn comparison(
    field: &str,
    wire: Option<pb::ComparisonFilter>,
    cx: &mut Cx,
) -> Result<(Comparison, u32), Invalid> {
    use pb::comparison_filter::Op;
    let wire = cx.required(field, wire)?;
    let op = match cx.enumeration(field, wire.op)? {
        Op::Eq => Comparison::Equal,
        Op::Ge => Comparison::AtLeast,
        Op::Le => Comparison::AtMost,
        Op::Ne => Comparison::NotEqual,
    };
    let value = wire.value.unwrap_or_default();
    let limit = cx.runtime_integer(&value.runtime_key, value.default_value.into());
    Ok((op, u32::try_from(limit).unwrap_or(u32::MAX)))
}
