//! The cluster's certificate authority: ECDSA P-256, made once, kept in the store's file.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::User;

const CA_YEARS: i16 = 10;
const LEAF_YEARS: i16 = 1;
/// Most `O` values taken from a client certificate.
const MAX_GROUPS: usize = 64;

/// Keys or certificates that cannot be made or read.
#[derive(Debug, Error)]
pub(crate) enum KeysError {
    #[error("make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("set up client certificates: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    #[error("{name} in the store is damaged: {cause}")]
    Damaged { name: &'static str, cause: String },
}

/// The names and addresses a serving certificate is for.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) hosts: Vec<String>,
    pub(crate) addresses: Vec<IpAddr>,
}

/// Signs server and client certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    certificate: CertificateDer<'static>,
    now: fn() -> Timestamp,
}

impl Authority {
    /// Makes a new authority; returns its certificate and key, PEM, to be kept.
    pub(crate) fn make(now: Timestamp) -> Result<(String, String), KeysError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params("kubernetes", &[], now, CA_YEARS);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let certificate = params.self_signed(&key)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// Reads a kept authority.
    pub(crate) fn read(
        certificate_pem: String,
        key_pem: &str,
        now: fn() -> Timestamp,
    ) -> Result<Self, KeysError> {
        let damaged = |name, error: &dyn std::fmt::Display| KeysError::Damaged {
            name,
            cause: error.to_string(),
        };
        let key = KeyPair::from_pem(key_pem).map_err(|e| damaged("ca.key", &e))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key);
        let issuer = issuer.map_err(|e| damaged("ca.crt", &e))?;
        let certificate =
            rustls::pki_types::pem::PemObject::from_pem_slice(certificate_pem.as_bytes());
        let certificate =
            certificate.map_err(|e: rustls::pki_types::pem::Error| damaged("ca.crt", &e))?;
        Ok(Self {
            issuer,
            certificate_pem,
            certificate,
            now,
        })
    }

    /// The authority's certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.certificate_pem
    }

    /// TLS for the listeners: a fresh serving certificate, client certificates taken but not asked for.
    pub(crate) fn server_config(&self, names: Names) -> Result<ServerConfig, KeysError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params("kube-apiserver", &[], (self.now)(), LEAF_YEARS);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        for host in names.hosts {
            params
                .subject_alt_names
                .push(SanType::DnsName(host.try_into()?));
        }
        let addresses = names.addresses.into_iter().map(SanType::IpAddress);
        params.subject_alt_names.extend(addresses);
        let certificate = params.signed_by(&key, &self.issuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
                .build()?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate.der().clone()], key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// A client certificate and its key, PEM.
    pub(crate) fn client(
        &self,
        name: &str,
        groups: &[&str],
    ) -> Result<(String, String), KeysError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(name, groups, (self.now)(), LEAF_YEARS);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// A kubeconfig that embeds an administrator's certificate.
    pub(crate) fn kubeconfig(&self, cluster: &str, url: &str) -> Result<String, KeysError> {
        let (certificate, key) = self.client("kubernetes-admin", &["system:masters"])?;
        let base64 = |pem: &str| STANDARD.encode(pem);
        // JSON strings are YAML strings: names and addresses cannot break out of them.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let (name, url) = (quoted(cluster), quoted(url));
        let user = quoted(&format!("{cluster}-admin"));
        Ok(format!(
            "apiVersion: v1\nkind: Config\n\
             clusters:\n- name: {name}\n  cluster:\n    server: {url}\n    certificate-authority-data: {ca}\n\
             users:\n- name: {user}\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n\
             contexts:\n- name: {name}\n  context:\n    cluster: {name}\n    user: {user}\n\
             current-context: {name}\n",
            ca = base64(&self.certificate_pem),
            certificate = base64(&certificate),
            key = base64(&key),
        ))
    }
}

/// The user a verified client certificate names: CN, and each O as a group.
pub(crate) fn user_of(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let organizations = subject.iter_organization().take(MAX_GROUPS);
    let groups = organizations.filter_map(|o| Some(o.as_str().ok()?.to_owned()));
    Some(User::certified(name, groups.collect()))
}

fn params(name: &str, groups: &[&str], now: Timestamp, years: i16) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    for group in groups {
        subject.push(DnType::OrganizationName, *group);
    }
    params.distinguished_name = subject;
    let today = now.to_zoned(TimeZone::UTC).date();
    // A day back, against clocks that run behind.
    let from = today.saturating_sub(1.day());
    let to = today.saturating_add(i64::from(years).years());
    let date = |date: jiff::civil::Date| {
        let month = u8::try_from(date.month()).unwrap_or(1);
        let day = u8::try_from(date.day()).unwrap_or(1);
        rcgen::date_time_ymd(i32::from(date.year()), month, day)
    };
    params.not_before = date(from);
    params.not_after = date(to);
    params.use_authority_key_identifier_extension = true;
    params
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}
