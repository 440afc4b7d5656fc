//! Validation as Istio's webhook does it, with the fix named.
pub mod fields;
