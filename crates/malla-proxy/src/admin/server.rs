//! HTTP for the admin endpoint.
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use malla_runtime::socket::{ListenOptions, SocketError, listen};
use malla_runtime::task::{AbortOnDrop, TaskSet};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tracing::Span;

use super::{Admin, Query};

/// A client that dawdles over its header is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest form, bytes.
const MAX_FORM: usize = 64 << 10;
/// Pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

/// The endpoint; dropping it closes the port and ends its connections.
#[derive(Debug)]
pub struct AdminServer {
    address: SocketAddr,
    _task: AbortOnDrop<()>,
}

impl AdminServer {
    /// Binds and serves on the current runtime.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind(address: SocketAddr, admin: Admin) -> Result<Self, SocketError> {
        let socket = listen(address, ListenOptions::default())?;
        let address = socket.local_addr().unwrap_or(address);
        let task = AbortOnDrop::spawn(Span::current(), serve(socket, Arc::new(admin)));
        Ok(Self {
            address,
            _task: task,
        })
    }

    /// Where it listens, with the actual port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn serve(socket: TcpListener, admin: Arc<Admin>) {
    let mut connections = TaskSet::new();
    loop {
        match socket.accept().await {
            Ok((stream, _)) => {
                let admin = Arc::clone(&admin);
                connections.spawn(Span::current(), connection(stream, admin));
            }
            Err(error) => {
                tracing::warn!(%error, "the admin endpoint cannot accept");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, admin: Arc<Admin>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let admin = Arc::clone(&admin);
        async move { Ok::<_, Infallible>(respond(&admin, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    if let Err(error) = builder
        .serve_connection(TokioIo::new(stream), service)
        .await
    {
        tracing::debug!(%error, "an admin connection ended early");
    }
}

/// The form of a POST, if it has one that is not too long.
async fn form(request: Request<Incoming>) -> String {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let is_form = kind.is_some_and(|kind| {
        kind.as_bytes()
            .starts_with(b"application/x-www-form-urlencoded")
    });
    if !is_form {
        return String::new();
    }
    let body = Limited::new(request.into_body(), MAX_FORM).collect();
    match timeout(HEADER_TIMEOUT, body).await {
        Ok(Ok(body)) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        _ => String::new(),
    }
}

async fn respond(admin: &Admin, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (method, query) = (request.method().clone(), Query::parse(request.uri()));
    let query = query.with_form(&form(request).await);
    let answer = admin.answer(&method, &query);
    // A dump needs the descriptors of all messages, megabytes that an idle sidecar should not keep.
    malla_xds_proto::json::release();
    let mut response = Response::new(Full::from(answer.body));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(answer.content_type),
    );
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, max-age=0"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(header::SERVER, HeaderValue::from_static("envoy"));
    response
}
