//! What a finished handshake says: the peer's certificate, our own, and what was negotiated.
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use malla_identity::credential::Credential;
use malla_identity::distinguished_name;
use malla_identity::pem;
use malla_identity::verify::Usage;
use rustls::{CommonState, NamedGroup, ProtocolVersion, ServerConnection};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::material::cipher_name;
use super::verify::PeerCheck;
use crate::connection::{PeerCertificate, TlsInfo};
use crate::upstream::UpstreamTlsInfo;

/// The facts of a client's handshake with us.
pub(super) fn downstream_info(
    connection: &ServerConnection,
    check: Option<&PeerCheck>,
    own: &[Arc<Credential>],
) -> TlsInfo {
    let chain = connection.peer_certificates();
    let peer = chain.and_then(certificate).map(Arc::new);
    let proven = |check: &PeerCheck| {
        if !check.proves() {
            return false;
        }
        // An untrusted peer may have been let in; a resumed one was proven when the session was made.
        !check.accepts_untrusted()
            || chain
                .is_some_and(|chain| check.check(chain, Usage::Client, SystemTime::now()).is_ok())
    };
    // With several certificates the one chosen is not told; the first stands for the workload.
    let names = own.first().map(|own| own.names());
    let arcs = |names: &[Box<str>]| names.iter().map(|name| Arc::from(&**name)).collect();
    TlsInfo {
        peer_validated: peer.is_some() && check.is_some_and(proven),
        peer,
        local_uri_sans: names.map(|names| arcs(&names.uris)).unwrap_or_default(),
        local_dns_sans: names.map(|names| arcs(&names.dns)).unwrap_or_default(),
        local_subject: names
            .map(|names| Arc::from(&*names.subject))
            .unwrap_or_default(),
        alpn: alpn(connection),
        version: version(connection),
        cipher: cipher(connection),
        group: group(connection),
        own: own.first().map(|own| Arc::clone(own.certified())),
        handshake: None,
    }
}

/// The facts of our handshake with a server.
pub(super) fn upstream_info(
    connection: &rustls::ClientConnection,
    own: Option<&Arc<Credential>>,
) -> UpstreamTlsInfo {
    let peer = connection.peer_certificates().and_then(certificate);
    UpstreamTlsInfo {
        peer_uri_sans: peer
            .as_ref()
            .map(|peer| peer.uri_sans.iter().take(1).cloned().collect())
            .unwrap_or_default(),
        peer: peer.map(Arc::new),
        local_uri_san: own.and_then(|own| Some(Arc::from(&**own.names().uris.first()?))),
        own: own.map(|own| Arc::clone(own.certified())),
        server_name: None,
        group: group(connection),
        alpn: alpn(connection),
        version: version(connection),
        cipher: cipher(connection),
    }
}

fn alpn(connection: &CommonState) -> Option<Arc<str>> {
    connection
        .alpn_protocol()
        .and_then(|name| std::str::from_utf8(name).ok())
        .map(Arc::from)
}

fn version(connection: &CommonState) -> &'static str {
    match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "",
    }
}

fn cipher(connection: &CommonState) -> &'static str {
    connection.negotiated_cipher_suite().map_or("", cipher_name)
}

/// The group's name as BoringSSL has it.
fn group(connection: &CommonState) -> &'static str {
    let group = connection.negotiated_key_exchange_group();
    match group.map(|group| group.name()) {
        Some(NamedGroup::X25519) => "X25519",
        Some(NamedGroup::secp256r1) => "P-256",
        Some(NamedGroup::secp384r1) => "P-384",
        Some(NamedGroup::secp521r1) => "P-521",
        Some(NamedGroup::X25519MLKEM768) => "X25519MLKEM768",
        Some(other) => other.as_str().unwrap_or(""),
        None => "",
    }
}

/// Reads a peer's chain, leaf first; `None` if the leaf does not parse.
pub fn certificate(chain: &[CertificateDer<'_>]) -> Option<PeerCertificate> {
    let leaf = chain.first()?;
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let mut out = PeerCertificate {
        subject: distinguished_name::text(parsed.subject()).into(),
        issuer: distinguished_name::text(parsed.issuer()).into(),
        serial: hex(parsed
            .raw_serial()
            .strip_prefix(&[0])
            .unwrap_or(parsed.raw_serial()))
        .into(),
        sha256: hex(digest(&SHA256, leaf).as_ref()).into(),
        pem: url_encode(&pem::encode_certificates(std::slice::from_ref(leaf))).into(),
        chain_pem: url_encode(&pem::encode_certificates(chain)).into(),
        chain: chain.iter().map(|one| one.clone().into_owned()).collect(),
        not_before: time(parsed.validity().not_before.timestamp()),
        not_after: time(parsed.validity().not_after.timestamp()),
        ..PeerCertificate::default()
    };
    if let Ok(Some(names)) = parsed.subject_alternative_name() {
        for name in &names.value.general_names {
            match name {
                GeneralName::URI(uri) => out.uri_sans.push(Arc::from(*uri)),
                GeneralName::DNSName(host) => out.dns_sans.push(Arc::from(*host)),
                _ => {}
            }
        }
    }
    Some(out)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
}

fn url_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 5 / 4);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte))
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

fn time(seconds: i64) -> Option<SystemTime> {
    u64::try_from(seconds)
        .ok()
        .map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}
