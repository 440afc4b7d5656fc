//! Tunnels: `Upgrade` over HTTP/1 and CONNECT.
//!
//! Invariant: no byte is tunnelled before the endpoint has agreed (101, or 200 to a CONNECT), and what it has not agreed
//! to goes back to the client as an ordinary answer.

use std::cell::Cell;
use std::rc::Rc;

use http::header::{self, HeaderMap};
use http::request::Parts;
use http::{Method, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use malla_proxy_config::http_manager::HttpManager;
use malla_proxy_config::route::action::Forward;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::body::Flow;
use super::exchange::Observer;
use crate::telemetry::flags::Flag;
use crate::upstream::Upstreams;

/// A request that wants a tunnel.
#[derive(Debug)]
pub(super) struct Upgrade {
    /// `websocket`, `connect` and so on, lower case.
    pub(super) kind: String,
    downstream: Option<OnUpgrade>,
}

impl Upgrade {
    /// The tunnel a request asks for, if it does (RFC 9110 §7.8, §9.3.6).
    pub(super) fn of(head: &mut Parts, body: &Option<Incoming>) -> Option<Self> {
        let kind = if head.method == Method::CONNECT {
            match head.extensions.get::<hyper::ext::Protocol>() {
                Some(protocol) => protocol.as_str().to_ascii_lowercase(),
                None => "connect".into(),
            }
        } else {
            let kind = asked(&head.headers)?;
            if kind == "h2c" || body.is_some() {
                // HTTP/2 by upgrade was withdrawn (RFC 9113 §3.1), and nobody upgrades a request with a body.
                head.headers.remove(header::UPGRADE);
                return None;
            }
            kind
        };
        Some(Self {
            kind,
            downstream: head.extensions.remove::<OnUpgrade>(),
        })
    }

    /// True if the manager or the route, which has the last word, allows it.
    pub(super) fn is_allowed(&self, manager: &HttpManager, forward: Option<&Forward>) -> bool {
        let find = |list: &[(String, bool)]| {
            list.iter()
                .find(|(kind, _)| *kind == self.kind)
                .map(|(_, on)| *on)
        };
        forward
            .and_then(|forward| find(&forward.upgrades))
            .or_else(|| find(&manager.upgrades))
            .unwrap_or(false)
    }

    /// True if `status` means that the endpoint agreed.
    pub(super) fn is_agreed(&self, method: &Method, status: StatusCode) -> bool {
        if method == Method::CONNECT {
            status == StatusCode::OK
        } else {
            status == StatusCode::SWITCHING_PROTOCOLS
        }
    }

    /// The client's side, once the answer has gone out.
    pub(super) fn take(&mut self) -> Option<OnUpgrade> {
        self.downstream.take()
    }
}

/// The protocol in `Upgrade`, if `Connection` says that it counts.
fn asked(headers: &HeaderMap) -> Option<String> {
    let kind = headers
        .get(header::UPGRADE)?
        .to_str()
        .ok()?
        .trim()
        .to_ascii_lowercase();
    let counts = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    (counts && !kind.is_empty()).then_some(kind)
}

/// Copies both ways until both sides have ended or one broke, then writes the record. `held` keeps the pooled
/// connection's slots taken for as long.
pub(super) async fn tunnel<U: Upstreams, H>(
    downstream: OnUpgrade,
    upstream: OnUpgrade,
    held: H,
    mut observer: Observer<U>,
    flow: Rc<Flow>,
) {
    match tokio::try_join!(downstream, upstream) {
        Ok((down, up)) => {
            let copied = copy(down, up, &flow).await;
            let record = observer.record_mut();
            let received = &record.progress.received;
            received.set(received.get() + copied.received);
            record.bytes_sent += copied.sent;
            if copied.client_left_first {
                record.flags.set(Flag::DownstreamConnectionTermination);
                record.details = Some("downstream_remote_disconnect".into());
            }
        }
        Err(error) => {
            tracing::debug!(%error, "an upgrade was agreed but not carried out");
            observer
                .record_mut()
                .flags
                .set(Flag::DownstreamConnectionTermination);
        }
    }
    drop(held);
    flow.finish();
    observer.finish();
}

/// What a tunnel came to.
struct Copied {
    received: u64,
    sent: u64,
    client_left_first: bool,
}

async fn copy(down: Upgraded, up: Upgraded, flow: &Flow) -> Copied {
    let (mut down_read, mut down_write) = tokio::io::split(TokioIo::new(down));
    let (mut up_read, mut up_write) = tokio::io::split(TokioIo::new(up));
    let first = Cell::new(None);
    let towards_endpoint = async {
        let received = one_way(&mut down_read, &mut up_write, flow).await;
        first.set(first.get().or(Some(true)));
        received
    };
    let towards_client = async {
        let sent = one_way(&mut up_read, &mut down_write, flow).await;
        first.set(first.get().or(Some(false)));
        sent
    };
    let (received, sent) = tokio::join!(towards_endpoint, towards_client);
    Copied {
        received,
        sent,
        client_left_first: first.get() == Some(true),
    }
}

/// Copies until the end of `from`, then passes the end on; counts the bytes.
async fn one_way(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    flow: &Flow,
) -> u64 {
    let mut buffer = vec![0; 16 * 1024];
    let mut total = 0;
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        flow.touch();
        let Some(bytes) = buffer.get(..read) else {
            break;
        };
        if to.write_all(bytes).await.is_err() || to.flush().await.is_err() {
            break;
        }
        total += read as u64;
    }
    // The other side may have gone already.
    let _ = to.shutdown().await;
    total
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::asked;

    #[test]
    fn an_upgrade_counts_only_with_connection() {
        let mut headers = HeaderMap::new();
        headers.insert("upgrade", "WebSocket".parse().unwrap());
        assert_eq!(asked(&headers), None);
        headers.insert("connection", "keep-alive, Upgrade".parse().unwrap());
        assert_eq!(asked(&headers).as_deref(), Some("websocket"));
    }
}
