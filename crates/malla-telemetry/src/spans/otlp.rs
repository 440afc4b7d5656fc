//! OTLP receivers for spans: gRPC and HTTP (protobuf and JSON).
//!
//! A call is answered when its spans are written, so what was acknowledged is not lost; a queue
//! that is full answers "unavailable", which clients may retry. Metrics and logs by OTLP are not
//! taken, and the answer says so.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use flate2::read::GzDecoder;
use http::{HeaderMap, StatusCode, header};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::TraceService;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message as _;
use serde_json::json;
use tokio::time::timeout;

use crate::records::{Intake, IntakeStats, weight};
use crate::spans::model::{SpanRecord, convert};

/// Bytes of one message, unpacked.
pub(crate) const LARGEST: usize = 16 << 20;
/// How long a call waits for the disk.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where spans go in.
#[derive(Debug)]
pub(crate) struct SpanIntake {
    intake: Intake<SpanRecord>,
    invalid: AtomicU64,
    cut: AtomicU64,
}

impl SpanIntake {
    pub(crate) fn new(intake: Intake<SpanRecord>) -> Self {
        Self {
            intake,
            invalid: AtomicU64::new(0),
            cut: AtomicU64::new(0),
        }
    }

    pub(crate) fn stats(&self) -> IntakeStats {
        self.intake.stats()
    }

    /// Spans without ids, and fields that were cut.
    pub(crate) fn flaws(&self) -> (u64, u64) {
        (
            self.invalid.load(Ordering::Relaxed),
            self.cut.load(Ordering::Relaxed),
        )
    }

    /// Takes a message; `Err` when it should be sent again.
    pub(crate) async fn take(
        &self,
        request: ExportTraceServiceRequest,
    ) -> Result<ExportTraceServiceResponse, String> {
        let bytes = request.encoded_len();
        let converted = convert(request.resource_spans);
        self.invalid.fetch_add(converted.invalid, Ordering::Relaxed);
        self.cut.fetch_add(converted.cut, Ordering::Relaxed);
        let partial_success = (converted.invalid > 0).then(|| ExportTracePartialSuccess {
            rejected_spans: i64::try_from(converted.invalid).unwrap_or(i64::MAX),
            error_message: "a span needs a trace id of 16 bytes and a span id of 8, not all zero"
                .to_owned(),
        });
        if !converted.spans.is_empty() {
            let bytes = weight(bytes);
            let offered = self.intake.offer(converted.spans, bytes);
            let written = offered.map_err(|_| "the queue of spans is full".to_owned())?;
            match timeout(PATIENCE, written).await {
                Ok(Ok(result)) => result?,
                Ok(Err(_)) => return Err("the store of spans is closing".to_owned()),
                Err(_) => return Err(format!("the disk took longer than {PATIENCE:?}")),
            }
        }
        Ok(ExportTraceServiceResponse { partial_success })
    }
}

/// The gRPC service.
#[derive(Debug)]
pub(crate) struct Grpc(pub(crate) Arc<SpanIntake>);

#[tonic::async_trait]
impl TraceService for Grpc {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let answer = self.0.take(request.into_inner()).await;
        answer
            .map(tonic::Response::new)
            .map_err(tonic::Status::unavailable)
    }
}

/// `POST /v1/traces`.
pub(crate) fn router(intake: Arc<SpanIntake>) -> Router {
    Router::new()
        .route("/v1/traces", post(traces))
        .route("/v1/metrics", post(not_taken))
        .route("/v1/logs", post(not_taken))
        .layer(DefaultBodyLimit::max(LARGEST))
        .with_state(intake)
}

async fn not_taken() -> (StatusCode, &'static str) {
    let text =
        "only traces are taken by OTLP: metrics are scraped, access logs come by Envoy's ALS\n";
    (StatusCode::NOT_FOUND, text)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Protobuf,
    Json,
}

async fn traces(
    State(intake): State<Arc<SpanIntake>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    let encoding = match kind {
        Some("application/x-protobuf") => Encoding::Protobuf,
        Some("application/json") => Encoding::Json,
        _ => {
            let text = "content-type: application/x-protobuf or application/json is expected\n";
            return (StatusCode::UNSUPPORTED_MEDIA_TYPE, text).into_response();
        }
    };
    let request = unpack(&headers, body).and_then(|body| decode(encoding, &body));
    let (status, answer) = match request {
        Err(reason) => (StatusCode::BAD_REQUEST, Err(reason)),
        Ok(request) => match intake.take(request).await {
            Ok(answer) => (StatusCode::OK, Ok(answer)),
            Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, Err(reason)),
        },
    };
    let body = match (answer, encoding) {
        (Ok(answer), Encoding::Protobuf) => answer.encode_to_vec(),
        (Ok(answer), Encoding::Json) => json_answer(&answer),
        (Err(reason), Encoding::Json) => json!({ "message": reason }).to_string().into(),
        // google.rpc.Status: its message is field 2.
        (Err(reason), Encoding::Protobuf) => malla_xds_proto::RpcStatus {
            message: reason,
            ..malla_xds_proto::RpcStatus::default()
        }
        .encode_to_vec(),
    };
    let content_type = match encoding {
        Encoding::Protobuf => "application/x-protobuf",
        Encoding::Json => "application/json",
    };
    (status, [(header::CONTENT_TYPE, content_type)], body).into_response()
}

fn json_answer(answer: &ExportTraceServiceResponse) -> Vec<u8> {
    let body = match &answer.partial_success {
        Some(partial) => json!({ "partialSuccess": {
            "rejectedSpans": partial.rejected_spans.to_string(),
            "errorMessage": partial.error_message,
        }}),
        None => json!({}),
    };
    body.to_string().into()
}

pub(crate) fn unpack(headers: &HeaderMap, body: Bytes) -> Result<Bytes, String> {
    match headers.get(header::CONTENT_ENCODING).map(|v| v.as_bytes()) {
        None | Some(b"identity") => Ok(body),
        Some(b"gzip") => {
            let mut unpacked = Vec::new();
            let mut reader = GzDecoder::new(&*body).take(LARGEST as u64 + 1);
            reader
                .read_to_end(&mut unpacked)
                .map_err(|error| format!("gzip: {error}"))?;
            match unpacked.len() > LARGEST {
                true => Err(format!("the message is larger than {LARGEST} bytes")),
                false => Ok(unpacked.into()),
            }
        }
        Some(_) => Err("content-encoding: gzip or none is expected".to_owned()),
    }
}

fn decode(encoding: Encoding, body: &[u8]) -> Result<ExportTraceServiceRequest, String> {
    match encoding {
        Encoding::Protobuf => {
            ExportTraceServiceRequest::decode(body).map_err(|error| error.to_string())
        }
        Encoding::Json => serde_json::from_slice(body).map_err(|error| error.to_string()),
    }
}

/// What a body is taken for, by its content type.
#[cfg(fuzzing)]
pub(crate) mod fuzzing {
    use opentelemetry_proto::tonic::trace::v1::ResourceSpans;

    use super::{Encoding, decode};

    pub(crate) fn requests(body: &[u8]) -> impl Iterator<Item = Vec<ResourceSpans>> {
        [Encoding::Protobuf, Encoding::Json]
            .into_iter()
            .filter_map(|encoding| Some(decode(encoding, body).ok()?.resource_spans))
    }
}
