//! Streams over WebSocket: `v5.channel.k8s.io` and `v4.channel.k8s.io` (k8s.io/apimachinery remotecommand).
//!
//! Each binary message starts with its channel: 0 stdin, 1 stdout, 2 stderr, 3 the final Status, 4 terminal size; in v5
//! a message on 255 closes the channel it names. Port forwarding has two channels per port: data and error.

use std::sync::Arc;

use futures_util::stream::SplitSink;
use futures_util::{SinkExt, Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::Mutex;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};

use super::Exchange;
use super::respond::{self, Body};
use crate::error::ApiError;
use crate::outside::{ExecOptions, ExecSession, Exit, NodeRuntime, TerminalSize};

mod forward;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
/// v5: closes the channel in the next byte.
const CLOSE: u8 = 255;
/// Bytes of output per message.
const CHUNK: usize = 32 * 1024;
/// Largest message taken from a client.
const MAX_MESSAGE: usize = 1024 * 1024;

type Socket = WebSocketStream<TokioIo<Upgraded>>;
type Sink = Mutex<SplitSink<Socket, Message>>;

/// What a client sends.
trait Frames: Stream<Item = Result<Message, tungstenite::Error>> + Unpin {}

impl<S: Stream<Item = Result<Message, tungstenite::Error>> + Unpin> Frames for S {}

/// What the stream is for.
pub(super) enum Work {
    Exec(ExecOptions),
    Attach(ExecOptions),
    Forward(Vec<u16>),
}

/// Answers `101` and serves the stream in a task of the listener.
pub(super) fn upgrade(
    exchange: &Exchange,
    mut request: Request<Incoming>,
    node: Arc<dyn NodeRuntime>,
    pod: Arc<Value>,
    work: Work,
) -> Result<Response<Body>, ApiError> {
    let (key, protocol) = handshake(request.headers(), &work)?;
    let upgraded = hyper::upgrade::on(&mut request);
    let stopping = exchange.stopping.clone();
    exchange.sessions.spawn(async move {
        tokio::select! {
            () = stopping.cancelled() => {}
            () = run(upgraded, node, pod, work) => {}
        }
    });
    let mut answer = Response::new(respond::full(""));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(
        header::SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(protocol),
    );
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    Ok(answer)
}

/// Checks the upgrade; returns the client's key and the protocol chosen.
fn handshake(headers: &HeaderMap, work: &Work) -> Result<(String, &'static str), ApiError> {
    let values = |name| {
        let values = headers.get_all(name).iter();
        let texts = values.filter_map(|value| value.to_str().ok());
        texts.flat_map(|text| text.split(',')).map(str::trim)
    };
    let upgrades: Vec<&str> = values(header::UPGRADE).collect();
    if upgrades
        .iter()
        .any(|word| word.to_ascii_lowercase().starts_with("spdy"))
    {
        return Err(ApiError::bad_request(match work {
            Work::Forward(_) => {
                "SPDY is not served, so kubectl port-forward does not work: use a Service of type NodePort, or a client that forwards ports over WebSocket channels, as kube-rs does"
            }
            Work::Exec(_) | Work::Attach(_) => {
                "SPDY is not served: streams are WebSocket only (kubectl 1.31 and later use it; older ones need KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true)"
            }
        }));
    }
    if !upgrades
        .iter()
        .any(|word| word.eq_ignore_ascii_case("websocket"))
    {
        return Err(ApiError::bad_request("Upgrade request required"));
    }
    let key = values(header::SEC_WEBSOCKET_KEY).next().unwrap_or("");
    if key.is_empty()
        || headers
            .get(header::SEC_WEBSOCKET_VERSION)
            .is_none_or(|v| v != "13")
    {
        return Err(ApiError::bad_request(
            "not a WebSocket version 13 handshake",
        ));
    }
    let offered: Vec<&str> = values(header::SEC_WEBSOCKET_PROTOCOL).collect();
    let served = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
    let chosen = served
        .into_iter()
        .find(|protocol| offered.contains(protocol));
    let chosen = chosen.ok_or_else(|| {
        ApiError::bad_request(format!(
            "none of the WebSocket protocols {offered:?} is served: use one of {served:?}"
        ))
    })?;
    Ok((key.to_owned(), chosen))
}

async fn run(upgraded: OnUpgrade, node: Arc<dyn NodeRuntime>, pod: Arc<Value>, work: Work) {
    let Ok(upgraded) = upgraded.await else {
        return;
    };
    let stream = TokioIo::new(upgraded);
    let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(limits())).await;
    let (sink, source) = socket.split();
    let sink = Mutex::new(sink);
    let session = match work {
        Work::Forward(ports) => {
            forward::run(&sink, source, node, pod, ports).await;
            return close(&sink).await;
        }
        Work::Exec(options) => node.exec(pod, options).await,
        Work::Attach(options) => node.attach(pod, options).await,
    };
    match session {
        Ok(session) => drive(&sink, source, session).await,
        Err(error) => send(&sink, STATUS, error.to_status().to_string().as_bytes()).await,
    }
    close(&sink).await;
}

fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

async fn close(sink: &Sink) {
    // Clients take an end without a code (1005) for a broken session, whatever the status said.
    let frame = CloseFrame {
        code: CloseCode::Normal,
        reason: Utf8Bytes::default(),
    };
    let mut sink = sink.lock().await;
    let _ = sink.send(Message::Close(Some(frame))).await;
    let _ = sink.close().await;
}

async fn send(sink: &Sink, channel: u8, data: &[u8]) {
    let mut message = Vec::with_capacity(data.len().saturating_add(1));
    message.push(channel);
    message.extend_from_slice(data);
    // A client that is gone is noticed by its side of the stream.
    let _ = sink.lock().await.send(Message::binary(message)).await;
}

/// Joins a client and a command until either ends.
async fn drive(sink: &Sink, source: impl Frames, session: ExecSession) {
    // Tells the client that the stream is open, before any output.
    send(sink, STDOUT, &[]).await;
    let ExecSession {
        stdin,
        stdout,
        stderr,
        resize,
        exit,
    } = session;
    let output = async {
        tokio::join!(copy(sink, STDOUT, stdout), copy(sink, STDERR, stderr));
        exit.await
    };
    let input = Input { stdin, resize };
    tokio::select! {
        biased; // A command's end is told even if the client hangs up at the same time.
        exit = output => send(sink, STATUS, status(&exit).to_string().as_bytes()).await,
        () = input.take(source) => {}
    }
}

async fn copy<R: AsyncRead + Unpin>(sink: &Sink, channel: u8, from: Option<R>) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; CHUNK];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        send(sink, channel, buffer.get(..read).unwrap_or_default()).await;
    }
}

struct Input {
    stdin: Option<std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>>,
    resize: Option<tokio::sync::mpsc::Sender<TerminalSize>>,
}

impl Input {
    /// Feeds the command until the client hangs up.
    async fn take(mut self, mut source: impl Frames) {
        while let Some(Ok(message)) = source.next().await {
            let data = match message {
                Message::Binary(data) => data,
                Message::Close(_) => return,
                _ => continue,
            };
            match data.split_first() {
                Some((&STDIN, data)) => {
                    if let Some(stdin) = &mut self.stdin
                        && (stdin.write_all(data).await.is_err() || stdin.flush().await.is_err())
                    {
                        self.stdin = None;
                    }
                }
                Some((&RESIZE, data)) => {
                    if let (Some(resize), Some(size)) = (&self.resize, size(data)) {
                        let _ = resize.send(size).await;
                    }
                }
                Some((&CLOSE, [STDIN])) => {
                    if let Some(mut stdin) = self.stdin.take() {
                        let _ = stdin.shutdown().await;
                    }
                }
                _ => {}
            }
        }
    }
}

/// What a client may send, given to a command that swallows it and to a forwarded port.
#[cfg(fuzzing)]
pub(super) async fn take_all(bytes: &[u8]) {
    let stream = || tokio::io::join(bytes, tokio::io::sink());
    let (resize, _sizes) = tokio::sync::mpsc::channel(1024);
    let input = Input {
        stdin: Some(Box::pin(tokio::io::sink())),
        resize: Some(resize),
    };
    let socket = WebSocketStream::from_raw_socket(stream(), Role::Server, Some(limits())).await;
    input.take(socket).await;
    let socket = WebSocketStream::from_raw_socket(stream(), Role::Server, Some(limits())).await;
    forward::take_all(socket).await;
}

/// `{"Width": 80, "Height": 24}`.
fn size(data: &[u8]) -> Option<TerminalSize> {
    let size: Value = serde_json::from_slice(data).ok()?;
    let side = |name: &str| u16::try_from(size[name].as_u64()?).ok();
    Some(TerminalSize {
        columns: side("Width")?,
        rows: side("Height")?,
    })
}

/// The Status that ends a command's stream.
fn status(exit: &Exit) -> Value {
    match exit {
        Exit::Code(0) => json!({"metadata": {}, "status": "Success"}),
        Exit::Code(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Exit::Failed(why) => json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": format!("Internal error occurred: {why}"),
            "details": {"causes": [{"message": why}]},
        }),
    }
}
