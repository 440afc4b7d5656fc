//! Who may do what: role-based access control for HTTP requests and for connections.

pub mod network;
pub mod rbac;
