//! Malla's cluster of one machine: controllers, a node that runs pods as processes, networking and
//! DNS, around the API server of `malla-apiserver`.
//!
//! - [`sandbox`]: the namespaces a cluster lives in, as root or as an ordinary user;
//! - [`Cluster`]: API server, controllers and node in one process inside of a sandbox;
//! - [`process`]: containers as processes, started and reaped by the sandbox's pid 1;
//! - [`net`]: network namespaces, links, Service VIPs;
//! - `node`: pods; `controllers`: what makes pods and endpoints; `services`: VIPs, DNS and
//!   published ports from one picture of the Services.
//!
//! A launcher claims a [`RunDirectory`], enters a sandbox (before it has threads), and in it starts
//! the cluster:
//!
//! ```no_run
//! # use malla_local::{Cluster, ClusterConfig, RunDirectory, sandbox};
//! let directory = RunDirectory::temporary(std::path::Path::new("/tmp"))?;
//! let sandbox = sandbox::enter(|inside| {
//!     let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
//!     runtime.block_on(async {
//!         let cluster = Cluster::start(ClusterConfig::new("local", directory), &inside).await;
//!         // … use it until the launcher closes `inside.control` …
//!         i32::from(cluster.is_err())
//!     })
//! })?;
//! sandbox.wait()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cluster;
mod controllers;
mod directory;
mod dns;
mod events;
mod feed;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod net;
mod node;
mod object;
mod pods;
pub mod process;
mod queue;
pub mod sandbox;
mod services;
mod sys;

pub use cluster::{Cluster, ClusterConfig, ClusterError, NodeConfig};
pub use directory::{DirectoryError, RunDirectory};
pub use node::{CONFIG_MAP as IMAGES_CONFIG_MAP, Image};
pub use services::{PUBLISHED as PUBLISHED_ANNOTATION, published};
