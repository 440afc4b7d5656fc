//! The authority in Kubernetes Secrets, in the layouts Istio's users have.
//!
//! | Secret | keys | who makes it |
//! |---|---|---|
//! | `istio-ca-secret` | `ca-cert.pem`, `ca-key.pem` | the control plane, self-signed |
//! | `cacerts` | `ca-cert.pem`, `ca-key.pem`, `cert-chain.pem`, `root-cert.pem` | the operator |
//! | `cacerts` | `tls.crt`, `tls.key`, `ca.crt` | cert-manager |

use std::collections::BTreeMap;

use rustls_pki_types::CertificateDer;

use super::{Authority, AuthorityError};
use crate::key::PrivateKey;
use crate::pem::{self, MaterialError};

/// Name of the Secret that holds a self-signed authority.
pub const SELF_SIGNED_SECRET: &str = "istio-ca-secret";
/// Its type.
pub const SELF_SIGNED_TYPE: &str = "istio.io/ca-root";
/// Name of the Secret with a plugged-in authority; it wins over the self-signed one.
pub const PLUGGED_IN_SECRET: &str = "cacerts";

const CA_CERT: &str = "ca-cert.pem";
const CA_KEY: &str = "ca-key.pem";
const CERT_CHAIN: &str = "cert-chain.pem";
const ROOT_CERT: &str = "root-cert.pem";

impl Authority {
    /// Reads the data of either Secret; `name` stands in errors.
    ///
    /// # Errors
    /// When keys are missing, do not parse, or do not belong together.
    pub fn from_secret(
        name: &str,
        data: &BTreeMap<String, Vec<u8>>,
    ) -> Result<Self, AuthorityError> {
        let get = |key: &str| data.get(key).filter(|value| !value.is_empty());
        let cert_manager = get(CA_CERT).is_none() && get("tls.crt").is_some();
        let (certificate_key, private_key, root_key) = if cert_manager {
            ("tls.crt", "tls.key", "ca.crt")
        } else {
            (CA_CERT, CA_KEY, ROOT_CERT)
        };
        let what = |key: &str| format!("Secret {name}, key {key}");
        let need = |key: &str, expected, block| {
            get(key).ok_or_else(|| MaterialError::Missing {
                what: what(key),
                expected,
                block,
            })
        };
        let own = need(certificate_key, "certificate", "CERTIFICATE")?;
        let mut own = pem::certificates(&what(certificate_key), own)?.into_iter();
        let private = need(private_key, "private key", "PRIVATE KEY")?;
        let key = PrivateKey::from_pem(&what(private_key), private)?;
        // `certificates` gives at least one.
        let certificate = own.next().ok_or(AuthorityError::NotAnAuthority)?;
        let mut above: Vec<CertificateDer<'static>> = own.collect();
        if let Some(chain) = get(CERT_CHAIN) {
            above.extend(pem::certificates(&what(CERT_CHAIN), chain)?);
        }
        let roots = match get(root_key) {
            Some(roots) => pem::certificates(&what(root_key), roots)?,
            // Istio's self-signed Secret has no separate root: the authority is its own.
            None => vec![certificate.clone()],
        };
        // `cert-chain.pem` usually starts with `ca-cert.pem` and ends with the root.
        let mut intermediates: Vec<CertificateDer<'static>> = Vec::new();
        for candidate in above {
            let known = candidate == certificate || roots.contains(&candidate);
            if !known && !intermediates.contains(&candidate) {
                intermediates.push(candidate);
            }
        }
        Self::new(certificate, key, intermediates, roots)
    }

    /// The data of Secret [`SELF_SIGNED_SECRET`].
    #[must_use]
    pub fn to_secret(&self) -> BTreeMap<String, Vec<u8>> {
        let certificate = pem::encode_certificates([&self.certificate]);
        BTreeMap::from([
            (CA_CERT.to_owned(), certificate.into_bytes()),
            (CA_KEY.to_owned(), self.key_pem().into_bytes()),
        ])
    }
}
