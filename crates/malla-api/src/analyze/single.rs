//! One object at a time: validation, and what of it has no effect.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use malla_model::MeshSettings;
use serde::Deserialize;
use serde_json::Value;

use super::Findings;
use super::message::{Code, Message};
use super::world::{RawObject, subject};
use crate::kind::Kind;
use crate::lower::lower;
use crate::validate::validate;

pub(super) fn check(object: &RawObject, settings: &MeshSettings, out: &mut Findings) {
    let text = |name: &str| {
        object
            .value
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (api_version, kind_name) = (text("apiVersion"), text("kind"));
    let subject = subject(object);
    let Some(kind) = Kind::of(api_version, kind_name) else {
        unserved(api_version, kind_name, &subject, out);
        return;
    };
    let report = validate(kind, &object.value);
    let errors = report
        .errors
        .iter()
        .map(|problem| Message::of(problem, Code::SchemaValidationError, &subject));
    let warnings = report
        .warnings
        .iter()
        .map(|problem| Message::of(problem, Code::SchemaWarning, &subject));
    out.messages.extend(errors.chain(warnings));
    if !kind.is_translated() {
        let text = format!("Malla does not act on {kind} yet, so this object has no effect.");
        out.add(Code::KindNotHonoured, &subject, text);
        return;
    }
    if !report.is_valid() {
        return; // What a broken object does is no news beside that it is broken.
    }
    let metadata = object
        .value
        .get("metadata")
        .and_then(|m| ObjectMeta::deserialize(m).ok());
    let spec = object.value.get("spec").unwrap_or(&Value::Null);
    match lower(kind, &metadata.unwrap_or_default(), spec, settings) {
        Ok(lowered) => {
            for gap in lowered.not_honoured {
                let text = format!("This field has no effect: {gap}.");
                out.at(Code::FieldNotHonoured, &subject, gap.path, text);
            }
        }
        Err(refused) => {
            let text = format!(
                "This object has no effect: {}: {}.",
                refused.path, refused.reason
            );
            out.at(Code::FieldNotHonoured, &subject, refused.path, text);
        }
    }
}

/// An Istio group with a kind or version that is not served is most likely a slip.
fn unserved(api_version: &str, kind: &str, subject: &super::Subject, out: &mut Findings) {
    let group = api_version.split('/').next().unwrap_or_default();
    if !group.ends_with(".istio.io") {
        return;
    }
    let served = match Kind::parse(kind) {
        Some(kind) => {
            let versions = kind
                .versions()
                .iter()
                .map(|version| format!("{}/{version}", kind.group()));
            format!("use {}", versions.collect::<Vec<_>>().join(" or "))
        }
        None => "Malla does not know this kind".to_owned(),
    };
    let text = format!(
        "Schema validation error: apiVersion {api_version:?} with kind {kind:?} is not served; {served}"
    );
    out.at(Code::SchemaValidationError, subject, "apiVersion", text);
}
