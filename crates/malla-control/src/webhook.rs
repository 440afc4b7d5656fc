//! The admission webhooks: `/inject` and `/validate`, over TLS on port 15017.
//!
//! [`review`] decides, without IO; here are only the socket, the limits and the JSON.

pub mod review;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use malla_runtime::drain::DrainWatch;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info_span};

pub use review::Reviewer;

/// The API server's own limit for an object, with room for the envelope and the old object.
const LARGEST_REVIEW: usize = 8 << 20;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until the drain starts; reviews under way are finished.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    reviewer: Arc<Reviewer>,
    drain: DrainWatch,
) {
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let accepted = tokio::select! {
            biased; // A stop asked for comes before new work.
            () = drain.draining() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            continue;
        };
        let (acceptor, reviewer) = (acceptor.clone(), Arc::clone(&reviewer));
        drain.spawn(info_span!("webhook", %peer), async move {
            if let Err(error) = connection(stream, acceptor, reviewer).await {
                debug!(error = %error, "webhook connection ended early");
            }
        });
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    reviewer: Arc<Reviewer>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    let service = service_fn(move |request| {
        let reviewer = Arc::clone(&reviewer);
        async move { Ok::<_, Infallible>(answer(request, &reviewer).await) }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(30));
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(100);
    server.serve_connection(TokioIo::new(stream), service).await
}

async fn answer(request: Request<Incoming>, reviewer: &Reviewer) -> Response<Full<Bytes>> {
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
    let Ok(body) = Limited::new(request.into_body(), LARGEST_REVIEW)
        .collect()
        .await
    else {
        return plain(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the review is larger than 8 MiB or broke off",
        );
    };
    match serde_json::from_slice(&body.to_bytes()) {
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
