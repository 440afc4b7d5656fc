//! What is recorded: counters, access logs, spans.

pub mod access_log;
pub mod codes;
pub mod export;
pub mod flags;
pub mod histogram;
pub mod istio;
pub(crate) mod label;
pub mod log_writer;
pub mod odometer;
pub mod record;
pub mod stats;
pub mod trace;
pub mod wire;
