//! Streams over WebSocket: `v5.channel.k8s.io` and `v4.channel.k8s.io` (k8s.io/apimachinery remotecommand), and the two
//! ways in which `kubectl port-forward` speaks SPDY.
//!
//! Each binary message starts with its channel: 0 stdin, 1 stdout, 2 stderr, 3 the final Status, 4 terminal size; in v5
//! a message on 255 closes the channel it names. Port forwarding has two channels per port: data and error.

use std::sync::Arc;

use futures_util::stream::SplitSink;
use futures_util::{SinkExt, Stream, StreamExt, TryStreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Mutex, mpsc};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};
use tokio_util::io::ReaderStream;

use super::Exchange;
use super::respond::{self, Body};
use crate::error::ApiError;
use crate::outside::{ExecOptions, ExecSession, Exit, NodeRuntime, TerminalSize};

mod forward;
mod tunnel;

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

/// How the bytes of an upgraded connection are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// Numbered channels in WebSocket messages.
    Channels,
    /// SPDY in WebSocket messages.
    Tunnel,
    /// SPDY.
    Spdy,
}

/// WebSocket protocols by preference.
const SERVED: [(&str, Protocol); 2] = [
    ("v5.channel.k8s.io", Protocol::Channels),
    ("v4.channel.k8s.io", Protocol::Channels),
];
const SERVED_FORWARDING: [(&str, Protocol); 3] = [
    ("SPDY/3.1+portforward.k8s.io", Protocol::Tunnel),
    SERVED[0],
    SERVED[1],
];
/// What streams within SPDY are called.
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
const FORWARDING: &str = "portforward.k8s.io";

/// Answers `101` and serves the stream in a task of the listener.
pub(super) fn upgrade(
    exchange: &Exchange,
    mut request: Request<Incoming>,
    node: Arc<dyn NodeRuntime>,
    pod: Arc<Value>,
    work: Work,
) -> Result<Response<Body>, ApiError> {
    let (answered, protocol) = handshake(request.headers(), &work)?;
    let upgraded = hyper::upgrade::on(&mut request);
    let stopping = exchange.stopping.clone();
    exchange.sessions.spawn(async move {
        tokio::select! {
            () = stopping.cancelled() => {}
            () = run(upgraded, node, pod, work, protocol) => {}
        }
    });
    let mut answer = Response::new(respond::full(""));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = answered;
    let connection = HeaderValue::from_static("Upgrade");
    answer.headers_mut().insert(header::CONNECTION, connection);
    Ok(answer)
}

/// Values of a header, at its commas.
fn values(headers: &HeaderMap, name: impl header::AsHeaderName) -> Vec<&str> {
    let values = headers.get_all(name).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .collect()
}

/// Checks the upgrade; returns the answer's headers and the protocol chosen.
fn handshake(headers: &HeaderMap, work: &Work) -> Result<(HeaderMap, Protocol), ApiError> {
    let upgrades = values(headers, header::UPGRADE);
    let asks = |protocol: &str| {
        upgrades
            .iter()
            .any(|word| word.eq_ignore_ascii_case(protocol))
    };
    if upgrades
        .iter()
        .any(|word| word.to_ascii_lowercase().starts_with("spdy"))
    {
        return match work {
            Work::Forward(_) if asks("SPDY/3.1") => by_spdy(headers),
            Work::Forward(_) => Err(ApiError::bad_request(format!(
                "{upgrades:?} is not served: use SPDY/3.1 or WebSocket"
            ))),
            Work::Exec(_) | Work::Attach(_) => Err(ApiError::bad_request(
                "commands are not served over SPDY: their streams are WebSocket only (kubectl 1.31 and later use it; older ones need KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true)",
            )),
        };
    }
    if !asks("websocket") {
        return Err(ApiError::bad_request("Upgrade request required"));
    }
    by_websocket(headers, work)
}

fn by_spdy(headers: &HeaderMap) -> Result<(HeaderMap, Protocol), ApiError> {
    let offered = values(headers, STREAM_PROTOCOL);
    if !offered.contains(&FORWARDING) {
        return Err(ApiError::bad_request(format!(
            "none of the stream protocols {offered:?} is served: use {FORWARDING}"
        )));
    }
    let mut answer = HeaderMap::new();
    answer.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    answer.insert(STREAM_PROTOCOL, HeaderValue::from_static(FORWARDING));
    Ok((answer, Protocol::Spdy))
}

fn by_websocket(headers: &HeaderMap, work: &Work) -> Result<(HeaderMap, Protocol), ApiError> {
    let keys = values(headers, header::SEC_WEBSOCKET_KEY);
    let key = keys.first().copied().unwrap_or_default();
    if key.is_empty()
        || headers
            .get(header::SEC_WEBSOCKET_VERSION)
            .is_none_or(|v| v != "13")
    {
        return Err(ApiError::bad_request(
            "not a WebSocket version 13 handshake",
        ));
    }
    let offered = values(headers, header::SEC_WEBSOCKET_PROTOCOL);
    let served = match work {
        Work::Forward(_) => &SERVED_FORWARDING[..],
        Work::Exec(_) | Work::Attach(_) => &SERVED[..],
    };
    let chosen = served.iter().find(|(name, _)| offered.contains(name));
    let &(name, protocol) = chosen.ok_or_else(|| {
        let names: Vec<&str> = served.iter().map(|(name, _)| *name).collect();
        ApiError::bad_request(format!(
            "none of the WebSocket protocols {offered:?} is served: use one of {names:?}"
        ))
    })?;
    let mut answer = HeaderMap::new();
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(
        header::SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(name),
    );
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        answer.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    Ok((answer, protocol))
}

async fn run(
    upgraded: OnUpgrade,
    node: Arc<dyn NodeRuntime>,
    pod: Arc<Value>,
    work: Work,
    protocol: Protocol,
) {
    let Ok(upgraded) = upgraded.await else {
        return;
    };
    let stream = TokioIo::new(upgraded);
    if protocol == Protocol::Spdy {
        return spdy(stream, node, pod).await;
    }
    let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(limits())).await;
    if protocol == Protocol::Tunnel {
        return spdy_within(socket, node, pod).await;
    }
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

/// Forwards ports over SPDY on the connection itself.
async fn spdy(stream: TokioIo<Upgraded>, node: Arc<dyn NodeRuntime>, pod: Arc<Value>) {
    let (reader, mut writer) = tokio::io::split(stream);
    let (output, mut frames) = mpsc::channel(tunnel::FRAMES);
    let input = ReaderStream::with_capacity(reader, CHUNK);
    let session = tunnel::run(input, output, node, pod);
    let send = async {
        while let Some(frame) = frames.recv().await {
            if writer.write_all(&frame).await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
    };
    tokio::join!(session, send);
    let _ = writer.shutdown().await;
}

/// Forwards ports over SPDY in a WebSocket's messages, cut anyhow.
async fn spdy_within(socket: Socket, node: Arc<dyn NodeRuntime>, pod: Arc<Value>) {
    let (sink, source) = socket.split();
    let sink = Mutex::new(sink);
    let (output, mut frames) = mpsc::channel(tunnel::FRAMES);
    let open = source.try_take_while(|message| std::future::ready(Ok(!message.is_close())));
    let input = open
        .map_err(std::io::Error::other)
        .try_filter_map(|message| async {
            Ok(match message {
                Message::Binary(bytes) => Some(bytes),
                _ => None,
            })
        });
    let session = tunnel::run(input, output, node, pod);
    let send = async {
        while let Some(frame) = frames.recv().await {
            if sink
                .lock()
                .await
                .send(Message::Binary(frame))
                .await
                .is_err()
            {
                return;
            }
        }
    };
    tokio::join!(session, send);
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
