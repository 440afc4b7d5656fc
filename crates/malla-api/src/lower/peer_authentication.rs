//! PeerAuthentication to mutual TLS modes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use malla_model::policy::{MtlsMode, PeerAuthentication};
use serde_json::Value;

use super::meta::{meta, selector};
use super::{Context, Lowered, Refused, decode};
use crate::istio::peer_authentication as raw;
use crate::kind::Kind;

/// Lowers a PeerAuthentication.
///
/// # Errors
/// When the spec is malformed.
pub fn lower(metadata: &ObjectMeta, spec: &Value) -> Result<Lowered<PeerAuthentication>, Refused> {
    let written: raw::PeerAuthenticationSpec = decode(Kind::PeerAuthentication, metadata, spec)?;
    let mut cx = Context::new(metadata, "");
    let selector = selector(written.selector.as_ref().map(|s| &s.match_labels));
    let mut value = PeerAuthentication {
        meta: meta(Kind::PeerAuthentication.name(), metadata),
        selector,
        mode: mode(written.mtls.as_ref()),
        ports: std::collections::BTreeMap::new(),
    };
    for (key, mtls) in &written.port_level_mtls {
        let path = format!("spec.portLevelMtls.{key}");
        match key.parse::<u16>() {
            _ if value.selector.is_none() => {
                cx.note(
                    path,
                    "needs spec.selector, because a port is one of a workload",
                );
            }
            Ok(port) if port != 0 => {
                value.ports.insert(port, mode(Some(mtls)));
            }
            _ => cx.note(path, "not a port (1-65535)"),
        }
    }
    Ok(cx.finish(Kind::PeerAuthentication, spec, value))
}

fn mode(written: Option<&raw::MutualTls>) -> Option<MtlsMode> {
    match written?.mode? {
        raw::MutualTlsMode::Unset => None,
        raw::MutualTlsMode::Disable => Some(MtlsMode::Disable),
        raw::MutualTlsMode::Permissive => Some(MtlsMode::Permissive),
        raw::MutualTlsMode::Strict => Some(MtlsMode::Strict),
    }
}
