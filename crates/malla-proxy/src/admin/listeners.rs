//! `/listeners` and `/certs`.
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use malla_proxy_config::address::Address;
use malla_proxy_config::secret::SecretKind;
use malla_proxy_config::tls::{CertificateSource, CommonTls, DataSource};
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value, json};

use super::clusters::address_json;
use super::{Admin, timestamp};
use crate::tls::peer;

/// `(name, addresses)` of each listener; for those that do not bind, the addresses they stand for.
fn shown(admin: &Admin) -> Vec<(Arc<str>, Vec<Address>)> {
    let manager = admin.manager.lock().unwrap_or_else(PoisonError::into_inner);
    manager
        .listeners()
        .map(|(listener, bound)| {
            let addresses = if bound.is_empty() {
                listener.config.addresses.clone()
            } else {
                bound
                    .iter()
                    .zip(&listener.config.addresses)
                    .map(|(end, configured)| {
                        end.socket()
                            .map_or_else(|| configured.clone(), Address::Socket)
                    })
                    .collect()
            };
            (Arc::clone(&listener.config.name), addresses)
        })
        .collect()
}

pub(super) fn as_text(admin: &Admin) -> String {
    let rows = shown(admin).into_iter().flat_map(|(name, addresses)| {
        addresses
            .into_iter()
            .map(move |address| format!("{name}::{address}\n"))
            .collect::<Vec<_>>()
    });
    rows.collect()
}

pub(super) fn as_json(admin: &Admin) -> Value {
    let statuses: Vec<Value> = shown(admin)
        .iter()
        .map(|(name, addresses)| {
            let mut out = Map::from_iter([("name".to_owned(), Value::from(&**name))]);
            let mut addresses = addresses.iter().map(address_json);
            out.extend(
                addresses
                    .next()
                    .map(|first| ("local_address".to_owned(), first)),
            );
            let more: Vec<Value> = addresses.collect();
            if !more.is_empty() {
                out.insert("additional_local_addresses".into(), more.into());
            }
            Value::Object(out)
        })
        .collect();
    json!({ "listener_statuses": statuses })
}

/// Own certificates and trusted roots, over all TLS contexts, each pair once.
pub(super) fn certificates(admin: &Admin) -> Value {
    let snapshot = admin.shared.live.load_full();
    let mut contexts: Vec<&CommonTls> = Vec::new();
    for listener in snapshot.listeners() {
        let chains = listener.chains.iter().chain(&listener.default_chain);
        contexts.extend(
            chains
                .filter_map(|chain| chain.tls.as_ref())
                .map(|tls| &tls.common),
        );
    }
    for entry in snapshot.clusters() {
        let matched = entry
            .config
            .transport_matches
            .iter()
            .map(|entry| &entry.transport);
        let transports = matched.chain([&entry.config.transport]);
        contexts.extend(
            transports
                .filter_map(|transport| transport.tls.as_ref())
                .map(|tls| &tls.common),
        );
    }
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for common in contexts {
        let secret = |name: &Arc<str>| snapshot.secret(name).and_then(|cell| cell.load_full());
        let mut chains = Vec::new();
        for certificate in &common.certificates {
            match certificate {
                CertificateSource::Static(pair) => chains.push(pair.chain.clone()),
                CertificateSource::Sds(sds) => {
                    if let Some(SecretKind::Certificate(pair)) =
                        secret(&sds.name).map(|secret| secret.kind.clone())
                    {
                        chains.push(pair.chain.clone());
                    }
                }
            }
        }
        let mut roots: Vec<DataSource> = common
            .validation
            .fixed
            .iter()
            .filter_map(|context| context.trusted_ca.clone())
            .collect();
        if let Some(SecretKind::Validation(context)) = common
            .validation
            .sds
            .as_ref()
            .and_then(|sds| secret(&sds.name))
            .map(|secret| secret.kind.clone())
        {
            roots.extend(context.trusted_ca.clone());
        }
        let entry = json!({
            "ca_cert": roots.iter().flat_map(details).collect::<Vec<_>>(),
            "cert_chain": chains.iter().flat_map(details).collect::<Vec<_>>(),
        });
        if seen.insert(entry.to_string()) {
            out.push(entry);
        }
    }
    json!({ "certificates": out })
}

/// Each certificate of a source as `envoy.admin.v3.CertificateDetails`.
fn details(source: &DataSource) -> Vec<Value> {
    let (path, text) = match source {
        DataSource::Inline(bytes) => ("<inline>".to_owned(), Some(bytes.to_vec())),
        DataSource::Loaded { path, bytes } => (path.display().to_string(), Some(bytes.to_vec())),
        DataSource::File(path) => (
            path.display().to_string(),
            std::fs::read(Path::new(&**path)).ok(),
        ),
        DataSource::Env(name) => (format!("${name}"), None),
    };
    let certificates = text
        .and_then(|text| malla_identity::pem::certificates("certs", &text).ok())
        .unwrap_or_default();
    certificates
        .iter()
        .filter_map(|certificate| one(&path, certificate))
        .collect()
}

fn one(path: &str, der: &CertificateDer<'_>) -> Option<Value> {
    let certificate = peer::certificate(std::slice::from_ref(der))?;
    let names = certificate
        .uri_sans
        .iter()
        .map(|uri| json!({ "uri": &**uri }));
    let names = names.chain(
        certificate
            .dns_sans
            .iter()
            .map(|dns| json!({ "dns": &**dns })),
    );
    let left = certificate
        .not_after
        .and_then(|end| end.duration_since(SystemTime::now()).ok());
    let days = left.map_or(0, |left| left.as_secs() / 86_400);
    Some(json!({
        "path": path,
        "serial_number": &*certificate.serial,
        "subject_alt_names": names.collect::<Vec<_>>(),
        "days_until_expiration": days.to_string(),
        "valid_from": certificate.not_before.map(timestamp),
        "expiration_time": certificate.not_after.map(timestamp),
    }))
}
