//! Spans: received by OTLP, stored, searched.

pub(crate) mod model;
pub(crate) mod otlp;
pub(crate) mod store;

pub use store::{Dependency, TraceQuery};
