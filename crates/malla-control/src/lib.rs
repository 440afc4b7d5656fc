//! The control plane: reads Kubernetes objects, keeps one immutable world, and serves it as xDS.
//!
//! One way: [`source`] watches, [`index`] is the only writer of the world, `push` translates it
//! for each proxy; [`secrets`] adds what proxies ask for of the cluster's Secrets. Beside that: [`inject`] and [`webhook`] for objects on their way in, [`write`]
//! for what we put into the cluster, `debug` for what is told about all that, [`manifest`] for what an installation consists of.

pub mod app;
mod debug;
pub mod index;
pub mod inject;
pub mod lease;
pub mod manifest;
pub mod nodes;
pub mod secrets;
pub mod source;
pub mod tokens;
pub mod webhook;
pub mod write;
