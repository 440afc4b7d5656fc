//! What is recorded: counters and access logs.

pub mod stats;
