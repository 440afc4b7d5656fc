//! Names: objects, their age, labels, trust domains and SPIFFE identities.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Labels of an object; ordered, so that everything derived from them is deterministic.
pub type Labels = BTreeMap<String, String>;

/// Whether every pair of `selector` is in `labels`. An empty selector selects everything.
#[must_use]
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// One Kubernetes object, as messages and status name it: `VirtualService base/order-vs`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    pub kind: &'static str,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ObjectRef {
    #[must_use]
    pub fn new(kind: &'static str, namespace: &str, name: &str) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// What every configuration object carries besides its meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    pub object: ObjectRef,
    /// Seconds since the Unix epoch; Istio's "oldest wins" rules compare it first.
    pub created: i64,
    /// `metadata.generation`, so that status can say which version of the object was seen.
    pub generation: i64,
    pub labels: Labels,
    pub annotations: Labels,
}

impl Meta {
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.object.namespace
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.object.name
    }

    /// Istio's order for "oldest wins": creation time, then name, then namespace.
    #[must_use]
    pub fn age(&self) -> (i64, &str, &str) {
        (self.created, &self.object.name, &self.object.namespace)
    }
}

/// A SPIFFE trust domain such as `cluster.local`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// `@` becomes `.`, as Istio does, because `@` cannot stand in a SPIFFE id's authority.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.replace('@', ".").into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    fn default() -> Self {
        Self::new("cluster.local")
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A workload identity, `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    pub trust_domain: TrustDomain,
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
}

/// Why a text is no Istio-style SPIFFE id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a workload identity (expected spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT)"
)]
pub struct NotASpiffeId {
    pub text: String,
}

impl SpiffeId {
    #[must_use]
    pub fn new(trust_domain: &TrustDomain, namespace: &str, service_account: &str) -> Self {
        Self {
            trust_domain: trust_domain.clone(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        }
    }
}

impl std::str::FromStr for SpiffeId {
    type Err = NotASpiffeId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || NotASpiffeId {
            text: text.to_owned(),
        };
        let rest = text.strip_prefix("spiffe://").ok_or_else(refuse)?;
        let parts: Vec<&str> = rest.split('/').collect();
        match parts[..] {
            [domain, "ns", namespace, "sa", account]
                if !domain.is_empty() && !namespace.is_empty() && !account.is_empty() =>
            {
                Ok(Self::new(&TrustDomain::new(domain), namespace, account))
            }
            _ => Err(refuse()),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spiffe_id_survives_a_round_trip() {
        let text = "spiffe://cluster.local/ns/base/sa/default";
        assert_eq!(text.parse::<SpiffeId>().unwrap().to_string(), text);
    }

    #[test]
    fn other_uris_are_refused() {
        for text in [
            "",
            "spiffe://",
            "https://x/ns/a/sa/b",
            "spiffe://td/ns//sa/b",
            "spiffe://td/ns/a/sa/b/c",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
    }
}
