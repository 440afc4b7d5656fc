//! Spans: received by OTLP or Zipkin's API, stored, searched.

pub(crate) mod model;
pub(crate) mod otlp;
pub(crate) mod store;
pub(crate) mod zipkin;

pub use store::{Dependency, TraceQuery};
