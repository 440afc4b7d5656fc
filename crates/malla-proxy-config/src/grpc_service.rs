//! Services the proxy itself calls: by gRPC or HTTP, always through a cluster.

use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue, Uri};

use crate::checked::{Cx, Invalid, ignorable, refuse};
use crate::pb::core;

/// `envoy.config.core.v3.GrpcService` with `envoy_grpc`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GrpcService {
    /// Cluster of the server.
    pub cluster: Arc<str>,
    /// `:authority`; the cluster's name unless configured.
    pub authority: HeaderValue,
    /// Limit of a call.
    pub timeout: Option<Duration>,
    /// Sent with each call.
    pub metadata: Vec<(HeaderName, HeaderValue)>,
}

/// `envoy.config.core.v3.HttpService`.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpService {
    /// Cluster of the server.
    pub cluster: Arc<str>,
    /// `Host`.
    pub authority: HeaderValue,
    /// Where to.
    pub path: PathAndQuery,
    /// Limit of a request.
    pub timeout: Duration,
    /// Sent with each request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl GrpcService {
    pub(crate) fn parse(wire: core::GrpcService, cx: &mut Cx) -> Result<Self, Invalid> {
        use core::grpc_service::{EnvoyGrpc, TargetSpecifier};
        let core::GrpcService {
            timeout,
            initial_metadata,
            retry_policy,
            target_specifier,
        } = wire;
        refuse!(cx; retry_policy);
        let EnvoyGrpc {
            cluster_name,
            authority,
            retry_policy,
            max_receive_message_length,
            skip_envoy_headers,
        } = match cx.required("target_specifier", target_specifier)? {
            TargetSpecifier::EnvoyGrpc(grpc) => grpc,
            TargetSpecifier::GoogleGrpc(_) => {
                return Err(
                    cx.invalid("google_grpc", "not supported by this proxy; use envoy_grpc")
                );
            }
        };
        // No `x-envoy-*` headers are sent anyway, and answers are small.
        ignorable!(cx; max_receive_message_length, skip_envoy_headers);
        cx.unset("envoy_grpc.retry_policy", &retry_policy)?;
        if cluster_name.is_empty() {
            return Err(cx.invalid("envoy_grpc.cluster_name", "is required"));
        }
        let authority = if authority.is_empty() {
            &cluster_name
        } else {
            &authority
        };
        Ok(Self {
            authority: host("envoy_grpc.authority", authority, cx)?,
            cluster: cluster_name.into(),
            timeout: cx.duration("timeout", timeout)?,
            metadata: cx.each("initial_metadata", initial_metadata, header)?,
        })
    }
}

/// Envoy takes any cluster name for a host; an authority may hold less.
fn host(field: &str, text: &str, cx: &Cx) -> Result<HeaderValue, Invalid> {
    let text: String = text
        .chars()
        .map(|c| if c == '|' { '_' } else { c })
        .collect();
    if text.parse::<Authority>().is_err() {
        return Err(cx.invalid(field, "is not a host"));
    }
    HeaderValue::from_str(&text).map_err(|_| cx.invalid(field, "is not a host"))
}

fn header(wire: core::HeaderValue, cx: &mut Cx) -> Result<(HeaderName, HeaderValue), Invalid> {
    let core::HeaderValue {
        key,
        value,
        raw_value,
    } = wire;
    let name = key
        .parse()
        .map_err(|_| cx.invalid("key", format!("`{key}` is not a header name")))?;
    let bytes = if raw_value.is_empty() {
        value.into_bytes()
    } else {
        raw_value
    };
    let value = HeaderValue::from_bytes(&bytes)
        .map_err(|_| cx.invalid("value", "has characters that no header may have"))?;
    Ok((name, value))
}

impl HttpService {
    pub(crate) fn parse(wire: core::HttpService, cx: &mut Cx) -> Result<Self, Invalid> {
        let core::HttpService {
            http_uri,
            request_headers_to_add,
            formatters,
        } = wire;
        refuse!(cx; formatters);
        let core::HttpUri {
            uri,
            timeout,
            http_upstream_type,
        } = cx.required("http_uri", http_uri)?;
        let Some(core::http_uri::HttpUpstreamType::Cluster(cluster)) = http_upstream_type else {
            return Err(cx.invalid("http_uri.cluster", "is required"));
        };
        // Envoy takes one without its scheme too.
        let whole = match uri.contains("://") {
            true => uri,
            false => format!("http://{uri}"),
        };
        let parsed: Uri = whole
            .parse()
            .map_err(|_| cx.invalid("http_uri.uri", "is not a URI"))?;
        let authority = parsed
            .authority()
            .map_or(cluster.as_str(), Authority::as_str);
        let path = parsed.path_and_query().cloned();
        let headers = cx.each(
            "request_headers_to_add",
            request_headers_to_add,
            |add, cx| {
                let wire = cx.required("header", add.header)?;
                if wire.value.contains('%') {
                    return Err(cx.invalid(
                        "header.value",
                        "commands are not supported by this proxy here; write plain text",
                    ));
                }
                header(wire, cx)
            },
        )?;
        let timeout = cx.duration("http_uri.timeout", timeout)?;
        Ok(Self {
            authority: host("http_uri.uri", authority, cx)?,
            cluster: cluster.into(),
            path: path.unwrap_or_else(|| PathAndQuery::from_static("/")),
            timeout: cx.required("http_uri.timeout", timeout)?,
            headers,
        })
    }
}
