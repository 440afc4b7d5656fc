//! One call of one webhook: an `admission.k8s.io/v1 AdmissionReview` over HTTPS.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::hook::{Endpoint, Hook};
use crate::core::Core;
use crate::error::ApiError;

/// Largest answer taken.
const MAX_ANSWER: usize = 3 * 1024 * 1024;

/// A webhook's decision.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) patch: Option<Value>,
    pub(super) warnings: Vec<String>,
    /// The refusal, if it refused.
    pub(super) refusal: Option<ApiError>,
}

/// A webhook that could not be asked, or answered nonsense.
#[derive(Debug, Error)]
pub(super) enum CallError {
    #[error("failed to call webhook: {0}")]
    Configuration(String),
    #[error("failed to call webhook: Post {url:?}: {cause}")]
    Transport { url: String, cause: String },
    #[error("failed to call webhook: the server responded with HTTP status {0}")]
    Status(u16),
    #[error("failed to call webhook: Post {url:?}: no answer within {seconds} s")]
    Slow { url: String, seconds: u64 },
    #[error("received invalid webhook response: {0}")]
    Answer(String),
}

/// Asks the webhook.
pub(super) async fn ask(core: &Core, hook: &Hook, request: Value) -> Result<Verdict, CallError> {
    let endpoint = match &hook.endpoint {
        Ok(endpoint) => endpoint,
        Err(why) => return Err(CallError::Configuration(why.clone())),
    };
    let uid = request["uid"].clone();
    let review = json!({
        "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request,
    });
    let body = Bytes::from(review.to_string());
    let answer = timeout(hook.timeout, exchange(core, endpoint, body)).await;
    let answer = answer.map_err(|_| CallError::Slow {
        url: url(endpoint),
        seconds: hook.timeout.as_secs(),
    })??;
    verdict(&hook.name, &uid, &answer)
}

async fn exchange(core: &Core, endpoint: &Endpoint, body: Bytes) -> Result<Value, CallError> {
    let broken = |cause: String| CallError::Transport {
        url: url(endpoint),
        cause,
    };
    let io = |error: io::Error| broken(error.to_string());
    let dial = core.dial();
    let stream = dial.dial(endpoint.target.clone()).await.map_err(io)?;
    let name = ServerName::try_from(endpoint.host.clone()).map_err(|e| broken(e.to_string()))?;
    let connector = TlsConnector::from(endpoint.tls.clone());
    let stream = connector.connect(name, stream).await.map_err(io)?;
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| broken(e.to_string()))?;
    let request = Request::post(&endpoint.path)
        .header(header::HOST, &endpoint.host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, */*")
        .header(header::USER_AGENT, "kube-apiserver-admission")
        .body(Full::new(body))
        .map_err(|e| broken(e.to_string()))?;
    let answer = async {
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(|e| broken(e.to_string()))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|e| broken(e.to_string()))?.to_bytes();
        if !status.is_success() {
            return Err(CallError::Status(status.as_u16()));
        }
        serde_json::from_slice(&body).map_err(|e| CallError::Answer(e.to_string()))
    };
    tokio::pin!(answer);
    tokio::select! {
        biased; // The answer may be complete when the connection already is.
        answer = &mut answer => answer,
        _ = connection => answer.await,
    }
}

fn url(endpoint: &Endpoint) -> String {
    format!("https://{}{}", endpoint.target, endpoint.path)
}

pub(super) fn verdict(hook: &str, uid: &Value, answer: &Value) -> Result<Verdict, CallError> {
    let invalid = |why: String| Err(CallError::Answer(why));
    if answer["kind"] != "AdmissionReview" || answer["apiVersion"] != "admission.k8s.io/v1" {
        return invalid(format!(
            "expected admission.k8s.io/v1, Kind=AdmissionReview, got {}, Kind={}",
            answer["apiVersion"], answer["kind"]
        ));
    }
    let response = &answer["response"];
    if !response.is_object() {
        return invalid("webhook response was absent".to_owned());
    }
    if response["uid"] != *uid {
        return invalid(format!(
            "expected response.uid={uid}, got {}",
            response["uid"]
        ));
    }
    let warnings = response["warnings"].as_array().into_iter().flatten();
    let warnings = warnings
        .filter_map(|one| Some(one.as_str()?.to_owned()))
        .collect();
    if response["allowed"] != true {
        return Ok(Verdict {
            patch: None,
            warnings,
            refusal: Some(refusal(hook, &response["status"])),
        });
    }
    let patch = match response["patch"].as_str() {
        None | Some("") => None,
        Some(_) if response["patchType"] != "JSONPatch" => {
            return invalid(
                "response.patchType must be JSONPatch when there is a patch".to_owned(),
            );
        }
        Some(patch) => {
            let bytes = STANDARD
                .decode(patch)
                .map_err(|e| CallError::Answer(format!("response.patch is not base64: {e}")))?;
            let patch: Value = serde_json::from_slice(&bytes)
                .map_err(|e| CallError::Answer(format!("response.patch is not JSON: {e}")))?;
            Some(patch)
        }
    };
    Ok(Verdict {
        patch,
        warnings,
        refusal: None,
    })
}

/// The refusal in Kubernetes' words (k8s.io/apiserver webhook/errors `ToStatusErr`).
fn refusal(name: &str, status: &Value) -> ApiError {
    let mut status = match status {
        Value::Object(_) => status.clone(),
        _ => json!({}),
    };
    let denied = format!("admission webhook {name:?} denied the request");
    let text = |field: &str| status[field].as_str().filter(|text| !text.is_empty());
    let message = match text("message").or(text("reason")) {
        Some(why) => format!("{denied}: {why}"),
        None => format!("{denied} without explanation"),
    };
    status["message"] = message.into();
    if status["code"].as_u64().is_none_or(|code| code < 400) {
        status["code"] = 400.into();
    }
    ApiError::from_status(&status)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::refusal;

    #[test]
    fn refusals_are_told_in_kubernetes_words() {
        let check = |status: Value, code: u16, message: &str| {
            let error = refusal("h.example.com", &status);
            assert_eq!((error.code(), error.message()), (code, message));
        };
        check(
            Value::Null,
            400,
            "admission webhook \"h.example.com\" denied the request without explanation",
        );
        check(
            json!({"message": "no", "code": 403}),
            403,
            "admission webhook \"h.example.com\" denied the request: no",
        );
        check(
            json!({"reason": "Because", "code": 200}),
            400,
            "admission webhook \"h.example.com\" denied the request: Because",
        );
    }
}
