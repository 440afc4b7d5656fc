//! Matchers shared by routes and policies.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A regular expression in RE2's syntax, known to compile; it must match the whole text.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: Arc<str>,
}

impl Pattern {
    /// # Errors
    /// When `text` is not a regular expression of RE2's syntax.
    pub fn new(text: &str) -> Result<Self, regex::Error> {
        regex::RegexBuilder::new(text).size_limit(1 << 20).build()?;
        Ok(Self { text: text.into() })
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

/// Istio's `StringMatch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StringMatch {
    Exact(Arc<str>),
    /// A prefix of bytes.
    Prefix(Arc<str>),
    /// A prefix of path segments (Gateway API, Ingress); no trailing slash.
    PathSegments(Arc<str>),
    Regex(Pattern),
    /// Present, whatever its value (Istio: an empty match, or the regex `*`).
    Present,
}

/// One alternative of a route's `match` (Istio: HTTPMatchRequest). All of it must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpMatch {
    pub name: Arc<str>,
    pub uri: Option<StringMatch>,
    pub ignore_uri_case: bool,
    pub scheme: Option<StringMatch>,
    pub method: Option<StringMatch>,
    pub authority: Option<StringMatch>,
    /// Keys are lower case.
    pub headers: BTreeMap<Arc<str>, StringMatch>,
    /// None of these may match; a missing header counts as not matching.
    pub without_headers: BTreeMap<Arc<str>, StringMatch>,
    pub query_params: BTreeMap<Arc<str>, StringMatch>,
    /// What the request's token says; on gateways only.
    pub claims: Vec<ClaimMatch>,
    pub stat_prefix: Arc<str>,
    /// Decided by the control plane, never sent to a proxy.
    pub scope: MatchScope,
}

/// A claim of the request's token (among headers: `@request.auth.claims[…]`): a text, or a list that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimMatch {
    /// The claim, and what of it where it is nested.
    pub path: Vec<Arc<str>>,
    pub value: StringMatch,
    /// It must not match; a missing claim does not.
    pub invert: bool,
}

/// The part of a match that is about the proxy, not the request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MatchScope {
    pub port: Option<u16>,
    pub source_labels: BTreeMap<String, String>,
    pub source_namespace: Option<Arc<str>>,
    /// `namespace/name`, or `mesh`; empty inherits the VirtualService's gateways.
    pub gateways: Vec<Arc<str>>,
}
