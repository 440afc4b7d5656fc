//! Who may call whom (Istio: PeerAuthentication, AuthorizationPolicy).

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use crate::id::{Labels, Meta};

/// How a workload takes connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MtlsMode {
    Disable,
    Permissive,
    Strict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAuthentication {
    pub meta: Meta,
    /// `None` is the whole namespace (or mesh, in the root namespace).
    pub selector: Option<Labels>,
    /// `None` is UNSET: inherit.
    pub mode: Option<MtlsMode>,
    /// By the workload's port, not the service's.
    pub ports: BTreeMap<u16, Option<MtlsMode>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    pub meta: Meta,
    pub selector: Option<Labels>,
    pub action: PolicyAction,
    /// None at all never matches; so ALLOW without rules denies everything.
    pub rules: Vec<Rule>,
    /// Annotation `istio.io/dry-run: "true"`.
    pub dry_run: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyAction {
    Allow,
    Deny,
    Audit,
    Custom { provider: Arc<str> },
}

/// `from` and `to` and `when` must hold; an empty list holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    pub from: Vec<Source>,
    pub to: Vec<Operation>,
    pub when: Vec<Condition>,
}

/// Values one of which must match, and values none of which may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneOf<T> {
    pub any: Vec<T>,
    pub none: Vec<T>,
}

impl<T> Default for OneOf<T> {
    fn default() -> Self {
        Self {
            any: Vec::new(),
            none: Vec::new(),
        }
    }
}

impl<T> OneOf<T> {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }
}

/// Istio's policy strings: `*` (present), `x*`, `*x`, or exact.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Glob {
    Present,
    Prefix(Arc<str>),
    Suffix(Arc<str>),
    Exact(Arc<str>),
}

impl Glob {
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if text == "*" {
            Self::Present
        } else if let Some(prefix) = text.strip_suffix('*') {
            Self::Prefix(prefix.into())
        } else if let Some(suffix) = text.strip_prefix('*') {
            Self::Suffix(suffix.into())
        } else {
            Self::Exact(text.into())
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    pub principals: OneOf<Glob>,
    pub request_principals: OneOf<Glob>,
    pub namespaces: OneOf<Glob>,
    /// (namespace, service account); a bare name is of the policy's namespace.
    pub service_accounts: OneOf<(Arc<str>, Arc<str>)>,
    pub ip_blocks: OneOf<IpNet>,
    pub remote_ip_blocks: OneOf<IpNet>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Operation {
    pub hosts: OneOf<Glob>,
    pub ports: OneOf<u16>,
    pub methods: OneOf<Glob>,
    /// Kept as written where they hold `{*}` or `{**}` templates.
    pub paths: OneOf<Glob>,
}

impl Operation {
    /// Fields that only HTTP has; on TCP they drop an ALLOW rule and widen a DENY one.
    #[must_use]
    pub fn needs_http(&self) -> bool {
        !(self.hosts.is_empty() && self.methods.is_empty() && self.paths.is_empty())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub key: ConditionKey,
    pub values: OneOf<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ConditionKey {
    /// Lower case.
    RequestHeader(Arc<str>),
    SourceIp,
    RemoteIp,
    SourceNamespace,
    SourcePrincipal,
    /// Values are `namespace/name`.
    SourceServiceAccount,
    SourceTrustDomain,
    RequestPrincipal,
    RequestAudiences,
    RequestPresenter,
    RequestClaim(Vec<Arc<str>>),
    DestinationIp,
    DestinationPort,
    ConnectionSni,
}
