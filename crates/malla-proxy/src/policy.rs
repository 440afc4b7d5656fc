//! Who may do what, and how often: access control and limits for requests and for connections.

pub(crate) mod attributes;
mod authz;
pub mod connections;
pub mod limiter;
pub mod network;
pub mod rbac;
pub mod rls;
pub mod token_bucket;
