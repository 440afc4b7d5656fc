//! HTTP settings of clusters, and the protocol options clusters and listeners share.

use super::{
    FloodLimits, Http1Options, Http2Keepalive, Http2Options, UpstreamHttp, UpstreamProtocol,
};
use crate::checked::{Cx, Invalid, ignorable, refuse};
use crate::pb::core;
use crate::pb::extensions::upstreams::http::v3 as pb;
use crate::pb::{cluster, google, types};

/// Envoy's limit of header fields in a message.
const DEFAULT_MAX_HEADERS: u32 = 100;
/// Envoy's `interval_jitter` of PINGs, percent.
const DEFAULT_JITTER: f64 = 15.0;
/// Envoy's `idle_timeout` of upstream and downstream HTTP connections.
const DEFAULT_IDLE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3600);

/// The fields of a cluster that say how HTTP is spoken, in their old places.
pub(super) struct Legacy {
    pub(super) upstream: Option<core::UpstreamHttpProtocolOptions>,
    pub(super) common: Option<core::HttpProtocolOptions>,
    pub(super) http1: Option<core::Http1ProtocolOptions>,
    pub(super) http2: Option<core::Http2ProtocolOptions>,
    pub(super) protocol_selection: i32,
    pub(super) max_requests_per_connection: Option<google::UInt32Value>,
}

impl Default for UpstreamHttp {
    fn default() -> Self {
        Self {
            protocol: UpstreamProtocol::Http1,
            http1: Http1Options::default(),
            http2: Http2Options::default(),
            idle_timeout: Some(DEFAULT_IDLE_TIMEOUT),
            max_connection_duration: None,
            max_stream_duration: None,
            max_requests_per_connection: None,
            max_headers: DEFAULT_MAX_HEADERS,
            max_response_headers_kb: None,
            auto_sni: false,
            auto_san_validation: false,
            auto_sni_header: None,
        }
    }
}

impl UpstreamHttp {
    pub(super) fn parse_legacy(wire: Legacy, cx: &mut Cx) -> Result<Self, Invalid> {
        use cluster::cluster::ClusterProtocolSelection;
        let mut out = Self::default();
        if wire.http2.is_some() {
            out.protocol = UpstreamProtocol::Http2;
        }
        if cx.enumeration::<ClusterProtocolSelection>(
            "protocol_selection",
            wire.protocol_selection,
        )? == ClusterProtocolSelection::UseDownstreamProtocol
        {
            out.protocol = UpstreamProtocol::Downstream;
        }
        out.set_http1(wire.http1, cx)?;
        out.set_http2(wire.http2, cx)?;
        out.set_common(wire.common, cx)?;
        out.set_upstream(wire.upstream, cx)?;
        if let Some(max) = wire.max_requests_per_connection {
            out.max_requests_per_connection = (max.value > 0).then_some(max.value);
        }
        Ok(out)
    }

    pub(super) fn parse(wire: pb::HttpProtocolOptions, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::http_protocol_options::UpstreamProtocolOptions;
        let pb::HttpProtocolOptions {
            common_http_protocol_options,
            upstream_http_protocol_options,
            http_filters,
            header_validation_config,
            outlier_detection,
            request_mirror_policies,
            hash_policy,
            retry_policy,
            upstream_protocol_options,
        } = wire;
        refuse!(cx; http_filters, header_validation_config, outlier_detection, request_mirror_policies, hash_policy,
            retry_policy);
        let mut out = Self::default();
        out.set_common(common_http_protocol_options, cx)?;
        out.set_upstream(upstream_http_protocol_options, cx)?;
        match cx.required("upstream_protocol_options", upstream_protocol_options)? {
            UpstreamProtocolOptions::ExplicitHttpConfig(config) => {
                cx.field("explicit_http_config", |cx| out.set_explicit(config, cx))?;
            }
            UpstreamProtocolOptions::UseDownstreamProtocolConfig(config) => {
                let pb::http_protocol_options::UseDownstreamHttpConfig {
                    http_protocol_options,
                    http2_protocol_options,
                    http3_protocol_options,
                } = config;
                refuse!(cx; http3_protocol_options);
                out.protocol = UpstreamProtocol::Downstream;
                out.set_http1(http_protocol_options, cx)?;
                out.set_http2(http2_protocol_options, cx)?;
            }
            UpstreamProtocolOptions::AutoConfig(config) => {
                let pb::http_protocol_options::AutoHttpConfig {
                    http_protocol_options,
                    http2_protocol_options,
                    http3_protocol_options,
                    alternate_protocols_cache_options,
                } = config;
                refuse!(cx; http3_protocol_options, alternate_protocols_cache_options);
                out.protocol = UpstreamProtocol::Alpn;
                out.set_http1(http_protocol_options, cx)?;
                out.set_http2(http2_protocol_options, cx)?;
            }
        }
        Ok(out)
    }

    fn set_explicit(
        &mut self,
        wire: pb::http_protocol_options::ExplicitHttpConfig,
        cx: &mut Cx,
    ) -> Result<(), Invalid> {
        use pb::http_protocol_options::explicit_http_config::ProtocolConfig;
        match cx.required("protocol_config", wire.protocol_config)? {
            ProtocolConfig::HttpProtocolOptions(options) => {
                self.protocol = UpstreamProtocol::Http1;
                self.set_http1(Some(options), cx)
            }
            ProtocolConfig::Http2ProtocolOptions(options) => {
                self.protocol = UpstreamProtocol::Http2;
                self.set_http2(Some(options), cx)
            }
            ProtocolConfig::Http3ProtocolOptions(_) => Err(cx.invalid(
                "http3_protocol_options",
                "HTTP/3 is not supported by this proxy",
            )),
        }
    }

    fn set_http1(
        &mut self,
        wire: Option<core::Http1ProtocolOptions>,
        cx: &mut Cx,
    ) -> Result<(), Invalid> {
        if let Some(wire) = wire {
            self.http1 = cx.field("http_protocol_options", |cx| Http1Options::parse(wire, cx))?;
        }
        Ok(())
    }

    fn set_http2(
        &mut self,
        wire: Option<core::Http2ProtocolOptions>,
        cx: &mut Cx,
    ) -> Result<(), Invalid> {
        if let Some(wire) = wire {
            self.http2 = cx.field("http2_protocol_options", |cx| Http2Options::parse(wire, cx))?;
        }
        Ok(())
    }

    fn set_common(
        &mut self,
        wire: Option<core::HttpProtocolOptions>,
        cx: &mut Cx,
    ) -> Result<(), Invalid> {
        let Some(wire) = wire else { return Ok(()) };
        let common = cx.field("common_http_protocol_options", |cx| {
            CommonHttp::parse(wire, cx)
        })?;
        // Envoy's documentation says that it acts on clients' connections alone.
        cx.ignorable(
            "common_http_protocol_options.max_connection_duration_jitter",
            &common.connection_jitter,
        );
        self.idle_timeout = common.idle_timeout;
        self.max_connection_duration = common.max_connection_duration;
        self.max_stream_duration = common.max_stream_duration;
        self.max_requests_per_connection = common.max_requests_per_connection;
        self.max_headers = common.max_headers;
        self.max_response_headers_kb = common.max_response_headers_kb;
        Ok(())
    }

    fn set_upstream(
        &mut self,
        wire: Option<core::UpstreamHttpProtocolOptions>,
        cx: &mut Cx,
    ) -> Result<(), Invalid> {
        let Some(wire) = wire else { return Ok(()) };
        let core::UpstreamHttpProtocolOptions {
            auto_sni,
            auto_san_validation,
            override_auto_sni_header,
        } = wire;
        self.auto_sni = auto_sni;
        self.auto_san_validation = auto_san_validation;
        if !override_auto_sni_header.is_empty() {
            let name = override_auto_sni_header.parse().map_err(|_| {
                cx.invalid(
                    "upstream_http_protocol_options.override_auto_sni_header",
                    "is not a header name",
                )
            })?;
            self.auto_sni_header = Some(name);
        }
        Ok(())
    }
}

/// `envoy.config.core.v3.HttpProtocolOptions`.
#[derive(Debug, Clone, PartialEq)]
pub struct CommonHttp {
    /// Close connections without requests after so long; `None` never.
    pub idle_timeout: Option<std::time::Duration>,
    /// Drain connections older than this.
    pub max_connection_duration: Option<std::time::Duration>,
    /// That is longer by up to this part of it, 0.1 for 10 %; a client's connection only.
    pub connection_jitter: f64,
    /// Limit for a whole request and answer.
    pub max_stream_duration: Option<std::time::Duration>,
    /// Requests per connection.
    pub max_requests_per_connection: Option<u32>,
    /// Header fields in a message.
    pub max_headers: u32,
    /// KiB of header in an answer.
    pub max_response_headers_kb: Option<u32>,
    /// What to do with header names that have an underscore.
    pub underscores: Underscores,
}

/// `HeadersWithUnderscoresAction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Underscores {
    /// Pass them.
    Allow,
    /// Answer 400.
    Reject,
    /// Drop the field.
    Drop,
}

impl CommonHttp {
    pub(crate) fn parse(wire: core::HttpProtocolOptions, cx: &mut Cx) -> Result<Self, Invalid> {
        use core::http_protocol_options::HeadersWithUnderscoresAction;
        let core::HttpProtocolOptions {
            idle_timeout,
            max_connection_duration,
            max_connection_duration_jitter,
            max_headers_count,
            max_response_headers_kb,
            max_stream_duration,
            headers_with_underscores_action,
            max_requests_per_connection,
        } = wire;
        let limit =
            |duration: Option<std::time::Duration>| duration.filter(|duration| !duration.is_zero());
        let idle = cx
            .duration("idle_timeout", idle_timeout)?
            .unwrap_or(DEFAULT_IDLE_TIMEOUT);
        Ok(Self {
            idle_timeout: limit(Some(idle)),
            max_connection_duration: limit(
                cx.duration("max_connection_duration", max_connection_duration)?,
            ),
            connection_jitter: part(
                "max_connection_duration_jitter",
                max_connection_duration_jitter,
                cx,
            )?,
            max_stream_duration: limit(cx.duration("max_stream_duration", max_stream_duration)?),
            max_requests_per_connection: max_requests_per_connection
                .map(|max| max.value)
                .filter(|max| *max > 0),
            max_headers: max_headers_count.map_or(DEFAULT_MAX_HEADERS, |max| max.value.max(1)),
            max_response_headers_kb: max_response_headers_kb.map(|max| max.value),
            underscores: match cx.enumeration(
                "headers_with_underscores_action",
                headers_with_underscores_action,
            )? {
                HeadersWithUnderscoresAction::Allow => Underscores::Allow,
                HeadersWithUnderscoresAction::RejectRequest => Underscores::Reject,
                HeadersWithUnderscoresAction::DropHeader => Underscores::Drop,
            },
        })
    }
}

impl Default for CommonHttp {
    fn default() -> Self {
        Self {
            idle_timeout: Some(DEFAULT_IDLE_TIMEOUT),
            max_connection_duration: None,
            connection_jitter: 0.0,
            max_stream_duration: None,
            max_requests_per_connection: None,
            max_headers: DEFAULT_MAX_HEADERS,
            max_response_headers_kb: None,
            underscores: Underscores::Allow,
        }
    }
}

impl Http1Options {
    pub(crate) fn parse(wire: core::Http1ProtocolOptions, cx: &mut Cx) -> Result<Self, Invalid> {
        use core::http1_protocol_options::header_key_format::HeaderFormat;
        let core::Http1ProtocolOptions {
            allow_absolute_url,
            accept_http_10,
            default_host_for_http_10,
            header_key_format,
            enable_trailers,
            allow_chunked_length,
            override_stream_error_on_invalid_http_message,
            send_fully_qualified_url,
            use_balsa_parser,
            allow_custom_methods,
            ignore_http_11_upgrade,
        } = wire;
        refuse!(cx; ignore_http_11_upgrade, send_fully_qualified_url);
        ignorable!(cx; override_stream_error_on_invalid_http_message, use_balsa_parser);
        let (mut preserve_case, mut proper_case) = (false, false);
        match header_key_format.and_then(|format| format.header_format) {
            None => {}
            Some(HeaderFormat::ProperCaseWords(_)) => proper_case = true,
            Some(HeaderFormat::StatefulFormatter(extension)) => {
                let name = extension
                    .typed_config
                    .as_ref()
                    .map(crate::checked::type_name)
                    .unwrap_or_default();
                if name
                    != "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig"
                {
                    return Err(cx.invalid(
                        "header_key_format",
                        format!("{name} is not supported by this proxy"),
                    ));
                }
                preserve_case = true;
            }
        }
        Ok(Self {
            accept_http_10,
            default_host_for_http_10: (!default_host_for_http_10.is_empty())
                .then_some(default_host_for_http_10),
            enable_trailers,
            preserve_case,
            proper_case,
            allow_absolute_url: allow_absolute_url.is_none_or(|value| value.value),
            custom_methods: allow_custom_methods,
            chunked_length: allow_chunked_length,
        })
    }
}

impl Http2Options {
    pub(crate) fn parse(wire: core::Http2ProtocolOptions, cx: &mut Cx) -> Result<Self, Invalid> {
        let core::Http2ProtocolOptions {
            hpack_table_size,
            max_concurrent_streams,
            initial_stream_window_size,
            initial_connection_window_size,
            allow_connect,
            allow_metadata,
            max_outbound_frames,
            max_outbound_control_frames,
            max_consecutive_inbound_frames_with_empty_payload,
            max_inbound_priority_frames_per_stream,
            max_inbound_window_update_frames_per_data_frame_sent,
            stream_error_on_invalid_http_messaging,
            override_stream_error_on_invalid_http_message,
            custom_settings_parameters,
            connection_keepalive,
            use_oghttp2_codec,
            max_metadata_size,
            enable_huffman_encoding,
            max_header_field_size_kb,
            disallow_obs_text,
            stream_reset_burst,
            stream_reset_rate,
        } = wire;
        refuse!(cx; allow_metadata, custom_settings_parameters);
        ignorable!(cx; use_oghttp2_codec, max_metadata_size, enable_huffman_encoding,
            max_header_field_size_kb, disallow_obs_text, stream_reset_burst, stream_reset_rate);
        // A malformed message ends its own stream in any case, as RFC 9113 §8.1.1 has it.
        let _ = (
            stream_error_on_invalid_http_messaging,
            override_stream_error_on_invalid_http_message,
        );
        let default = FloodLimits::default();
        let at_least_one = |field: &str, wire: Option<google::UInt32Value>, default| match wire {
            None => Ok(default),
            Some(wire) if wire.value == 0 => {
                Err(cx.invalid(field, "0 is not allowed: 1 is the least"))
            }
            Some(wire) => Ok(wire.value),
        };
        let floods = FloodLimits {
            frames: at_least_one("max_outbound_frames", max_outbound_frames, default.frames)?,
            control_frames: at_least_one(
                "max_outbound_control_frames",
                max_outbound_control_frames,
                default.control_frames,
            )?,
            window_updates_per_data: at_least_one(
                "max_inbound_window_update_frames_per_data_frame_sent",
                max_inbound_window_update_frames_per_data_frame_sent,
                default.window_updates_per_data,
            )?,
            empty_frames: max_consecutive_inbound_frames_with_empty_payload
                .map_or(default.empty_frames, |wire| wire.value),
            priorities_per_stream: max_inbound_priority_frames_per_stream
                .map_or(default.priorities_per_stream, |wire| wire.value),
        };
        let keepalive = connection_keepalive
            .map(|wire| cx.field("connection_keepalive", |cx| http2_keepalive(wire, cx)))
            .transpose()?
            .flatten();
        let value = |wire: Option<google::UInt32Value>| wire.map(|wire| wire.value);
        Ok(Self {
            max_concurrent_streams: value(max_concurrent_streams),
            initial_stream_window_size: value(initial_stream_window_size),
            initial_connection_window_size: value(initial_connection_window_size),
            hpack_table_size: value(hpack_table_size),
            allow_connect,
            keepalive,
            floods,
        })
    }
}

/// `KeepaliveSettings`; none without an interval.
fn http2_keepalive(
    wire: core::KeepaliveSettings,
    cx: &mut Cx,
) -> Result<Option<Http2Keepalive>, Invalid> {
    let core::KeepaliveSettings {
        interval,
        timeout,
        interval_jitter,
        connection_idle_interval,
    } = wire;
    ignorable!(cx; connection_idle_interval);
    let timeout = cx.duration("timeout", timeout)?;
    let timeout = cx.required("timeout", timeout)?;
    let default = types::Percent {
        value: DEFAULT_JITTER,
    };
    let jitter = part(
        "interval_jitter",
        Some(interval_jitter.unwrap_or(default)),
        cx,
    )?;
    let interval = cx.duration("interval", interval)?;
    Ok(interval.map(|interval| Http2Keepalive {
        interval,
        timeout,
        jitter,
    }))
}

/// A percentage as a part of one; zero if it is not there.
pub(crate) fn part(field: &str, wire: Option<types::Percent>, cx: &Cx) -> Result<f64, Invalid> {
    let value = wire.map_or(0.0, |percent| percent.value);
    if !(0.0..=100.0).contains(&value) {
        return Err(cx.invalid(field, format!("{value} is no percentage")));
    }
    Ok(value / 100.0)
}
