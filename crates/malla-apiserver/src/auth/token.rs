//! Service-account tokens: JWTs signed with ES256 (RFC 7515, RFC 7518), with Kubernetes' claims.
//!
//! A token is good while its signature, times, issuer and audience are, its account still exists with the same uid, and
//! the object it is bound to does too.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use super::{KeysError, User};
use crate::client::BoundObject;
use crate::store::World;

/// Longest token looked at, bytes.
const MAX_TOKEN: usize = 16 * 1024;
/// How long a token outlives the deletion mark of what it is bound to (kube-apiserver: one minute of leeway).
const DELETION_LEEWAY_SECONDS: i64 = 60;

/// Signs and checks tokens.
pub(crate) struct TokenKeys {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    kid: String,
    issuer: String,
}

/// Why a token is no good.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum TokenError {
    #[error("the token is malformed")]
    Malformed,
    #[error("the token's signature does not verify")]
    Signature,
    #[error("the token is from another issuer")]
    Issuer,
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    Early,
    #[error("token audiences {found:?} is invalid for the target audiences {want:?}")]
    Audience {
        found: Vec<String>,
        want: Vec<String>,
    },
    #[error("service account {0} has been deleted")]
    AccountGone(String),
    #[error("the {0} the token is bound to has been deleted")]
    BoundGone(String),
}

/// The claims of a service-account token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) aud: Vec<String>,
    pub(crate) exp: i64,
    pub(crate) iat: i64,
    pub(crate) iss: String,
    pub(crate) jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(crate) kubernetes: Kubernetes,
    pub(crate) nbf: i64,
    pub(crate) sub: String,
}

/// The `kubernetes.io` claim.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Kubernetes {
    pub(crate) namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<Reference>,
    pub(crate) serviceaccount: Reference,
}

/// An object by name and uid.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) uid: String,
}

/// What a good token proves.
#[derive(Debug, Clone)]
pub(crate) struct Verified {
    pub(crate) user: User,
    /// The audiences of the token that were asked for.
    pub(crate) audiences: Vec<String>,
}

impl Claims {
    /// Claims of a new token. `account` and `bound` are objects that exist.
    pub(crate) fn new(
        account: &Value,
        bound: Option<&BoundObject>,
        node: Option<Reference>,
        audiences: Vec<String>,
        now: Timestamp,
        seconds: i64,
    ) -> Self {
        let field = |name: &str| account["metadata"][name].as_str().unwrap_or_default();
        let (namespace, name) = (field("namespace"), field("name"));
        let mut kubernetes = Kubernetes {
            namespace: namespace.to_owned(),
            serviceaccount: Reference {
                name: name.to_owned(),
                uid: field("uid").to_owned(),
            },
            node,
            ..Kubernetes::default()
        };
        if let Some(bound) = bound {
            let reference = Some(Reference {
                name: bound.name.clone(),
                uid: bound.uid.clone(),
            });
            match bound.kind.as_str() {
                "Pod" => kubernetes.pod = reference,
                "Node" => kubernetes.node = reference,
                _ => kubernetes.secret = reference,
            }
        }
        let now = now.as_second();
        Self {
            aud: audiences,
            exp: now.saturating_add(seconds),
            iat: now,
            iss: String::new(),
            jti: uuid::Uuid::new_v4().to_string(),
            sub: format!("system:serviceaccount:{namespace}:{name}"),
            kubernetes,
            nbf: now,
        }
    }

    fn user(&self) -> User {
        let claim = &self.kubernetes;
        let mut user = User {
            name: self.sub.clone(),
            uid: claim.serviceaccount.uid.clone(),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{}", claim.namespace),
                super::AUTHENTICATED.to_owned(),
            ],
            ..User::default()
        };
        let mut extra = |key: &str, value: String| {
            let key = format!("authentication.kubernetes.io/{key}");
            user.extra.insert(key, vec![value]);
        };
        extra("credential-id", format!("JTI={}", self.jti));
        for (kind, reference) in [("pod", &claim.pod), ("node", &claim.node)] {
            if let Some(reference) = reference {
                extra(&format!("{kind}-name"), reference.name.clone());
                extra(&format!("{kind}-uid"), reference.uid.clone());
            }
        }
        user
    }

    /// The account and the bound objects must still be there.
    fn check_references(&self, world: &World, now: Timestamp) -> Result<(), TokenError> {
        let claim = &self.kubernetes;
        let account = &claim.serviceaccount;
        if !lives(world, "serviceaccounts", &claim.namespace, account, now) {
            let name = format!("{}/{}", claim.namespace, account.name);
            return Err(TokenError::AccountGone(name));
        }
        let bound = [
            ("pods", claim.namespace.as_str(), &claim.pod),
            ("secrets", claim.namespace.as_str(), &claim.secret),
        ];
        // A node beside a pod is information, not a bond.
        let node = ("nodes", "", &claim.node);
        let alone = claim.pod.is_none().then_some(node);
        for (resource, namespace, reference) in bound.into_iter().chain(alone) {
            let Some(reference) = reference else { continue };
            if !lives(world, resource, namespace, reference, now) {
                let what = resource.trim_end_matches('s');
                return Err(TokenError::BoundGone(format!("{what} {}", reference.name)));
            }
        }
        Ok(())
    }
}

fn lives(
    world: &World,
    resource: &str,
    namespace: &str,
    reference: &Reference,
    now: Timestamp,
) -> bool {
    let key = malla_apimachinery::meta::ObjectKey {
        namespace: namespace.to_owned(),
        name: reference.name.clone(),
    };
    let Some(stored) = world.get(resource, &key) else {
        return false;
    };
    let metadata = &stored.object["metadata"];
    if metadata["uid"] != reference.uid.as_str() {
        return false;
    }
    let deleted: Option<Timestamp> = metadata["deletionTimestamp"]
        .as_str()
        .and_then(|text| text.parse().ok());
    deleted.is_none_or(|deleted| {
        now.as_second() < deleted.as_second().saturating_add(DELETION_LEEWAY_SECONDS)
    })
}

impl TokenKeys {
    /// A new key, PEM, to be kept.
    pub(crate) fn make() -> Result<String, KeysError> {
        Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_pem())
    }

    /// Reads a kept key.
    pub(crate) fn read(pem: &str, issuer: &str) -> Result<Self, KeysError> {
        let damaged = |cause: String| KeysError::Damaged {
            name: "sa.key",
            cause,
        };
        let key = KeyPair::from_pem(pem).map_err(|e| damaged(e.to_string()))?;
        let der = key.serialize_der();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der);
        let pair = pair.map_err(|e| damaged(e.to_string()))?;
        let spki = pair
            .public_key()
            .as_der()
            .map_err(|e| damaged(e.to_string()))?;
        // Kubernetes names a key by the hash of its SubjectPublicKeyInfo.
        let kid = URL_SAFE_NO_PAD.encode(digest(&SHA256, spki.as_ref()));
        Ok(Self {
            pair,
            random: SystemRandom::new(),
            kid,
            issuer: issuer.to_owned(),
        })
    }

    /// The audience of the API server itself.
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Signs claims; the issuer is filled in.
    pub(crate) fn sign(&self, mut claims: Claims) -> Result<String, TokenError> {
        claims.iss.clone_from(&self.issuer);
        let header = json!({"alg": "ES256", "kid": self.kid});
        let payload = serde_json::to_string(&claims).map_err(|_| TokenError::Malformed)?;
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(payload)
        );
        let signature = self.pair.sign(&self.random, signed.as_bytes());
        let signature = signature.map_err(|_| TokenError::Signature)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Checks a token for at least one of `audiences`.
    pub(crate) fn verify(
        &self,
        token: &str,
        audiences: &[String],
        world: &World,
        now: Timestamp,
    ) -> Result<Verified, TokenError> {
        let claims = self.claims(token)?;
        if claims.iss != self.issuer {
            return Err(TokenError::Issuer);
        }
        let seconds = now.as_second();
        if seconds >= claims.exp {
            return Err(TokenError::Expired);
        }
        if seconds < claims.nbf {
            return Err(TokenError::Early);
        }
        let shared = claims.aud.iter().filter(|one| audiences.contains(one));
        let shared: Vec<String> = shared.cloned().collect();
        if shared.is_empty() {
            return Err(TokenError::Audience {
                found: claims.aud,
                want: audiences.to_vec(),
            });
        }
        claims.check_references(world, now)?;
        Ok(Verified {
            user: claims.user(),
            audiences: shared,
        })
    }

    /// `/openid/v1/jwks`.
    pub(crate) fn jwks(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        // An uncompressed P-256 point: 0x04, then 32 bytes of x and 32 of y.
        let (x, y) = point
            .get(1..)
            .unwrap_or_default()
            .split_at_checked(32)
            .unwrap_or_default();
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.kid, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }]})
    }

    pub(crate) fn claims(&self, token: &str) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let decode = |text: &str| {
            URL_SAFE_NO_PAD
                .decode(text)
                .map_err(|_| TokenError::Malformed)
        };
        let header: Value =
            serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Malformed)?;
        // One key, one algorithm: the header is checked, never obeyed.
        if header["alg"] != "ES256" {
            return Err(TokenError::Signature);
        }
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref());
        key.verify(signed.as_bytes(), &decode(signature)?)
            .map_err(|_| TokenError::Signature)?;
        serde_json::from_slice(&decode(payload)?).map_err(|_| TokenError::Malformed)
    }
}

impl std::fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKeys")
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}
