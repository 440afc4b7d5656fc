//! What a mesh *means*.
//!
//! Everything here is parsed: a value of one of these types is valid by construction, and an absent
//! field is either impossible or an `Option` whose `None` means something. Nothing here knows
//! Kubernetes, protobuf, time or IO; `malla-api` lowers what users write into these types and
//! `malla-translate` turns a [`Mesh`] into what proxies are sent.
//!
//! Reading order: [`id`] names things, [`service`] and [`workload`] are what runs, [`matching`],
//! [`route`], [`traffic`], [`gateway`] and [`sidecar`] are how traffic flows, [`policy`] is who may call whom, [`token`] whose word counts, [`authorizer`] who is asked, [`patch`] changes what proxies are sent,
//! [`secret`] is what TLS needs, [`settings`] holds for the whole mesh, and [`mesh`] is the one immutable world that
//! holds them all.

pub mod authorizer;
pub mod gateway;
pub mod host;
pub mod id;
pub mod matching;
pub mod mesh;
pub mod patch;
pub mod policy;
pub mod protocol;
pub mod route;
pub mod secret;
pub mod service;
pub mod settings;
pub mod sidecar;
pub mod telemetry;
pub mod token;
pub mod traffic;
pub mod workload;

pub use gateway::Gateway;
pub use host::Host;
pub use id::{Meta, ObjectRef, SpiffeId, TrustDomain};
pub use mesh::Mesh;
pub use patch::EnvoyFilter;
pub use protocol::Protocol;
pub use route::VirtualService;
pub use secret::Secrets;
pub use service::{Resolution, Service};
pub use settings::MeshSettings;
pub use sidecar::Sidecar;
pub use traffic::DestinationRule;
pub use workload::{Workload, WorkloadEntry};
