//! What is recorded: counters and access logs.

pub mod access_log;
pub mod flags;
pub mod istio;
pub mod log_writer;
pub mod record;
pub mod stats;
