//! gRPC health checks (grpc.health.v1.Health/Check) for probes.
//!
//! The two messages have one field each, so they are written by hand.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio_util::task::AbortOnDropHandle;

use crate::net::Namespace;

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u8 = 1;
const MOST_ANSWER: usize = 4 * 1024;

/// Asks for the health of `service`; an error says why it is not serving.
pub(super) async fn check(node: &Namespace, to: SocketAddr, service: &str) -> Result<(), String> {
    let stream = node
        .connect(to)
        .await
        .map_err(|error| format!("dial tcp {to}: {error}"))?;
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|error| error.to_string())?;
    let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::post(format!("http://{to}/grpc.health.v1.Health/Check"))
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header("te", "trailers")
        .body(Full::new(message(service)?))
        .map_err(|error| error.to_string())?;
    let answer = sender
        .send_request(request)
        .await
        .map_err(|error| error.to_string())?;
    let early = status_of(answer.headers());
    let body = Limited::new(answer.into_body(), MOST_ANSWER)
        .collect()
        .await;
    let body = body.map_err(|error| error.to_string())?;
    let late = body.trailers().and_then(status_of);
    if let Some(code) = early.or(late).filter(|code| code != "0") {
        return Err(format!("health rpc failed: grpc-status {code}"));
    }
    verdict(&body.to_bytes())
}

fn status_of(headers: &http::HeaderMap) -> Option<String> {
    let value = headers.get("grpc-status")?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// A length-prefixed `HealthCheckRequest { string service = 1; }`.
fn message(service: &str) -> Result<Bytes, String> {
    let mut fields = Vec::new();
    if !service.is_empty() {
        let length = u8::try_from(service.len())
            .ok()
            .filter(|length| *length < 0x80);
        let length = length.ok_or("grpc.service is longer than 127 bytes")?;
        fields.extend([0x0a, length]);
        fields.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(fields.len()).map_err(|error| error.to_string())?;
    let mut framed = vec![0];
    framed.extend(length.to_be_bytes());
    framed.extend(fields);
    Ok(Bytes::from(framed))
}

/// Reads a length-prefixed `HealthCheckResponse { ServingStatus status = 1; }`.
pub(super) fn verdict(answer: &[u8]) -> Result<(), String> {
    match answer {
        [_, _, _, _, _, 0x08, SERVING, ..] => Ok(()),
        [_, _, _, _, _, 0x08, status, ..] => Err(format!("service unhealthy: status {status}")),
        [_, _, _, _, _] => Err("service unhealthy: status UNKNOWN".to_owned()),
        _ => Err("the answer is not a HealthCheckResponse".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{message, verdict};

    #[test]
    fn messages_are_framed_as_grpc_frames_them() {
        assert_eq!(&message("").unwrap()[..], [0, 0, 0, 0, 0]);
        assert_eq!(
            &message("ab").unwrap()[..],
            [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']
        );
        assert!(verdict(&[0, 0, 0, 0, 2, 8, 1]).is_ok());
        assert!(verdict(&[0, 0, 0, 0, 2, 8, 2]).is_err());
        assert!(verdict(&[0, 0, 0, 0, 0]).is_err() && verdict(b"x").is_err());
    }
}
