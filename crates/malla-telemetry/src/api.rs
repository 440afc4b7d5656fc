//! What is asked over HTTP.

pub mod json;
