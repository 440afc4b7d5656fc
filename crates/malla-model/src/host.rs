//! Hosts as Istio matches them: exact names, `*`, and `*.suffix`, which is a plain suffix test.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// A host of a rule or service, lower case, already resolved to a full name where it was short.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(Arc<str>);

impl Host {
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_ascii_lowercase().into())
    }

    /// Resolves a short name in the *rule's* namespace (never the service's), as Istio does:
    /// only a text without a dot is short; `*` and IP addresses are left alone.
    #[must_use]
    pub fn resolve(text: &str, rule_namespace: &str, domain: &str) -> Self {
        if text.contains(['.', '*', ':']) || text.is_empty() {
            Self::new(text)
        } else {
            Self::new(&format!("{text}.{rule_namespace}.svc.{domain}"))
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    /// Whether every host that `other` stands for is one that `self` stands for.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match self.0.strip_prefix('*') {
            Some(suffix) => other
                .0
                .strip_prefix('*')
                .unwrap_or(&other.0)
                .ends_with(suffix),
            None => self == other,
        }
    }

    /// Whether some host is covered by both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// Most specific first: exact names, then longer wildcards, then the alphabet.
    #[must_use]
    pub fn by_specificity(&self, other: &Self) -> Ordering {
        self.is_wildcard()
            .cmp(&other.is_wildcard())
            .then_with(|| {
                if self.is_wildcard() {
                    other.0.len().cmp(&self.0.len())
                } else {
                    Ordering::Equal
                }
            })
            .then_with(|| self.0.cmp(&other.0))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_belong_to_the_rules_namespace() {
        assert_eq!(
            Host::resolve("order", "base", "cluster.local").as_str(),
            "order.base.svc.cluster.local"
        );
        for kept in ["*", "order.base", "10.0.0.1", "*.example.com", "::1"] {
            assert_eq!(Host::resolve(kept, "base", "cluster.local").as_str(), kept);
        }
    }

    #[test]
    fn a_wildcard_is_a_suffix_test() {
        let any = Host::new("*.example.com");
        assert!(any.covers(&Host::new("a.b.example.com")));
        assert!(any.covers(&Host::new("*.b.example.com")));
        assert!(!any.covers(&Host::new("example.com")));
        assert!(Host::new("*").covers(&any));
        assert!(!any.covers(&Host::new("*")));
        assert!(any.overlaps(&Host::new("*")));
    }

    #[test]
    fn specific_hosts_come_first() {
        let mut hosts = ["*", "*.com", "b.com", "*.b.com", "a.com"].map(Host::new);
        hosts.sort_by(Host::by_specificity);
        assert_eq!(
            hosts.map(|h| h.to_string()),
            ["a.com", "b.com", "*.b.com", "*.com", "*"]
        );
    }
}
