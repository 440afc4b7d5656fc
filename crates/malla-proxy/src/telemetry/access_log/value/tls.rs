//! What the TLS handshakes on both sides have shown.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use malla_proxy_config::format::Plain;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;

use super::{Source, Value, text};
use crate::connection::{PeerCertificate, TlsInfo};
use crate::tls::details::{self, NameKind};
use crate::upstream::UpstreamTlsInfo;

impl<'a> Source<'a> {
    pub(super) fn tls(&self, plain: Plain) -> Value<'a> {
        let down = self.record.connection.tls.as_ref();
        let up = self.record.attempt.tls.as_deref();
        let of = |get: fn(&TlsInfo) -> &str| text(down.map(get).filter(|text| !text.is_empty()));
        let upstream =
            |get: fn(&UpstreamTlsInfo) -> &str| text(up.map(get).filter(|text| !text.is_empty()));
        match plain {
            Plain::DownstreamTlsVersion => of(|tls| tls.version),
            Plain::DownstreamTlsCipher => of(|tls| tls.cipher),
            Plain::DownstreamTlsGroup => of(|tls| tls.group),
            Plain::DownstreamLocalSubject => of(|tls| &tls.local_subject),
            Plain::DownstreamLocalUriSan => list(down.map(|tls| tls.local_uri_sans.as_slice())),
            Plain::DownstreamLocalDnsSan => list(down.map(|tls| tls.local_dns_sans.as_slice())),
            Plain::DownstreamLocalIpSan => own(down.and_then(|tls| tls.own.as_ref()), NameKind::Ip),
            Plain::DownstreamLocalEmailSan => {
                own(down.and_then(|tls| tls.own.as_ref()), NameKind::Email)
            }
            Plain::DownstreamLocalOtherNameSan => {
                own(down.and_then(|tls| tls.own.as_ref()), NameKind::Other)
            }
            Plain::UpstreamTlsVersion => upstream(|tls| tls.version),
            Plain::UpstreamServerName => text(up.and_then(|tls| tls.server_name.as_deref())),
            Plain::UpstreamTlsCipher => upstream(|tls| tls.cipher),
            Plain::UpstreamTlsGroup => upstream(|tls| tls.group),
            Plain::UpstreamLocalUriSan => own(up.and_then(|tls| tls.own.as_ref()), NameKind::Uri),
            Plain::UpstreamLocalDnsSan => own(up.and_then(|tls| tls.own.as_ref()), NameKind::Dns),
            Plain::UpstreamLocalIpSan => own(up.and_then(|tls| tls.own.as_ref()), NameKind::Ip),
            _ => self.peer(plain),
        }
    }

    /// What the peers' certificates say.
    fn peer(&self, plain: Plain) -> Value<'a> {
        let down = self.record.connection.tls.as_ref();
        let client = down.and_then(|tls| tls.peer.as_deref());
        let up = self.record.attempt.tls.as_deref();
        let server = up.and_then(|tls| tls.peer.as_deref());
        let of = |peer: Option<&'a PeerCertificate>, get: fn(&PeerCertificate) -> &str| {
            text(peer.map(get).filter(|text| !text.is_empty()))
        };
        let chain = client.map(|peer| &*peer.chain).unwrap_or_default();
        // The one that signed the leaf is the next one, where the client sent it.
        let (leaf, issuer) = (chain.first(), chain.get(1));
        let sha1 = |one: &CertificateDer<'_>| details::fingerprint(one, &SHA1_FOR_LEGACY_USE_ONLY);
        let sha256 = |one: &CertificateDer<'_>| details::fingerprint(one, &SHA256);
        match plain {
            Plain::DownstreamPeerUriSan => list(client.map(|peer| peer.uri_sans.as_slice())),
            Plain::DownstreamPeerDnsSan => list(client.map(|peer| peer.dns_sans.as_slice())),
            Plain::DownstreamPeerIpSan => told(leaf, |one| details::names(one, NameKind::Ip)),
            Plain::DownstreamPeerEmailSan => told(leaf, |one| details::names(one, NameKind::Email)),
            Plain::DownstreamPeerOtherNameSan => {
                told(leaf, |one| details::names(one, NameKind::Other))
            }
            Plain::DownstreamPeerSubject => of(client, |peer| &peer.subject),
            Plain::DownstreamPeerIssuer => of(client, |peer| &peer.issuer),
            Plain::DownstreamPeerSerial => of(client, |peer| &peer.serial),
            Plain::DownstreamPeerFingerprint256 => of(client, |peer| &peer.sha256),
            Plain::DownstreamPeerFingerprint1 => told(leaf, sha1),
            Plain::DownstreamPeerChainFingerprints1 => told(chain, sha1),
            Plain::DownstreamPeerChainFingerprints256 => told(chain, sha256),
            Plain::DownstreamPeerChainSerials => told(chain, details::serial),
            Plain::DownstreamPeerIssuerSerial => told(issuer, details::serial),
            Plain::DownstreamPeerIssuerFingerprint256 => told(issuer, sha256),
            Plain::DownstreamPeerCert => of(client, |peer| &peer.pem),
            Plain::UpstreamPeerUriSan => list(server.map(|peer| peer.uri_sans.as_slice())),
            Plain::UpstreamPeerDnsSan => list(server.map(|peer| peer.dns_sans.as_slice())),
            Plain::UpstreamPeerIpSan => {
                let leaf = server.and_then(|peer| peer.chain.first());
                told(leaf, |one| details::names(one, NameKind::Ip))
            }
            Plain::UpstreamPeerSubject => of(server, |peer| &peer.subject),
            Plain::UpstreamPeerIssuer => of(server, |peer| &peer.issuer),
            Plain::UpstreamPeerCert => of(server, |peer| &peer.pem),
            _ => Value::None,
        }
    }
}

/// Names of one kind in our own certificate.
fn own<'a>(key: Option<&Arc<CertifiedKey>>, kind: NameKind) -> Value<'a> {
    let leaf = key.and_then(|key| key.cert.first());
    told(leaf, |one| details::names(one, kind))
}

/// What each of these certificates tells, with commas between.
fn told<'a, 'c>(
    certificates: impl IntoIterator<Item = &'c CertificateDer<'static>>,
    tell: impl Fn(&CertificateDer<'static>) -> String,
) -> Value<'a> {
    let all: Vec<String> = certificates.into_iter().map(tell).collect();
    match all.join(",") {
        text if text.is_empty() => Value::None,
        text => Value::Owned(text),
    }
}

fn list<'a>(names: Option<&'a [Arc<str>]>) -> Value<'a> {
    match names.unwrap_or_default() {
        [] => Value::None,
        [one] => Value::Text(one),
        many => Value::Owned(many.join(",")),
    }
}
