//! Access logs: which requests, where to, in what form.

use std::path::Path;
use std::sync::Arc;

use crate::checked::{Cx, Invalid, refuse, type_name};
use crate::format::{Format, JsonFormat, Layout, LayoutBody};
use crate::matcher::Fraction;
use crate::pb::extensions::access_loggers as ext;
use crate::pb::{Any, accesslog as pb};
use crate::request::HeaderMatcher;

/// What Envoy writes when no format is given.
pub const DEFAULT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
    \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// Filters may nest, but not for ever.
const MAX_FILTER_DEPTH: u32 = 16;

/// `envoy.config.accesslog.v3.AccessLog`.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    /// Which requests; `None` means all.
    pub filter: Option<LogFilter>,
    /// Where to.
    pub sink: Sink,
    /// In what form.
    pub layout: Layout,
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
    /// Everything: filters on what never happens here.
    All,
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
            Some(filter) => Some(cx.field("filter", |cx| {
                LogFilter::parse(filter, MAX_FILTER_DEPTH, cx)
            })?),
        };
        let Some(pb::access_log::ConfigType::TypedConfig(any)) = config_type else {
            return Err(cx.invalid("typed_config", "is required"));
        };
        let (sink, layout) = cx.field("typed_config", |cx| parse_sink(&any, cx))?;
        Ok(Self {
            filter,
            sink,
            layout,
        })
    }
}

fn parse_sink(any: &Any, cx: &mut Cx) -> Result<(Sink, Layout), Invalid> {
    match type_name(any).as_str() {
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
    })
}

impl LogFilter {
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
                // No filter of this proxy answers health checks, so no request is one.
                FilterSpecifier::NotHealthCheckFilter(_) => Self::All,
                FilterSpecifier::RuntimeFilter(filter) => {
                    let pb::RuntimeFilter {
                        runtime_key: _,
                        percent_sampled,
                        use_independent_randomness: _,
                    } = filter;
                    match percent_sampled {
                        Some(share) => {
                            Self::Sample(cx.field("runtime_filter.percent_sampled", |cx| {
                                Fraction::parse(share, cx)
                            })?)
                        }
                        None => Self::Sample(Fraction::NEVER),
                    }
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
                FilterSpecifier::TraceableFilter(_) => return unsupported("traceable_filter"),
                FilterSpecifier::ExtensionFilter(filter) => {
                    let pb::ExtensionFilter { name, config_type } = filter;
                    refuse!(cx; config_type);
                    return Err(cx.invalid(
                        "extension_filter",
                        format!("`{name}` is not supported by this proxy"),
                    ));
                }
                FilterSpecifier::MetadataFilter(_) => return unsupported("metadata_filter"),
                FilterSpecifier::LogTypeFilter(_) => return unsupported("log_type_filter"),
            },
        )
    }
}

fn comparison(
    field: &str,
    wire: Option<pb::ComparisonFilter>,
    cx: &Cx,
) -> Result<(Comparison, u32), Invalid> {
    use pb::comparison_filter::Op;
    let wire = cx.required(field, wire)?;
    let op = match cx.enumeration(field, wire.op)? {
        Op::Eq => Comparison::Equal,
        Op::Ge => Comparison::AtLeast,
        Op::Le => Comparison::AtMost,
        Op::Ne => Comparison::NotEqual,
    };
    Ok((op, wire.value.map_or(0, |value| value.default_value)))
}
