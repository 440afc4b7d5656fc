//! The embedded Kubernetes-style API server that stock `kubectl` and `kube-rs` use.
//!
//! [`Server::open`] opens one crash-safe file; [`Server::serve`] serves TLS on listeners the caller bound;
//! [`Server::client`] gives controllers in the same process the same path without HTTP. What the server needs from the
//! world (webhook connections, pods) it asks through [`outside::Dial`] and [`outside::NodeRuntime`].
//!
//! What objects mean (schemas, defaults, patches, tables) is `malla-apimachinery`'s; running them is `malla-local`'s.

mod admission;
mod auth;
pub mod client;
pub mod config;
mod core;
mod discovery;
pub mod error;
mod http;
mod janitor;
pub mod kinds;
mod listen;
mod openapi;
pub mod outside;
mod registry;
mod rest;
pub mod server;
mod store;
mod strategy;

pub use client::{
    BoundObject, Client, DeleteParams, ListParams, Listed, Patch, Propagation, Token, TokenParams,
    Watch, WatchEvent,
};
pub use config::{Config, Limits};
pub use error::{ApiError, Reason};
pub use kinds::Resource;
pub use outside::{Dial, NodeRuntime};
pub use server::{OpenError, Server};

#[cfg(fuzzing)]
#[doc(hidden)]
pub use http::fuzzing;
