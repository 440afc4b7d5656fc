//! Accepts connections, looks at their first bytes, and hands each to the chain that takes it.
pub mod chain;
pub mod sniff;
