//! A collector that keeps what it is told: OTLP spans, access log entries, Zipkin's lists.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use malla_xds_proto::pb::envoy::data::accesslog::v3::{HttpAccessLogEntry, TcpAccessLogEntry};
use malla_xds_proto::pb::envoy::service::accesslog::v3 as als;
use malla_xds_proto::pb::envoy::service::accesslog::v3::access_log_service_server::{
    AccessLogService, AccessLogServiceServer,
};
use malla_xds_proto::pb::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{
    LogsService, LogsServiceServer,
};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::resource::v1::Resource;
use tonic::{Request, Response, Status, Streaming};

/// A span in either form.
#[derive(Debug, Clone, Default)]
pub(crate) struct Span {
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) name: String,
    pub(crate) kind: String,
    /// What else there is: status, state, sharing, resource.
    pub(crate) more: String,
    pub(crate) tags: BTreeMap<String, String>,
}

/// What has come.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) spans: Vec<Span>,
    /// With the log's name.
    pub(crate) http: Vec<(String, HttpAccessLogEntry)>,
    pub(crate) tcp: Vec<(String, TcpAccessLogEntry)>,
    /// With who sent them.
    pub(crate) records: Vec<(Resource, LogRecord)>,
    /// Node ids of log streams.
    pub(crate) nodes: Vec<String>,
}

#[derive(Clone, Default)]
pub(crate) struct Collector {
    seen: Arc<Mutex<Seen>>,
}

impl Collector {
    /// Starts both servers; they live as long as the process. The first address is that of gRPC, the second Zipkin's.
    pub(crate) fn start() -> (Self, SocketAddr, SocketAddr) {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let grpc = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let services = collector.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let incoming = tonic::transport::server::TcpIncoming::from(listener);
                tonic::transport::Server::builder()
                    .add_service(TraceServiceServer::new(services.clone()))
                    .add_service(LogsServiceServer::new(services.clone()))
                    .add_service(AccessLogServiceServer::new(services))
                    .serve_with_incoming(incoming)
                    .await
                    .unwrap();
            });
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let zipkin = listener.local_addr().unwrap();
        let services = collector.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let services = services.clone();
                std::thread::spawn(move || while services.take_list(&stream).is_some() {});
            }
        });
        (collector, grpc, zipkin)
    }

    /// What has come, once it is enough.
    pub(crate) fn wait<T>(&self, what: &str, get: impl Fn(&Seen) -> Option<T>) -> T {
        self.wait_or_tell(&|seen| format!("{what}; there is {seen:#?}"), get)
    }

    /// The same; `lacks` says what is missing.
    pub(crate) fn wait_or_tell<T>(
        &self,
        lacks: &dyn Fn(&Seen) -> String,
        get: impl Fn(&Seen) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(found) = get(&self.seen.lock().unwrap()) {
                return found;
            }
            if Instant::now() > deadline {
                panic!("did not come: {}", lacks(&self.seen.lock().unwrap()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn take_list(&self, mut stream: &TcpStream) -> Option<()> {
        let mut reader = BufReader::with_capacity(1, stream);
        let mut length: Option<usize> = None;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = Some(value.trim().parse().unwrap());
            }
        }
        let mut body = Vec::new();
        match length {
            Some(length) => {
                body.resize(length, 0);
                reader.read_exact(&mut body).ok()?;
            }
            None => loop {
                let mut size = String::new();
                reader.read_line(&mut size).ok()?;
                let size = usize::from_str_radix(size.trim(), 16).ok()?;
                let mut chunk = vec![0; size + 2];
                reader.read_exact(&mut chunk).ok()?;
                if size == 0 {
                    break;
                }
                body.extend_from_slice(&chunk[..size]);
            },
        }
        let list: Vec<serde_json::Value> = serde_json::from_slice(&body).unwrap();
        let spans = list.iter().map(from_zipkin);
        self.seen.lock().unwrap().spans.extend(spans);
        let answer = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).ok()
    }
}

fn from_zipkin(span: &serde_json::Value) -> Span {
    let text = |name: &str| span[name].as_str().unwrap_or_default().to_owned();
    let tags = span["tags"].as_object().unwrap().iter();
    Span {
        trace: text("traceId"),
        id: text("id"),
        parent: text("parentId"),
        name: text("name"),
        kind: text("kind"),
        more: format!(
            "shared={} service={}",
            span["shared"], span["localEndpoint"]["serviceName"]
        ),
        tags: tags
            .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
            .collect(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pairs(list: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        other => format!("{other:?}"),
    };
    list.iter()
        .map(|pair| (pair.key.clone(), text(pair)))
        .collect()
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let service = pairs(&resource.resource.unwrap_or_default().attributes);
            for span in resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans)
            {
                assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
                let span = Span {
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    name: span.name,
                    kind: format!("{}", span.kind),
                    more: format!(
                        "status={} state={} service={:?}",
                        span.status.unwrap_or_default().code,
                        span.trace_state,
                        service.get("service.name"),
                    ),
                    tags: pairs(&span.attributes),
                };
                self.seen.lock().unwrap().spans.push(span);
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Collector {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        for resource in request.into_inner().resource_logs {
            let who = resource.resource.unwrap_or_default();
            let scopes = resource.scope_logs.into_iter();
            let records = scopes.flat_map(|scope| scope.log_records);
            let records = records.map(|record| (who.clone(), record));
            self.seen.lock().unwrap().records.extend(records);
        }
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl AccessLogService for Collector {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<als::StreamAccessLogsMessage>>,
    ) -> Result<Response<als::StreamAccessLogsResponse>, Status> {
        let mut stream = request.into_inner();
        let mut log = String::new();
        while let Some(message) = stream.message().await? {
            let mut seen = self.seen.lock().unwrap();
            if let Some(identifier) = message.identifier {
                log = identifier.log_name;
                seen.nodes.push(identifier.node.unwrap_or_default().id);
            }
            match message.log_entries {
                Some(LogEntries::HttpLogs(list)) => {
                    let entries = list.log_entry.into_iter();
                    seen.http.extend(entries.map(|entry| (log.clone(), entry)));
                }
                Some(LogEntries::TcpLogs(list)) => {
                    let entries = list.log_entry.into_iter();
                    seen.tcp.extend(entries.map(|entry| (log.clone(), entry)));
                }
                None => {}
            }
        }
        Ok(Response::new(als::StreamAccessLogsResponse {}))
    }
}
