//! Keys and trust for a TLS context: from the context itself, from files, or from the snapshot's secrets.
use std::path::Path;
use std::sync::Arc;

use malla_identity::bundle::TrustBundle;
use malla_identity::credential::Credential;
use malla_identity::pem::MaterialError;
use malla_proxy_config::Snapshot;
use malla_proxy_config::config_source::Reference;
use malla_proxy_config::secret::{Secret, SecretKind};
use malla_proxy_config::tls::{
    CertificateSource, CommonTls, DataSource, Tickets, TlsCertificate, TlsParams, TlsVersion,
    ValidationContext,
};
use rustls::crypto::CryptoProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{NamedGroup, SupportedCipherSuite, SupportedProtocolVersion};

use super::verify::PeerCheck;
use super::{TlsSetup, preference};

/// Where Linux distributions keep the system's roots, most common first.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// Why a TLS configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// Envoy's words for a connection that comes before its secrets.
    #[error("Secret is not supplied by SDS: `{0}`")]
    Missing(Arc<str>),
    #[error("secret `{name}` is no {expected}")]
    WrongKind {
        name: Arc<str>,
        expected: &'static str,
    },
    #[error("cannot read {path}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("environment variable {0} is not set")]
    Env(Arc<str>),
    #[error(transparent)]
    Material(#[from] MaterialError),
    #[error("none of the configured {what} is supported: {names} (this proxy has {have})")]
    NothingLeft {
        what: &'static str,
        names: String,
        have: String,
    },
    #[error("session_ticket_keys: a key has {0} bytes; 80 are needed")]
    TicketKey(usize),
    #[error("the files of the secret are being replaced; they were never twice the same")]
    Changing,
    #[error("the system has no certificate bundle at {}", SYSTEM_ROOTS.join(", "))]
    NoSystemRoots,
    #[error("tls")]
    Rustls(#[from] rustls::Error),
}

/// The secrets a context names, as they are now. Equal means: the very same values.
#[derive(Debug, Clone)]
pub struct Secrets {
    certificates: Vec<Option<Arc<Secret>>>,
    validation: Option<Arc<Secret>>,
    tickets: Option<Arc<Secret>>,
}

impl PartialEq for Secrets {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &Option<Arc<Secret>>, b: &Option<Arc<Secret>>| match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        self.certificates.len() == other.certificates.len()
            && self
                .certificates
                .iter()
                .zip(&other.certificates)
                .all(|(a, b)| same(a, b))
            && same(&self.validation, &other.validation)
            && same(&self.tickets, &other.tickets)
    }
}

impl Secrets {
    /// Loads each cell once.
    pub fn load(
        common: &CommonTls,
        tickets: Option<&Reference>,
        snapshot: &Snapshot,
    ) -> Result<Self, TlsSetupError> {
        let secret = |name: &Arc<str>| {
            let cell = snapshot.secret(name).and_then(|cell| cell.load_full());
            cell.ok_or_else(|| TlsSetupError::Missing(Arc::clone(name)))
        };
        let certificates = common
            .certificates
            .iter()
            .map(|source| match source {
                CertificateSource::Static(_) => Ok(None),
                CertificateSource::Sds(sds) => secret(&sds.name).map(Some),
            })
            .collect::<Result<_, _>>()?;
        let validation = common.validation.sds.as_ref();
        let validation = validation.map(|sds| secret(&sds.name)).transpose()?;
        let tickets = tickets.map(|sds| secret(&sds.name)).transpose()?;
        Ok(Self {
            certificates,
            validation,
            tickets,
        })
    }
}

impl TlsSetup {
    /// The own certificates of a context, in its order.
    pub fn credentials(
        &self,
        common: &CommonTls,
        secrets: &Secrets,
    ) -> Result<Vec<Credential>, TlsSetupError> {
        let sources = common.certificates.iter().zip(&secrets.certificates);
        sources
            .map(|(source, secret)| match (source, secret.as_deref()) {
                (CertificateSource::Static(pair), _) => self.credential(pair),
                (
                    CertificateSource::Sds(_),
                    Some(Secret {
                        kind: SecretKind::Certificate(pair),
                        ..
                    }),
                ) => self.credential(pair),
                (CertificateSource::Sds(sds), _) => Err(TlsSetupError::WrongKind {
                    name: Arc::clone(&sds.name),
                    expected: "TLS certificate",
                }),
            })
            .collect()
    }

    /// The keys of a listener's session tickets, the first one for writing; empty: the process's own.
    pub fn ticket_keys(
        &self,
        tickets: &Tickets,
        secrets: &Secrets,
    ) -> Result<Vec<[u8; 80]>, TlsSetupError> {
        let sources = match (tickets, secrets.tickets.as_deref()) {
            (Tickets::Own | Tickets::Off, _) => return Ok(Vec::new()),
            (Tickets::Keys(sources), _) => sources,
            (
                Tickets::Sds(_),
                Some(Secret {
                    kind: SecretKind::TicketKeys(sources),
                    ..
                }),
            ) => sources,
            (Tickets::Sds(sds), _) => {
                return Err(TlsSetupError::WrongKind {
                    name: Arc::clone(&sds.name),
                    expected: "list of session ticket keys",
                });
            }
        };
        self.read_ticket_keys(sources)
    }

    pub(super) fn read_ticket_keys(
        &self,
        sources: &[DataSource],
    ) -> Result<Vec<[u8; 80]>, TlsSetupError> {
        let key = |source| {
            let bytes = self.read(source)?;
            <[u8; 80]>::try_from(&*bytes).map_err(|_| TlsSetupError::TicketKey(bytes.len()))
        };
        sources.iter().map(key).collect()
    }

    /// How the peer is checked; `None` if the context says nothing about it.
    pub fn peer_check(
        &self,
        common: &CommonTls,
        secrets: &Secrets,
    ) -> Result<Option<PeerCheck>, TlsSetupError> {
        if common.validation.is_none() {
            return Ok(None);
        }
        let from_sds = match secrets.validation.as_deref() {
            None => None,
            Some(Secret {
                kind: SecretKind::Validation(context),
                ..
            }) => Some(context),
            Some(Secret { name, .. }) => {
                return Err(TlsSetupError::WrongKind {
                    name: Arc::clone(name),
                    expected: "validation context",
                });
            }
        };
        let contexts: Vec<&ValidationContext> = [
            common.validation.fixed.as_deref(),
            from_sds.map(|context| &**context),
        ]
        .into_iter()
        .flatten()
        .collect();
        let bundle = self.bundle(&contexts)?;
        Ok(Some(PeerCheck::new(
            bundle,
            &contexts,
            self.provider.signature_verification_algorithms,
        )))
    }

    /// The crypto provider cut down to the context's ciphers and curves, and its protocol versions.
    pub fn parameters(
        &self,
        params: &TlsParams,
    ) -> Result<(Arc<CryptoProvider>, Vec<&'static SupportedProtocolVersion>), TlsSetupError> {
        let mut versions = Vec::new();
        if params.min <= TlsVersion::V12 && params.max >= TlsVersion::V12 {
            versions.push(&TLS12);
        }
        if params.min <= TlsVersion::V13 && params.max >= TlsVersion::V13 {
            versions.push(&TLS13);
        }
        if params.cipher_suites.is_empty() && params.ecdh_curves.is_empty() {
            return Ok((Arc::clone(&self.provider), versions));
        }
        let mut provider = (*self.provider).clone();
        if !params.cipher_suites.is_empty() && versions.contains(&&TLS12) {
            let wanted: Vec<&str> = params
                .cipher_suites
                .iter()
                .flat_map(|entry| entry.trim_matches(['[', ']']).split('|'))
                .collect();
            // The list is for TLS 1.2; TLS 1.3 suites stand on their own, as in BoringSSL.
            provider.cipher_suites.retain(|suite| {
                matches!(suite, SupportedCipherSuite::Tls13(_))
                    || wanted.contains(&cipher_name(*suite))
            });
            preference::as_listed(&mut provider.cipher_suites, &wanted);
            if !provider
                .cipher_suites
                .iter()
                .any(|suite| matches!(suite, SupportedCipherSuite::Tls12(_)))
            {
                return Err(TlsSetupError::NothingLeft {
                    what: "cipher_suites",
                    names: params.cipher_suites.join(", "),
                    have: self
                        .provider
                        .cipher_suites
                        .iter()
                        .map(|suite| cipher_name(*suite))
                        .collect::<Vec<_>>()
                        .join(", "),
                });
            }
        }
        if !params.ecdh_curves.is_empty() {
            provider.kx_groups.retain(|group| {
                params
                    .ecdh_curves
                    .iter()
                    .any(|name| curve(name) == Some(group.name()))
            });
            if provider.kx_groups.is_empty() {
                return Err(TlsSetupError::NothingLeft {
                    what: "ecdh_curves",
                    names: params.ecdh_curves.join(", "),
                    have: "X25519MLKEM768, X25519, P-256, P-384".to_owned(),
                });
            }
        }
        Ok((Arc::new(provider), versions))
    }

    pub(super) fn credential(&self, pair: &TlsCertificate) -> Result<Credential, TlsSetupError> {
        let (chain, key) = (self.read(&pair.chain)?, self.read(&pair.key)?);
        Ok(Credential::from_pem(&chain, &key, &self.provider)?)
    }

    pub(super) fn bundle(
        &self,
        contexts: &[&ValidationContext],
    ) -> Result<TrustBundle, TlsSetupError> {
        let mut roots = Vec::new();
        for context in contexts {
            if let Some(source) = &context.trusted_ca {
                let text = self.read(source)?;
                roots.extend(malla_identity::pem::certificates("trusted_ca", &text)?);
            }
            if context.system_roots {
                let found = SYSTEM_ROOTS
                    .iter()
                    .find_map(|path| std::fs::read(path).ok());
                let text = found.ok_or(TlsSetupError::NoSystemRoots)?;
                roots.extend(malla_identity::pem::certificates(
                    "the system's roots",
                    &text,
                )?);
            }
        }
        let mut bundle = TrustBundle::new(roots)?;
        for source in contexts.iter().filter_map(|context| context.crl.as_ref()) {
            bundle = bundle.revoking("crl", &self.read(source)?)?;
        }
        Ok(bundle)
    }

    pub(super) fn read(&self, source: &DataSource) -> Result<Vec<u8>, TlsSetupError> {
        let file = |path: &Path| {
            std::fs::read(path).map_err(|source| TlsSetupError::Read {
                path: path.display().to_string(),
                source,
            })
        };
        match source {
            DataSource::Inline(bytes) | DataSource::Loaded { bytes, .. } => Ok(bytes.to_vec()),
            DataSource::File(path) => file(path),
            DataSource::Env(name) => (self.env)(name)
                .map(String::into_bytes)
                .ok_or_else(|| TlsSetupError::Env(Arc::clone(name))),
        }
    }
}

/// The name OpenSSL and Envoy have for a suite.
pub fn cipher_name(suite: SupportedCipherSuite) -> &'static str {
    use rustls::CipherSuite as S;
    match suite.suite() {
        S::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        S::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        S::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        S::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        S::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => "unknown",
    }
}

fn curve(name: &str) -> Option<NamedGroup> {
    Some(match name {
        "X25519" => NamedGroup::X25519,
        "P-256" | "prime256v1" => NamedGroup::secp256r1,
        "P-384" | "secp384r1" => NamedGroup::secp384r1,
        "X25519MLKEM768" => NamedGroup::X25519MLKEM768,
        _ => return None,
    })
}
