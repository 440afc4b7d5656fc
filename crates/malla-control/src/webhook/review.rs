//! Answers to AdmissionReviews (admission.k8s.io/v1), without IO.
//!
//! A pod that cannot be looked at is refused with the reason; an Istio object is judged by
//! `malla_api::validate`; warnings reach the user through `kubectl`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use malla_api::Kind;
use serde_json::{Value, json};

use crate::inject::decide::unknown_revision;
use crate::inject::{InjectSettings, Injection, inject};

/// Labels of every namespace, as the index sees them.
pub type NamespaceLabels = BTreeMap<String, BTreeMap<String, String>>;

/// Decides about objects on their way into the API server.
#[derive(Debug)]
pub struct Reviewer {
    pub settings: InjectSettings,
    pub namespaces: Arc<ArcSwap<NamespaceLabels>>,
}

/// What is said to the API server.
#[derive(Debug, Default)]
struct Verdict {
    refusal: Option<String>,
    warnings: Vec<String>,
    patch: Option<json_patch::Patch>,
}

impl Reviewer {
    /// The answer to a pod's creation.
    #[must_use]
    pub fn inject(&self, review: &Value) -> Value {
        let request = &review["request"];
        let pod = &request["object"];
        let namespace = request["namespace"].as_str().unwrap_or("default");
        let namespaces = self.namespaces.load();
        let nothing = BTreeMap::new();
        let labels = namespaces.get(namespace).unwrap_or(&nothing);
        let verdict = match inject(pod, namespace, labels, &self.settings) {
            Ok(Injection::Skipped(_)) => Verdict::default(),
            Ok(Injection::Injected {
                pod: changed,
                warnings,
            }) => Verdict {
                patch: Some(json_patch::diff(pod, &changed)),
                warnings,
                refusal: None,
            },
            Err(bad) => Verdict {
                refusal: Some(bad.to_string()),
                ..Verdict::default()
            },
        };
        answer(review, verdict)
    }

    /// The answer to a change of an Istio object or of a namespace's labels.
    #[must_use]
    pub fn validate(&self, review: &Value) -> Value {
        let object = &review["request"]["object"];
        let api_version = object["apiVersion"].as_str().unwrap_or_default();
        let kind = object["kind"].as_str().unwrap_or_default();
        let verdict = match (api_version, kind) {
            ("v1", "Namespace") => self.namespace(object),
            _ => istio(api_version, kind, object),
        };
        answer(review, verdict)
    }

    fn namespace(&self, namespace: &Value) -> Verdict {
        let name = namespace["metadata"]["name"].as_str().unwrap_or_default();
        let wanted = namespace["metadata"]["labels"]["istio.io/rev"].as_str();
        let warning =
            wanted.and_then(|wanted| unknown_revision(name, wanted, &self.settings.revisions));
        Verdict {
            warnings: warning.into_iter().collect(),
            ..Verdict::default()
        }
    }
}

fn istio(api_version: &str, kind: &str, object: &Value) -> Verdict {
    let Some(kind) = Kind::of(api_version, kind) else {
        return Verdict::default();
    };
    let report = malla_api::validate::validate(kind, object);
    let refusal = (!report.is_valid()).then(|| report.summary());
    let warnings = report.warnings.iter().map(ToString::to_string).collect();
    Verdict {
        refusal,
        warnings,
        patch: None,
    }
}

fn answer(review: &Value, verdict: Verdict) -> Value {
    let mut response = json!({
        "uid": review["request"]["uid"],
        "allowed": verdict.refusal.is_none(),
    });
    if let Some(message) = verdict.refusal {
        response["status"] = json!({"code": 400, "reason": "BadRequest", "message": message});
    }
    if !verdict.warnings.is_empty() {
        response["warnings"] = json!(verdict.warnings);
    }
    if let Some(patch) = verdict.patch {
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(base64(json!(patch).to_string().as_bytes()));
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

/// Standard base64, which JSON carries binary data in.
fn base64(bytes: &[u8]) -> String {
    use k8s_openapi::ByteString;
    match serde_json::to_value(ByteString(bytes.to_vec())) {
        Ok(Value::String(text)) => text,
        _ => String::new(),
    }
}
