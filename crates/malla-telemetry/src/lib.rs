//! What a mesh measures: received, stored, asked for.
//!
//! | module | one line |
//! |---|---|
//! | [`metrics`] | the metric store: labels, Gorilla chunks, log, blocks, retention |
//! | [`promql`] | Prometheus' query language: parser and engine |
//! | [`scrape`] | fetches metrics from a changing list of targets |

pub mod api;
pub mod clock;
pub mod metrics;
pub mod promql;
pub mod scrape;
