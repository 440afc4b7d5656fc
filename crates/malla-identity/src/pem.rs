//! Certificates, revocation lists and keys from PEM, within limits.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

/// No PEM text we read is larger; Kubernetes caps a Secret at 1 MiB.
pub const MAX_PEM_BYTES: usize = 1024 * 1024;

/// Certificates in one PEM text. Public root stores hold about 150.
const MAX_CERTIFICATES: usize = 1024;

/// What is wrong with a certificate, a key or a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MaterialError {
    #[error("{what} has {size} bytes (expected at most {limit})")]
    TooLarge {
        what: String,
        size: usize,
        limit: usize,
    },
    #[error("{what} is not PEM: {reason}")]
    Pem { what: String, reason: String },
    #[error("{what} holds no {expected} (expected a block BEGIN {block})")]
    Missing {
        what: String,
        expected: &'static str,
        block: &'static str,
    },
    #[error(
        "{what} is no usable private key: {reason} (expected ECDSA P-256/P-384, Ed25519, or RSA with 2048 bits or more)"
    )]
    Key { what: String, reason: String },
    #[error("{what} is no X.509 certificate: {reason}")]
    Certificate { what: String, reason: String },
    #[error("{what} is no usable certificate request: {reason}")]
    Request { what: String, reason: String },
    #[error(
        "the private key does not belong to the certificate (was one of the two files replaced without the other?)"
    )]
    KeyMismatch,
}

fn bounded(what: &str, pem: &[u8]) -> Result<(), MaterialError> {
    if pem.len() > MAX_PEM_BYTES {
        return Err(MaterialError::TooLarge {
            what: what.to_owned(),
            size: pem.len(),
            limit: MAX_PEM_BYTES,
        });
    }
    Ok(())
}

fn sections<T: PemObject>(what: &str, pem: &[u8]) -> Result<Vec<T>, MaterialError> {
    bounded(what, pem)?;
    let found: Result<Vec<T>, _> = T::pem_slice_iter(pem).take(MAX_CERTIFICATES + 1).collect();
    let found = found.map_err(|error| MaterialError::Pem {
        what: what.to_owned(),
        reason: error.to_string(),
    })?;
    if found.len() > MAX_CERTIFICATES {
        return Err(MaterialError::TooLarge {
            what: what.to_owned(),
            size: pem.len(),
            limit: MAX_PEM_BYTES,
        });
    }
    Ok(found)
}

/// All certificates in `pem`, in order; `what` names the text in errors (a file, a Secret's key).
///
/// # Errors
/// When the text is too large, is no PEM, or holds no certificate.
pub fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let found: Vec<CertificateDer<'static>> = sections(what, pem)?;
    if found.is_empty() {
        return Err(MaterialError::Missing {
            what: what.to_owned(),
            expected: "certificate",
            block: "CERTIFICATE",
        });
    }
    Ok(found)
}

/// All revocation lists in `pem`; none is fine.
///
/// # Errors
/// When the text is too large or is no PEM.
pub fn revocation_lists(
    what: &str,
    pem: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, MaterialError> {
    sections(what, pem)
}

/// The first private key in `pem`: PKCS #8, PKCS #1 or SEC 1.
///
/// # Errors
/// When the text is too large, is no PEM, or holds no key.
pub fn private_key(what: &str, pem: &[u8]) -> Result<PrivateKeyDer<'static>, MaterialError> {
    bounded(what, pem)?;
    match PrivateKeyDer::pem_slice_iter(pem).next() {
        Some(Ok(key)) => Ok(key),
        Some(Err(error)) => Err(MaterialError::Pem {
            what: what.to_owned(),
            reason: error.to_string(),
        }),
        None => Err(MaterialError::Missing {
            what: what.to_owned(),
            expected: "private key",
            block: "PRIVATE KEY",
        }),
    }
}

/// Certificates as one PEM text.
#[must_use]
pub fn encode_certificates<'a>(
    certificates: impl IntoIterator<Item = &'a CertificateDer<'a>>,
) -> String {
    certificates
        .into_iter()
        .map(|certificate| encode("CERTIFICATE", certificate))
        .collect()
}

/// A private key as PEM, labelled by its kind.
#[must_use]
pub fn encode_key(key: &PrivateKeyDer<'_>) -> String {
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    encode(label, key.secret_der())
}

/// One PEM block with lines of 64 characters (RFC 7468).
#[must_use]
pub fn encode(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        push_base64(&mut text, line);
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

fn push_base64(text: &mut String, bytes: &[u8]) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for group in bytes.chunks(3) {
        let mut word = 0usize;
        for index in 0..3 {
            word = word << 8 | group.get(index).copied().map_or(0, usize::from);
        }
        for index in 0..4 {
            let character = ALPHABET
                .get(word >> (18 - 6 * index) & 63)
                .copied()
                .unwrap_or(b'=');
            text.push(if index > group.len() {
                '='
            } else {
                character.into()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert_eq, proptest};

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back(der in proptest::collection::vec(any::<u8>(), 1..400)) {
            let certificate = CertificateDer::from(der);
            let text = encode_certificates([&certificate, &certificate]);
            let read = certificates("test", text.as_bytes()).unwrap();
            prop_assert_eq!(read, vec![certificate.clone(), certificate]);
        }

        #[test]
        fn any_text_is_answered(text in any::<Vec<u8>>()) {
            let _ = certificates("test", &text);
            let _ = private_key("test", &text);
        }
    }

    #[test]
    fn errors_name_the_text_and_what_was_expected() {
        let error = certificates("Secret cacerts, key root-cert.pem", b"hello").unwrap_err();
        assert_eq!(
            error.to_string(),
            "Secret cacerts, key root-cert.pem holds no certificate (expected a block BEGIN CERTIFICATE)"
        );
        let large = vec![b'x'; MAX_PEM_BYTES + 1];
        assert!(matches!(
            private_key("key", &large),
            Err(MaterialError::TooLarge { .. })
        ));
    }
}
