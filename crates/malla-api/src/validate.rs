//! Validation as Istio's webhook does it, with the fix named.
//!
//! Two layers. [`fields`] walks an object beside the kind's schema: unknown and misplaced fields,
//! types, enums, limits. Then each kind has its rules that no schema can say: host names, regular
//! expressions, weights, fields that exclude or need each other. Checks that need other objects
//! (does that subset exist?) are the analyzer's and refuse nothing.

pub mod fields;

mod authorization;
mod destination_rule;
mod gateway;
mod http_action;
mod http_route;
mod names;
mod peer_authentication;
pub mod reachability;
mod request_authentication;
mod service_entry;
mod telemetry;
mod traffic_policy;
mod virtual_service;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::kind::Kind;
use crate::report::Report;

/// Validates a whole object (`apiVersion`, `kind`, `metadata`, `spec`) of `kind`.
#[must_use]
pub fn validate(kind: Kind, object: &Value) -> Report {
    let mut report = Report::default();
    let Some(top) = object.as_object() else {
        report
            .error("", "an object must be a mapping of fields")
            .done();
        return report;
    };
    for name in top.keys() {
        match name.as_str() {
            "apiVersion" | "kind" | "metadata" | "spec" | "status" => {}
            "labels" | "annotations" | "name" | "namespace" => report
                .error(name, "unknown field")
                .fix(format!("did you mean metadata.{name}?")),
            other => {
                let place = fields::place_of(kind.spec_schema(), other);
                let finding = report.error(other, "unknown field");
                match place {
                    Some(place) => finding.fix(format!("did you mean {place}?")),
                    None => finding.done(),
                }
            }
        }
    }
    let metadata = |name: &str| {
        let value = object.get("metadata").and_then(|m| m.get(name));
        value.and_then(Value::as_str)
    };
    let subject = Subject {
        name: metadata("name").unwrap_or_default(),
        namespace: metadata("namespace").unwrap_or("default"),
    };
    let spec = object.get("spec").unwrap_or(&Value::Null);
    validate_spec(kind, &subject, spec, &mut report);
    report
}

/// Whose spec is validated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
}

fn validate_spec(kind: Kind, subject: &Subject<'_>, spec: &Value, report: &mut Report) {
    let schema = kind.spec_schema();
    match spec {
        Value::Null => fields::check(
            schema,
            schema,
            &Value::Object(serde_json::Map::new()),
            "spec",
            report,
        ),
        spec => fields::check(schema, schema, spec, "spec", report),
    }
    match kind {
        Kind::VirtualService => typed(spec, report, |s, r| virtual_service::check(s, subject, r)),
        Kind::DestinationRule => typed(spec, report, |s, r| destination_rule::check(s, subject, r)),
        Kind::Gateway => typed(spec, report, |s, r| gateway::check(s, subject, r)),
        Kind::ServiceEntry => typed(spec, report, |s, r| service_entry::check(s, subject, r)),
        Kind::WorkloadEntry => typed(spec, report, |s, r| {
            service_entry::check_entry(s, "spec", None, true, r)
        }),
        Kind::PeerAuthentication => typed(spec, report, peer_authentication::check),
        Kind::AuthorizationPolicy => typed(spec, report, authorization::check),
        Kind::RequestAuthentication => typed(spec, report, request_authentication::check),
        Kind::Telemetry => typed(spec, report, telemetry::check),
        Kind::WorkloadGroup
        | Kind::Sidecar
        | Kind::EnvoyFilter
        | Kind::ProxyConfig
        | Kind::WasmPlugin => {}
    }
}

/// Runs a kind's own rules, where the spec can be read at all; if not, the schema has said why.
fn typed<S: DeserializeOwned>(spec: &Value, report: &mut Report, check: impl Fn(&S, &mut Report)) {
    let mut cleaned = spec.clone();
    if cleaned.is_null() {
        cleaned = Value::Object(serde_json::Map::new());
    }
    crate::lower::drop_nulls(&mut cleaned);
    match S::deserialize(&cleaned) {
        Ok(typed) => check(&typed, report),
        Err(_) if !report.errors.is_empty() => {}
        Err(error) => report.error("spec", error.to_string()).done(),
    }
}
