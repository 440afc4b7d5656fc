//! Port forwarding over WebSocket channels: port `i` has data on channel `2i` and errors on `2i + 1`.
//!
//! Each channel starts with the port's number, two bytes, little-endian (pkg/kubelet portforward `websocket.go`).

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::Value;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_tungstenite::tungstenite::Message;

use super::{CLOSE, Frames, Sink, copy, send};
use crate::outside::{BoxedStream, NodeRuntime};

/// Channels are one byte, two per port, and the last is taken.
const MAX_PORTS: usize = 127;

/// Joins the client and the ports until the client hangs up, or all ports have ended.
pub(super) async fn run(
    sink: &Sink,
    source: impl Frames,
    node: Arc<dyn NodeRuntime>,
    pod: Arc<Value>,
    ports: Vec<u16>,
) {
    let mut writers = Vec::new();
    let mut readers = Vec::new();
    for (index, port) in ports.into_iter().take(MAX_PORTS).enumerate() {
        let Ok(data) = u8::try_from(index * 2) else {
            break;
        };
        let error = data + 1;
        send(sink, data, &port.to_le_bytes()).await;
        send(sink, error, &port.to_le_bytes()).await;
        match node.port_forward(pod.clone(), port).await {
            Ok(stream) => {
                let (reader, writer) = tokio::io::split(stream);
                readers.push((data, reader));
                writers.push(Some(writer));
            }
            Err(why) => {
                send(sink, error, why.message().as_bytes()).await;
                writers.push(None);
            }
        }
    }
    let outputs = readers
        .into_iter()
        .map(|(channel, reader)| output(sink, channel, reader));
    tokio::select! {
        _ = join_all(outputs) => {}
        () = input(source, writers) => {}
    }
}

async fn output(sink: &Sink, channel: u8, reader: ReadHalf<BoxedStream>) {
    copy(sink, channel, Some(reader)).await;
}

async fn input(mut source: impl Frames, mut writers: Vec<Option<WriteHalf<BoxedStream>>>) {
    while let Some(Ok(message)) = source.next().await {
        let data = match message {
            Message::Binary(data) => data,
            Message::Close(_) => return,
            _ => continue,
        };
        let (channel, data, close) = match data.split_first() {
            Some((&CLOSE, [channel])) => (*channel, &[][..], true),
            Some((channel, data)) => (*channel, data, false),
            None => continue,
        };
        // Clients do not write to error channels.
        if channel % 2 == 1 {
            continue;
        }
        let Some(slot) = writers.get_mut(usize::from(channel / 2)) else {
            continue;
        };
        let Some(writer) = slot else { continue };
        let failed = writer.write_all(data).await.is_err() || writer.flush().await.is_err();
        if close && !failed {
            let _ = writer.shutdown().await;
        }
        if close || failed {
            *slot = None;
        }
    }
}

/// Two forwarded ports that swallow what a client sends.
#[cfg(fuzzing)]
pub(super) async fn take_all(source: impl Frames) {
    let port = || {
        let stream: BoxedStream = Box::new(tokio::io::join(tokio::io::empty(), tokio::io::sink()));
        Some(tokio::io::split(stream).1)
    };
    input(source, vec![port(), port()]).await;
}
