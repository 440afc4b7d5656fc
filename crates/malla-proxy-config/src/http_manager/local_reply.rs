//! `local_reply_config`: what answers of the proxy's own look like.

use bytes::Bytes;
use http::StatusCode;

use crate::access_log::LogFilter;
use crate::checked::{Cx, Invalid};
use crate::format::Layout;
use crate::headers::HeaderAdd;
use crate::pb::{core, hcm as pb};

/// `LocalReplyConfig`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LocalReply {
    /// The first that fits counts.
    pub mappers: Vec<ResponseMapper>,
    /// Body where no mapper has one of its own; `None` is the body as it is, as plain text.
    pub layout: Option<Layout>,
}

/// `ResponseMapper`.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponseMapper {
    /// Which answers.
    pub filter: LogFilter,
    /// Their status.
    pub status: Option<StatusCode>,
    /// Their body, before it is laid out.
    pub body: Option<Bytes>,
    /// How it is laid out.
    pub layout: Option<Layout>,
    /// Headers.
    pub headers: Vec<HeaderAdd>,
}

impl LocalReply {
    pub(super) fn parse_optional(
        wire: Option<pb::LocalReplyConfig>,
        cx: &mut Cx,
    ) -> Result<Option<Box<Self>>, Invalid> {
        wire.map(|wire| cx.field("local_reply_config", |cx| Self::parse(wire, cx)))
            .transpose()
            .map(|parsed| parsed.map(Box::new))
    }

    fn parse(wire: pb::LocalReplyConfig, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::LocalReplyConfig {
            mappers,
            body_format,
        } = wire;
        Ok(Self {
            mappers: cx.each("mappers", mappers, ResponseMapper::parse)?,
            layout: layout("body_format", body_format, cx)?,
        })
    }
}

fn layout(
    field: &str,
    wire: Option<core::SubstitutionFormatString>,
    cx: &mut Cx,
) -> Result<Option<Layout>, Invalid> {
    wire.map(|format| cx.field(field, |cx| Layout::parse(format, cx)))
        .transpose()
}

impl ResponseMapper {
    fn parse(wire: pb::ResponseMapper, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::ResponseMapper {
            filter,
            status_code,
            body,
            body_format_override,
            headers_to_add,
        } = wire;
        let filter = cx.required("filter", filter)?;
        Ok(Self {
            filter: cx.field("filter", |cx| LogFilter::parse_whole(filter, cx))?,
            status: match status_code {
                None => None,
                Some(status) => Some(crate::http_filter::status_code(
                    "status_code",
                    status.value,
                    cx,
                )?),
            },
            body: match body {
                None => None,
                Some(source) => Some(inline("body", source, cx)?),
            },
            layout: layout("body_format_override", body_format_override, cx)?,
            headers: cx.each("headers_to_add", headers_to_add, HeaderAdd::parse)?,
        })
    }
}

/// What is written in the configuration itself.
pub(crate) fn inline(field: &str, wire: core::DataSource, cx: &Cx) -> Result<Bytes, Invalid> {
    use core::data_source::Specifier;
    match wire.specifier {
        None => Ok(Bytes::new()),
        Some(Specifier::InlineString(text)) => Ok(text.into()),
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes.into()),
        Some(Specifier::Filename(_) | Specifier::EnvironmentVariable(_)) => Err(cx.invalid(
            field,
            "only inline_string and inline_bytes are supported by this proxy",
        )),
    }
}
