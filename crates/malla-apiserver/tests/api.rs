//! The API server as its clients see it: stock `kubectl`, `kube-rs`, and real webhooks.
//!
//! Each test has a server of its own in this process. A missing `kubectl` fails the tests that need it.

#[path = "api/cluster.rs"]
mod cluster;
#[path = "api/kubectl.rs"]
mod kubectl;
