//! PromQL: Prometheus' query language, evaluated over the metric store.
//!
//! [`parse`] makes a checked expression of a text; [`Engine`] evaluates one at an instant or over a
//! range. Semantics are Prometheus' (extrapolation, staleness, matching); native histograms do not
//! exist here, and a function that is missing is refused by name.

pub mod ast;
pub mod duration;
mod engine;
mod eval;
pub mod functions;
mod lexer;
mod parser;

pub use engine::{Answer, Cancel, Dialect, Engine, QueryConfig, QueryError};
pub use eval::histogram::bucket_quantile;
pub use parser::{parse, parse_selector};

/// Where and why a text is not a query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: parse error: {reason}")]
pub struct ParseError {
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    pub reason: String,
}

impl ParseError {
    pub(crate) fn new(text: &str, at: usize, reason: impl Into<String>) -> Self {
        let before = text.get(..at).unwrap_or(text);
        let last = before.rsplit('\n').next().unwrap_or_default();
        Self {
            line: before.matches('\n').count() + 1,
            column: last.chars().count() + 1,
            reason: reason.into(),
        }
    }
}
