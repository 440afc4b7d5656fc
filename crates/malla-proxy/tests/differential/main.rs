//! The same YAML, the same bytes, Envoy and Malla side by side: answers, what the backend saw, log lines.
//!
//! Most of it is in `tests/differential/` at the top of the repository, one file for each family of cases; `suite.rs` runs
//! them. What needs more than a file can say is beside it.
//!
//! Envoy is found by `MALLA_ENVOY` or on `PATH`; without it the tests fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says what went wrong by failing

mod backend;
mod case;
mod certificates;
mod client1;
mod client2;
mod collector;
mod compose;
mod counters;
mod decoded;
mod dns;
mod frames;
mod health;
mod hpack;
mod interop;
mod lab;
mod limits;
mod mtls;
mod outcome;
mod policies;
mod ports;
mod slow_start;
mod socket;
mod spread;
mod standards;
mod suite;
mod telemetry;
mod transcript;
mod upstream;
mod wire;
