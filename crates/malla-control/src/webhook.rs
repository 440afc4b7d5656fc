//! The admission webhooks: `/inject` and `/validate`, over TLS on port 15017.
//!
//! [`review`] decides, without IO; here are only the socket, the limits and the JSON.

mod body;
pub mod review;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use malla_runtime::admission::{Admission, Guarded, Limits};
use malla_runtime::drain::DrainWatch;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info_span};

use body::Bodies;
pub use review::Reviewer;

/// API servers need a few; nobody here proves who it is, so the rest has to make room for them.
const LIMITS: Limits = Limits {
    total: 512,
    per_peer: 64,
    idle: Some(Duration::from_secs(60)),
};

/// What one connection may send without being read.
const WINDOW: u32 = 256 << 10;

const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until the drain starts; reviews under way are finished.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    reviewer: Arc<Reviewer>,
    drain: DrainWatch,
) {
    let acceptor = TlsAcceptor::from(tls);
    let admission = Admission::new(LIMITS);
    let bodies = Bodies::default();
    loop {
        let (stream, peer) = tokio::select! {
            biased; // A stop asked for comes before new work.
            () = drain.draining() => return,
            accepted = admission.accept(&listener) => accepted,
        };
        let (acceptor, reviewer) = (acceptor.clone(), Arc::clone(&reviewer));
        let bodies = bodies.clone();
        drain.spawn(info_span!("webhook", %peer), async move {
            if let Err(error) = connection(stream, acceptor, reviewer, bodies).await {
                debug!(error = %error, "webhook connection ended early");
            }
        });
    }
}

async fn connection(
    stream: Guarded<TcpStream>,
    acceptor: TlsAcceptor,
    reviewer: Arc<Reviewer>,
    bodies: Bodies,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let keeper = stream.keeper();
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    let service = service_fn(move |request| {
        let (reviewer, bodies, keeper) = (Arc::clone(&reviewer), bodies.clone(), keeper.clone());
        async move {
            let answer = answer(request, &reviewer, &bodies).await;
            keeper.touch();
            Ok::<_, Infallible>(answer)
        }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    server
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(100);
    server.serve_connection(TokioIo::new(stream), service).await
}

async fn answer(
    request: Request<Incoming>,
    reviewer: &Reviewer,
    bodies: &Bodies,
) -> Response<Full<Bytes>> {
    // Istio appends `/key/value` pairs to the injection path; they name cluster and network.
    let path = request.uri().path().to_owned();
    let review = match path.split('/').nth(1) {
        Some("inject") => Reviewer::inject,
        Some("validate") => Reviewer::validate,
        _ => return plain(StatusCode::NOT_FOUND, "expected /inject or /validate"),
    };
    if request.method() != Method::POST {
        return plain(
            StatusCode::METHOD_NOT_ALLOWED,
            "expected POST of an AdmissionReview",
        );
    }
    let body = match bodies.collect(request.into_body()).await {
        Ok(body) => body,
        Err((status, reason)) => return plain(status, reason),
    };
    match serde_json::from_slice(&body.bytes) {
        Ok(sent) => {
            let body = Bytes::from(review(reviewer, &sent).to_string());
            let mut response = Response::new(Full::new(body));
            let json = http::HeaderValue::from_static("application/json");
            response
                .headers_mut()
                .insert(http::header::CONTENT_TYPE, json);
            response
        }
        Err(error) => plain(
            StatusCode::BAD_REQUEST,
            &format!("not an AdmissionReview in JSON: {error}"),
        ),
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    response
}
