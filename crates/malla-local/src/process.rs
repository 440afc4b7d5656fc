//! Processes of pods: how the node starts, enters, signals and outlives them.
//!
//! ```text
//! cluster process --(SOCK_SEQPACKET)--> pid 1 of the sandbox --clone3--> init of a container --> its command
//!        ^-------- pidfds, exit statuses --------'                            (pid 1 of its own PID namespace)
//! ```
//! Invariants: only the single-threaded pid 1 forks, so that a child may run ordinary code before
//! it executes its command; killing a container's init ends every process of the container;
//! nothing here waits in a thread.

mod capabilities;
mod child;
mod client;
mod enter;
mod message;
mod rootfs;
pub(crate) mod server;
mod spec;
mod terminal;

pub use capabilities::Capabilities;
pub(crate) use client::{Connection, host_pid};
pub use client::{Process, RunError, Spawner, Stdio};
pub(crate) use message::packet_pair;
pub use spec::{CommandSpec, ContainerSpec, Credentials, ExitStatus, Mount, MountKind, RootSpec};
pub use terminal::Terminal;
