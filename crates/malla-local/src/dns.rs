//! The cluster's DNS, as CoreDNS' `kubernetes` and `forward` plugins serve it.
//!
//! `zone` is pure: names in, records out. `server` listens inside the node's network namespace.
//! What is not of the cluster is forwarded to the machine's resolvers, from the host's namespace.

mod forward;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod server;
mod zone;

pub(crate) use server::DnsServer;
pub(crate) use zone::{Host, Names, Record, Zone};
