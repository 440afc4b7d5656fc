//! What answers of our own look like: `local_reply_config` of the connection manager.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use malla_proxy_config::format::{Layout, LayoutBody};
use malla_proxy_config::http_manager::local_reply::{LocalReply, ResponseMapper};

use super::exchange::Exchange;
use super::rewrite::add_headers;
use crate::telemetry::access_log::{self, Source};
use crate::upstream::Upstreams;

/// An answer in the making.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// What the body is, where its headers do not say.
    pub(super) content_type: HeaderValue,
    /// The body is JSON, and so has a line end.
    pub(super) json: bool,
}

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

impl Reply {
    /// A plain one.
    pub(super) fn new(status: StatusCode, headers: HeaderMap, body: Bytes) -> Self {
        Self {
            status,
            headers,
            body,
            content_type: PLAIN,
            json: false,
        }
    }

    /// Lays the body out; formats see the answer as it is now, and the request's headers where they are still here.
    fn lay_out<U: Upstreams>(
        &mut self,
        x: &mut Exchange<U>,
        layout: &Layout,
        request: Option<&HeaderMap>,
    ) {
        x.record().local_reply = Some(self.body.clone());
        let mut out = Vec::new();
        let source = Source {
            request,
            ..self.source(x)
        };
        access_log::write_line(layout, &source, &mut out);
        x.record().local_reply = None;
        self.json = matches!(layout.body, LayoutBody::Json(_));
        let default = if self.json { JSON } else { PLAIN };
        self.content_type = layout.content_type.clone().unwrap_or(default);
        self.body = out.into();
    }

    fn source<'a, U: Upstreams>(&'a self, x: &'a Exchange<U>) -> Source<'a> {
        Source {
            record: x.observer.record(),
            environment: &x.cx.worker.process.environment,
            request: None, // They may have gone upstream: what is read of them was kept.
            response: Some((&self.headers, self.status)),
        }
    }
}

/// The body of a route's own answer in its own form; its type goes into the headers.
pub(super) fn lay_out_direct<U: Upstreams>(
    x: &mut Exchange<U>,
    layout: &Layout,
    reply: &mut Reply,
) {
    let request = std::mem::take(&mut x.head.headers);
    reply.lay_out(x, layout, Some(&request));
    x.head.headers = request;
    let content_type = std::mem::replace(&mut reply.content_type, PLAIN);
    // Plain text is what it is unless the route's header edits say something else.
    if content_type != PLAIN {
        reply.headers.insert(header::CONTENT_TYPE, content_type);
    }
    reply.json = false;
}

/// Rewrites an answer as the manager is configured; the record holds its flags and details.
pub(super) fn rewrite<U: Upstreams>(x: &mut Exchange<U>, reply: &mut Reply) {
    let manager = std::rc::Rc::clone(&x.cx.manager);
    let Some(config) = &manager.config.local_reply else {
        return;
    };
    let LocalReply { mappers, layout } = &**config;
    // Filters read the status from the record.
    let before = x.record().status.replace(reply.status);
    let found = mappers
        .iter()
        .find(|mapper| access_log::fits(&mapper.filter, &reply.source(x), x.cx.worker.random()));
    if let Some(mapper) = found {
        apply(x, mapper, reply);
    }
    let layout = found
        .and_then(|mapper| mapper.layout.as_ref())
        .or(layout.as_ref());
    x.record().status = Some(reply.status);
    if let Some(layout) = layout {
        reply.lay_out(x, layout, None);
    }
    x.record().status = before;
}

fn apply<U: Upstreams>(x: &Exchange<U>, mapper: &ResponseMapper, reply: &mut Reply) {
    if let Some(body) = &mapper.body {
        reply.body = body.clone();
    }
    let status = reply.status;
    add_headers(x, &mapper.headers, status, &mut reply.headers);
    if let Some(status) = mapper.status {
        reply.status = status;
    }
}
