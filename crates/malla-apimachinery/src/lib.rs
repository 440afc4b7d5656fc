//! The pure half of a Kubernetes-style API server: what objects mean, without sockets, storage or clocks.
//!
//! Every object is a [`serde_json::Value`]; every function is deterministic (time, uids and random suffixes are
//! passed in). The server that uses this crate follows one path for a write, whatever the kind:
//!
//! 1. find the [`kind::ResourceKind`] ([`builtin::kinds`] for built-in kinds, [`crd::kinds`] for custom ones),
//! 2. decode ([`kind::ResourceKind::decode`]) or patch ([`patch`], [`apply`]) into a new object,
//! 3. default ([`kind::ResourceKind::default_object`]), fill metadata ([`meta`]), validate
//!    ([`kind::ResourceKind::validate_create`] / [`kind::ResourceKind::validate_update`]),
//! 4. record field ownership ([`apply::update`]), store.
//!
//! Reads filter with [`selector`] and print with [`table`]; [`openapi`] tells clients about it all.

pub mod apply;
pub mod builtin;
pub mod condition;
pub mod crd;
pub mod error;
pub mod kind;
pub mod meta;
pub mod openapi;
pub mod patch;
pub mod schema;
pub mod selector;
pub mod table;
