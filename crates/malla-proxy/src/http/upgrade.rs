//! Tunnels: `Upgrade` over HTTP/1 and CONNECT.
//!
//! Invariant: no byte is tunnelled before the endpoint has agreed (101, or 200 to a CONNECT), and what it has not agreed
//! to goes back to the client as an ordinary answer.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{self, HeaderMap};
use http::request::Parts;
use http::{Method, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use malla_proxy_config::http_manager::HttpManager;
use malla_proxy_config::route::action::Forward;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::body::{Flow, Overdue};
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
    pub(super) fn of(head: &mut Parts, has_body: bool) -> Option<Self> {
        let kind = if head.method == Method::CONNECT {
            match head.extensions.get::<hyper::ext::Protocol>() {
                Some(protocol) => protocol.as_str().to_ascii_lowercase(),
                None => "connect".into(),
            }
        } else {
            let kind = asked(&head.headers)?;
            if kind == "h2c" || has_body {
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

/// Copies both ways until both sides have ended, one broke, or a limit of the stream has passed, then writes the record.
/// `held` keeps the pooled connection's slots taken for as long.
pub(super) async fn tunnel<U: Upstreams, H>(
    downstream: OnUpgrade,
    upstream: OnUpgrade,
    held: H,
    mut observer: Observer<U>,
    flow: Rc<Flow>,
) {
    let copied = Copied::default();
    flow.touch();
    let passed = tokio::select! {
        biased; // What has been copied counts before what is overdue.
        () = join(downstream, upstream, &flow, &copied) => None,
        overdue = limit_passed(&flow) => Some(overdue),
    };
    let stats = Arc::clone(observer.stats());
    let record = observer.record_mut();
    let received = &record.progress.received;
    received.set(received.get() + copied.received.get());
    record.bytes_sent += copied.sent.get();
    match passed {
        Some((flag, details)) => {
            match flag {
                Flag::StreamIdleTimeout => stats.downstream_rq_idle_timeout.inc(),
                _ => stats.downstream_rq_max_duration_reached.inc(),
            }
            record.flags.set(flag);
            record.details = Some(details.into());
        }
        None if copied.client_left.get() == Some(true) => {
            record.flags.set(Flag::DownstreamConnectionTermination);
            record.details = Some("downstream_remote_disconnect".into());
        }
        None => {}
    }
    drop(held);
    flow.finish();
    observer.finish();
}

/// Waits until nothing has moved for too long, or the stream has taken too long. The route's timeout is not for tunnels.
async fn limit_passed(flow: &Flow) -> Overdue {
    loop {
        let idle = flow.idle.get().zip(flow.last.get());
        let idle = idle.map(|(idle, last)| {
            (
                last + idle,
                (Flag::StreamIdleTimeout, "stream_idle_timeout"),
            )
        });
        let until = flow.until.get();
        let until = until.map(|at| (at, (Flag::DurationTimeout, "max_duration_timeout")));
        match [until, idle]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
        {
            None => return std::future::pending().await,
            Some((at, overdue)) if Instant::now() >= at => return overdue,
            Some((at, _)) => tokio::time::sleep_until(at).await,
        }
    }
}

/// What a tunnel has come to; right at every moment.
#[derive(Default)]
struct Copied {
    received: Cell<u64>,
    sent: Cell<u64>,
    /// Who ended first, if one has: true for the client, also if it left before the tunnel was there.
    client_left: Cell<Option<bool>>,
}

async fn join(downstream: OnUpgrade, upstream: OnUpgrade, flow: &Flow, copied: &Copied) {
    match tokio::try_join!(downstream, upstream) {
        Ok((down, up)) => copy(down, up, flow, copied).await,
        Err(error) => {
            tracing::debug!(%error, "an upgrade was agreed but not carried out");
            copied.client_left.set(Some(true));
        }
    }
}

async fn copy(down: Upgraded, up: Upgraded, flow: &Flow, copied: &Copied) {
    let (mut down_read, mut down_write) = tokio::io::split(TokioIo::new(down));
    let (mut up_read, mut up_write) = tokio::io::split(TokioIo::new(up));
    let first = &copied.client_left;
    let towards_endpoint = async {
        one_way(&mut down_read, &mut up_write, flow, &copied.received).await;
        first.set(first.get().or(Some(true)));
    };
    let towards_client = async {
        one_way(&mut up_read, &mut down_write, flow, &copied.sent).await;
        first.set(first.get().or(Some(false)));
    };
    tokio::join!(towards_endpoint, towards_client);
}

/// Copies until the end of `from`, then passes the end on; counts the bytes.
async fn one_way(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    flow: &Flow,
    total: &Cell<u64>,
) {
    let mut buffer = vec![0; 16 * 1024];
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
        flow.touch();
        total.set(total.get() + read as u64);
    }
    // The other side may have gone already.
    let _ = to.shutdown().await;
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
