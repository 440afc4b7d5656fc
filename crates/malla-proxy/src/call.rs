//! Calls of the proxy's own: to collectors, and of filters on behalf of a request; plain and gRPC, through the worker's
//! clusters and pools.
//!
//! Invariant: a call that a request waits for has a time limit, and its answer a limit of bytes.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, Uri, Version};
use http_body_util::BodyExt;
use malla_proxy_config::address::Address;
use malla_proxy_config::filter_chain::FilterChain;
use malla_proxy_config::grpc_service::GrpcService;
use malla_proxy_config::listener::{Direction, Listener};
use malla_proxy_config::metadata::Metadata;
use malla_proxy_config::request::text;
use tokio::time::Instant;

use crate::connection::{Connection, End};
use crate::http::body::RequestBody;
use crate::http::send::count_response;
use crate::live::Live;
use crate::upstream::{Attempt, Choice, ClusterHandle, SendError, StreamError, Upstreams};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("there is no cluster {0}")]
    NoCluster(Arc<str>),
    #[error(transparent)]
    Send(#[from] SendError),
    #[error("the answer broke off: {0}")]
    Answer(#[from] StreamError),
    #[error("answered {0}")]
    Status(http::StatusCode),
    #[error("answered gRPC status {0}")]
    Grpc(u32),
    #[error("no answer in time")]
    Timeout,
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    #[error("the answer is not one gRPC message")]
    Malformed,
}

/// What calls are made with.
#[derive(Debug)]
pub struct Caller<U> {
    pub upstreams: U,
    pub live: Live,
    connection: Rc<Connection>,
}

/// The head of a call.
#[derive(Debug)]
pub struct Head<'a> {
    pub cluster: &'a Arc<str>,
    pub authority: &'a HeaderValue,
    pub path: PathAndQuery,
    pub headers: &'a [(HeaderName, HeaderValue)],
    pub content_type: &'static str,
}

impl<U: Upstreams> Caller<U> {
    pub fn new(upstreams: U, live: Live) -> Self {
        Self {
            upstreams,
            live,
            connection: Rc::new(own_connection()),
        }
    }

    /// Sends a request and waits for the head of its answer.
    pub async fn send(
        &self,
        head: &Head<'_>,
        body: RequestBody,
    ) -> Result<Response<<U::Handle as ClusterHandle>::Body>, CallError> {
        let snapshot = self.live.load_full();
        let handle = self.upstreams.cluster(&snapshot, head.cluster);
        let handle = handle.ok_or_else(|| CallError::NoCluster(Arc::clone(head.cluster)))?;
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = Uri::from(head.path.clone());
        let headers = request.headers_mut();
        headers.insert(header::HOST, head.authority.clone());
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(head.content_type),
        );
        headers.insert(header::USER_AGENT, HeaderValue::from_static("malla"));
        if head.content_type == "application/grpc" {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        for (name, value) in head.headers {
            headers.append(name.clone(), value.clone());
        }
        self.give(&handle, request).await
    }

    /// Sends a request of a filter and waits for the whole answer.
    ///
    /// `request` has an origin-form target, and the authority in `Host`.
    pub(crate) async fn http(
        &self,
        cluster: &Arc<str>,
        request: Request<Bytes>,
        timeout: Duration,
        limit: usize,
    ) -> Result<Response<Bytes>, CallError> {
        let call = async {
            let snapshot = self.live.load_full();
            let handle = self.upstreams.cluster(&snapshot, cluster);
            let handle = handle.ok_or_else(|| CallError::NoCluster(Arc::clone(cluster)))?;
            let request = request.map(|body| RequestBody::fixed(vec![body]));
            let response = self.give(&handle, request).await?;
            let (head, body) = response.into_parts();
            let (bytes, _) = collect(body, limit).await?;
            Ok(Response::from_parts(head, bytes))
        };
        within(timeout, call).await
    }

    /// Calls a method of a filter's service and waits for its answer. `timeout` zero or `None` is no limit.
    pub(crate) async fn unary<M: prost::Message, A: prost::Message + Default>(
        &self,
        service: &GrpcService,
        method: &'static str,
        extra: &[(HeaderName, HeaderValue)],
        message: &M,
        limit: usize,
    ) -> Result<A, CallError> {
        let encoded = Bytes::from(message.encode_to_vec());
        let mut headers = service.metadata.clone();
        headers.extend_from_slice(extra);
        let timeout = service.timeout.filter(|limit| !limit.is_zero());
        if let Some(timeout) = timeout {
            let millis = HeaderValue::from_str(&format!("{}m", timeout.as_millis()));
            headers.extend(
                millis
                    .ok()
                    .map(|it| (HeaderName::from_static("grpc-timeout"), it)),
            );
        }
        let head = Head {
            cluster: &service.cluster,
            authority: &service.authority,
            path: PathAndQuery::from_static(method),
            headers: &headers,
            content_type: "application/grpc",
        };
        let body = RequestBody::fixed(vec![grpc_prefix(encoded.len()), encoded]);
        let call = async {
            let response = self.send(&head, body).await?;
            let (head, body) = response.into_parts();
            if head.status != http::StatusCode::OK {
                return Err(CallError::Status(head.status));
            }
            if let Some(status) = grpc_status(&head.headers).filter(|status| *status != 0) {
                return Err(CallError::Grpc(status));
            }
            let (bytes, trailers) = collect(body, limit).await?;
            let trailers = trailers.as_ref().unwrap_or(&head.headers);
            grpc_result(grpc_status(trailers).unwrap_or(2))?;
            A::decode(message_of(&bytes)?).map_err(|_| CallError::Malformed)
        };
        match timeout {
            Some(timeout) => within(timeout, call).await,
            None => call.await,
        }
    }

    async fn give(
        &self,
        handle: &U::Handle,
        request: Request<RequestBody>,
    ) -> Result<Response<<U::Handle as ClusterHandle>::Body>, CallError> {
        let choice = Choice::any(&self.connection);
        let mut attempt = Attempt::default();
        let result = handle.send(request, &choice, &mut attempt).await;
        let (status, headers) = match &result {
            Ok(response) => (response.status(), Some(response.headers())),
            Err(_) => (http::StatusCode::SERVICE_UNAVAILABLE, None),
        };
        count_response(handle.stats(), status, true, &attempt, headers);
        Ok(result?)
    }

    /// Calls a method and waits until its answer is over.
    pub async fn grpc(
        &self,
        service: &GrpcService,
        method: &'static str,
        body: RequestBody,
    ) -> Result<(), CallError> {
        let head = Head {
            cluster: &service.cluster,
            authority: &service.authority,
            path: PathAndQuery::from_static(method),
            headers: &service.metadata,
            content_type: "application/grpc",
        };
        let response = self.send(&head, body).await?;
        if response.status() != http::StatusCode::OK {
            return Err(CallError::Status(response.status()));
        }
        if let Some(status) = grpc_status(response.headers()) {
            return grpc_result(status);
        }
        let mut body = response.into_body();
        let mut status = None;
        while let Some(frame) = body.frame().await {
            status = frame?.trailers_ref().and_then(grpc_status).or(status);
        }
        grpc_result(status.unwrap_or(2))
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    text(headers.get("grpc-status")?).parse().ok()
}

fn grpc_result(status: u32) -> Result<(), CallError> {
    match status {
        0 => Ok(()),
        status => Err(CallError::Grpc(status)),
    }
}

/// The only message of an answer, which must not be compressed: nobody was asked to.
fn message_of(body: &[u8]) -> Result<&[u8], CallError> {
    let (prefix, message) = body.split_at_checked(5).ok_or(CallError::Malformed)?;
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let (flag, said) = prefix.split_at(1);
    match flag == [0] && said == length.to_be_bytes() {
        true => Ok(message),
        false => Err(CallError::Malformed),
    }
}

/// The message in an answer's bytes, for `fuzz/`.
#[cfg(fuzzing)]
pub fn one_message(body: &[u8]) -> Option<&[u8]> {
    message_of(body).ok()
}

async fn within<T>(
    timeout: Duration,
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(timeout, call).await {
        Ok(done) => done,
        Err(_) => Err(CallError::Timeout),
    }
}

/// A whole body with its trailers.
async fn collect<B>(mut body: B, limit: usize) -> Result<(Bytes, Option<HeaderMap>), CallError>
where
    B: http_body::Body<Data = Bytes, Error = StreamError> + Unpin,
{
    let mut out = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) if out.len().saturating_add(data.len()) > limit => {
                return Err(CallError::TooLong(limit));
            }
            Ok(data) => out.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((out.freeze(), trailers))
}

/// The five bytes before a gRPC message (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
pub fn grpc_prefix(length: usize) -> Bytes {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    let mut out = [0; 5];
    out[1..].copy_from_slice(&length.to_be_bytes());
    Bytes::copy_from_slice(&out)
}

/// Stands for a downstream connection in the choice of a host: there is none.
fn own_connection() -> Connection {
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = Listener {
        name: Arc::from("telemetry"),
        stat_prefix: None,
        addresses: vec![Address::Socket(nowhere)],
        bind_to_port: false,
        use_original_dst: false,
        transparent: false,
        freebind: false,
        reuse_port: true,
        exact_balance: false,
        backlog: None,
        keepalive: None,
        socket_options: Vec::new(),
        ipv4_compat: false,
        max_connections: None,
        filters: Vec::new(),
        filters_timeout: None,
        continue_on_timeout: false,
        chains: Vec::new(),
        default_chain: None,
        buffer_limit: 0,
        access_logs: Vec::new(),
        direction: Direction::Unspecified,
        metadata: Metadata::default(),
    };
    Connection {
        id: u64::MAX,
        listener: Arc::new(listener),
        chain: Arc::new(FilterChain::closed()),
        local: End::Ip(nowhere),
        direct_local: End::Ip(nowhere),
        local_restored: false,
        remote: End::Ip(nowhere),
        direct_remote: End::Ip(nowhere),
        server_name: None,
        tls: None,
        accepted: Instant::now(),
        accepted_at: SystemTime::now(),
        origin: None,
        socket: None,
        state: None,
    }
}
