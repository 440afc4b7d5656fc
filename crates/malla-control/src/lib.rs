//! The control plane: reads Kubernetes objects, keeps one immutable world, and serves it as xDS.
//!
//! One way: [`source`] watches, [`index`] is the only writer of the world, `push` translates it
//! for each proxy. Beside that: [`inject`] and [`webhook`] for objects on their way in, [`write`]
//! for what we put into the cluster, [`manifest`] for what an installation consists of.

pub mod app;
pub mod index;
pub mod inject;
pub mod lease;
pub mod manifest;
pub mod nodes;
pub mod source;
pub mod tokens;
pub mod webhook;
pub mod write;
