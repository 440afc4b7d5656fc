//! HTTP filters besides the router.

pub mod cors;
pub mod fault;
