//! Label and field selectors, as in `?labelSelector=` and `?fieldSelector=`, and the object form of label selectors.
//!
//! Invariant: a parsed selector holds only syntactically valid label keys and values, so printing and parsing it again
//! gives the same selector.

mod fields;
mod labels;

use thiserror::Error;

pub use fields::FieldSelector;
pub use labels::LabelSelector;

/// A selector that does not parse or asks for an unsupported field (HTTP 400).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct SelectorError(pub(crate) String);

#[cfg(test)]
mod tests;
