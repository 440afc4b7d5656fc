//! Certificates, keys and trust anchors that the cluster keeps in Secrets and ConfigMaps, and who may
//! be given them.
//!
//! Invariant: a namespace is here when its Secrets have been read; of one that is not, nothing is known.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A certificate chain and its key, in PEM, as a proxy presents them.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPair {
    pub chain: Arc<[u8]>,
    pub key: Arc<[u8]>,
    /// An OCSP response, in DER.
    pub staple: Option<Arc<[u8]>>,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").finish_non_exhaustive()
    }
}

/// What peers' certificates are checked against, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustAnchors {
    pub roots: Arc<[u8]>,
    /// Revocation lists.
    pub revoked: Option<Arc<[u8]>>,
}

/// One Secret or ConfigMap as TLS uses it: what it holds, or why it holds none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Material {
    pub key_pair: Result<KeyPair, Arc<str>>,
    pub anchors: Result<TrustAnchors, Arc<str>>,
}

/// What is known of one namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    pub secrets: BTreeMap<Arc<str>, Arc<Material>>,
    /// Service accounts of the namespace, and whether Kubernetes lets them list its Secrets.
    pub readers: BTreeMap<Arc<str>, bool>,
}

/// All that has been read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    pub namespaces: BTreeMap<Arc<str>, Arc<Keys>>,
}

/// Why there is nothing under a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum NoSecret {
    #[error("the Secrets of namespace {0} have not been read")]
    Unread(Arc<str>),
    #[error("there is no Secret {0}")]
    Missing(String),
    #[error("Secret {name}: {reason}")]
    Unusable { name: String, reason: Arc<str> },
    #[error(
        "service account {account} of namespace {namespace} may not list Secrets there (give it a Role with get, watch and list on secrets)"
    )]
    Forbidden {
        namespace: Arc<str>,
        account: Arc<str>,
    },
}

impl Secrets {
    /// The key pair in a Secret.
    ///
    /// # Errors
    /// When it is not there or holds none.
    pub fn key_pair(&self, namespace: &str, name: &str) -> Result<&KeyPair, NoSecret> {
        let material = self.material(namespace, name)?;
        material
            .key_pair
            .as_ref()
            .map_err(unusable(namespace, name))
    }

    /// The trust anchors under a name: those of the Secret `NAME-cacert`, else those beside the key
    /// pair in `NAME` itself (Istio's order).
    ///
    /// # Errors
    /// When neither is there, or the one that counts holds none.
    pub fn anchors(&self, namespace: &str, name: &str) -> Result<&TrustAnchors, NoSecret> {
        let own = format!("{name}-cacert");
        let (name, material) = match self.material(namespace, &own) {
            Ok(material) => (&*own, material),
            Err(_) => (name, self.material(namespace, name)?),
        };
        material.anchors.as_ref().map_err(unusable(namespace, name))
    }

    /// Whether a service account may be given key pairs of its namespace.
    ///
    /// # Errors
    /// When it may not, or nobody has asked Kubernetes yet.
    pub fn may_read(&self, namespace: &str, account: &str) -> Result<(), NoSecret> {
        let keys = self.namespace(namespace)?;
        match keys.readers.get(account) {
            Some(true) => Ok(()),
            Some(false) => Err(NoSecret::Forbidden {
                namespace: namespace.into(),
                account: account.into(),
            }),
            None => Err(NoSecret::Unread(namespace.into())),
        }
    }

    fn namespace(&self, namespace: &str) -> Result<&Keys, NoSecret> {
        let found = self.namespaces.get(namespace);
        found
            .map(|keys| &**keys)
            .ok_or_else(|| NoSecret::Unread(namespace.into()))
    }

    fn material(&self, namespace: &str, name: &str) -> Result<&Material, NoSecret> {
        let found = self.namespace(namespace)?.secrets.get(name);
        found
            .map(|material| &**material)
            .ok_or_else(|| NoSecret::Missing(format!("{namespace}/{name}")))
    }
}

fn unusable(namespace: &str, name: &str) -> impl Fn(&Arc<str>) -> NoSecret {
    move |reason| NoSecret::Unusable {
        name: format!("{namespace}/{name}"),
        reason: Arc::clone(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn material(key: Option<&str>, roots: Option<&str>) -> Arc<Material> {
        let pair = |text: &str| KeyPair {
            chain: text.as_bytes().into(),
            key: text.as_bytes().into(),
            staple: None,
        };
        let anchors = |text: &str| TrustAnchors {
            roots: text.as_bytes().into(),
            revoked: None,
        };
        Arc::new(Material {
            key_pair: key.map(pair).ok_or_else(|| "no key".into()),
            anchors: roots.map(anchors).ok_or_else(|| "no roots".into()),
        })
    }

    fn secrets() -> Secrets {
        let keys = Keys {
            secrets: [
                ("both", material(Some("k"), Some("beside"))),
                ("split", material(Some("k"), Some("beside"))),
                ("split-cacert", material(None, Some("own"))),
                ("broken-cacert", material(None, None)),
                ("broken", material(None, Some("beside"))),
            ]
            .map(|(name, material)| (Arc::from(name), material))
            .into(),
            readers: [(Arc::from("yes"), true), (Arc::from("no"), false)].into(),
        };
        Secrets {
            namespaces: [(Arc::from("edge"), Arc::new(keys))].into(),
        }
    }

    #[test]
    fn trust_anchors_have_a_secret_of_their_own_or_stand_beside_the_key() {
        let secrets = secrets();
        let roots = |name: &str| match secrets.anchors("edge", name) {
            Ok(anchors) => String::from_utf8_lossy(&anchors.roots).into_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(roots("both"), "beside");
        assert_eq!(roots("split"), "own");
        assert_eq!(roots("broken"), "Secret edge/broken-cacert: no roots");
        assert_eq!(roots("none"), "there is no Secret edge/none");
    }

    #[test]
    fn who_may_not_list_secrets_is_told_so() {
        let secrets = secrets();
        let may = |namespace: &str, account: &str| secrets.may_read(namespace, account);
        assert_eq!(may("edge", "yes"), Ok(()));
        assert!(matches!(may("edge", "no"), Err(NoSecret::Forbidden { .. })));
        assert!(matches!(may("edge", "new"), Err(NoSecret::Unread(_))));
        assert!(matches!(may("bank", "yes"), Err(NoSecret::Unread(_))));
    }

    #[test]
    fn keys_do_not_show_in_logs() {
        let secrets = secrets();
        let pair = secrets.key_pair("edge", "both").unwrap();
        assert_eq!(format!("{pair:?}"), "KeyPair { .. }");
    }
}
