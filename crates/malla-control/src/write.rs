//! What the control plane writes to the cluster. Only the leader of several replicas does.
//!
//! Every writer is level-triggered: it compares what is there with what should be and changes the
//! difference, so that it may be interrupted anywhere and run again.

pub mod authority;
pub mod gateway_api;
pub mod gateway_ports;
pub mod roots;
pub mod status;
