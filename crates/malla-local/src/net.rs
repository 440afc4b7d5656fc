//! The node's network: one namespace for the node, one for each pod, joined by routed veth pairs.
//!
//! ```text
//!  pod netns                      node netns
//!  eth0 10.244.0.7/32 ────veth──── vethxxxx   route 10.244.0.7/32 dev vethxxxx
//!  default via 169.254.1.1        lo 10.244.0.1/32 (the node's address: DNS, API server)
//!                                 nftables: Service VIPs -> endpoints
//! ```
//! TCP to anywhere else is relayed by the node, see `egress`.
//! There is no bridge, so every packet between pods passes the node's rules and NAT is symmetric.
//! Neighbours are permanent entries: nothing asks by ARP.
//!
//! Invariants: IPv4 only; namespaces are held by descriptors and processes alone, so they vanish
//! with the cluster process; nothing is changed in the host's own network namespace.

mod addresses;
mod dial;
mod egress;
mod links;
mod namespace;
pub mod rules;
mod ruleset;

pub use addresses::{AddressPool, PoolExhausted};
pub use dial::ClusterDial;
pub(crate) use egress::reset;
pub use egress::{EGRESS_PORT, Egress};
pub use links::{LinkError, NodeNetwork, PodNetwork};
pub use namespace::{Namespace, NamespaceThread};
pub use ruleset::{RulesError, ServiceRules};
