//! What users write, and what it means.
//!
//! Istio's kinds as Rust types ([`istio`]); the CustomResourceDefinitions generated from them
//! ([`crd`]); validation as Istio's webhook does it, with the fix named ([`validate`]); and lowering
//! to the mesh model ([`lower`]), which reports every field it does not act on. All of it is pure:
//! no IO, no time, no Kubernetes client.

pub mod crd;
pub mod duration;
pub mod istio;
pub mod kind;
pub mod lower;
pub mod report;
pub mod schema;
pub mod validate;

pub use crd::crds;
pub use kind::Kind;
pub use lower::{Config, Lowered, NotHonoured, Refused, lower};
pub use report::{Problem, Report};
pub use validate::validate;
