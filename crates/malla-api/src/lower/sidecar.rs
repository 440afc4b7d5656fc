//! Sidecar to what a proxy knows and serves.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use malla_model::settings::OutboundPolicy;
use malla_model::sidecar::{
    Backend, Capture, Egress, Import, Ingress, ListenerPort, OWN_NAMESPACE, Sidecar,
};
use malla_model::{Host, MeshSettings, Protocol};
use serde_json::Value;

use super::meta::{meta, port, selector, text};
use super::virtual_service::{collect, destination};
use super::{Context, Lowered, Refused, decode, gateway, traffic_policy};
use crate::istio::sidecar as raw;
use crate::kind::Kind;

/// Lowers a Sidecar.
///
/// # Errors
/// When the spec is malformed.
pub fn lower(
    metadata: &ObjectMeta,
    spec: &Value,
    settings: &MeshSettings,
) -> Result<Lowered<Sidecar>, Refused> {
    let written: raw::SidecarSpec = decode(Kind::Sidecar, metadata, spec)?;
    let mut cx = Context::new(metadata, &settings.domain);
    let mut egresses = collect(&written.egress, "spec.egress", &mut cx, egress);
    if egresses.is_empty() {
        egresses.push(Egress::everything());
    }
    let policy = written.outbound_traffic_policy.as_ref();
    let labels = written.workload_selector.as_ref().map(|s| &s.labels);
    let value = Sidecar {
        meta: meta(Kind::Sidecar.name(), metadata),
        selector: selector(labels),
        egress: egresses,
        ingress: collect(&written.ingress, "spec.ingress", &mut cx, ingress),
        inbound_pool: written
            .inbound_connection_pool
            .as_ref()
            .map(traffic_policy::connection_pool),
        outbound: policy.map(|policy| match policy.mode {
            Some(raw::OutboundMode::AllowAny) => OutboundPolicy::AllowAny,
            // Protobuf's zero: an empty policy is the strict one.
            Some(raw::OutboundMode::RegistryOnly) | None => OutboundPolicy::RegistryOnly,
        }),
        egress_proxy: policy
            .and_then(|policy| policy.egress_proxy.as_ref())
            .and_then(|to| destination(to, "spec.outboundTrafficPolicy.egressProxy", &mut cx)),
    };
    Ok(cx.finish(Kind::Sidecar, spec, value))
}

fn egress(written: &raw::IstioEgressListener, path: &str, cx: &mut Context<'_>) -> Option<Egress> {
    let bind = text(&written.bind);
    let socket = bind.as_ref().is_some_and(|b| b.starts_with("unix://"));
    Some(Egress {
        port: match &written.port {
            Some(port) => Some(listener_port(port, socket, path, cx)?),
            None => None,
        },
        capture: capture(written.capture_mode),
        imports: collect(
            &written.hosts,
            &format!("{path}.hosts"),
            cx,
            |host, path, cx| import(host, path, cx),
        ),
        bind,
    })
}

/// `namespace/host`; `~` before the namespace leaves hosts out.
fn import(written: &str, path: &str, cx: &mut Context<'_>) -> Option<Import> {
    let Some((namespace, host)) = written.split_once('/') else {
        cx.note(path, "not NAMESPACE/HOST, so it imports nothing");
        return None;
    };
    let (namespace, excluded) = match namespace.strip_prefix('~') {
        // So `~/*`, as old as the kind, is "nothing".
        Some("") => ("*", true),
        Some(namespace) => (namespace, true),
        None => (namespace, false),
    };
    Some(Import {
        namespace: match namespace {
            "*" => None,
            "." => Some(OWN_NAMESPACE.into()),
            name => Some(name.into()),
        },
        host: Host::new(host),
        excluded,
    })
}

fn ingress(
    written: &raw::IstioIngressListener,
    path: &str,
    cx: &mut Context<'_>,
) -> Option<Ingress> {
    let endpoint = written.default_endpoint.as_deref().unwrap_or_default();
    let Some(endpoint) = backend(endpoint) else {
        cx.note(
            format!("{path}.defaultEndpoint"),
            "not 127.0.0.1:PORT, 0.0.0.0:PORT or unix:///path, so this listener is left out",
        );
        return None;
    };
    let written_port = written.port.clone().unwrap_or_default();
    Some(Ingress {
        port: listener_port(&written_port, false, path, cx)?,
        bind: text(&written.bind),
        capture: capture(written.capture_mode),
        endpoint,
        tls: written.tls.as_ref().map(gateway::tls),
        pool: written
            .connection_pool
            .as_ref()
            .map(traffic_policy::connection_pool),
    })
}

/// Where the workload listens, as an ingress listener says it.
pub(crate) fn backend(written: &str) -> Option<Backend> {
    if written.is_empty() {
        return Some(Backend::Meant);
    }
    if let Some(path) = written.strip_prefix("unix://") {
        return Some(Backend::Unix(path.into()));
    }
    let (host, number) = written.rsplit_once(':')?;
    let number = port(number.parse().ok()?)?;
    match host {
        "127.0.0.1" | "[::1]" => Some(Backend::Loopback(number)),
        "0.0.0.0" | "[::]" => Some(Backend::Instance(number)),
        _ => None,
    }
}

fn listener_port(
    written: &raw::SidecarPort,
    socket: bool,
    path: &str,
    cx: &mut Context<'_>,
) -> Option<ListenerPort> {
    let number = match written.number.unwrap_or_default() {
        0 if socket => 0,
        number => {
            let Some(number) = port(number) else {
                cx.note(
                    format!("{path}.port.number"),
                    "not a port (1-65535), so this listener is left out",
                );
                return None;
            };
            number
        }
    };
    let declared = written.protocol.as_deref().unwrap_or_default();
    let protocol = Protocol::parse(declared).unwrap_or_else(|| {
        cx.note(
            format!("{path}.port.protocol"),
            "not a known protocol; the first bytes decide",
        );
        Protocol::Sniffed
    });
    Some(ListenerPort {
        number,
        name: text(&written.name).unwrap_or_default(),
        protocol,
    })
}

fn capture(written: Option<raw::CaptureMode>) -> Capture {
    match written {
        Some(raw::CaptureMode::None) => Capture::None,
        Some(raw::CaptureMode::Default | raw::CaptureMode::Iptables) | None => Capture::Default,
    }
}

#[cfg(test)]
mod tests {
    use malla_model::sidecar::Backend;

    use super::backend;

    #[test]
    fn a_backend_is_one_of_four_forms() {
        for (text, want) in [
            ("", Some(Backend::Meant)),
            ("127.0.0.1:8080", Some(Backend::Loopback(8080))),
            ("[::1]:8080", Some(Backend::Loopback(8080))),
            ("0.0.0.0:8080", Some(Backend::Instance(8080))),
            (
                "unix:///var/run/app",
                Some(Backend::Unix("/var/run/app".into())),
            ),
            ("10.0.0.1:8080", None),
            ("127.0.0.1", None),
            ("127.0.0.1:0", None),
        ] {
            assert_eq!(backend(text), want, "{text}");
        }
    }
}
