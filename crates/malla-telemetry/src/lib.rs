//! What a mesh measures: received, stored, asked for.
//!
//! [`Telemetry`] is the whole: it scrapes metrics, receives spans (OTLP) and access logs (Envoy's
//! ALS), keeps all of it on disk within limits, and answers in Prometheus' and Jaeger's APIs and
//! as a service graph. The modules, in reading order:
//!
//! | module | one line |
//! |---|---|
//! | [`metrics`] | the metric store: labels, Gorilla chunks, log, blocks, retention |
//! | [`scrape`] | fetches metrics from a changing list of targets |
//! | [`promql`] | Prometheus' query language: parser and engine |
//! | `records` | spans and logs on disk: queues, buckets, retention |
//! | [`spans`] | spans: OTLP in, searches out |
//! | [`logs`] | access logs: ALS in, searches and a live tail out |
//! | [`graph`] | who calls whom, from Istio's standard metrics |
//! | [`derive`] | Istio's standard metrics of proxies that do not count them, from their access logs |
//! | [`api`] | all of it over HTTP |
//! | [`collector`] | the whole as a process runs it: opened in the background, again if need be |
//! | [`clock`] | what time it is, and whether to believe it |
//!
//! Invariants: nobody who sends telemetry ever waits for the disk longer than a moment; what does
//! not fit is dropped and counted; what was acknowledged survives `kill -9`.

pub mod api;
pub mod clock;
pub mod collector;
pub mod derive;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod graph;
pub mod logs;
pub mod metrics;
pub mod promql;
mod records;
pub mod scrape;
pub mod spans;
mod telemetry;

pub use collector::{Collector, CollectorConfig};
pub use records::{RecordsError, RetentionConfig};
pub use telemetry::{Receivers, Telemetry, TelemetryConfig, TelemetryError};
