//! The one check every peer certificate passes, in either direction.
//!
//! A chain is first bounded in size, then built to the bundle's roots by webpki (signatures,
//! validity, key usage, name constraints, revocation), then its names are read and its trust domain
//! is compared. Names decide who a peer *is*; whether it *may* is the caller's [`AcceptPeer`] or
//! authorization policy.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::CertificateError;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, RevocationOptionsBuilder, UnknownStatusPolicy};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use malla_model::{SpiffeId, TrustDomain};

use crate::bundle::TrustBundle;
use crate::credential;
use crate::distinguished_name;

/// Certificates a peer may send. Envoy's own default (`max_verify_depth`) is 100; meshes use 2 to 4.
pub const MAX_CHAIN_LENGTH: usize = 10;

/// Bytes a peer's chain may have; a certificate with a large key and many names has about 4 KiB.
pub const MAX_CHAIN_BYTES: usize = 64 * 1024;

/// Names read from one certificate. A public certificate may hold 100 and more.
const MAX_NAMES: usize = 1000;

/// Why a peer was turned away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the peer sent no certificate")]
    NoCertificate,
    #[error(
        "the peer sent {count} certificates of {bytes} bytes (expected at most {MAX_CHAIN_LENGTH} and {MAX_CHAIN_BYTES})"
    )]
    TooLarge { count: usize, bytes: usize },
    #[error("the peer's certificate does not parse: {0}")]
    Malformed(String),
    #[error(
        "the peer's certificate is not signed by a root we trust (is it from another mesh, or is our root out of date?)"
    )]
    UnknownIssuer,
    #[error("the peer's certificate has expired (has its rotation stopped, or is a clock wrong?)")]
    Expired,
    #[error("the peer's certificate is not valid yet (is a clock wrong?)")]
    NotYetValid,
    #[error("the peer's certificate has been revoked")]
    Revoked,
    #[error("the peer's certificate is not meant for this use: {0}")]
    Chain(String),
    #[error(
        "the peer's certificate names no workload (expected one URI spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT)"
    )]
    NoIdentity,
    #[error("the peer is {id}, of trust domain {}, which we do not trust (trusted: {trusted})", id.trust_domain)]
    TrustDomain { id: SpiffeId, trusted: String },
    #[error("the peer is {names} (expected {expected})")]
    NotExpected { names: String, expected: String },
}

impl From<Refused> for rustls::Error {
    /// Keeps the reason, and picks the alert that the peer is sent.
    fn from(refused: Refused) -> Self {
        let error = match refused {
            Refused::NoCertificate => return Self::NoCertificatesPresented,
            Refused::UnknownIssuer => CertificateError::UnknownIssuer,
            Refused::Expired => CertificateError::Expired,
            Refused::NotYetValid => CertificateError::NotValidYet,
            Refused::Revoked => CertificateError::Revoked,
            other => CertificateError::Other(rustls::OtherError(Arc::new(other))),
        };
        Self::InvalidCertificate(error)
    }
}

/// Why a TLS handshake failed, in words: finds our own reason inside of the errors that rustls, tokio
/// and tonic wrap around it.
#[must_use]
pub fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    loop {
        if let Some(rustls::Error::InvalidCertificate(certificate)) = innermost.downcast_ref() {
            return explain(certificate);
        }
        let inside = innermost
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            .map(|inner| inner as &(dyn std::error::Error + 'static));
        match inside.or_else(|| innermost.source()) {
            Some(inner) => innermost = inner,
            None => return innermost.to_string(),
        }
    }
}

fn explain(error: &CertificateError) -> String {
    match error {
        CertificateError::Other(other) => other.0.to_string(),
        CertificateError::UnknownIssuer => Refused::UnknownIssuer.to_string(),
        CertificateError::Expired => Refused::Expired.to_string(),
        CertificateError::NotValidYet => Refused::NotYetValid.to_string(),
        CertificateError::Revoked => Refused::Revoked.to_string(),
        CertificateError::NotValidForName => {
            "the peer's certificate is for another host name".to_owned()
        }
        other => other.to_string(),
    }
}

/// The names in a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerNames {
    /// The workload, when exactly one URI is named and it is a workload identity (X509-SVID §2
    /// forbids a second URI).
    pub spiffe_id: Option<SpiffeId>,
    pub uris: Vec<Box<str>>,
    pub dns: Vec<Box<str>>,
    /// RFC 4514 text of the subject; Envoy puts it into `X-Forwarded-Client-Cert`.
    pub subject: Box<str>,
}

impl PeerNames {
    /// Reads the names of a peer's leaf certificate.
    ///
    /// # Errors
    /// When it does not parse.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, Refused> {
        let parsed = credential::parse(certificate)
            .map_err(|error| Refused::Malformed(error.to_string()))?;
        Ok(Self::of(&parsed))
    }

    pub(crate) fn of(certificate: &X509Certificate<'_>) -> Self {
        let mut names = Self {
            subject: distinguished_name::text(certificate.subject()).into(),
            ..Self::default()
        };
        // A duplicate extension is an error, and then there are no names to trust.
        let Ok(Some(alternative)) = certificate.subject_alternative_name() else {
            return names;
        };
        for name in alternative.value.general_names.iter().take(MAX_NAMES) {
            match name {
                GeneralName::URI(uri) => names.uris.push((*uri).into()),
                GeneralName::DNSName(host) => names.dns.push((*host).into()),
                _ => {}
            }
        }
        if let [only] = &names.uris[..] {
            names.spiffe_id = only.parse().ok();
        }
        names
    }
}

impl fmt::Display for PeerNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<&str> = self
            .uris
            .iter()
            .chain(&self.dns)
            .map(|name| &**name)
            .collect();
        if all.is_empty() {
            return write!(f, "{:?} (no alternative names)", self.subject);
        }
        f.write_str(&all.join(", "))
    }
}

/// What a peer's certificate is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// The peer is a client of ours.
    Client,
    /// The peer is a server we called.
    Server,
}

/// Checks a peer's chain (leaf first) against `bundle` and reads its names.
///
/// # Errors
/// The reason to turn the peer away.
pub fn verify(
    bundle: &TrustBundle,
    chain: &[CertificateDer<'_>],
    usage: Usage,
    now: SystemTime,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<PeerNames, Refused> {
    let now = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let (leaf, intermediates) = chain.split_first().ok_or(Refused::NoCertificate)?;
    verify_at(
        bundle,
        leaf,
        intermediates,
        usage,
        UnixTime::since_unix_epoch(now),
        algorithms,
    )
}

pub(crate) fn verify_at(
    bundle: &TrustBundle,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    usage: Usage,
    now: UnixTime,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<PeerNames, Refused> {
    verify_chain(bundle, leaf, intermediates, usage, now, algorithms)?;
    let names = PeerNames::from_certificate(leaf)?;
    check_trust_domain(&names, bundle.domains())?;
    Ok(names)
}

fn verify_chain(
    bundle: &TrustBundle,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    usage: Usage,
    now: UnixTime,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<(), Refused> {
    let count = intermediates.len() + 1;
    let bytes = leaf.len() + intermediates.iter().map(|der| der.len()).sum::<usize>();
    if count > MAX_CHAIN_LENGTH || bytes > MAX_CHAIN_BYTES {
        return Err(Refused::TooLarge { count, bytes });
    }
    let entity = EndEntityCert::try_from(leaf).map_err(from_webpki)?;
    let revoked: Vec<_> = bundle.revoked().iter().collect();
    let revocation = RevocationOptionsBuilder::new(&revoked).ok().map(|options| {
        // A mesh's list covers the authorities that publish one; others are not thereby untrusted.
        options
            .with_status_policy(UnknownStatusPolicy::Allow)
            .build()
    });
    let usage = match usage {
        Usage::Client => KeyUsage::client_auth(),
        Usage::Server => KeyUsage::server_auth(),
    };
    entity
        .verify_for_usage(
            algorithms.all,
            bundle.anchors(),
            intermediates,
            now,
            usage,
            revocation,
            None,
        )
        .map(|_| ())
        .map_err(from_webpki)
}

fn from_webpki(error: webpki::Error) -> Refused {
    match error {
        // Two meshes' roots often have the same name, and then it is the signature that differs.
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            Refused::UnknownIssuer
        }
        webpki::Error::CertExpired { .. } => Refused::Expired,
        webpki::Error::CertNotValidYet { .. } => Refused::NotYetValid,
        webpki::Error::CertRevoked => Refused::Revoked,
        webpki::Error::BadDer | webpki::Error::BadDerTime | webpki::Error::TrailingData(_) => {
            Refused::Malformed(error.to_string())
        }
        other => Refused::Chain(other.to_string()),
    }
}

/// A workload of a domain that is not trusted is refused; a certificate that names no workload is
/// left to the caller (a gateway's clients have none).
fn check_trust_domain(names: &PeerNames, trusted: &[TrustDomain]) -> Result<(), Refused> {
    let Some(id) = &names.spiffe_id else {
        return Ok(());
    };
    if trusted.is_empty() || trusted.contains(&id.trust_domain) {
        return Ok(());
    }
    let trusted: Vec<&str> = trusted.iter().map(TrustDomain::as_str).collect();
    Err(Refused::TrustDomain {
        id: id.clone(),
        trusted: trusted.join(", "),
    })
}

/// Decides whether a peer is the one that was called, once its chain has been verified.
pub trait AcceptPeer: fmt::Debug + Send + Sync {
    /// # Errors
    /// The reason to turn the peer away.
    fn accept(&self, peer: &PeerNames) -> Result<(), Refused>;
}

/// Any workload of the trusted domains.
#[derive(Debug, Clone, Copy)]
pub struct AnyWorkload;

impl AcceptPeer for AnyWorkload {
    fn accept(&self, peer: &PeerNames) -> Result<(), Refused> {
        match &peer.spiffe_id {
            Some(_) => Ok(()),
            None => Err(Refused::NoIdentity),
        }
    }
}

/// One of these workloads.
#[derive(Debug, Clone)]
pub struct AnyOf(pub Vec<SpiffeId>);

impl AcceptPeer for AnyOf {
    fn accept(&self, peer: &PeerNames) -> Result<(), Refused> {
        let id = peer.spiffe_id.as_ref().ok_or(Refused::NoIdentity)?;
        if self.0.contains(id) {
            return Ok(());
        }
        let expected: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        Err(Refused::NotExpected {
            names: peer.to_string(),
            expected: expected.join(" or "),
        })
    }
}

/// Whoever the roots vouch for; Envoy's meaning of a validation context without SAN matchers.
#[derive(Debug, Clone, Copy)]
pub struct AnyName;

impl AcceptPeer for AnyName {
    fn accept(&self, _: &PeerNames) -> Result<(), Refused> {
        Ok(())
    }
}
