//! An HTTP connection manager from proto.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::local_reply::LocalReply;
use super::{
    ClientCert, ClientCertMode, Codec, EscapedSlashes, HttpManager, Normalise, RemoteAddress,
    RequestId, RouteSource, ServerHeader, ServerHeaderMode, StripPort, Timeouts,
};
use crate::access_log::AccessLog;
use crate::address::cidr;
use crate::checked::{Cx, Invalid, ignorable, ignorable_refs, refuse, refuse_refs, type_name};
use crate::cluster::{CommonHttp, Http1Options, Http2Options, part};
use crate::config_source::{ConfigSource, Reference};
use crate::http_filter::HttpFilter;
use crate::pb::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use crate::pb::{core, google, hcm as pb};
use crate::route::RouteConfig;
use crate::tracing::Tracing;

const DEFAULT_MAX_HEADERS_KB: u32 = 60;
/// Envoy refuses more.
const MAX_HEADERS_KB: u32 = 8192;
const DEFAULT_STREAM_IDLE: Duration = Duration::from_secs(300);
const DEFAULT_DRAIN: Duration = Duration::from_secs(5);
const DEFAULT_DELAYED_CLOSE: Duration = Duration::from_secs(1);

fn flag(wire: Option<google::BoolValue>, default: bool) -> bool {
    wire.map_or(default, |value| value.value)
}

impl HttpManager {
    pub(crate) fn parse(wire: pb::HttpConnectionManager, cx: &mut Cx) -> Result<Self, Invalid> {
        check_fields(&wire, cx)?;
        let timeouts = timeouts(&wire, cx)?;
        let (packs_trace_reason, decides_sampling) = request_id(wire.request_id_extension, cx)?;
        let (filters, router) = HttpFilter::parse_all(wire.http_filters, cx)?;
        let name = if wire.server_name.is_empty() {
            "envoy"
        } else {
            &wire.server_name
        };
        Ok(Self {
            stat_prefix: wire.stat_prefix.into(),
            codec: match cx.enumeration("codec_type", wire.codec_type)? {
                pb::http_connection_manager::CodecType::Auto => Codec::Auto,
                pb::http_connection_manager::CodecType::Http1 => Codec::Http1,
                pb::http_connection_manager::CodecType::Http2 => Codec::Http2,
                pb::http_connection_manager::CodecType::Http3 => {
                    return Err(cx.invalid("codec_type", "HTTP3 is not supported by this proxy"));
                }
            },
            routes: routes(wire.route_specifier, cx)?,
            filters,
            router,
            access_logs: AccessLog::parse_all("access_log", wire.access_log, cx)?,
            local_reply: LocalReply::parse_optional(wire.local_reply_config, cx)?,
            common: match wire.common_http_protocol_options {
                Some(wire) => cx.field("common_http_protocol_options", |cx| {
                    CommonHttp::parse(wire, cx)
                })?,
                None => CommonHttp::default(),
            },
            http1: cx.field("http_protocol_options", |cx| {
                Http1Options::parse(wire.http_protocol_options.unwrap_or_default(), cx)
            })?,
            http2: cx.field("http2_protocol_options", |cx| {
                Http2Options::parse(wire.http2_protocol_options.unwrap_or_default(), cx)
            })?,
            max_request_headers_kb: max_headers(wire.max_request_headers_kb, cx)?,
            timeouts,
            server: ServerHeader {
                name: header("server_name", name, cx)?,
                mode: server_mode(wire.server_header_transformation, cx)?,
            },
            remote: RemoteAddress {
                use_connection: flag(wire.use_remote_address, false),
                trusted_hops: wire.xff_num_trusted_hops,
                skip_append: wire.skip_xff_append,
                internal: internal(wire.internal_address_config, cx)?,
            },
            client_cert: client_cert(
                wire.forward_client_cert_details,
                wire.set_current_client_cert_details,
                cx,
            )?,
            request_id: RequestId {
                generate: flag(wire.generate_request_id, true),
                preserve_external: wire.preserve_external_request_id,
                in_response: wire.always_set_request_id_in_response,
                packs_trace_reason,
                decides_sampling,
            },
            via: if wire.via.is_empty() {
                None
            } else {
                Some(header("via", &wire.via, cx)?)
            },
            normalise: Normalise {
                path: flag(wire.normalize_path, false),
                merge_slashes: wire.merge_slashes,
                escaped_slashes: escaped_slashes(wire.path_with_escaped_slashes_action, cx)?,
                strip_port: strip_port(wire.strip_port_mode, wire.strip_matching_host_port),
                strip_trailing_dot: wire.strip_trailing_host_dot,
            },
            upgrades: cx.each("upgrade_configs", wire.upgrade_configs, upgrade)?,
            proxy_100_continue: wire.proxy_100_continue,
            scheme_overwrite: scheme(wire.scheme_header_transformation, cx)?,
            append_forwarded_port: wire.append_x_forwarded_port,
            tracing: match wire.tracing {
                None => None,
                Some(wire) => Some(Arc::new(
                    cx.field("tracing", |cx| Tracing::parse(wire, cx))?,
                )),
            },
        })
    }
}

fn timeouts(wire: &pb::HttpConnectionManager, cx: &Cx) -> Result<Timeouts, Invalid> {
    let read = |field, value| cx.duration(field, value);
    Ok(Timeouts {
        stream_idle: off_at_zero(
            read("stream_idle_timeout", wire.stream_idle_timeout)?.or(Some(DEFAULT_STREAM_IDLE)),
        ),
        request: off_at_zero(read("request_timeout", wire.request_timeout)?),
        request_headers: off_at_zero(read(
            "request_headers_timeout",
            wire.request_headers_timeout,
        )?),
        drain: read("drain_timeout", wire.drain_timeout)?.unwrap_or(DEFAULT_DRAIN),
        drain_jitter: part("drain_timeout_jitter", wire.drain_timeout_jitter, cx)?,
        delayed_close: read("delayed_close_timeout", wire.delayed_close_timeout)?
            .unwrap_or(DEFAULT_DELAYED_CLOSE),
    })
}

/// Refuses what is not supported. Every field is named, so that a new one does not compile unnoticed.
fn check_fields(wire: &pb::HttpConnectionManager, cx: &mut Cx) -> Result<(), Invalid> {
    let pb::HttpConnectionManager {
        codec_type: _,
        stat_prefix: _,
        http_filters: _,
        add_user_agent,
        tracing: _,
        common_http_protocol_options: _,
        // A request may be on its way in any case: the next answer says that it is the last.
        http1_safe_max_connection_duration: _,
        http_protocol_options: _,
        http2_protocol_options: _,
        http3_protocol_options,
        server_name: _,
        server_header_transformation: _,
        scheme_header_transformation: _,
        max_request_headers_kb: _,
        stream_idle_timeout: _,
        stream_flush_timeout,
        request_timeout: _,
        request_headers_timeout: _,
        drain_timeout: _,
        drain_timeout_jitter: _,
        delayed_close_timeout: _,
        access_log: _,
        access_log_flush_interval,
        flush_access_log_on_new_request,
        access_log_options,
        use_remote_address: _,
        xff_num_trusted_hops: _,
        original_ip_detection_extensions,
        early_header_mutation_extensions,
        internal_address_config: _,
        skip_xff_append: _,
        via: _,
        generate_request_id: _,
        preserve_external_request_id: _,
        always_set_request_id_in_response: _,
        forward_client_cert_details: _,
        set_current_client_cert_details: _,
        forward_client_cert_matcher,
        proxy_100_continue: _,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
        upgrade_configs: _,
        normalize_path: _,
        merge_slashes: _,
        path_with_escaped_slashes_action: _,
        request_id_extension: _,
        local_reply_config: _,
        strip_matching_host_port: _,
        stream_error_on_invalid_http_message,
        path_normalization_options,
        strip_trailing_host_dot: _,
        proxy_status_config,
        typed_header_validation_config,
        append_x_forwarded_port: _,
        append_local_overload,
        add_proxy_protocol_connection_state,
        forward_proto_config,
        route_specifier: _,
        strip_port_mode: _,
    } = wire;
    refuse_refs!(cx; http3_protocol_options, access_log_flush_interval, flush_access_log_on_new_request,
    access_log_options, original_ip_detection_extensions, early_header_mutation_extensions,
    forward_client_cert_matcher, represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
    path_normalization_options, proxy_status_config, typed_header_validation_config, forward_proto_config,
    add_user_agent);
    ignorable_refs!(cx; stream_flush_timeout,
    stream_error_on_invalid_http_message, append_local_overload, add_proxy_protocol_connection_state);
    Ok(())
}

fn off_at_zero(timeout: Option<Duration>) -> Option<Duration> {
    timeout.filter(|timeout| !timeout.is_zero())
}

fn header(field: &str, text: &str, cx: &Cx) -> Result<HeaderValue, Invalid> {
    HeaderValue::from_str(text)
        .map_err(|_| cx.invalid(field, "has characters that no header may have"))
}

fn max_headers(wire: Option<google::UInt32Value>, cx: &Cx) -> Result<u32, Invalid> {
    let max = wire.map_or(DEFAULT_MAX_HEADERS_KB, |max| max.value);
    if max == 0 || max > MAX_HEADERS_KB {
        return Err(cx.invalid(
            "max_request_headers_kb",
            format!("{max} is not from 1 to {MAX_HEADERS_KB}"),
        ));
    }
    Ok(max)
}

fn routes(
    wire: Option<pb::http_connection_manager::RouteSpecifier>,
    cx: &mut Cx,
) -> Result<RouteSource, Invalid> {
    use pb::http_connection_manager::RouteSpecifier;
    match cx.required("route_specifier", wire)? {
        RouteSpecifier::RouteConfig(config) => {
            let config = cx.field("route_config", |cx| RouteConfig::parse(config, cx))?;
            Ok(RouteSource::Inline(Arc::new(config)))
        }
        RouteSpecifier::Rds(pb::Rds {
            config_source,
            route_config_name,
        }) => {
            if route_config_name.is_empty() {
                return Err(cx.invalid("rds.route_config_name", "is required"));
            }
            let source = cx.required("rds.config_source", config_source)?;
            Ok(RouteSource::Rds(Reference {
                name: route_config_name.into(),
                source: cx.field("rds.config_source", |cx| ConfigSource::parse(source, cx))?,
            }))
        }
        RouteSpecifier::ScopedRoutes(_) => {
            Err(cx.invalid("scoped_routes", "not supported by this proxy"))
        }
    }
}

fn server_mode(wire: i32, cx: &Cx) -> Result<ServerHeaderMode, Invalid> {
    use pb::http_connection_manager::ServerHeaderTransformation as Wire;
    Ok(
        match cx.enumeration("server_header_transformation", wire)? {
            Wire::Overwrite => ServerHeaderMode::Overwrite,
            Wire::AppendIfAbsent => ServerHeaderMode::AppendIfAbsent,
            Wire::PassThrough => ServerHeaderMode::PassThrough,
        },
    )
}

fn internal(
    wire: Option<pb::http_connection_manager::InternalAddressConfig>,
    cx: &mut Cx,
) -> Result<Option<Vec<ipnet::IpNet>>, Invalid> {
    let Some(pb::http_connection_manager::InternalAddressConfig {
        unix_sockets,
        cidr_ranges,
    }) = wire
    else {
        return Ok(None);
    };
    ignorable!(cx; unix_sockets);
    cx.field("internal_address_config", |cx| {
        cx.each("cidr_ranges", cidr_ranges, |range, cx| cidr(range, cx))
    })
    .map(Some)
}

fn client_cert(
    mode: i32,
    set: Option<pb::http_connection_manager::SetCurrentClientCertDetails>,
    cx: &mut Cx,
) -> Result<ClientCert, Invalid> {
    use pb::http_connection_manager::ForwardClientCertDetails as Wire;
    let pb::http_connection_manager::SetCurrentClientCertDetails {
        subject,
        cert,
        chain,
        dns,
        uri,
        issuer,
        format,
    } = set.unwrap_or_default();
    refuse!(cx; issuer, format);
    Ok(ClientCert {
        mode: match cx.enumeration("forward_client_cert_details", mode)? {
            Wire::Sanitize => ClientCertMode::Sanitize,
            Wire::ForwardOnly => ClientCertMode::ForwardOnly,
            Wire::AppendForward => ClientCertMode::AppendForward,
            Wire::SanitizeSet => ClientCertMode::SanitizeSet,
            Wire::AlwaysForwardOnly => ClientCertMode::AlwaysForwardOnly,
        },
        subject: flag(subject, false),
        cert,
        chain,
        dns,
        uri,
    })
}

/// Only UUIDs: whether they say why a request is traced, and whether they decide it.
fn request_id(wire: Option<pb::RequestIdExtension>, cx: &mut Cx) -> Result<(bool, bool), Invalid> {
    let Some(any) = wire.and_then(|wire| wire.typed_config) else {
        return Ok((true, true));
    };
    cx.field("request_id_extension.typed_config", |cx| {
        if type_name(&any) != "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig" {
            return Err(cx.invalid(
                "",
                format!("{} is not supported by this proxy", type_name(&any)),
            ));
        }
        let UuidRequestIdConfig {
            pack_trace_reason,
            use_request_id_for_trace_sampling,
        } = cx.unpack("", &any)?;
        Ok((
            flag(pack_trace_reason, true),
            flag(use_request_id_for_trace_sampling, true),
        ))
    })
}

fn strip_port(
    wire: Option<pb::http_connection_manager::StripPortMode>,
    matching: bool,
) -> StripPort {
    use pb::http_connection_manager::StripPortMode;
    match wire {
        Some(StripPortMode::StripAnyHostPort(true)) => StripPort::Any,
        _ if matching => StripPort::Matching,
        _ => StripPort::Never,
    }
}

fn escaped_slashes(wire: i32, cx: &Cx) -> Result<EscapedSlashes, Invalid> {
    use pb::http_connection_manager::PathWithEscapedSlashesAction as Wire;
    Ok(
        match cx.enumeration("path_with_escaped_slashes_action", wire)? {
            Wire::ImplementationSpecificDefault | Wire::KeepUnchanged => EscapedSlashes::Keep,
            Wire::RejectRequest => EscapedSlashes::Reject,
            Wire::UnescapeAndRedirect => EscapedSlashes::Redirect,
            Wire::UnescapeAndForward => EscapedSlashes::Forward,
        },
    )
}

fn upgrade(
    wire: pb::http_connection_manager::UpgradeConfig,
    cx: &mut Cx,
) -> Result<(String, bool), Invalid> {
    let pb::http_connection_manager::UpgradeConfig {
        upgrade_type,
        filters,
        enabled,
    } = wire;
    refuse!(cx; filters);
    if upgrade_type.is_empty() {
        return Err(cx.invalid("upgrade_type", "is required"));
    }
    Ok((upgrade_type.to_ascii_lowercase(), flag(enabled, true)))
}

fn scheme(
    wire: Option<core::SchemeHeaderTransformation>,
    cx: &mut Cx,
) -> Result<Option<&'static str>, Invalid> {
    use core::scheme_header_transformation::Transformation;
    let Some(core::SchemeHeaderTransformation {
        match_upstream,
        transformation,
    }) = wire
    else {
        return Ok(None);
    };
    refuse!(cx; match_upstream);
    match transformation {
        None => Ok(None),
        Some(Transformation::SchemeToOverwrite(scheme)) if scheme == "http" => Ok(Some("http")),
        Some(Transformation::SchemeToOverwrite(scheme)) if scheme == "https" => Ok(Some("https")),
        Some(Transformation::SchemeToOverwrite(_)) => Err(cx.invalid(
            "scheme_header_transformation.scheme_to_overwrite",
            "must be http or https",
        )),
    }
}
