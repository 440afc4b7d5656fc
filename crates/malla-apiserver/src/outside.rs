//! What the server asks of the world it runs in.
//!
//! The traits live here, with the code that needs the answers; the local cluster implements them:
//! Service addresses and pods are only reachable from inside the node's network namespace.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::error::ApiError;

/// A byte stream in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection of whatever kind.
pub type BoxedStream = Box<dyn Duplex>;
/// Bytes as they come.
pub type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Where an admission webhook is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DialTarget {
    /// A Service of this cluster (`clientConfig.service`).
    Service {
        namespace: String,
        name: String,
        port: u16,
    },
    /// A host name or address (`clientConfig.url`).
    Host { host: String, port: u16 },
}

impl fmt::Display for DialTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service {
                namespace,
                name,
                port,
            } => write!(f, "{name}.{namespace}.svc:{port}"),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// Opens TCP connections to admission webhooks.
pub trait Dial: Send + Sync + 'static {
    /// Connects; the caller bounds the time and speaks TLS over the result.
    fn dial(&self, target: DialTarget) -> BoxFuture<'_, io::Result<BoxedStream>>;
}

/// Dials hosts from this process's network namespace and refuses Services: the default until
/// the local cluster attaches its own.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostDial;

impl Dial for HostDial {
    fn dial(&self, target: DialTarget) -> BoxFuture<'_, io::Result<BoxedStream>> {
        Box::pin(async move {
            match target {
                DialTarget::Host { host, port } => {
                    let stream = TcpStream::connect((host.as_str(), port)).await?;
                    Ok(Box::new(stream) as BoxedStream)
                }
                DialTarget::Service { .. } => Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("service {target} is unreachable: this server has no node network"),
                )),
            }
        })
    }
}

/// `pods/log` options, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Always a container of the pod, never empty.
    pub container: String,
    pub follow: bool,
    /// The log of the container's previous run.
    pub previous: bool,
    pub timestamps: bool,
    /// Only lines of the last so many seconds.
    pub since_seconds: Option<i64>,
    /// Only lines from this time on, RFC 3339.
    pub since_time: Option<jiff::Timestamp>,
    /// Only so many last lines.
    pub tail_lines: Option<u64>,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
}

/// `pods/exec` and `pods/attach` options, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOptions {
    /// Always a container of the pod, never empty.
    pub container: String,
    /// argv; empty for attach.
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    pub columns: u16,
    pub rows: u16,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// It ran and exited with this code (128 + n for signal n).
    Code(i32),
    /// It could not be run, or the session broke; says why.
    Failed(String),
}

/// A running command. Dropping the session ends the command.
pub struct ExecSession {
    /// Shut down at the client's end of input.
    pub stdin: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    pub stdout: Option<Pin<Box<dyn AsyncRead + Send>>>,
    pub stderr: Option<Pin<Box<dyn AsyncRead + Send>>>,
    /// With a tty: takes the client's window sizes.
    pub resize: Option<mpsc::Sender<TerminalSize>>,
    /// Resolves when the command has ended.
    pub exit: BoxFuture<'static, Exit>,
}

impl fmt::Debug for ExecSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecSession").finish_non_exhaustive()
    }
}

/// The node's side of pod subresources. `pod` is the stored object, already known to exist and to
/// be bound to a node.
pub trait NodeRuntime: Send + Sync + 'static {
    /// Streams a container's log; ends at its end, or never with `follow` while the container runs.
    fn logs(
        &self,
        pod: Arc<Value>,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<ByteStream, ApiError>>;

    /// Starts a command in a container.
    fn exec(
        &self,
        pod: Arc<Value>,
        options: ExecOptions,
    ) -> BoxFuture<'_, Result<ExecSession, ApiError>>;

    /// Joins a container's main process.
    fn attach(
        &self,
        pod: Arc<Value>,
        options: ExecOptions,
    ) -> BoxFuture<'_, Result<ExecSession, ApiError>>;

    /// Connects to a port on the pod's loopback.
    fn port_forward(
        &self,
        pod: Arc<Value>,
        port: u16,
    ) -> BoxFuture<'_, Result<BoxedStream, ApiError>>;
}
