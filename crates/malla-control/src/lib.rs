//! The control plane: reads Kubernetes objects, keeps one immutable world, and serves it as xDS.

pub mod inject;
pub mod manifest;
