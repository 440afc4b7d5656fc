//! Malla's cluster of one machine: controllers, a node that runs pods as processes, networking and
//! DNS, around the API server of `malla-apiserver`.
//!
//! - [`sandbox`]: the namespaces a cluster lives in, as root or as an ordinary user;
//! - [`net`]: network namespaces, links, Service VIPs;
//! - [`process`]: containers as processes, started and reaped by the sandbox's pid 1.

mod controllers;
mod events;
mod feed;
pub mod net;
mod object;
mod pods;
pub mod process;
mod queue;
pub mod sandbox;
mod sys;
