//! What a container's processes are to be, as sent from the node to pid 1.
//!
//! Invariant: plain data that has been checked by the node; paths are absolute.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::capabilities::Capabilities;

/// A container: its namespaces' contents and its main command.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub hostname: String,
    pub root: RootSpec,
    pub command: CommandSpec,
}

/// One command, in a new container or in a running one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommandSpec {
    /// Never empty. A first word without `/` is looked up in the PATH of `env`.
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Working directory; made if it is missing and can be.
    pub cwd: PathBuf,
    pub credentials: Credentials,
    /// Runs on a pseudo-terminal of the container, whose other end goes to the node.
    pub terminal: bool,
}

/// Who a command runs as.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Credentials {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub capabilities: Capabilities,
    /// `allowPrivilegeEscalation: false`.
    pub no_new_privileges: bool,
}

/// The root file system: the host's, read-only, with private mounts on top.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RootSpec {
    /// An empty directory to build in; each container mounts over it in a namespace of its own.
    pub scratch: PathBuf,
    /// The node's own state, which pods must not see through the host's tree.
    pub hidden: PathBuf,
    pub mounts: Vec<Mount>,
    /// `readOnlyRootFilesystem`: only mounts can be written.
    pub read_only: bool,
}

/// Something mounted into a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the container.
    pub target: PathBuf,
    pub kind: MountKind,
    pub read_only: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum MountKind {
    /// A file or directory of the node.
    Bind { source: PathBuf },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    Code(i32),
    Signal(i32),
}

impl ExitStatus {
    /// The code shells and Kubernetes show: 128 + n for signal n.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}
