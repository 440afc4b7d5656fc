//! TLS contexts of listeners and clusters.
//!
//! File names stay file names here: this crate does no IO. Whoever builds a TLS config reads them.

pub(crate) mod parse;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::config_source::Reference;
use crate::matcher::StringMatcher;

/// `DownstreamTlsContext`.
#[derive(Debug, Clone, PartialEq)]
pub struct DownstreamTls {
    /// Certificates, validation, ALPN, parameters.
    pub common: CommonTls,
    /// The handshake fails without a valid client certificate.
    pub require_client_certificate: bool,
    /// The handshake fails without SNI.
    pub require_sni: bool,
    /// No session ids.
    pub disable_stateful_resumption: bool,
    /// How sessions are resumed without state here.
    pub tickets: Tickets,
}

/// `session_ticket_keys_type`: who can read the session tickets of a listener.
#[derive(Debug, Clone, PartialEq)]
pub enum Tickets {
    /// Only this process.
    Own,
    /// There are none.
    Off,
    /// Everybody who has these keys of 80 bytes; the first one writes.
    Keys(Arc<[DataSource]>),
    /// As a secret says.
    Sds(Reference),
}

impl Tickets {
    /// The secret it needs.
    pub fn sds(&self) -> Option<&Reference> {
        match self {
            Self::Sds(reference) => Some(reference),
            Self::Own | Self::Off | Self::Keys(_) => None,
        }
    }
}

/// `UpstreamTlsContext`.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamTls {
    /// Certificates, validation, ALPN, parameters.
    pub common: CommonTls,
    /// SNI to send; `None` sends none unless a rule below names one.
    pub sni: Option<String>,
    /// SNI is the endpoint's hostname.
    pub auto_host_sni: bool,
    /// The server's DNS SAN must match the SNI sent.
    pub auto_sni_san_validation: bool,
}

/// `CommonTlsContext`.
#[derive(Debug, Clone, PartialEq)]
pub struct CommonTls {
    /// Versions, ciphers, curves.
    pub params: TlsParams,
    /// Own certificates, in order of preference.
    pub certificates: Vec<CertificateSource>,
    /// How the peer is checked.
    pub validation: Validation,
    /// ALPN protocols, most preferred first.
    pub alpn: Vec<String>,
}

/// `TlsParameters`; empty lists mean the library's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsParams {
    /// Lowest version.
    pub min: TlsVersion,
    /// Highest version.
    pub max: TlsVersion,
    /// OpenSSL names of TLS 1.2 suites, as configured.
    pub cipher_suites: Vec<String>,
    /// Curve names, as configured.
    pub ecdh_curves: Vec<String>,
}

/// The versions the proxy speaks; older ones are refused in configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    V12,
    /// TLS 1.3.
    V13,
}

/// Where an own certificate comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum CertificateSource {
    /// Written in the context.
    Static(Arc<TlsCertificate>),
    /// A secret, looked up in the snapshot by this name.
    Sds(Reference),
}

/// How a peer is checked: the static part, the SDS part, or both combined (the SDS secret adds to the static part).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Validation {
    /// Written in the context.
    pub fixed: Option<Arc<ValidationContext>>,
    /// A validation secret, looked up in the snapshot by this name.
    pub sds: Option<Reference>,
}

impl Validation {
    /// True if nothing was configured: the peer is not checked.
    pub fn is_none(&self) -> bool {
        self.fixed.is_none() && self.sds.is_none()
    }
}

/// A certificate chain and its private key, PEM.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsCertificate {
    /// Leaf first.
    pub chain: DataSource,
    /// The leaf's key.
    pub key: DataSource,
    /// What is moved into this directory means that the files above were replaced.
    pub watched_directory: Option<Arc<Path>>,
}

/// `CertificateValidationContext`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ValidationContext {
    /// PEM bundle of trust anchors.
    pub trusted_ca: Option<DataSource>,
    /// The operating system's trust anchors count too.
    pub system_roots: bool,
    /// Any one must match a SAN of the peer; empty accepts any name.
    pub san: Vec<SanMatcher>,
    /// Base64 SHA-256 of the SPKI; any one must match.
    pub spki_pins: Vec<String>,
    /// Hex SHA-256 of the certificate; any one must match.
    pub hash_pins: Vec<String>,
    /// PEM revocation lists.
    pub crl: Option<DataSource>,
    /// Revocation is checked for the leaf only.
    pub crl_leaf_only: bool,
    /// Expired certificates pass.
    pub allow_expired: bool,
    /// ACCEPT_UNTRUSTED: a failed chain is recorded, not refused.
    pub accept_untrusted: bool,
    /// What is moved into this directory means that the files above were replaced.
    pub watched_directory: Option<Arc<Path>>,
}

/// One SAN check.
#[derive(Debug, Clone, PartialEq)]
pub struct SanMatcher {
    /// Which kind of name.
    pub kind: SanKind,
    /// What it must look like.
    pub matcher: StringMatcher,
}

/// Kinds of subject alternative name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanKind {
    /// Any kind: the deprecated untyped matcher.
    Any,
    /// DNS name.
    Dns,
    /// URI, such as a SPIFFE id.
    Uri,
    /// E-mail address.
    Email,
    /// IP address.
    Ip,
}

/// Bytes written in the configuration, or where to read them.
#[derive(Clone, PartialEq, Eq)]
pub enum DataSource {
    /// The bytes.
    Inline(Bytes),
    /// A file.
    File(Arc<Path>),
    /// A file that has been read.
    Loaded {
        /// The file.
        path: Arc<Path>,
        /// What it held.
        bytes: Bytes,
    },
    /// An environment variable; the binary resolves it.
    Env(Arc<str>),
}

impl fmt::Debug for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Keys pass through here: never print contents.
            Self::Inline(bytes) => write!(f, "Inline({} bytes)", bytes.len()),
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Loaded { path, bytes } => {
                write!(f, "File({}, {} bytes)", path.display(), bytes.len())
            }
            Self::Env(name) => write!(f, "Env({name})"),
        }
    }
}
