//! Accepts connections, looks at their first bytes, and hands each to the chain that takes it.
//!
//! The [`manager`] lives with the configuration: it binds sockets, compiles matches and tells every worker what to serve.
//! [`accept`] lives on the workers. Between them is [`active`]: one listener, ready to serve, immutable and shared.
pub mod accept;
pub mod active;
pub mod balance;
pub mod chain;
pub mod listening;
mod log;
pub mod manager;
mod options;
pub mod sniff;

pub(crate) use self::options::set_all;
