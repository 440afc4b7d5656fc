//! Gets spans and log entries to their collectors, through the worker's own clusters and pools.
//!
//! Each worker has its own queues and one task for each, so that nothing on a request's path takes a lock or waits. A
//! queue is bounded: what a slow or dead collector does not take is dropped, and counted.
//!
//! Reading order: [`queue`], [`exporters`], [`crate::call`], `delivery`, [`spans`], [`log_stream`]; [`entry`] is what log entries
//! say, [`otlp_logs`] what OpenTelemetry's records do.

mod delivery;
pub mod entry;
pub mod exporters;
pub mod log_stream;
pub mod otlp_logs;
pub mod queue;
pub mod spans;
