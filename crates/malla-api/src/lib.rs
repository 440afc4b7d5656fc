//! What users write, and what it means.
//!
//! Istio's kinds as Rust types ([`istio`]) and the Gateway API's ([`gateway_api`]); the CustomResourceDefinitions generated from them
//! ([`crd`]); validation as Istio's webhook does it, with the fix named ([`validate`]); and lowering
//! to the mesh model ([`lower`]), which reports every field it does not act on; what a whole
//! configuration shows ([`analyze`]); and what users read back ([`status`]). All of it is pure:
//! no IO, no time, no Kubernetes client.

pub mod analyze;
pub mod crd;
pub mod duration;
pub mod gateway_api;
pub mod istio;
pub mod kind;
pub mod lower;
pub mod report;
pub mod schema;
pub mod status;
pub mod validate;

pub use analyze::{Message, World, analyze};
pub use crd::crds;
pub use kind::Kind;
pub use lower::{Config, Lowered, NotHonoured, Refused, lower};
pub use report::{Problem, Report};
pub use status::status;
pub use validate::validate;
