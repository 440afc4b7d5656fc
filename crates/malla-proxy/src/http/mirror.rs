//! Copies of requests that go to another cluster, and whose answers nobody reads.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version};
use http_body_util::BodyExt;
use malla_proxy_config::http_filter::HeaderEdit;
use malla_proxy_config::route::action::Mirror;
use tokio::time::timeout;
use tracing::Span;

use super::body::{Flow, Inflow, RequestBody};
use super::connection::Context;
use super::exchange::Exchange;
use super::forwarded::append_forwarded_for;
use super::send::ATTEMPT_COUNT;
use super::state::LocalSnapshot;
use super::{hash, rewrite};
use crate::filter::header_mutation;
use crate::telemetry::access_log;
use crate::upstream::{Attempt, Choice, ClusterHandle, Upstreams};

/// The head of a copy.
struct Copy {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
}

/// Starts the mirrors of a request; each goes once the whole request has come, and is given up if it is too long to
/// keep or, like the request itself, if it is not answered within `limit`.
pub(super) fn start<U: Upstreams>(
    x: &Exchange<U>,
    mirrors: &[Mirror],
    inflow: Option<&Rc<Inflow>>,
    limit: Option<Duration>,
) {
    for mirror in mirrors {
        if !mirror.fraction.hit(x.cx.worker.random()) {
            continue;
        }
        let cluster: Arc<str> = match &mirror.cluster {
            Ok(name) => Arc::clone(name),
            Err(header) => match hash::cluster_name(&x.view(), header) {
                Some(name) => name.into(),
                None => continue,
            },
        };
        let copy = copy_of(x, mirror);
        let one = Shadow {
            cx: Rc::clone(&x.cx),
            snapshot: Rc::clone(&x.snapshot),
            cluster,
            https: x.observer.record().scheme == "https",
            limit,
        };
        let one = one.send(copy, inflow.cloned(), Rc::clone(&x.flow));
        x.cx.worker.tasks.spawn_local(Span::none(), one);
    }
}

fn copy_of<U: Upstreams>(x: &Exchange<U>, mirror: &Mirror) -> Copy {
    let head = &x.head;
    let mut headers = head.headers.clone();
    for edit in &mirror.mutations {
        match edit {
            HeaderEdit::Add(add) => rewrite::edit(&mut headers, [add], |_, format| {
                access_log::header_value(format, &x.source())
            }),
            edit => header_mutation::remove(&mut headers, edit),
        }
    }
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let host = match (&mirror.host, host) {
        (Some(host), _) => Some(host.clone()),
        (None, Some(host)) if mirror.shadow_suffix => HeaderValue::from_str(&shadow(host)).ok(),
        (None, _) => None,
    };
    if let Some(host) = host {
        headers.insert(header::HOST, host);
    }
    headers.insert(
        HeaderName::from_static("x-envoy-internal"),
        HeaderValue::from_static("true"),
    );
    if let Some(here) = x.cx.worker.process.local_address {
        // The copy is ours: we stand between its client and its cluster.
        append_forwarded_for(&mut headers, here, None);
    }
    if x.selected
        .as_ref()
        .is_some_and(|selected| selected.vhost().attempt_count_in_request)
    {
        headers.insert(ATTEMPT_COUNT, HeaderValue::from(1));
    }
    Copy {
        method: head.method.clone(),
        uri: head.uri.clone(),
        version: head.version,
        headers,
    }
}

/// `-shadow` goes before the port.
fn shadow(host: &str) -> String {
    let bare = malla_proxy_config::route::without_port(host);
    let port = host.get(bare.len()..).unwrap_or("");
    format!("{bare}-shadow{port}")
}

/// Where a copy goes, and for how long at most.
struct Shadow<U: Upstreams> {
    cx: Rc<Context<U>>,
    snapshot: LocalSnapshot,
    cluster: Arc<str>,
    https: bool,
    limit: Option<Duration>,
}

impl<U: Upstreams> Shadow<U> {
    async fn send(self, copy: Copy, inflow: Option<Rc<Inflow>>, flow: Rc<Flow>) {
        let cluster = &self.cluster;
        let body = match inflow {
            None => RequestBody::empty(),
            Some(inflow) => {
                if flow.progress.end().await.is_none() {
                    return tracing::debug!(%cluster, "a request to be mirrored never ended");
                }
                match inflow.copy() {
                    Some(body) => body,
                    None => {
                        return tracing::debug!(%cluster, "a mirrored request was too long to keep");
                    }
                }
            }
        };
        let Some(handle) = self.cx.worker.upstreams.cluster(&self.snapshot, cluster) else {
            return;
        };
        let mut request = Request::new(body);
        *request.method_mut() = copy.method;
        *request.uri_mut() = copy.uri;
        *request.version_mut() = copy.version;
        *request.headers_mut() = copy.headers;
        let mut attempt = Attempt::default();
        let exchange = self.exchange(&handle, request, &mut attempt);
        let in_time = match self.limit {
            None => {
                exchange.await;
                true
            }
            Some(limit) => timeout(limit, exchange).await.is_ok(),
        };
        if !in_time {
            handle.stats().upstream_rq_timeout.inc();
            handle.report_timeout(&attempt, true);
            if attempt.first_byte.is_none() {
                let status = StatusCode::GATEWAY_TIMEOUT;
                super::send::count_response(handle.stats(), status, true, &attempt, None);
            }
            tracing::debug!(%cluster, limit = ?self.limit, "a mirrored request took too long");
        }
    }

    async fn exchange(
        &self,
        handle: &U::Handle,
        request: Request<RequestBody>,
        attempt: &mut Attempt,
    ) {
        let choice = Choice {
            https: self.https,
            ..Choice::any(&self.cx.connection)
        };
        match handle.send(request, &choice, attempt).await {
            Ok(response) => {
                let (status, headers) = (response.status(), response.headers());
                super::send::count_response(handle.stats(), status, true, attempt, Some(headers));
                let mut body = std::pin::pin!(response.into_body());
                // Read to its end, so that the connection can be used again.
                while let Some(Ok(_)) = body.frame().await {}
            }
            Err(error) => {
                tracing::debug!(cluster = %self.cluster, %error, "a mirrored request failed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::shadow;

    #[test]
    fn the_suffix_goes_before_the_port() {
        assert_eq!(shadow("a.b:80"), "a.b-shadow:80");
        assert_eq!(shadow("a.b"), "a.b-shadow");
    }
}
