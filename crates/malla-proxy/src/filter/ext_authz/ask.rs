//! What the service is asked.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, Uri};
use malla_proxy_config::http_filter::{AuthzBody, AuthzHttp, AuthzOverride, ExtAuthz};
use malla_proxy_config::metadata::{Metadata, to_struct};
use malla_proxy_config::request::{RequestView, text};
use malla_xds_proto::core;
use malla_xds_proto::pb::envoy::service::auth::v3 as pb;
use malla_xds_proto::pb::envoy::service::auth::v3::attribute_context as attributes;
use malla_xds_proto::pb::google::protobuf::Timestamp;

use crate::connection::{Connection, End, TlsInfo};
use crate::http::exchange::Exchange;
use crate::telemetry::access_log;
use crate::upstream::Upstreams;

const PARTIAL: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");
const CLUSTER: HeaderName = HeaderName::from_static("x-envoy-downstream-service-cluster");

/// The question in gRPC.
pub(super) fn grpc<U: Upstreams>(
    x: &Exchange<U>,
    config: &ExtAuthz,
    route: Option<&AuthzOverride>,
    body: Option<(Bytes, bool, AuthzBody)>,
) -> pb::CheckRequest {
    let view = x.view();
    let connection = &x.cx.connection;
    let mut source = peer(&connection.remote, connection.tls.as_ref(), false);
    source.service = view.headers.get(CLUSTER).map_or("", text).to_owned();
    if config.certificate
        && let Some(certificate) = connection.tls.as_ref().and_then(|tls| tls.peer.as_ref())
    {
        source.certificate = certificate.pem.to_string();
    }
    let destination = peer(&connection.local, connection.tls.as_ref(), true);
    let record = x.observer.record();
    let noted = record.state.as_ref().map(|state| &state.metadata);
    let of_route = x
        .selected
        .as_ref()
        .map(|selected| &selected.route().metadata);
    let attributes = pb::AttributeContext {
        source: Some(source),
        destination: Some(destination),
        request: Some(attributes::Request {
            time: Some(timestamp(record.start_wall)),
            http: Some(request(x, &view, config, body)),
        }),
        context_extensions: route.map_or_else(HashMap::new, |route| {
            let pairs = route.context.iter();
            pairs
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        }),
        metadata_context: Some(metadata(noted, &config.metadata_namespaces)),
        route_metadata_context: Some(metadata(of_route, &config.route_namespaces)),
        tls_session: tls_session(connection, config.tls_session),
    };
    pb::CheckRequest {
        attributes: Some(attributes),
    }
}

fn request<U: Upstreams>(
    x: &Exchange<U>,
    view: &RequestView<'_>,
    config: &ExtAuthz,
    body: Option<(Bytes, bool, AuthzBody)>,
) -> attributes::HttpRequest {
    let mut shown = shown_headers(view, config);
    let mut out = attributes::HttpRequest {
        id: x.random.to_string(),
        method: view.method.to_string(),
        path: view.path.to_owned(),
        host: view.authority().to_owned(),
        scheme: view.scheme.to_owned(),
        size: i64::try_from(x.flow.progress.received.get()).unwrap_or(i64::MAX),
        protocol: access_log::protocol(x.head.version).to_owned(),
        ..attributes::HttpRequest::default()
    };
    if let Some((body, partial, settings)) = body {
        match settings.raw {
            true => out.raw_body = body.to_vec(),
            false => out.body = sanitised(&body),
        }
        shown.push((PARTIAL.to_string(), partial.to_string().into_bytes()));
    }
    if config.raw_headers {
        let headers = shown.into_iter().map(|(key, raw_value)| core::HeaderValue {
            key,
            raw_value,
            ..core::HeaderValue::default()
        });
        out.header_map = Some(core::HeaderMap {
            headers: headers.collect(),
        });
        return out;
    }
    for (key, value) in shown {
        let value = sanitised(&value);
        out.headers
            .entry(key)
            .and_modify(|held| {
                held.push(',');
                held.push_str(&value);
            })
            .or_insert(value);
    }
    out
}

/// Header fields the service may see, pseudo-headers first.
fn shown_headers(view: &RequestView<'_>, config: &ExtAuthz) -> Vec<(String, Vec<u8>)> {
    let pseudo = [
        (":authority", view.authority()),
        (":path", view.path),
        (":method", view.method.as_str()),
        (":scheme", view.scheme),
    ];
    let pseudo = pseudo
        .into_iter()
        .map(|(name, value)| (name, value.as_bytes()));
    let fields = view
        .headers
        .iter()
        .filter(|(name, _)| **name != header::HOST);
    let fields = fields.map(|(name, value)| (name.as_str(), value.as_bytes()));
    let may_see = |name: &str| {
        config.shown.as_ref().is_none_or(|shown| shown.has(name)) && !config.hidden.has(name)
    };
    pseudo
        .chain(fields)
        .filter(|(name, _)| may_see(name))
        .map(|(name, value)| (name.to_owned(), value.to_vec()))
        .collect()
}

/// The same as a plain request; `None` where it cannot be one.
pub(super) fn http<U: Upstreams>(
    x: &Exchange<U>,
    config: &ExtAuthz,
    service: &AuthzHttp,
    body: Option<(Bytes, bool, AuthzBody)>,
) -> Option<Request<Bytes>> {
    let view = x.view();
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_str(view.authority()).ok()?);
    for (name, value) in shown_headers(&view, config) {
        // Framing and hops are this request's own.
        let own = [
            "content-length",
            "transfer-encoding",
            "connection",
            "upgrade",
            "te",
        ];
        if name.starts_with(':') || own.contains(&name.as_str()) {
            continue;
        }
        let name = name.parse::<HeaderName>().ok()?;
        headers.append(name, HeaderValue::from_bytes(&value).ok()?);
    }
    let (body, partial) = match body {
        Some((body, partial, _)) => (body, Some(partial)),
        None => (Bytes::new(), None),
    };
    if let Some(partial) = partial {
        let value = if partial { "true" } else { "false" };
        headers.insert(PARTIAL, HeaderValue::from_static(value));
    }
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    for (name, format) in &service.add {
        if let Some(value) = access_log::header_value(format, &x.source()) {
            headers.insert(name, value);
        }
    }
    let path = match service.path_override.as_str() {
        "" => format!("{}{}", service.path_prefix, view.path),
        instead => instead.to_owned(),
    };
    let mut out = Request::new(body);
    *out.method_mut() = view.method.clone();
    *out.uri_mut() = Uri::from(PathAndQuery::try_from(path).ok()?);
    *out.headers_mut() = headers;
    Some(out)
}

/// One side of the connection, as its certificate names it.
pub(crate) fn peer(end: &End, tls: Option<&TlsInfo>, local: bool) -> attributes::Peer {
    attributes::Peer {
        address: Some(core::Address {
            address: Some(address(end)),
        }),
        principal: tls.map(|tls| principal(tls, local)).unwrap_or_default(),
        ..attributes::Peer::default()
    }
}

fn address(end: &End) -> core::address::Address {
    use core::socket_address::PortSpecifier;
    match end {
        End::Ip(address) => core::address::Address::SocketAddress(core::SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
            ..core::SocketAddress::default()
        }),
        End::Unix(name) => core::address::Address::Pipe(core::Pipe {
            path: name.to_string(),
            ..core::Pipe::default()
        }),
    }
}

fn principal(tls: &TlsInfo, local: bool) -> String {
    let (uris, names, subject) = match (local, &tls.peer) {
        (true, _) => (&tls.local_uri_sans, &tls.local_dns_sans, &tls.local_subject),
        (false, Some(peer)) => (&peer.uri_sans, &peer.dns_sans, &peer.subject),
        (false, None) => return String::new(),
    };
    let name = uris.first().or(names.first()).unwrap_or(subject);
    name.to_string()
}

/// What TLS says of the connection, where it is shown.
pub(crate) fn tls_session(connection: &Connection, shown: bool) -> Option<attributes::TlsSession> {
    (shown && connection.tls.is_some()).then(|| attributes::TlsSession {
        sni: connection.server_name.as_deref().unwrap_or("").to_owned(),
    })
}

fn metadata(from: Option<&Metadata>, namespaces: &[String]) -> core::Metadata {
    let held = |name: &String| Some((name.clone(), to_struct(from?.get(name)?)));
    core::Metadata {
        filter_metadata: namespaces.iter().filter_map(held).collect(),
        ..core::Metadata::default()
    }
}

/// A moment as protobuf has it.
pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

/// Text for a protobuf string: what is not UTF-8 becomes `!`, as in Envoy.
fn sanitised(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().map(|_| '!'));
    }
    out
}
