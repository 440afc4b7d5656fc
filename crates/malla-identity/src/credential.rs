//! A certificate chain with its private key.
//!
//! Invariant: the key belongs to the first certificate, and the names and validity are that
//! certificate's. A credential that names a workload is an X.509-SVID (SPIFFE X509-SVID §2).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use malla_model::SpiffeId;

use crate::pem::{self, MaterialError};
use crate::verify::PeerNames;

/// What a process shows to prove who it is.
pub struct Credential {
    names: PeerNames,
    not_before: SystemTime,
    not_after: SystemTime,
    serial: String,
    key: PrivateKeyDer<'static>,
    certified: Arc<CertifiedKey>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("names", &self.names)
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Credential {
    /// Joins a chain (leaf first) and its key.
    ///
    /// # Errors
    /// When a certificate does not parse, the key is of no usable kind, or the two do not match.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        provider: &CryptoProvider,
    ) -> Result<Self, MaterialError> {
        let leaf = chain.first().ok_or_else(|| MaterialError::Missing {
            what: "the certificate chain".to_owned(),
            expected: "certificate",
            block: "CERTIFICATE",
        })?;
        let parsed = parse(leaf)?;
        let validity = parsed.validity();
        let (not_before, not_after) = (to_time(validity.not_before), to_time(validity.not_after));
        let names = PeerNames::of(&parsed);
        let serial = parsed.raw_serial_as_string();
        let signer = provider
            .key_provider
            .load_private_key(key.clone_key())
            .map_err(|error| MaterialError::Key {
                what: "the credential's key".to_owned(),
                reason: error.to_string(),
            })?;
        let certified = CertifiedKey::new(chain, signer);
        match certified.keys_match() {
            // Unknown: the provider cannot tell; the handshake will.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => return Err(MaterialError::KeyMismatch),
        }
        Ok(Self {
            names,
            not_before,
            not_after,
            serial,
            key,
            certified: Arc::new(certified),
        })
    }

    /// Reads both from PEM, as they stand in a Secret or in files.
    ///
    /// # Errors
    /// As for [`Credential::new`].
    pub fn from_pem(
        chain: &[u8],
        key: &[u8],
        provider: &CryptoProvider,
    ) -> Result<Self, MaterialError> {
        let chain = pem::certificates("the certificate chain", chain)?;
        let key = pem::private_key("the private key", key)?;
        Self::new(chain, key, provider)
    }

    /// The workload it names, when it is an SVID.
    #[must_use]
    pub fn spiffe_id(&self) -> Option<&SpiffeId> {
        self.names.spiffe_id.as_ref()
    }

    #[must_use]
    pub fn names(&self) -> &PeerNames {
        &self.names
    }

    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The serial number in hexadecimal, as `openssl x509 -serial` has it but with colons.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    #[must_use]
    pub fn chain_pem(&self) -> String {
        pem::encode_certificates(self.chain())
    }

    /// The private key as PEM, for an SDS secret.
    #[must_use]
    pub fn key_pem(&self) -> String {
        pem::encode_key(&self.key)
    }

    /// What rustls's resolvers hand out.
    #[must_use]
    pub fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

pub(crate) fn parse<'a>(
    certificate: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, MaterialError> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|error| MaterialError::Certificate {
            what: "the certificate".to_owned(),
            reason: error.to_string(),
        })?;
    Ok(parsed)
}

/// Times before 1970 count as 1970, which is as expired.
pub(crate) fn to_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    UNIX_EPOCH + Duration::from_secs(seconds)
}
