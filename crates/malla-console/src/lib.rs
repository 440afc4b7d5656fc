//! The web console's server: one origin for the pages, the API of `ui/openapi.yaml`, and the
//! collector's own APIs where this process has one.
//!
//! A request passes [`guard`] (host, origin, session, cross-site forgery), then the one
//! authorization seam ([`auth`]), then a handler of `api`. Handlers read the cluster's [`mirror`],
//! which one watch per kind keeps, and write through [`cluster`], which speaks to any Kubernetes
//! API server. [`history`] hears of every change, whoever made it. What requests really do is asked
//! of [`metrics`], and by requests of [`lessons`]' own; nothing is ever made up: without an answer,
//! figures are absent.

mod addresses;
mod api;
mod assets;
pub mod auth;
mod badges;
mod builtin;
mod cluster;
mod control;
mod discovery;
pub mod error;
mod findings;
pub mod guard;
mod history;
mod lessons;
pub mod metrics;
mod mirror;
mod pods;
mod proxies;
pub mod server;
mod wire;
mod yaml;

pub use auth::{Action, AllowAll, Authorizer, User};
pub use error::ApiError;
pub use metrics::{Metrics, Prometheus};
pub use server::{Console, Options};
