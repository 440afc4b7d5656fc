//! Gateway to servers.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use malla_model::gateway::{Gateway, Server, ServerHost, ServerTls, ServerTlsMode, TlsVersion};
use malla_model::{Host, Protocol};
use serde_json::Value;

use super::meta::{meta, port, text, texts};
use super::virtual_service::collect;
use super::{Context, Lowered, Refused, decode};
use crate::istio::gateway as raw;
use crate::kind::Kind;

/// Lowers a Gateway.
///
/// # Errors
/// When the spec is malformed.
pub fn lower(metadata: &ObjectMeta, spec: &Value) -> Result<Lowered<Gateway>, Refused> {
    let written: raw::GatewaySpec = decode(Kind::Gateway, metadata, spec)?;
    let mut cx = Context::new(metadata, "");
    let value = Gateway {
        meta: meta(Kind::Gateway.name(), metadata),
        selector: written.selector.clone(),
        pods_in: None,
        servers: collect(&written.servers, "spec.servers", &mut cx, server),
    };
    Ok(cx.finish(Kind::Gateway, spec, value))
}

fn server(written: &raw::Server, path: &str, cx: &mut Context<'_>) -> Option<Server> {
    let Some((written_port, number)) = written
        .port
        .as_ref()
        .and_then(|p| Some((p, port(p.number)?)))
    else {
        cx.note(
            format!("{path}.port.number"),
            "not a port (1-65535), so this server opens nothing",
        );
        return None;
    };
    let Some(protocol) = server_protocol(&written_port.protocol) else {
        cx.note(
            format!("{path}.port.protocol"),
            "not one of HTTP, HTTPS, HTTP2, GRPC, GRPC-Web, TLS, TCP, MONGO, so this server opens nothing",
        );
        return None;
    };
    Some(Server {
        name: text(&written.name).unwrap_or_default(),
        port: number,
        port_name: written_port.name.as_str().into(),
        protocol,
        bind: text(&written.bind),
        hosts: written
            .hosts
            .iter()
            .map(|host| server_host(host, cx.namespace))
            .collect(),
        tls: written.tls.as_ref().map(tls),
    })
}

/// The protocols a server may have.
pub(crate) fn server_protocol(text: &str) -> Option<Protocol> {
    let allowed = [
        "HTTP", "HTTPS", "HTTP2", "GRPC", "GRPC-WEB", "TLS", "TCP", "MONGO",
    ];
    allowed
        .contains(&text.to_ascii_uppercase().as_str())
        .then(|| Protocol::parse(text))
        .flatten()
}

/// `namespace/host`, `./host`, `*/host` or `host`.
pub(crate) fn server_host(text: &str, own_namespace: &str) -> ServerHost {
    let (namespace, host) = match text.split_once('/') {
        None => (None, text),
        Some(("*", host)) => (None, host),
        Some((".", host)) => (Some(own_namespace.into()), host),
        Some((namespace, host)) => (Some(namespace.into()), host),
    };
    ServerHost {
        namespace,
        host: Host::new(host),
    }
}

pub(super) fn tls(written: &raw::ServerTlsSettings) -> ServerTls {
    let version = |protocol: Option<raw::TlsProtocol>| match protocol {
        None | Some(raw::TlsProtocol::Auto) => None,
        Some(raw::TlsProtocol::V1_0) => Some(TlsVersion::V1_0),
        Some(raw::TlsProtocol::V1_1) => Some(TlsVersion::V1_1),
        Some(raw::TlsProtocol::V1_2) => Some(TlsVersion::V1_2),
        Some(raw::TlsProtocol::V1_3) => Some(TlsVersion::V1_3),
    };
    let credential_names = match text(&written.credential_name) {
        Some(name) => vec![name],
        None => texts(&written.credential_names),
    };
    ServerTls {
        https_redirect: written.https_redirect,
        mode: match written.mode {
            None | Some(raw::ServerTlsMode::Passthrough) => ServerTlsMode::Passthrough,
            Some(raw::ServerTlsMode::Simple) => ServerTlsMode::Simple,
            Some(raw::ServerTlsMode::Mutual) => ServerTlsMode::Mutual,
            Some(raw::ServerTlsMode::AutoPassthrough) => ServerTlsMode::AutoPassthrough,
            Some(raw::ServerTlsMode::IstioMutual) => ServerTlsMode::IstioMutual,
            Some(raw::ServerTlsMode::OptionalMutual) => ServerTlsMode::OptionalMutual,
        },
        credential_names,
        granted: Vec::new(),
        ca_credential_name: text(&written.ca_cert_credential_name),
        server_certificate: text(&written.server_certificate),
        private_key: text(&written.private_key),
        ca_certificates: text(&written.ca_certificates),
        subject_alt_names: texts(&written.subject_alt_names),
        min_version: version(written.min_protocol_version),
        max_version: version(written.max_protocol_version),
        cipher_suites: texts(&written.cipher_suites),
    }
}
