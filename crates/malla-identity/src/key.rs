//! Private keys.

use std::fmt;

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::pem::{self, MaterialError};

/// A private key that can sign requests and certificates. Never printed.
pub struct PrivateKey {
    pair: KeyPair,
    /// As it was read: PKCS #8, PKCS #1 or SEC 1.
    der: PrivateKeyDer<'static>,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

impl PrivateKey {
    /// A new ECDSA P-256 key, what every mesh peer understands and the fastest to sign with.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate() -> Result<Self, MaterialError> {
        let pair =
            KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| refuse("", error))?;
        let der = PrivatePkcs8KeyDer::from(pair.serialize_der()).into();
        Ok(Self { pair, der })
    }

    /// Reads PKCS #8, PKCS #1 (RSA) or SEC 1 (EC) from PEM; `what` names the text in errors.
    ///
    /// # Errors
    /// When there is no key in the text, or none of a kind we use.
    pub fn from_pem(what: &str, text: &[u8]) -> Result<Self, MaterialError> {
        let der = pem::private_key(what, text)?;
        let pair = KeyPair::try_from(&der).map_err(|error| refuse(what, error))?;
        Ok(Self { pair, der })
    }

    /// The key as PEM, as it goes into a Secret or a file.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem::encode_key(&self.der)
    }

    /// The key in DER, for rustls.
    #[must_use]
    pub fn to_der(&self) -> PrivateKeyDer<'static> {
        self.der.clone_key()
    }

    /// The DER of the public half (SubjectPublicKeyInfo).
    #[must_use]
    pub fn public_key(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.pair
    }

    pub(crate) fn into_parts(self) -> (KeyPair, PrivateKeyDer<'static>) {
        (self.pair, self.der)
    }
}

fn refuse(what: &str, error: rcgen::Error) -> MaterialError {
    MaterialError::Key {
        what: what.to_owned(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn openssl(arguments: &[&str]) -> Vec<u8> {
        let done = Command::new("openssl").args(arguments).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        done.stdout
    }

    #[test]
    fn a_generated_key_survives_pem() {
        let key = PrivateKey::generate().unwrap();
        let again = PrivateKey::from_pem("key", key.to_pem().as_bytes()).unwrap();
        assert_eq!(again.public_key(), key.public_key());
        assert_eq!(format!("{key:?}"), "PrivateKey(..)");
    }

    #[test]
    fn keys_made_by_openssl_are_read() {
        for arguments in [
            &["genrsa", "-traditional", "2048"][..],
            &["ecparam", "-name", "prime256v1", "-genkey", "-noout"],
            &["genpkey", "-algorithm", "ED25519"],
        ] {
            let text = openssl(arguments);
            let key = PrivateKey::from_pem("key", &text);
            let pem = key.unwrap().to_pem();
            let again = PrivateKey::from_pem("key", pem.as_bytes());
            assert!(again.is_ok(), "{arguments:?}: {pem}");
        }
    }
}
