//! Port forwarding as `kubectl` and `istioctl` ask for it: SPDY/3.1, spoken directly or inside a WebSocket
//! (k8s.io/client-go/tools/portforward). Each connection has two streams with the same `requestid`: one of
//! `streamtype: error`, opened first, and one of `streamtype: data`.
//!
//! SPDY's windows are not used, as its clients do not: a slow port holds back the whole session.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::debug;

use super::super::spdy::{self, Frame, FrameReader, FrameWriter, Refusal, SpdyError};
use super::CHUNK;
use crate::outside::NodeRuntime;

/// Streams a session may have; a connection has two.
const MAX_STREAMS: usize = 512;
/// Pieces on their way to a port.
const PIECES: usize = 8;
/// Frames on their way to the client.
pub(super) const FRAMES: usize = 32;

/// Serves one session until the client ends it; `output` is what the client is sent.
pub(super) async fn run(
    input: impl Stream<Item = io::Result<Bytes>>,
    output: mpsc::Sender<Bytes>,
    node: Arc<dyn NodeRuntime>,
    pod: Arc<Value>,
) {
    let mut session = Session {
        output,
        node,
        pod,
        writer: FrameWriter::default(),
        errors: HashMap::new(),
        ports: HashMap::new(),
        forwarding: JoinSet::new(),
    };
    let mut input = std::pin::pin!(input);
    let mut reader = FrameReader::new();
    let mut buffer = BytesMut::new();
    loop {
        tokio::select! {
            biased; // Ended ports make room before new ones are opened.
            Some(ended) = session.forwarding.join_next() => {
                if let Ok(stream) = ended {
                    session.ports.remove(&stream);
                }
            }
            piece = input.next() => {
                let Some(Ok(piece)) = piece else { return };
                buffer.extend_from_slice(&piece);
                if let Err(error) = session.take(&mut reader, &mut buffer).await {
                    debug!(%error, "a port-forwarding session ends");
                    return;
                }
            }
        }
    }
}

/// One client's streams. Dropping it ends all of them.
struct Session {
    output: mpsc::Sender<Bytes>,
    node: Arc<dyn NodeRuntime>,
    pod: Arc<Value>,
    writer: FrameWriter,
    /// Error streams whose data stream has not come yet, by `requestid`.
    errors: HashMap<String, u32>,
    /// Where the data of a stream goes.
    ports: HashMap<u32, mpsc::Sender<Bytes>>,
    /// Each gives the data stream it was for.
    forwarding: JoinSet<u32>,
}

impl Session {
    async fn take(
        &mut self,
        reader: &mut FrameReader,
        buffer: &mut BytesMut,
    ) -> Result<(), SpdyError> {
        while let Some(frame) = reader.read(buffer)? {
            match frame {
                Frame::Open { stream, headers } => self.open(stream, &headers).await,
                Frame::Data {
                    stream,
                    bytes,
                    last,
                } => self.data(stream, bytes, last).await,
                // The task sees that its sender is gone.
                Frame::Reset { stream } => drop(self.ports.remove(&stream)),
                Frame::Ping { id } => self.send(spdy::pong(id)).await,
                Frame::GoAway | Frame::Other => {}
            }
        }
        Ok(())
    }

    async fn send(&self, frame: Bytes) {
        // A client that is gone is noticed by its side of the stream.
        let _ = self.output.send(frame).await;
    }

    async fn open(&mut self, stream: u32, headers: &[(String, String)]) {
        if self.errors.len() + 2 * self.ports.len() >= MAX_STREAMS {
            return self.send(spdy::refuse(stream, Refusal::TooMany)).await;
        }
        let header = |name| Frame::header(headers, name);
        let request = header("requestid").unwrap_or_default();
        let port = header("port").and_then(|port| port.parse().ok());
        match (header("streamtype"), port) {
            (Some("error"), Some(_)) => {
                self.errors.insert(request.to_owned(), stream);
                let reply = self.writer.reply(stream);
                self.send(reply).await;
            }
            (Some("data"), Some(port)) => match self.errors.remove(request) {
                Some(error) => {
                    let reply = self.writer.reply(stream);
                    self.send(reply).await;
                    self.forward(stream, error, port);
                }
                None => self.send(spdy::refuse(stream, Refusal::Protocol)).await,
            },
            _ => self.send(spdy::refuse(stream, Refusal::Protocol)).await,
        }
    }

    fn forward(&mut self, stream: u32, error: u32, port: u16) {
        let (pieces, received) = mpsc::channel(PIECES);
        self.ports.insert(stream, pieces);
        let forward = Forward {
            stream,
            error,
            output: self.output.clone(),
        };
        let (node, pod) = (Arc::clone(&self.node), Arc::clone(&self.pod));
        self.forwarding.spawn(async move {
            forward.run(&*node, pod, port, received).await;
            stream
        });
    }

    async fn data(&mut self, stream: u32, bytes: Bytes, last: bool) {
        let Some(port) = self.ports.get(&stream) else {
            return; // An error stream's end, or a late piece.
        };
        // A port that takes nothing more has its own word for that.
        if !bytes.is_empty() {
            let _ = port.send(bytes).await;
        }
        if last {
            let _ = port.send(Bytes::new()).await;
        }
    }
}

/// One connection to a port.
struct Forward {
    stream: u32,
    error: u32,
    output: mpsc::Sender<Bytes>,
}

impl Forward {
    async fn run(
        self,
        node: &dyn NodeRuntime,
        pod: Arc<Value>,
        port: u16,
        received: mpsc::Receiver<Bytes>,
    ) {
        match node.port_forward(pod, port).await {
            Err(why) => {
                self.send(self.error, why.message().as_bytes(), true).await;
                self.send(self.stream, &[], true).await;
            }
            Ok(connection) => {
                let (reader, writer) = tokio::io::split(connection);
                tokio::select! {
                    () = upload(received, writer) => {}
                    () = self.download(reader) => {}
                }
                self.send(self.stream, &[], true).await;
                // Clients wait for this end.
                self.send(self.error, &[], true).await;
            }
        }
    }

    async fn download(&self, mut from: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; CHUNK];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let piece = buffer.get(..read).unwrap_or_default();
            self.send(self.stream, piece, false).await;
        }
    }

    async fn send(&self, stream: u32, bytes: &[u8], last: bool) {
        let _ = self.output.send(spdy::data(stream, bytes, last)).await;
    }
}

/// Writes until the client resets the stream; its end (an empty piece) closes this half only.
async fn upload(mut received: mpsc::Receiver<Bytes>, mut to: impl tokio::io::AsyncWrite + Unpin) {
    while let Some(piece) = received.recv().await {
        // What a port does not take is dropped: it will say why by its own half.
        let _ = match piece.is_empty() {
            true => to.shutdown().await,
            false => to.write_all(&piece).await,
        };
    }
}
