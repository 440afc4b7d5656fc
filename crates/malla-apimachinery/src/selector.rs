//! Label and field selectors, as in `?labelSelector=` and `?fieldSelector=`, and the object form of label selectors.
use serde_json::Value;
use thiserror::Error;

/// A selector that does not parse (HTTP 400).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("unable to parse requirement: {0}")]
pub struct SelectorError(pub(crate) String);

/// Requirements on labels, all of which must hold. The empty selector matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector {}

impl LabelSelector {
    /// Parses the string form.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let _ = text;
        unimplemented!()
    }
    /// Reads the object form `{matchLabels, matchExpressions}`.
    pub fn from_object(selector: &Value) -> Result<Self, SelectorError> {
        let _ = selector;
        unimplemented!()
    }
    /// Reads a plain map as in `Service.spec.selector`.
    pub fn from_map(labels: &Value) -> Self {
        let _ = labels;
        unimplemented!()
    }
    /// Whether nothing is required.
    pub fn is_empty(&self) -> bool {
        unimplemented!()
    }
    /// Whether these labels (a JSON map, or absent) match.
    pub fn matches(&self, labels: Option<&Value>) -> bool {
        let _ = labels;
        unimplemented!()
    }
    /// Whether `metadata.labels` of this object match.
    pub fn matches_object(&self, object: &Value) -> bool {
        let _ = object;
        unimplemented!()
    }
}

/// Requirements on fields, all of which must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {}

impl FieldSelector {
    /// Parses `metadata.name=a,status.phase!=Failed`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let _ = text;
        unimplemented!()
    }
    /// Fails with Kubernetes' text for a path neither `metadata.name`, `metadata.namespace` nor in `allowed`.
    pub fn check(&self, allowed: &[String]) -> Result<(), SelectorError> {
        let _ = allowed;
        unimplemented!()
    }
    /// The value required for a path, e.g. `metadata.name`, to turn a list into a get.
    pub fn required(&self, path: &str) -> Option<&str> {
        let _ = path;
        unimplemented!()
    }
    /// Whether this object matches.
    pub fn matches(&self, object: &Value) -> bool {
        let _ = object;
        unimplemented!()
    }
}
