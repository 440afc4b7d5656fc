//! The API server as its clients see it: stock `kubectl`, `kube-rs`, and real webhooks.
//!
//! Each test has a server of its own in this process. A missing `kubectl` fails the tests that need it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;
mod crds;
mod documented;
mod durability;
mod http;
mod kubectl;
mod nouns;
mod pods;
mod rollouts;
mod samples;
mod services;
mod tokens;
mod verbs;
mod watcher;
mod webhooks;
