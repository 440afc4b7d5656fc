//! What the proxy runs on: Envoy's protobuf resources parsed into checked types, and one [`Snapshot`] of them.
//!
//! Does: turns each listener, route table, cluster, load assignment and secret into a type that cannot be wrong,
//! compiles route tables and access-log formats once, and shares whatever did not change between two snapshots.
//! Does not: open sockets, read files, wait, or know where resources come from.
//!
//! Invariants:
//! - A field this proxy does not honour is an [`Invalid`] that names it, or a [`Warning`] where leaving it out changes
//!   nothing a peer can see. Proto messages are destructured without `..`, so a new field does not compile unnoticed.
//! - A request reads one [`Snapshot`]; endpoints and secrets are cells of their own that hang off it.
//!
//! Reading order: [`checked`] (errors and paths), [`snapshot`], [`listener`] → [`filter_chain`] → [`http_manager`] or
//! [`tcp_proxy`], [`route`], [`cluster`] → [`endpoints`], [`tls`] → [`secret`].

// Old spellings that Envoy still takes are taken here too.
#![allow(deprecated)]

pub mod bootstrap;
pub mod checked;
pub mod config_source;
pub mod runtime;
pub mod snapshot;

pub mod access_log;
pub mod expression;
pub mod filter_chain;
pub mod format;
pub mod grpc_service;
pub mod http_filter;
pub mod http_manager;
pub mod istio_stats;
pub mod listener;
pub mod overload;
pub mod peer_metadata;
pub mod rbac;
pub mod tcp_proxy;
pub mod tracing;

pub mod cluster;
pub mod endpoints;
pub mod headers;
pub mod rate_limit;
pub mod request;
pub mod route;
pub mod stats_matcher;
pub mod stream_state;
pub mod token_bucket;

pub mod secret;
pub mod tls;

pub mod address;
pub mod held;
pub mod matcher;
pub mod metadata;
pub mod metadata_matcher;
pub mod metadata_path;
pub mod uri_template;

mod pb;

#[cfg(test)]
mod istiod;

pub use checked::{Checked, Invalid, Warning};
pub use snapshot::Snapshot;
