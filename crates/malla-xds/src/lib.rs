//! The xDS transport protocol (<https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol>),
//! both ends, in both of its variants: incremental ("delta") and state of the world ("SotW"), as one
//! aggregated stream (ADS).
//!
//! This crate knows names, versions and bytes. What a resource means is known by the
//! [`client::ResourceHandler`] at one end and the [`server::ResourceSource`] at the other.
//!
//! Reading order: [`resource`] and [`message`] are the vocabulary, [`order`] says in which order types
//! travel and why; [`client::stream`] and [`server::stream`] are the two state machines, without IO
//! and told the time; `client::shell` and `server::shell` run them over a [`transport`].
//!
//! Invariants:
//! 1. A push of a type waits while the previous push of that type is not acknowledged; what changes
//!    meanwhile is merged into the next one. A slow proxy gets fewer pushes, never a queue of them.
//! 2. A rejected resource is not sent again until its content changes; the client keeps what it has.
//! 3. Only differences travel, also after a reconnect: the client says what it holds.
//! 4. Losing the connection changes nothing for the handler; it is told, and keeps everything.

pub mod client;
pub mod message;
pub mod order;
pub mod resource;
pub mod server;
pub mod transport;

pub use message::{ClientMessage, ServerMessage, Variant};
pub use resource::{
    Layers, Name, NodeResources, Resource, ResourceMap, ResourceSet, TypeUrl, Version,
};
