//! Logs, exec, attach and port-forward for the API server.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt, stream};
use jiff::Timestamp;
use malla_apiserver::outside::{
    BoxedStream, ByteStream, ExecOptions, ExecSession, Exit, LogOptions, TerminalSize,
};
use malla_apiserver::{ApiError, NodeRuntime};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;
use tokio_util::task::AbortOnDropHandle;

use super::NodeStreams;
use super::commands::{self, Entered};
use super::container::Running;
use super::logs::{Reader, RunLog, Stream as Output};
use super::pod::PodShared;
use crate::object::{Key, text};
use crate::process::{ExitStatus, Terminal};

type Reading = Pin<Box<dyn AsyncRead + Send>>;
type Writing = Pin<Box<dyn AsyncWrite + Send>>;

/// Window sizes that may wait to be applied.
const RESIZES: usize = 8;

impl NodeStreams {
    fn pod(&self, pod: &Value) -> Result<Arc<PodShared>, ApiError> {
        let uid = text(pod, "/metadata/uid");
        let found = self.pods.upgrade().and_then(|pods| {
            let pods = pods.lock().unwrap_or_else(PoisonError::into_inner);
            pods.get(uid).map(|hosted| Arc::clone(&hosted.pod))
        });
        found.ok_or_else(|| {
            ApiError::bad_request(format!("pod {} is not running on this node", Key::of(pod)))
        })
    }

    fn running(&self, pod: &Value, container: &str) -> Result<Arc<Running>, ApiError> {
        let shared = self.pod(pod)?;
        shared.running(container).ok_or_else(|| {
            let key = &shared.key;
            ApiError::bad_request(format!(
                "container {container} in pod {key} is not running: see `kubectl describe pod -n {} {}`",
                key.namespace, key.name
            ))
        })
    }
}

impl NodeRuntime for NodeStreams {
    fn logs(
        &self,
        pod: Arc<Value>,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<ByteStream, ApiError>> {
        Box::pin(async move {
            let shared = self.pod(&pod)?;
            let logs = shared.logs(&options.container);
            let log = logs
                .and_then(|logs| logs.find(options.previous))
                .ok_or_else(|| {
                    let (container, name) = (&options.container, &shared.key.name);
                    let what = if options.previous {
                        "previous terminated container"
                    } else {
                        "container"
                    };
                    let why = if options.previous {
                        "not found"
                    } else {
                        "is waiting to start"
                    };
                    ApiError::bad_request(format!("{what} \"{container}\" in pod \"{name}\" {why}"))
                })?;
            let stream = Reader::new(log, &options, Timestamp::now()).stream();
            Ok(Box::pin(stream) as ByteStream)
        })
    }

    fn exec(
        &self,
        pod: Arc<Value>,
        options: ExecOptions,
    ) -> BoxFuture<'_, Result<ExecSession, ApiError>> {
        Box::pin(async move {
            let running = self.running(&pod, &options.container)?;
            let node = self.shared.upgrade();
            let node = node.ok_or_else(|| ApiError::internal("the node is ending"))?;
            let spawner = &node.spawner;
            let argv = &options.command;
            let entered =
                commands::enter(spawner, &running, argv, options.stdin, options.tty).await;
            // What the command's own fault is shows as its failure, not as the server's.
            let entered = match entered {
                Ok(entered) => entered,
                Err(error) => return Ok(failed_session(error.to_string())),
            };
            Ok(session(entered, &options, running))
        })
    }

    fn attach(
        &self,
        pod: Arc<Value>,
        options: ExecOptions,
    ) -> BoxFuture<'_, Result<ExecSession, ApiError>> {
        Box::pin(async move {
            let running = self.running(&pod, &options.container)?;
            Ok(attached(&running, &options))
        })
    }

    fn port_forward(
        &self,
        pod: Arc<Value>,
        port: u16,
    ) -> BoxFuture<'_, Result<BoxedStream, ApiError>> {
        Box::pin(async move {
            let shared = self.pod(&pod)?;
            let network = shared.network().ok_or_else(|| {
                ApiError::bad_request(format!("pod {} has no network", shared.key))
            })?;
            let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
            let stream = network.namespace.connect(to).await.map_err(|error| {
                ApiError::internal(format!("connect to {to} in pod {}: {error}", shared.key))
            })?;
            Ok(Box::new(stream) as BoxedStream)
        })
    }
}

fn failed_session(error: String) -> ExecSession {
    ExecSession {
        stdin: None,
        stdout: None,
        stderr: None,
        resize: None,
        exit: Box::pin(async move { Exit::Failed(error) }),
    }
}

/// A session around a command; the command lives as long as its `exit` future.
fn session(entered: Entered, options: &ExecOptions, container: Arc<Running>) -> ExecSession {
    let process = entered.process;
    let (stdin, stdout, stderr, resize) = match entered.terminal {
        Some(terminal) => (
            options.stdin.then(|| Box::pin(terminal.clone()) as Writing),
            options
                .stdout
                .then(|| Box::pin(terminal.clone()) as Reading),
            None,
            Some(terminal),
        ),
        None => (
            entered.stdin.map(|stdin| Box::pin(stdin) as Writing),
            options.stdout.then(|| Box::pin(entered.stdout) as Reading),
            options.stderr.then(|| Box::pin(entered.stderr) as Reading),
            None,
        ),
    };
    let (resize, resizing) = follow_sizes(resize);
    ExecSession {
        stdin,
        stdout,
        stderr,
        resize,
        exit: Box::pin(async move {
            let _kept = (container, resizing);
            exit_of(process.wait().await)
        }),
    }
}

fn attached(running: &Arc<Running>, options: &ExecOptions) -> ExecSession {
    let stdin = options.stdin.then(|| match &running.terminal {
        Some(terminal) => Some(Box::pin(terminal.clone()) as Writing),
        // The first to attach gets it, and its end of input is the container's.
        None => {
            let mut stdin = running.stdin.lock().unwrap_or_else(PoisonError::into_inner);
            stdin.take().map(|stdin| Box::pin(stdin) as Writing)
        }
    });
    let output = |wanted: bool, which: Output| {
        wanted.then(|| {
            let live = live_output(&running.log, which);
            Box::pin(StreamReader::new(Box::pin(live))) as Reading
        })
    };
    let terminal = running.terminal.clone();
    let has_terminal = terminal.is_some();
    let (resize, resizing) = follow_sizes(terminal);
    let kept = Arc::clone(running);
    ExecSession {
        stdin: stdin.flatten(),
        stdout: output(options.stdout, Output::Out),
        stderr: output(options.stderr && !has_terminal, Output::Err),
        resize,
        exit: Box::pin(async move {
            let _kept = resizing;
            exit_of(kept.process.wait().await)
        }),
    }
}

/// What a container writes from now on; a reader that is too slow misses some.
fn live_output(
    log: &Arc<RunLog>,
    which: Output,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + use<> {
    let receiver = log.live();
    let closing = Arc::clone(log);
    let ended = async move { closing.closed().await };
    let chunks = stream::unfold(receiver, move |mut receiver| async move {
        loop {
            match receiver.recv().await {
                Ok((stream, chunk)) if stream == which => return Some((Ok(chunk), receiver)),
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    chunks.take_until(Box::pin(ended))
}

type Resizing = Option<AbortOnDropHandle<()>>;

/// Applies window sizes to a terminal.
fn follow_sizes(terminal: Option<Terminal>) -> (Option<mpsc::Sender<TerminalSize>>, Resizing) {
    let Some(terminal) = terminal else {
        return (None, None);
    };
    let (sender, mut sizes) = mpsc::channel::<TerminalSize>(RESIZES);
    let task = tokio::spawn(async move {
        while let Some(size) = sizes.recv().await {
            if let Err(error) = terminal.resize(size.columns, size.rows) {
                tracing::debug!(%error, "a terminal was not resized");
            }
        }
    });
    (Some(sender), Some(AbortOnDropHandle::new(task)))
}

fn exit_of(status: ExitStatus) -> Exit {
    Exit::Code(status.code())
}
