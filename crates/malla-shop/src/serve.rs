//! The HTTP server the services share: accept, answer, stop at SIGTERM after a short grace.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{LocalSet, spawn_local};

pub(crate) type Body = UnsyncBoxBody<Bytes, hyper::Error>;
pub(crate) type Answer = Response<Body>;

/// One of the shop's services.
pub(crate) trait Answers: 'static {
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Answer>;
}

pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address}"))
}

/// Serves until SIGTERM or SIGINT, then lets requests under way finish for two seconds.
pub(crate) async fn run(listener: TcpListener, service: impl Answers) -> anyhow::Result<()> {
    let service = Rc::new(service);
    let local = LocalSet::new();
    local.run_until(accept(listener, service)).await
}

async fn accept(listener: TcpListener, service: Rc<impl Answers>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            biased; // A stop asked for comes before new work.
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let service = Rc::clone(&service);
        let handler = service_fn(move |request| {
            let service = Rc::clone(&service);
            async move { Ok::<_, Infallible>(service.answer(request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(30))
            .serve_connection(TokioIo::new(stream), handler);
        let connection = graceful.watch(connection);
        // The LocalSet owns the task and ends it; a peer that breaks off is no news.
        drop(spawn_local(async move { drop(connection.await) }));
    }
    tokio::select! {
        () = graceful.shutdown() => {}
        () = tokio::time::sleep(Duration::from_secs(2)) => {}
    }
    Ok(())
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

pub(crate) fn plain(status: StatusCode, text: impl Into<String>) -> Answer {
    let mut answer = Response::new(full(text.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    answer
}

/// JSON as the Go services answer it, with their CORS headers.
pub(crate) fn json(
    request_headers: &HeaderMap,
    allow_headers: &'static str,
    body: String,
) -> Answer {
    let mut answer = Response::new(full(body));
    allow_origin(request_headers, allow_headers, answer.headers_mut());
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    answer
}

/// The answer to a CORS preflight.
pub(crate) fn preflight(request_headers: &HeaderMap, allow_headers: &'static str) -> Answer {
    let mut answer = Response::new(full(""));
    allow_origin(request_headers, allow_headers, answer.headers_mut());
    answer
}

fn allow_origin(request: &HeaderMap, allow_headers: &'static str, answer: &mut HeaderMap) {
    let origin = request
        .get(header::ORIGIN)
        .cloned()
        .unwrap_or(HeaderValue::from_static(""));
    answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    answer.insert(
        header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
        HeaderValue::from_static("true"),
    );
    answer.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET,POST,OPTIONS"),
    );
    answer.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static(allow_headers),
    );
}

/// An HTTP/1.0 answer without a length: its end is the end of the connection.
pub(crate) fn old_fashioned(
    status: StatusCode,
    content_type: &'static str,
    body: String,
) -> Answer {
    let frame = futures_util::stream::once(async { Ok(Frame::data(Bytes::from(body))) });
    let mut answer = Response::new(StreamBody::new(frame).boxed_unsync());
    *answer.status_mut() = status;
    *answer.version_mut() = Version::HTTP_10;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// What those services say to paths and methods they don't know.
pub(crate) fn old_fashioned_refusal<B>(request: &Request<B>, path: &str) -> Option<Answer> {
    let refuse = |status: StatusCode, why: &str| {
        let page = format!(
            "<!DOCTYPE HTML>\n<html><body><h1>Error response</h1><p>Error code: {}</p><p>Message: {why}.</p></body></html>\n",
            status.as_u16()
        );
        Some(old_fashioned(status, "text/html;charset=utf-8", page))
    };
    if request.method() != http::Method::GET {
        return refuse(
            StatusCode::NOT_IMPLEMENTED,
            &format!("Unsupported method ('{}')", request.method()),
        );
    }
    if request.uri().path() != path {
        return refuse(StatusCode::NOT_FOUND, "not found");
    }
    None
}

/// A number in a header, or `None` where there is none.
pub(crate) fn number(headers: &HeaderMap, name: &str) -> Option<i64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}
