//! The check a peer's certificate passes: chain, revocation, names, pins, as `CertificateValidationContext` says.
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use malla_identity::bundle::TrustBundle;
use malla_identity::verify::{Refused, Usage, verify};
use malla_proxy_config::tls::{SanKind, SanMatcher, ValidationContext};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// Everything one validation context demands.
#[derive(Debug, Clone)]
pub struct PeerCheck {
    bundle: Arc<TrustBundle>,
    /// Any one must match; empty accepts any name.
    san: Vec<SanMatcher>,
    /// SHA-256 of SPKI or certificate; any one must match; empty accepts any.
    spki_pins: Vec<[u8; 32]>,
    certificate_pins: Vec<[u8; 32]>,
    allow_expired: bool,
    accept_untrusted: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Why a certificate that chains to a trusted root is still refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Mismatch {
    #[error("verify SAN list: the peer is {names} (expected {expected})")]
    Names { names: String, expected: String },
    #[error("verify cert hash: no pin matches the peer's certificate")]
    Pins,
    #[error("names are demanded and no trusted CA is there to prove them")]
    Unprovable,
    #[error("the peer's certificate does not parse: {0}")]
    Malformed(String),
}

impl From<Mismatch> for rustls::Error {
    fn from(mismatch: Mismatch) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(mismatch))))
    }
}

impl PeerCheck {
    pub fn new(
        bundle: TrustBundle,
        contexts: &[&ValidationContext],
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        let pins = |texts: fn(&ValidationContext) -> &[String],
                    decode: fn(&str) -> Option<[u8; 32]>| {
            contexts
                .iter()
                .flat_map(|context| texts(context))
                .filter_map(|pin| decode(pin))
                .collect()
        };
        Self {
            bundle: Arc::new(bundle),
            san: contexts
                .iter()
                .flat_map(|context| context.san.iter().cloned())
                .collect(),
            spki_pins: pins(
                |c| &c.spki_pins,
                |pin| STANDARD.decode(pin).ok()?.try_into().ok(),
            ),
            certificate_pins: pins(|c| &c.hash_pins, from_hex),
            allow_expired: contexts.iter().any(|context| context.allow_expired),
            accept_untrusted: contexts.iter().any(|context| context.accept_untrusted),
            algorithms,
        }
    }

    /// Also demands that a DNS SAN matches this name (`auto_sni_san_validation`).
    pub fn with_dns_name(&self, name: &str) -> Self {
        let matcher = malla_proxy_config::matcher::StringMatcher::exact(name.to_ascii_lowercase());
        Self {
            san: vec![SanMatcher {
                kind: SanKind::Dns,
                matcher,
            }],
            ..self.clone()
        }
    }

    /// Whether a refused peer is let in all the same, unproven.
    pub fn accepts_untrusted(&self) -> bool {
        self.accept_untrusted
    }

    /// Whether passing it proves anything: names in a certificate that anybody can make do not.
    pub fn proves(&self) -> bool {
        !(self.bundle.is_empty() && self.spki_pins.is_empty() && self.certificate_pins.is_empty())
    }

    /// Checks a chain, leaf first.
    pub fn check(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: SystemTime,
    ) -> Result<(), rustls::Error> {
        let leaf = chain
            .first()
            .ok_or(rustls::Error::NoCertificatesPresented)?;
        if !self.proves() && !self.san.is_empty() {
            return Err(Mismatch::Unprovable.into());
        }
        // Without roots only pins are checked, as Envoy does without `trusted_ca`.
        if !self.bundle.is_empty() {
            let result = verify(&self.bundle, chain, usage, now, &self.algorithms);
            let result = match result {
                Err(Refused::Expired) if self.allow_expired => verify(
                    &self.bundle,
                    chain,
                    usage,
                    last_valid_moment(leaf),
                    &self.algorithms,
                ),
                result => result,
            };
            result.map_err(rustls::Error::from)?;
        }
        let (_, parsed) = X509Certificate::from_der(leaf)
            .map_err(|error| Mismatch::Malformed(error.to_string()))?;
        self.check_pins(leaf, &parsed)?;
        self.check_names(&parsed)?;
        Ok(())
    }

    fn check_pins(
        &self,
        leaf: &CertificateDer<'_>,
        parsed: &X509Certificate<'_>,
    ) -> Result<(), Mismatch> {
        if self.spki_pins.is_empty() && self.certificate_pins.is_empty() {
            return Ok(());
        }
        let hash =
            |bytes: &[u8]| -> Option<[u8; 32]> { digest(&SHA256, bytes).as_ref().try_into().ok() };
        let spki = hash(parsed.public_key().raw).is_some_and(|hash| self.spki_pins.contains(&hash));
        let whole = hash(leaf).is_some_and(|hash| self.certificate_pins.contains(&hash));
        if spki || whole {
            Ok(())
        } else {
            Err(Mismatch::Pins)
        }
    }

    fn check_names(&self, parsed: &X509Certificate<'_>) -> Result<(), Mismatch> {
        if self.san.is_empty() {
            return Ok(());
        }
        let extension = parsed.subject_alternative_name().ok().flatten();
        let names = extension
            .map(|extension| extension.value.general_names.as_slice())
            .unwrap_or_default();
        if names
            .iter()
            .any(|name| self.san.iter().any(|matcher| matches(matcher, name)))
        {
            return Ok(());
        }
        let shown: Vec<String> = names
            .iter()
            .filter_map(text_of)
            .map(|(_, text)| text)
            .take(10)
            .collect();
        let expected: Vec<String> = self
            .san
            .iter()
            .take(10)
            .map(|matcher| format!("{:?} {:?}", matcher.kind, matcher.matcher.pattern))
            .collect();
        Err(Mismatch::Names {
            names: if shown.is_empty() {
                "without names".to_owned()
            } else {
                shown.join(", ")
            },
            expected: expected.join(" or "),
        })
    }

    fn decide(&self, result: Result<(), rustls::Error>) -> Result<(), rustls::Error> {
        match result {
            Err(error) if self.accept_untrusted => {
                tracing::debug!(%error, "an untrusted certificate is let in (trust_chain_verification)");
                Ok(())
            }
            result => result,
        }
    }
}

fn matches(matcher: &SanMatcher, name: &GeneralName<'_>) -> bool {
    let Some((kind, text)) = text_of(name) else {
        return false;
    };
    if matcher.kind != SanKind::Any && matcher.kind != kind {
        return false;
    }
    if kind != SanKind::Dns {
        return matcher.matcher.is_match(&text);
    }
    let text = text.to_ascii_lowercase();
    match (&matcher.matcher.pattern, text.strip_prefix("*.")) {
        // A wildcard certificate covers one label (RFC 6125 §6.4.3); Envoy's dnsNameMatch.
        (malla_proxy_config::matcher::StringPattern::Exact(wanted), Some(parent)) => wanted
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(parent)),
        _ => matcher.matcher.is_match(&text),
    }
}

fn text_of(name: &GeneralName<'_>) -> Option<(SanKind, String)> {
    match name {
        GeneralName::URI(uri) => Some((SanKind::Uri, (*uri).to_owned())),
        GeneralName::DNSName(host) => Some((SanKind::Dns, (*host).to_owned())),
        GeneralName::RFC822Name(mail) => Some((SanKind::Email, (*mail).to_owned())),
        GeneralName::IPAddress(bytes) => {
            let ip = match bytes.len() {
                4 => IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?),
                16 => IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?),
                _ => return None,
            };
            Some((SanKind::Ip, ip.to_string()))
        }
        _ => None,
    }
}

fn last_valid_moment(leaf: &CertificateDer<'_>) -> SystemTime {
    let seconds = X509Certificate::from_der(leaf)
        .map_or(0, |(_, parsed)| parsed.validity().not_after.timestamp());
    SystemTime::UNIX_EPOCH
        + Duration::from_secs(u64::try_from(seconds).unwrap_or(0).saturating_sub(1))
}

/// SHA-256 in hex, with or without colons.
fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    bytes.try_into().ok()
}

fn chain_of<'a>(leaf: &CertificateDer<'a>, rest: &[CertificateDer<'a>]) -> Vec<CertificateDer<'a>> {
    std::iter::once(leaf).chain(rest).cloned().collect()
}

fn time_of(now: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs())
}

/// [`PeerCheck`] of servers we call; `None` accepts every server (no validation context).
#[derive(Debug)]
pub(super) struct ServerCheck(
    pub(super) Option<PeerCheck>,
    pub(super) WebPkiSupportedAlgorithms,
);

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(check) = &self.0 {
            check.decide(check.check(&chain_of(leaf, rest), Usage::Server, time_of(now)))?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.1)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.1)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.1.supported_schemes()
    }
}

/// [`PeerCheck`] of clients that call us.
#[derive(Debug)]
pub(super) struct ClientCheck {
    pub(super) check: Option<PeerCheck>,
    pub(super) required: bool,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for ClientCheck {
    fn offer_client_auth(&self) -> bool {
        self.required || self.check.is_some()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Hints only help people choose among certificates; in a mesh they would only cost bytes.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if let Some(check) = &self.check {
            check.decide(check.check(&chain_of(leaf, rest), Usage::Client, time_of(now)))?;
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
