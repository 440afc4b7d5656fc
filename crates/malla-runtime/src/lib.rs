//! Process plumbing, without a single domain word.
//!
//! | module | one line |
//! |---|---|
//! | [`admission`] | bounds on accepted connections: silent peers keep nobody out |
//! | [`task`] | every task has an owner and a span; dropping the owner ends the task |
//! | [`drain`] | stop, wait, kill: one implementation of going away |
//! | [`signal`] | SIGTERM and SIGINT as a value to await |
//! | [`ready`] | named gates, and the answer of a readiness probe |
//! | [`log`] | the process's log: text or JSON, levels changeable at run time, repeats counted |
//! | [`metrics`] | counters, gauges and histograms in per-worker shards, merged when scraped |
//! | [`backoff`] | exponential back-off with jitter, repeatable under test |
//! | [`memory`] | gives back the memory that only starting needed |
//! | [`socket`] | the socket options a transparent proxy needs; `unsafe` is here and in [`memory`] |
//!
//! Nothing here reads the environment, and apart from [`log::init`] nothing is process-wide: two
//! meshes fit into one process.

pub mod admission;
pub mod backoff;
pub mod drain;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod ready;
pub mod signal;
pub mod socket;
pub mod task;
