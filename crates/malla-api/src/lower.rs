//! From what users write to what it means.
//!
//! Each function takes an object's metadata and its `spec` as JSON and returns the model's value,
//! with a list of every field that is set and not acted on: nothing is dropped silently. Lowering
//! is total: whatever stands in the object, it answers and does not panic. What passes
//! [`crate::validate`] lowers without loss; of what slipped past it (an API server without the
//! webhook), the broken part is left out in the way that opens nothing, and reported.

pub mod assemble;
pub mod authorization;
pub mod destination_rule;
pub mod envoy_filter;
pub mod gaps;
pub mod gateway;
mod http;
pub mod kubernetes;
pub mod mesh_config;
pub mod meta;
pub mod peer_authentication;
mod providers;
pub mod request_authentication;
pub mod service_entry;
pub mod sidecar;
pub mod telemetry;
mod traffic_policy;
pub mod virtual_service;
pub mod workload_entry;

pub(crate) use http::{grpc_code, routed_claim};

use std::borrow::Cow;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use malla_model::policy::{AuthorizationPolicy, PeerAuthentication};
use malla_model::telemetry::Telemetry;
use malla_model::token::RequestAuthentication;
use malla_model::{
    DestinationRule, EnvoyFilter, Gateway, MeshSettings, ObjectRef, Service, Sidecar,
    VirtualService, WorkloadEntry,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::istio::common::PolicyTargetReference;
use crate::kind::Kind;
use crate::report::Report;
use crate::validate::fields;

/// A lowered object, and what of it has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lowered<T> {
    pub value: T,
    pub not_honoured: Vec<NotHonoured>,
}

/// A field that is set and has no effect.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NotHonoured {
    /// Such as `spec.http[0].mirror`.
    pub path: String,
    pub why: Cow<'static, str>,
}

impl std::fmt::Display for NotHonoured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.why)
    }
}

/// Why an object has no effect at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object} has no effect: {path}: {reason}")]
pub struct Refused {
    pub object: ObjectRef,
    pub path: String,
    pub reason: String,
}

/// A lowered object of any translated kind.
#[derive(Debug, Clone)]
pub enum Config {
    VirtualService(Arc<VirtualService>),
    DestinationRule(Arc<DestinationRule>),
    Gateway(Arc<Gateway>),
    /// One service for each host of a ServiceEntry.
    ServiceEntry(Vec<Service>),
    WorkloadEntry(Arc<WorkloadEntry>),
    Sidecar(Arc<Sidecar>),
    EnvoyFilter(Arc<EnvoyFilter>),
    PeerAuthentication(Arc<PeerAuthentication>),
    RequestAuthentication(Arc<RequestAuthentication>),
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    Telemetry(Arc<Telemetry>),
}

/// Lowers an object of any kind.
///
/// # Errors
/// When the object as a whole cannot act: its kind is not translated, or it is malformed.
pub fn lower(
    kind: Kind,
    metadata: &ObjectMeta,
    spec: &Value,
    settings: &MeshSettings,
) -> Result<Lowered<Config>, Refused> {
    fn wrap<T>(lowered: Lowered<T>, into: impl Fn(Arc<T>) -> Config) -> Lowered<Config> {
        Lowered {
            value: into(Arc::new(lowered.value)),
            not_honoured: lowered.not_honoured,
        }
    }
    Ok(match kind {
        Kind::VirtualService => wrap(
            virtual_service::lower(metadata, spec, settings)?,
            Config::VirtualService,
        ),
        Kind::DestinationRule => wrap(
            destination_rule::lower(metadata, spec, settings)?,
            Config::DestinationRule,
        ),
        Kind::Gateway => wrap(gateway::lower(metadata, spec)?, Config::Gateway),
        Kind::ServiceEntry => {
            let lowered = service_entry::lower(metadata, spec, settings)?;
            Lowered {
                value: Config::ServiceEntry(lowered.value),
                not_honoured: lowered.not_honoured,
            }
        }
        Kind::PeerAuthentication => wrap(
            peer_authentication::lower(metadata, spec)?,
            Config::PeerAuthentication,
        ),
        Kind::RequestAuthentication => wrap(
            request_authentication::lower(metadata, spec)?,
            Config::RequestAuthentication,
        ),
        Kind::AuthorizationPolicy => wrap(
            authorization::lower(metadata, spec, settings)?,
            Config::AuthorizationPolicy,
        ),
        Kind::Telemetry => wrap(
            telemetry::lower(metadata, spec, settings)?,
            Config::Telemetry,
        ),
        Kind::WorkloadEntry => wrap(
            workload_entry::lower(metadata, spec, settings)?,
            Config::WorkloadEntry,
        ),
        Kind::Sidecar => wrap(sidecar::lower(metadata, spec, settings)?, Config::Sidecar),
        Kind::EnvoyFilter => wrap(envoy_filter::lower(metadata, spec)?, Config::EnvoyFilter),
        Kind::WorkloadGroup | Kind::ProxyConfig | Kind::WasmPlugin => {
            return Err(Refused {
                object: meta::object_ref(kind, metadata),
                path: "spec".into(),
                reason: format!("Malla does not act on {kind} yet"),
            });
        }
    })
}

/// What every lowering is given, and where it notes what has no effect.
pub(crate) struct Context<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) domain: &'a str,
    pub(crate) notes: Vec<NotHonoured>,
}

impl<'a> Context<'a> {
    fn new(metadata: &'a ObjectMeta, domain: &'a str) -> Self {
        Self {
            namespace: metadata.namespace.as_deref().unwrap_or("default"),
            domain,
            notes: Vec::new(),
        }
    }

    pub(crate) fn note(&mut self, path: impl Into<String>, why: impl Into<Cow<'static, str>>) {
        self.notes.push(NotHonoured {
            path: path.into(),
            why: why.into(),
        });
    }

    /// Completes a lowered value with the notes and the kind's known gaps.
    fn finish<T>(self, kind: Kind, spec: &Value, value: T) -> Lowered<T> {
        let mut not_honoured = gaps::find(kind, spec);
        not_honoured.extend(self.notes);
        not_honoured.sort();
        not_honoured.dedup();
        Lowered {
            value,
            not_honoured,
        }
    }
}

/// Reads a spec; explicit nulls are absent fields.
fn decode<S: DeserializeOwned + Default>(
    kind: Kind,
    metadata: &ObjectMeta,
    spec: &Value,
) -> Result<S, Refused> {
    if spec.is_null() {
        return Ok(S::default());
    }
    if let Ok(decoded) = S::deserialize(spec) {
        return Ok(decoded);
    }
    let mut cleaned = spec.clone();
    drop_nulls(&mut cleaned);
    S::deserialize(&cleaned).map_err(|error| {
        let mut report = Report::default();
        let schema = kind.spec_schema();
        fields::check(schema, schema, &cleaned, "spec", &mut report);
        let malformed = report
            .errors
            .iter()
            .find(|problem| problem.reason != "unknown field");
        let (path, reason) = match malformed {
            Some(problem) => (problem.path.clone(), problem.text()),
            None => ("spec".to_owned(), error.to_string()),
        };
        Refused {
            object: meta::object_ref(kind, metadata),
            path,
            reason,
        }
    })
}

/// Refuses what is attached to objects: it must not act on a whole namespace instead.
fn by_selector_only(
    kind: Kind,
    metadata: &ObjectMeta,
    target: Option<&PolicyTargetReference>,
    targets: &[PolicyTargetReference],
) -> Result<(), Refused> {
    if target.is_none() && targets.is_empty() {
        return Ok(());
    }
    Err(Refused {
        object: meta::object_ref(kind, metadata),
        path: "spec.targetRefs".into(),
        reason: format!("Malla attaches {kind} by spec.selector only"),
    })
}

pub(crate) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, inner| !inner.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => {
            items.retain(|inner| !inner.is_null());
            items.iter_mut().for_each(drop_nulls);
        }
        _ => {}
    }
}
