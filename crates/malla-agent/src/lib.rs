//! What sits beside a proxy in a pod, be it Malla's own or stock Envoy.
//!
//! | module | one line |
//! |---|---|
//! | [`settings`] | who and where we are, from the environment the injector writes |
//! | [`node`] | the same as xDS and Istio's tools want it |
//! | [`identity`] | the workload's certificate, obtained and renewed |
//! | [`istiod`] | the way to the control plane |
//! | [`status`] | the agent's HTTP port: readiness, probes, merged metrics, quitting |
//! | [`companion`] | those four together, for Malla's own proxy |
//! | [`bootstrap`], [`sds`], [`relay`], [`envoy`] | for stock Envoy: its first configuration, its secrets, its way to the control plane, its process |
//!
//! Malla's own proxy speaks xDS and holds certificates in process, so a [`Companion`] is all it
//! needs; [`run_envoy`] puts everything together for Envoy.
//!
//! Invariant: restarting is the platform's business. When the proxy ends, so does the agent, with
//! the proxy's exit code.

pub mod bootstrap;
pub mod companion;
pub mod envoy;
mod http;
pub mod identity;
pub mod istiod;
pub mod node;
pub mod relay;
mod run;
pub mod sds;
pub mod settings;
pub mod status;
mod unix;

pub use companion::Companion;
pub use run::{AgentError, EnvoyAgent, EnvoyOptions, Exit, run_envoy};
pub use settings::{Ports, Role, Settings};
pub use status::wait_until_ready;
