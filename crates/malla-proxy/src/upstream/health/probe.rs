//! Asks one endpoint how it is: over HTTP, gRPC or TCP, on a connection of its own that may be kept.
//!
//! Invariant: whatever the endpoint does, a probe holds at most the configured part of a body, and ends with the caller's
//! timeout.
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use malla_proxy_config::address::Address;
use malla_proxy_config::cluster::HealthCheck;
use malla_proxy_config::cluster::health::{GrpcProbe, HttpProbe, Probe, TcpProbe};
use malla_runtime::task::AbortOnDrop;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::IMMEDIATE_FAIL;
use super::tally::Trouble;
use crate::live::Live;
use crate::tls::connect::Connector;
use crate::transport::Io;
use crate::upstream::cluster::SharedCluster;
use crate::upstream::connect::{Purpose, RequestName, Target, transport_of};
use crate::upstream::host::{Host, transport_by};

const AGENT: HeaderValue = HeaderValue::from_static("Envoy/HC");
/// Longest head of an answer, bytes.
const MAX_HEAD: usize = 64 * 1024;
/// A health answer is a few bytes.
const MAX_GRPC_MESSAGE: usize = 16 * 1024;
/// `HealthCheckResponse.SERVING`.
const SERVING: i32 = 1;

/// What a probe found.
#[derive(Debug)]
pub(super) enum Finding {
    Good { degraded: bool },
    Bad(Trouble, String),
}

impl Finding {
    fn network(reason: impl ToString) -> Self {
        Self::Bad(Trouble::Network, reason.to_string())
    }
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Probes one endpoint.
pub(super) struct Prober {
    shared: std::sync::Weak<SharedCluster>,
    check: HealthCheck,
    host: Arc<Host>,
    /// With the ALPN protocols of the check, where TLS is spoken.
    connector: Option<Connector>,
    transport: Option<u16>,
    address: Address,
    /// Host header or authority.
    authority: HeaderValue,
    live: Live,
    control: Handle,
    kept: Option<Kept>,
}

/// A connection between two checks.
enum Kept {
    Http1(http1::SendRequest<Full<Bytes>>, AbortOnDrop<()>),
    Http2(http2::SendRequest<Full<Bytes>>, Helpers, AbortOnDrop<()>),
    Tcp(Io),
}

impl Prober {
    pub(super) fn new(
        shared: &Arc<SharedCluster>,
        host: &Arc<Host>,
        check: HealthCheck,
        live: Live,
        control: Handle,
    ) -> Self {
        let config = &shared.config;
        let transport = match &check.transport_criteria {
            Some(criteria) => transport_by(config, criteria),
            None => host.transport,
        };
        let purpose = match &check.probe {
            Probe::Tcp(_) => Purpose::Tcp,
            Probe::Grpc(_) => Purpose::Http2,
            Probe::Http(probe) if probe.http2 => Purpose::Http2,
            Probe::Http(_) => Purpose::Http1,
        };
        let alpn: Vec<&str> = check.alpn.iter().map(String::as_str).collect();
        let tls = transport_of(config, transport).tls.as_ref();
        let connector = tls.map(|tls| {
            let setup = shared.connectors.setup().clone();
            match alpn.as_slice() {
                [] => Connector::new(Arc::clone(tls), setup, purpose.alpn()),
                alpn => Connector::offering(Arc::clone(tls), setup, alpn),
            }
        });
        let target = host.endpoint.check.as_ref();
        let given = match &check.probe {
            Probe::Http(probe) => probe.host.clone(),
            Probe::Grpc(probe) => probe.authority.clone(),
            Probe::Tcp(_) => None,
        };
        let own = target.filter(|target| !target.hostname.is_empty());
        let own = own.and_then(|target| HeaderValue::from_str(&target.hostname).ok());
        let authority = own
            .or(given)
            .or_else(|| HeaderValue::from_str(&config.name).ok())
            .unwrap_or(HeaderValue::from_static("health"));
        Self {
            shared: Arc::downgrade(shared),
            connector,
            transport,
            address: target
                .and_then(|target| target.address.clone())
                .unwrap_or_else(|| host.endpoint.address.clone()),
            authority,
            host: Arc::clone(host),
            check,
            live,
            control,
            kept: None,
        }
    }

    /// The connection is of no more use.
    pub(super) fn give_up(&mut self) {
        self.kept = None;
    }

    /// One check.
    pub(super) async fn probe(&mut self) -> Finding {
        let probe = self.check.probe.clone();
        let finding = match &probe {
            Probe::Http(probe) => self.http(probe).await,
            Probe::Grpc(probe) => self.grpc(probe).await,
            Probe::Tcp(probe) => self.tcp(probe).await,
        };
        if !self.check.reuse_connection {
            self.kept = None;
        }
        finding
    }

    async fn connect(&self) -> Result<Io, String> {
        let shared = self.shared.upgrade().ok_or("the cluster is gone")?;
        let snapshot = self.live.load_full();
        let target = Target {
            address: &self.address,
            more: &[],
            hostname: &self.host.endpoint.hostname,
            proxy_protocol: transport_of(&shared.config, self.transport).proxy_protocol,
            ends: None,
            connector: self.connector.as_ref(),
        };
        let connected = target
            .establish(&shared.config, &RequestName::default(), &snapshot)
            .await;
        connected
            .map(|connected| connected.io)
            .map_err(|failure| failure.reason.to_string())
    }

    /// A connection that can take a request: the kept one, or a new one.
    async fn ready(&mut self, h2: bool) -> Result<Kept, String> {
        match self.kept.take() {
            Some(Kept::Http1(mut sender, task)) => {
                if sender.ready().await.is_ok() {
                    return Ok(Kept::Http1(sender, task));
                }
            }
            Some(Kept::Http2(mut sender, helpers, task)) => {
                if sender.ready().await.is_ok() {
                    return Ok(Kept::Http2(sender, helpers, task));
                }
            }
            Some(Kept::Tcp(_)) | None => {}
        }
        let io = TokioIo::new(self.connect().await?);
        if h2 {
            let helpers = Helpers::new(self.control.clone());
            let (sender, connection) = http2::Builder::new(helpers.clone())
                .max_header_list_size(MAX_HEAD as u32)
                .handshake(io)
                .await
                .map_err(|error| error.to_string())?;
            let task = self.control.spawn(async move { drop(connection.await) });
            return Ok(Kept::Http2(sender, helpers, AbortOnDrop::adopt(task)));
        }
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(io)
            .await
            .map_err(|error| error.to_string())?;
        let task = self.control.spawn(async move { drop(connection.await) });
        Ok(Kept::Http1(sender, AbortOnDrop::adopt(task)))
    }

    async fn send(
        kept: &mut Kept,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, String> {
        let sent = match kept {
            Kept::Http1(sender, _) => sender.send_request(request).await,
            Kept::Http2(sender, ..) => sender.send_request(request).await,
            Kept::Tcp(_) => return Err("not an HTTP connection".into()),
        };
        sent.map_err(|error| error.to_string())
    }

    fn uri(&self, path: &str) -> Uri {
        let scheme = if self.connector.is_some() {
            "https"
        } else {
            "http"
        };
        Uri::builder()
            .scheme(scheme)
            .authority(self.authority.as_bytes())
            .path_and_query(path)
            .build()
            .unwrap_or_else(|_| Uri::from_static("/"))
    }

    async fn http(&mut self, probe: &HttpProbe) -> Finding {
        let mut kept = match self.ready(probe.http2).await {
            Ok(kept) => kept,
            Err(reason) => return Finding::network(reason),
        };
        let mut request = Request::new(Full::default());
        *request.method_mut() = probe.method.clone();
        if probe.http2 {
            *request.uri_mut() = self.uri(probe.path.as_str());
        } else {
            *request.uri_mut() = Uri::from(probe.path.clone());
            request.headers_mut().insert(HOST, self.authority.clone());
        }
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, AGENT);
        if matches!(probe.method, Method::POST | Method::PUT | Method::PATCH) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        add(headers, &probe.add);
        for name in &probe.remove {
            headers.remove(name);
        }
        let response = match Self::send(&mut kept, request).await {
            Ok(response) => response,
            Err(reason) => return Finding::network(reason),
        };
        let (head, body) = response.into_parts();
        let closes = head
            .headers
            .get(http::header::CONNECTION)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
        let body = match read(body, probe.buffer, !probe.receive.is_empty()).await {
            Ok((body, _)) => body,
            Err(reason) => return Finding::network(reason),
        };
        if !closes {
            self.kept = Some(kept);
        }
        judge_http(probe, head.status.as_u16(), &head.headers, &body)
    }

    async fn grpc(&mut self, probe: &GrpcProbe) -> Finding {
        let mut kept = match self.ready(true).await {
            Ok(kept) => kept,
            Err(reason) => return Finding::network(reason),
        };
        let message = HealthRequest {
            service: probe.service.clone(),
        };
        let mut frame = BytesMut::with_capacity(5 + message.encoded_len());
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
        frame.extend_from_slice(&message.encode_to_vec());
        let mut request = Request::new(Full::new(frame.freeze()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri("/grpc.health.v1.Health/Check");
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, AGENT);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        add(headers, &probe.metadata);
        let response = match Self::send(&mut kept, request).await {
            Ok(response) => response,
            Err(reason) => return Finding::network(reason),
        };
        let (head, body) = response.into_parts();
        let (body, trailers) = match read(body, MAX_GRPC_MESSAGE, true).await {
            Ok(read) => read,
            Err(reason) => return Finding::network(reason),
        };
        self.kept = Some(kept);
        judge_grpc(head.status.as_u16(), &head.headers, &trailers, &body)
    }

    async fn tcp(&mut self, probe: &TcpProbe) -> Finding {
        let mut io = match self.kept.take() {
            Some(Kept::Tcp(io)) => io,
            _ => match self.connect().await {
                Ok(io) => io,
                Err(reason) => return Finding::network(reason),
            },
        };
        if let Err(error) = io.write_all(&probe.send).await {
            return Finding::network(error);
        }
        let mut received = Vec::new();
        while !holds(&received, &probe.receive) {
            let mut buffer = [0; 1024];
            match io.read(&mut buffer).await {
                Ok(0) => return Finding::network("closed"),
                Ok(count) => received.extend_from_slice(&buffer[..count]),
                Err(error) => return Finding::network(error),
            }
            if received.len() > MAX_HEAD {
                return Finding::network("it says too much");
            }
        }
        self.kept = Some(Kept::Tcp(io));
        Finding::Good { degraded: false }
    }
}

fn add(headers: &mut HeaderMap, more: &[(HeaderName, HeaderValue, bool)]) {
    for (name, value, append) in more {
        if *append {
            headers.append(name.clone(), value.clone());
        } else {
            headers.insert(name.clone(), value.clone());
        }
    }
}

/// Reads a body to its end and keeps at most `limit` bytes of it.
async fn read(
    mut body: Incoming,
    limit: usize,
    keep: bool,
) -> Result<(Vec<u8>, HeaderMap), String> {
    let (mut kept, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| error.to_string())?;
        match frame.into_data() {
            Ok(data) if keep => {
                let room = limit.saturating_sub(kept.len()).min(data.len());
                kept.extend_from_slice(&data[..room]);
            }
            Ok(_) => {}
            Err(frame) => {
                if let Ok(map) = frame.into_trailers() {
                    trailers = map;
                }
            }
        }
    }
    Ok((kept, trailers))
}

fn judge_http(probe: &HttpProbe, status: u16, headers: &HeaderMap, body: &[u8]) -> Finding {
    let within =
        |ranges: &[std::ops::Range<u16>]| ranges.iter().any(|range| range.contains(&status));
    if headers.contains_key(IMMEDIATE_FAIL) {
        return Finding::Bad(Trouble::Immediate, IMMEDIATE_FAIL.into());
    }
    if !within(&probe.expected) {
        let trouble = if within(&probe.retriable) {
            Trouble::Retriable
        } else {
            Trouble::Answer
        };
        return Finding::Bad(trouble, format!("status {status}"));
    }
    if !holds(body, &probe.receive) {
        return Finding::Bad(Trouble::Answer, "the body is not the expected one".into());
    }
    if let Some(matcher) = &probe.service_name {
        let name = headers
            .get("x-envoy-upstream-healthchecked-cluster")
            .and_then(|value| value.to_str().ok())
            .unwrap_or("");
        if !matcher.is_match(name) {
            return Finding::Bad(Trouble::WrongService, format!("it is `{name}`"));
        }
    }
    Finding::Good {
        degraded: headers.contains_key("x-envoy-degraded"),
    }
}

fn judge_grpc(status: u16, headers: &HeaderMap, trailers: &HeaderMap, body: &[u8]) -> Finding {
    let bad = |reason: String| Finding::Bad(Trouble::Answer, reason);
    if status != 200 {
        return bad(format!("status {status}"));
    }
    let code = trailers
        .get("grpc-status")
        .or_else(|| headers.get("grpc-status"));
    if code.is_none_or(|code| code.as_bytes() != b"0") {
        return bad(format!("gRPC status {code:?}"));
    }
    // One uncompressed message: a flag, its length, its bytes.
    let message = match body {
        [0, a, b, c, d, message @ ..]
            if u32::from_be_bytes([*a, *b, *c, *d]) as usize == message.len() =>
        {
            message
        }
        _ => return bad("not one gRPC message".into()),
    };
    match HealthResponse::decode(message) {
        Ok(response) if response.status == SERVING => Finding::Good { degraded: false },
        Ok(response) => bad(format!("serving status {}", response.status)),
        Err(error) => bad(error.to_string()),
    }
}

/// Whether an answer's body is that of a healthy host, for `fuzz/`.
#[cfg(fuzzing)]
pub fn is_serving(body: &[u8]) -> bool {
    let trailers = HeaderMap::from_iter([(
        HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    let found = judge_grpc(200, &HeaderMap::new(), &trailers, body);
    matches!(found, Finding::Good { degraded: false })
}

/// True if all pieces are there, one after the other.
fn holds(bytes: &[u8], pieces: &[Vec<u8>]) -> bool {
    let mut rest = bytes;
    pieces.iter().all(|piece| {
        let found = memchr::memmem::find(rest, piece);
        if let Some(at) = found {
            rest = &rest[at + piece.len()..];
        }
        found.is_some()
    })
}

/// Owns hyper's helper tasks of an HTTP/2 connection; they end with it.
#[derive(Clone)]
struct Helpers {
    tasks: Arc<Mutex<JoinSet<()>>>,
    control: Handle,
}

impl Helpers {
    fn new(control: Handle) -> Self {
        Self {
            tasks: Arc::default(),
            control,
        }
    }
}

impl<F> hyper::rt::Executor<F> for Helpers
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(
            async move {
                future.await;
            },
            &self.control,
        );
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::{Finding, holds, judge_grpc};

    #[test]
    fn pieces_are_found_in_order_only() {
        let pieces = |list: &[&str]| {
            list.iter()
                .map(|piece| piece.as_bytes().to_vec())
                .collect::<Vec<_>>()
        };
        assert!(holds(b"", &[]));
        assert!(holds(b"xx+PONG yy", &pieces(&["+PONG"])));
        assert!(holds(b"a1b2", &pieces(&["a", "b"])));
        assert!(!holds(b"b2a1", &pieces(&["a", "b"])));
        assert!(!holds(b"aa", &pieces(&["aa", "a"])));
    }

    #[test]
    fn grpc_answers_are_read_strictly() {
        let trailers = |code: &'static str| {
            HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                HeaderValue::from_static(code),
            )])
        };
        let good = |status, code, body: &[u8]| {
            matches!(
                judge_grpc(status, &HeaderMap::new(), &trailers(code), body),
                Finding::Good { .. }
            )
        };
        assert!(good(200, "0", &[0, 0, 0, 0, 2, 8, 1]));
        assert!(!good(200, "0", &[0, 0, 0, 0, 2, 8, 2]), "not serving");
        assert!(!good(200, "0", &[0, 0, 0, 0, 9, 8, 1]), "cut off");
        assert!(!good(200, "0", &[1, 0, 0, 0, 2, 8, 1]), "compressed");
        assert!(!good(200, "12", &[0, 0, 0, 0, 2, 8, 1]));
        assert!(!good(503, "0", &[0, 0, 0, 0, 2, 8, 1]));
        assert!(!good(200, "0", &[]));
    }
}
