//! Calls to collectors: plain requests and gRPC, through the worker's clusters.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
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

use crate::connection::Connection;
use crate::http::body::RequestBody;
use crate::live::Live;
use crate::upstream::{Attempt, Choice, ClusterHandle, SendError, StreamError, Upstreams};

/// Why a collector did not take something.
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
        let choice = Choice {
            connection: &self.connection,
            hash: None,
            tried: &[],
            avoid_tried: false,
            avoid_priorities: None,
            host_selection_attempts: 1,
            metadata_match: None,
            high_priority: false,
            auto_host: false,
            https: false,
        };
        let mut attempt = Attempt::default();
        Ok(handle.send(request, &choice, &mut attempt).await?)
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
        backlog: None,
        keepalive: None,
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
        local: nowhere,
        direct_local: nowhere,
        local_restored: false,
        remote: nowhere,
        direct_remote: nowhere,
        server_name: None,
        tls: None,
        accepted: Instant::now(),
        accepted_at: SystemTime::now(),
    }
}
