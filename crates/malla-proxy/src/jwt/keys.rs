//! Key sets (RFC 7517) and signatures (RFC 7518, RFC 8037).
//!
//! A key that cannot be used is left out, as Envoy does; a set without any usable key is an error.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use x509_parser::oid_registry::{OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::status::Status;
use super::token::{Algorithm, BASE64URL, Sha, Token};

/// More keys than this in a set are not looked at: each costs a verification for a token without `kid`.
const MAX_KEYS: usize = 256;

/// A set of keys.
#[derive(Debug)]
pub struct Jwks {
    keys: Vec<Jwk>,
}

#[derive(Debug)]
struct Jwk {
    id: String,
    algorithm: String,
    key: Key,
}

/// What verifies.
enum Key {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    Ec(Sha, Vec<u8>),
    Ed25519(Vec<u8>),
    Secret(Vec<u8>),
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Secrets stay out of logs.
        f.write_str(match self {
            Self::Rsa { .. } => "RSA",
            Self::Ec(..) => "EC",
            Self::Ed25519(_) => "Ed25519",
            Self::Secret(_) => "secret",
        })
    }
}

impl Jwks {
    /// Parses a key set, or an object of PEM certificates by key id.
    ///
    /// # Errors
    /// When it is none, or no key in it can be used.
    pub fn parse(text: &str) -> Result<Self, Status> {
        let whole: Map<String, Value> =
            serde_json::from_str(text).map_err(|_| Status::JwksParseError)?;
        let keys: Vec<Jwk> = match whole.get("keys") {
            Some(Value::Array(keys)) => keys.iter().take(MAX_KEYS).filter_map(Jwk::parse).collect(),
            Some(_) => return Err(Status::JwksBadKeys),
            None => {
                let certificates = whole.iter().take(MAX_KEYS).filter_map(|(id, pem)| {
                    Some(Jwk {
                        id: id.clone(),
                        algorithm: String::new(),
                        key: certified(&pem_der(pem.as_str()?)?)?,
                    })
                });
                let keys: Vec<Jwk> = certificates.collect();
                if keys.is_empty() {
                    return Err(Status::JwksNoKeys);
                }
                keys
            }
        };
        match keys.is_empty() {
            true => Err(Status::JwksNoValidKeys),
            false => Ok(Self { keys }),
        }
    }

    /// Checks a token's signature.
    ///
    /// # Errors
    /// When no key of the set has made it.
    pub fn verify(&self, token: &Token) -> Result<(), Status> {
        let mut fitting = self.keys.iter().filter(|key| key.fits(token)).peekable();
        if fitting.peek().is_none() {
            return Err(Status::JwksKidAlgMismatch);
        }
        if token.algorithm == Algorithm::EdDsa && token.signature.len() != 64 {
            let ed25519 = |key: &Jwk| matches!(key.key, Key::Ed25519(_));
            return Err(match fitting.any(ed25519) {
                true => Status::Ed25519WrongLength,
                false => Status::VerificationFail,
            });
        }
        match fitting.any(|key| key.key.verifies(token)) {
            true => Ok(()),
            false => Err(Status::VerificationFail),
        }
    }
}

impl Jwk {
    fn parse(wire: &Value) -> Option<Self> {
        let wire = wire.as_object()?;
        let text = |name: &str| match wire.get(name) {
            None => Some(""),
            Some(value) => value.as_str(),
        };
        let algorithm = text("alg")?;
        let key = match text("kty")? {
            "RSA" if fits_family(algorithm, &["RS", "PS"]) => rsa(wire),
            "EC" if fits_family(algorithm, &["ES"]) => ec(wire, algorithm),
            "OKP" if fits_family(algorithm, &["Ed"]) => okp(wire),
            "oct" if fits_family(algorithm, &["HS"]) => secret(wire),
            _ => None,
        };
        Some(Self {
            id: text("kid")?.to_owned(),
            algorithm: algorithm.to_owned(),
            key: key.or_else(|| certificate(wire, text("kty")?))?,
        })
    }

    /// By key id where both name one, and by algorithm where the key names one.
    fn fits(&self, token: &Token) -> bool {
        (self.id.is_empty() || token.key_id.is_empty() || self.id == token.key_id)
            && (self.algorithm.is_empty() || self.algorithm == token.algorithm_name)
    }
}

fn fits_family(algorithm: &str, families: &[&str]) -> bool {
    algorithm.is_empty() || families.iter().any(|family| algorithm.starts_with(family))
}

fn bytes(wire: &Map<String, Value>, name: &str) -> Option<Vec<u8>> {
    let decoded = BASE64URL.decode(wire.get(name)?.as_str()?).ok()?;
    (!decoded.is_empty()).then_some(decoded)
}

fn rsa(wire: &Map<String, Value>) -> Option<Key> {
    Some(Key::Rsa {
        n: without_zeros(bytes(wire, "n")?),
        e: without_zeros(bytes(wire, "e")?),
    })
}

fn without_zeros(number: Vec<u8>) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default().to_vec()
}

fn ec(wire: &Map<String, Value>, algorithm: &str) -> Option<Key> {
    let curve = match wire.get("crv").map(Value::as_str) {
        Some(curve) => curve?,
        None => match algorithm {
            "ES384" => "P-384",
            "ES512" => "P-521",
            _ => "P-256",
        },
    };
    let (sha, length) = match curve {
        "P-256" => (Sha::S256, 32),
        "P-384" => (Sha::S384, 48),
        "P-521" => (Sha::S512, 66),
        _ => return None,
    };
    let mut point = vec![4]; // Uncompressed (SEC 1 §2.3.3).
    for name in ["x", "y"] {
        let number = without_zeros(bytes(wire, name)?);
        let missing = usize::checked_sub(length, number.len())?;
        point.resize(point.len() + missing, 0);
        point.extend_from_slice(&number);
    }
    Some(Key::Ec(sha, point))
}

fn okp(wire: &Map<String, Value>) -> Option<Key> {
    let key = bytes(wire, "x")?;
    (wire.get("crv")?.as_str()? == "Ed25519" && key.len() == 32).then_some(Key::Ed25519(key))
}

fn secret(wire: &Map<String, Value>) -> Option<Key> {
    bytes(wire, "k").map(Key::Secret)
}

/// The key of the first certificate of `x5c` (RFC 7517 §4.7), where the key itself is not written.
fn certificate(wire: &Map<String, Value>, kind: &str) -> Option<Key> {
    let der = STANDARD
        .decode(wire.get("x5c")?.as_array()?.first()?.as_str()?)
        .ok()?;
    let key = certified(&der)?;
    let same = matches!(
        (&key, kind),
        (Key::Rsa { .. }, "RSA") | (Key::Ec(..), "EC") | (Key::Ed25519(_), "OKP")
    );
    same.then_some(key)
}

/// The body of a PEM certificate.
fn pem_der(pem: &str) -> Option<Vec<u8>> {
    let inside = pem.split_once("-----BEGIN CERTIFICATE-----")?.1;
    let inside = inside.split_once("-----END CERTIFICATE-----")?.0;
    let bare: String = inside.split_whitespace().collect();
    STANDARD.decode(bare).ok()
}

fn certified(der: &[u8]) -> Option<Key> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let info = certificate.public_key();
    let kind = &info.algorithm.algorithm;
    if *kind == OID_PKCS1_RSAENCRYPTION {
        let PublicKey::RSA(key) = info.parsed().ok()? else {
            return None;
        };
        return Some(Key::Rsa {
            n: without_zeros(key.modulus.to_vec()),
            e: without_zeros(key.exponent.to_vec()),
        });
    }
    let point = info.subject_public_key.data.to_vec();
    if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let sha = match point.len() {
            65 => Sha::S256,
            97 => Sha::S384,
            133 => Sha::S512,
            _ => return None,
        };
        return Some(Key::Ec(sha, point));
    }
    (kind.to_id_string() == "1.3.101.112" && point.len() == 32).then_some(Key::Ed25519(point))
}

impl Key {
    /// The key's kind decides; a token that claims another algorithm is not verified.
    fn verifies(&self, token: &Token) -> bool {
        let (message, signature) = (token.signed.as_bytes(), token.signature.as_slice());
        let unparsed = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            let key = UnparsedPublicKey::new(algorithm, key);
            key.verify(message, signature).is_ok()
        };
        match (self, token.algorithm) {
            (Self::Rsa { n, e }, algorithm) => {
                let Some(parameters) = rsa_parameters(algorithm) else {
                    return false;
                };
                let key = RsaPublicKeyComponents { n, e };
                key.verify(parameters, message, signature).is_ok()
            }
            (Self::Ec(curve, point), Algorithm::Es(sha)) if *curve == sha => match sha {
                Sha::S256 => unparsed(&ECDSA_P256_SHA256_FIXED, point),
                Sha::S384 => unparsed(&ECDSA_P384_SHA384_FIXED, point),
                Sha::S512 => unparsed(&ECDSA_P521_SHA512_FIXED, point),
            },
            (Self::Ed25519(key), Algorithm::EdDsa) => unparsed(&ED25519, key),
            (Self::Secret(secret), Algorithm::Hs(sha)) => {
                let algorithm = match sha {
                    Sha::S256 => hmac::HMAC_SHA256,
                    Sha::S384 => hmac::HMAC_SHA384,
                    Sha::S512 => hmac::HMAC_SHA512,
                };
                // In constant time.
                hmac::verify(&hmac::Key::new(algorithm, secret), message, signature).is_ok()
            }
            _ => false,
        }
    }
}

fn rsa_parameters(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        Algorithm::Rs(Sha::S256) => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rs(Sha::S384) => &RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs(Sha::S512) => &RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps(Sha::S256) => &RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps(Sha::S384) => &RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps(Sha::S512) => &RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
