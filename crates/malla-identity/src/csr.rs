//! Certificate requests (PKCS #10, RFC 2986): made by workloads, read by the authority.

use rcgen::{CertificateParams, DistinguishedName, SanType, SubjectPublicKeyInfo};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use malla_model::SpiffeId;

use crate::key::PrivateKey;
use crate::pem::MaterialError;

/// A request is one key and a few names; Istio's agents send less than 2 KiB.
pub const MAX_CSR_BYTES: usize = 16 * 1024;

/// NIST SP 800-131A: RSA below this is no longer acceptable.
const MIN_RSA_BITS: usize = 2048;

/// Asks for a certificate that names `id`, as PEM signed by `key`.
///
/// # Errors
/// When the key cannot sign.
pub fn request(key: &PrivateKey, id: &SpiffeId) -> Result<String, MaterialError> {
    let refuse = |error: rcgen::Error| MaterialError::Request {
        what: id.to_string(),
        reason: error.to_string(),
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let uri = id.to_string().try_into().map_err(refuse)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    let request = params.serialize_request(key.pair()).map_err(refuse)?;
    request.pem().map_err(refuse)
}

/// A request whose signature has been checked: the sender holds the private key.
#[derive(Debug)]
pub struct Request {
    /// The key to certify.
    pub(crate) public_key: SubjectPublicKeyInfo,
    /// The URIs that the sender would like to be named; for messages only.
    pub wanted: Vec<String>,
}

impl Request {
    /// # Errors
    /// When the text is too large, does not parse, is not signed by the key in it, or that key is of
    /// a kind we do not certify.
    pub fn from_pem(text: &[u8]) -> Result<Self, MaterialError> {
        if text.len() > MAX_CSR_BYTES {
            return Err(MaterialError::TooLarge {
                what: "the certificate request".to_owned(),
                size: text.len(),
                limit: MAX_CSR_BYTES,
            });
        }
        let der = CertificateSigningRequestDer::from_pem_slice(text)
            .map_err(|error| refuse(format!("{error} (expected PEM)")))?;
        let (rest, parsed) = X509CertificationRequest::from_der(&der)
            .map_err(|error| refuse(format!("it does not parse: {error}")))?;
        if !rest.is_empty() {
            return Err(refuse("it is followed by other bytes".to_owned()));
        }
        let subject = &parsed.certification_request_info.subject_pki;
        if let Ok(PublicKey::RSA(rsa)) = subject.parsed()
            && rsa.key_size() < MIN_RSA_BITS
        {
            return Err(refuse(format!(
                "its RSA key has {} bits (expected {MIN_RSA_BITS} or more)",
                rsa.key_size()
            )));
        }
        parsed
            .verify_signature()
            .map_err(|_| refuse("it is not signed by the key it holds".to_owned()))?;
        let public_key = SubjectPublicKeyInfo::from_der(subject.raw)
            .map_err(|error| refuse(format!("its key is of no kind we certify: {error}")))?;
        Ok(Self {
            public_key,
            wanted: wanted(&parsed),
        })
    }
}

fn refuse(reason: String) -> MaterialError {
    MaterialError::Request {
        what: "the text".to_owned(),
        reason,
    }
}

fn wanted(request: &X509CertificationRequest<'_>) -> Vec<String> {
    let Some(extensions) = request.requested_extensions() else {
        return Vec::new();
    };
    extensions
        .filter_map(|extension| match extension {
            ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
            _ => None,
        })
        .flatten()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};

    fn id() -> SpiffeId {
        "spiffe://cluster.local/ns/base/sa/cart".parse().unwrap()
    }

    #[test]
    fn a_request_is_read_back() {
        let key = PrivateKey::generate().unwrap();
        let text = request(&key, &id()).unwrap();
        let read = Request::from_pem(text.as_bytes()).unwrap();
        assert_eq!(read.wanted, [id().to_string()]);
    }

    #[test]
    fn a_forged_signature_and_short_keys_are_refused() {
        let text = request(&PrivateKey::generate().unwrap(), &id()).unwrap();
        let der = CertificateSigningRequestDer::from_pem_slice(text.as_bytes()).unwrap();
        let mut forged = der.to_vec();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        let forged = crate::pem::encode("CERTIFICATE REQUEST", &forged);
        let error = Request::from_pem(forged.as_bytes()).unwrap_err();
        assert!(
            error.to_string().contains("not signed by the key"),
            "{error}"
        );

        let short = std::process::Command::new("openssl")
            .args([
                "req", "-new", "-newkey", "rsa:1024", "-nodes", "-subj", "/O=x",
            ])
            .args(["-keyout", "/dev/null"])
            .output()
            .unwrap();
        let error = Request::from_pem(&short.stdout).unwrap_err().to_string();
        assert!(error.contains("1024 bits"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_is_answered(der in proptest::collection::vec(any::<u8>(), 0..300)) {
            let text = crate::pem::encode("CERTIFICATE REQUEST", &der);
            assert!(Request::from_pem(text.as_bytes()).is_err());
        }
    }
}
