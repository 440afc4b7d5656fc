//! The same YAML, the same bytes, Envoy and Malla side by side: answers, what the backend saw, log lines.
//!
//! Envoy is found by `MALLA_ENVOY` or on `PATH`; without it the tests fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says what went wrong by failing

mod backend;
mod cases;
mod collector;
mod endings;
mod h2;
mod lab;
mod mirrors;
mod mtls;
mod requests;
mod smuggling;
mod telemetry;
mod tunnels;
mod wire;
