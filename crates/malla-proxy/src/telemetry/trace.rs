//! Spans: made for each traced request, told to upstreams, handed to an exporter as bytes.
//!
//! Reading order: [`context`] (what callers say and upstreams are told), [`decide`] (which requests), [`span`] (one
//! span while it is open), [`tags`] (what it says), `otlp` and `zipkin` (how it looks to a collector).

pub mod context;
pub mod decide;
mod otlp;
pub mod span;
pub mod tags;
mod zipkin;

pub use otlp::{request as otlp_request, resource as otlp_resource};
