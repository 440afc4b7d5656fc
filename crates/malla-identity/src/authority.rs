//! The mesh's certificate authority.
//!
//! Invariant: a certificate names exactly the identity it is issued for, lives no longer than the
//! limits and than the authority itself, and can do nothing but TLS. What a request asks for beyond
//! its key is not looked at.
//!
//! [`store`] reads and writes the two Secret layouts Istio has.

pub mod store;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer as Signer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use malla_model::SpiffeId;

use crate::bundle::TrustBundle;
use crate::credential::{self, Credential};
use crate::csr::Request;
use crate::key::PrivateKey;
use crate::pem::{self, MaterialError};
use crate::rotate::task::{IssueError, Issued, Issuer};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Life of a self-signed root (Istio's `CITADEL_SELF_SIGNED_CA_CERT_TTL`).
pub const ROOT_TTL: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Certificates are valid from a little before they are issued, because clocks differ
/// (Istio's `ClockSkewGracePeriod`).
const CLOCK_SKEW: Duration = Duration::from_secs(120);

/// Share of a root's life that is left when it is renewed (Istio renews in the last 20 %).
const ROOT_GRACE: f64 = 0.2;

/// How long certificates live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// For requests that do not say (Istio's `DEFAULT_WORKLOAD_CERT_TTL`).
    pub default: Duration,
    /// No request gets more (Istio's `MAX_WORKLOAD_CERT_TTL`).
    pub max: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            default: DAY,
            max: DAY * 90,
        }
    }
}

impl Lifetimes {
    /// What a request for `wanted` gets; zero means that it did not say.
    #[must_use]
    pub fn grant(&self, wanted: Duration) -> Duration {
        if wanted.is_zero() {
            return self.default.min(self.max);
        }
        wanted.min(self.max)
    }
}

/// Why the authority could not be made or could not sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error(transparent)]
    Material(#[from] MaterialError),
    #[error(
        "the authority's certificate cannot sign others (expected basicConstraints CA:TRUE and keyUsage keyCertSign)"
    )]
    NotAnAuthority,
    #[error("the authority's certificate does not lead to its root certificate: {0}")]
    BrokenChain(String),
    #[error(
        "the authority's certificate has expired (replace it; a self-signed one is renewed by itself while the control plane runs)"
    )]
    Expired,
    #[error("signing failed: {0}")]
    Signing(String),
}

/// A signing certificate, its key, and how it leads to the roots.
pub struct Authority {
    signer: Signer<'static, KeyPair>,
    key: PrivateKeyDer<'static>,
    certificate: CertificateDer<'static>,
    /// From the signing certificate's issuer up, without the root; empty for a self-signed root.
    intermediates: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    not_before: SystemTime,
    not_after: SystemTime,
    self_signed: bool,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("self_signed", &self.self_signed)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// A new root of its own, named after the trust domain as Istio's is (`O=cluster.local`).
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn self_signed(trust_domain: &str, now: SystemTime) -> Result<Self, AuthorityError> {
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, trust_domain);
        Self::root(PrivateKey::generate()?, name, now)
    }

    /// The same key with a new certificate: peers that trust either certificate trust both.
    ///
    /// # Errors
    /// When the key or the certificate cannot be read back, which they were made from.
    pub fn renewed(&self, now: SystemTime) -> Result<Self, AuthorityError> {
        let key = PrivateKey::from_pem("the authority's key", self.key_pem().as_bytes())?;
        let subject = {
            let parsed = credential::parse(&self.certificate)?;
            let organization = parsed.subject().iter_organization().next();
            organization
                .and_then(|name| name.as_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, subject);
        Self::root(key, name, now)
    }

    fn root(
        key: PrivateKey,
        name: DistinguishedName,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let mut params = CertificateParams::default();
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + ROOT_TTL).into();
        params.serial_number = Some(random_serial());
        params.distinguished_name = name;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(key.pair()).map_err(signing)?;
        let root = certificate.der().clone();
        Self::new(root.clone(), key, Vec::new(), vec![root])
    }

    /// Puts an authority together: its certificate, its key, what leads from it to the root
    /// (without the root), and the roots to hand out.
    ///
    /// # Errors
    /// When the certificate may not sign, the key is another's, or the chain does not lead to a root.
    pub fn new(
        certificate: CertificateDer<'static>,
        key: PrivateKey,
        intermediates: Vec<CertificateDer<'static>>,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, AuthorityError> {
        let (not_before, not_after, self_signed) = {
            let parsed = credential::parse(&certificate)?;
            let signs = parsed
                .key_usage()
                .ok()
                .flatten()
                .is_none_or(|usage| usage.value.key_cert_sign());
            if !parsed.is_ca() || !signs {
                return Err(AuthorityError::NotAnAuthority);
            }
            if parsed.public_key().raw != key.public_key() {
                return Err(MaterialError::KeyMismatch.into());
            }
            let validity = parsed.validity();
            (
                credential::to_time(validity.not_before),
                credential::to_time(validity.not_after),
                parsed.subject() == parsed.issuer(),
            )
        };
        let (pair, key) = key.into_parts();
        let signer = Signer::from_ca_cert_der(&certificate, pair).map_err(signing)?;
        let authority = Self {
            signer,
            key,
            certificate,
            intermediates,
            roots,
            not_before,
            not_after,
            self_signed,
        };
        authority.check_chain()?;
        Ok(authority)
    }

    /// Signs a throw-away certificate and has it verified: what peers will do with every other.
    fn check_chain(&self) -> Result<(), AuthorityError> {
        let bundle = TrustBundle::new(self.roots.clone())?;
        let provider = crate::default_provider();
        let key = PrivateKey::generate()?;
        let now = self.not_before
            + (self
                .not_after
                .duration_since(self.not_before)
                .unwrap_or_default()
                / 2);
        let leaf = self.sign(key.pair(), Vec::new(), DAY, now)?;
        let chain = self.chain_with(leaf);
        crate::verify::verify(
            &bundle,
            &chain,
            crate::verify::Usage::Server,
            now,
            &provider.signature_verification_algorithms,
        )
        .map(|_| ())
        .map_err(|reason| AuthorityError::BrokenChain(reason.to_string()))
    }

    /// Certifies the key in `request` for `id`, for `ttl` (already granted, see [`Lifetimes`]).
    /// Returns the chain, leaf first, without the root.
    ///
    /// # Errors
    /// When the authority has expired or signing fails.
    pub fn certify(
        &self,
        request: &Request,
        id: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        let names = vec![uri(id)?];
        let leaf = self.sign(&request.public_key, names, ttl, now)?;
        Ok(self.chain_with(leaf))
    }

    /// A new key and a certificate for a server that is called by DNS name (istiod, webhooks), and
    /// by SPIFFE id when it has one.
    ///
    /// # Errors
    /// When a name is no DNS name, the authority has expired, or signing fails.
    pub fn issue_server(
        &self,
        dns_names: &[&str],
        id: Option<&SpiffeId>,
        ttl: Duration,
        now: SystemTime,
        provider: &CryptoProvider,
    ) -> Result<Credential, AuthorityError> {
        let mut names = Vec::with_capacity(dns_names.len() + 1);
        for name in dns_names {
            names.push(SanType::DnsName((*name).try_into().map_err(signing)?));
        }
        names.extend(id.map(uri).transpose()?);
        let key = PrivateKey::generate()?;
        let leaf = self.sign(key.pair(), names, ttl, now)?;
        Ok(Credential::new(
            self.chain_with(leaf),
            key.to_der(),
            provider,
        )?)
    }

    fn sign(
        &self,
        public_key: &impl PublicKeyData,
        names: Vec<SanType>,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        if now >= self.not_after {
            return Err(AuthorityError::Expired);
        }
        let mut params = CertificateParams::default();
        params.not_before = (now - CLOCK_SKEW).max(self.not_before).into();
        params.not_after = (now + ttl).min(self.not_after).into();
        params.serial_number = Some(random_serial());
        // An empty subject makes the alternative names critical (RFC 5280 §4.2.1.6).
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let certificate = params
            .signed_by(public_key, &self.signer)
            .map_err(signing)?;
        Ok(certificate.der().clone())
    }

    fn chain_with(&self, leaf: CertificateDer<'static>) -> Vec<CertificateDer<'static>> {
        let mut chain = vec![leaf];
        if !self.roots.contains(&self.certificate) {
            chain.push(self.certificate.clone());
        }
        chain.extend(self.intermediates.iter().cloned());
        chain
    }

    /// The roots workloads should trust.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The roots as PEM, for ConfigMap `istio-ca-root-cert`.
    #[must_use]
    pub fn roots_pem(&self) -> String {
        pem::encode_certificates(&self.roots)
    }

    /// The authority's own certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether it is a root of our own making, which [`Authority::renewed`] can renew.
    #[must_use]
    pub fn is_self_signed(&self) -> bool {
        self.self_signed
    }

    /// Whether it is in the last fifth of its life.
    #[must_use]
    pub fn should_renew(&self, now: SystemTime) -> bool {
        let life = self
            .not_after
            .duration_since(self.not_before)
            .unwrap_or_default();
        self.not_after
            .duration_since(now)
            .is_ok_and(|left| left < life.mul_f64(ROOT_GRACE))
            || now >= self.not_after
    }

    fn key_pem(&self) -> String {
        pem::encode_key(&self.key)
    }
}

/// An authority of this process as an [`Issuer`] for one identity: for the control plane's own
/// workloads and for tests. It certifies that identity only.
#[derive(Debug)]
pub struct LocalIssuer {
    pub authority: Arc<Authority>,
    pub id: SpiffeId,
    pub lifetimes: Lifetimes,
}

impl Issuer for LocalIssuer {
    fn issue(&self, csr: String, ttl: Duration) -> BoxFuture<'_, Result<Issued, IssueError>> {
        Box::pin(async move {
            let request = Request::from_pem(csr.as_bytes())?;
            let ttl = self.lifetimes.grant(ttl);
            let chain = self
                .authority
                .certify(&request, &self.id, ttl, SystemTime::now())
                .map_err(|error| IssueError::Refused(error.to_string()))?;
            Ok(Issued {
                chain,
                roots: self.authority.roots.clone(),
            })
        })
    }
}

fn uri(id: &SpiffeId) -> Result<SanType, AuthorityError> {
    Ok(SanType::URI(id.to_string().try_into().map_err(signing)?))
}

/// 127 random bits: positive, and unguessable as the CA/Browser Forum asks (64 bits at least).
fn random_serial() -> SerialNumber {
    let bytes = (rand::random::<u128>() >> 1).to_be_bytes();
    SerialNumber::from_slice(&bytes)
}

fn signing(error: rcgen::Error) -> AuthorityError {
    AuthorityError::Signing(error.to_string())
}
