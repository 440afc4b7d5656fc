//! The CustomResourceDefinitions of Istio's kinds, generated from our own types.
//!
//! Accepted by a real kube-apiserver: structural schemas, CEL rules within its cost limits. Every
//! version of a kind has the same schema, so no conversion is needed. The output is deterministic.

use serde_json::{Value, json};

use crate::kind::Kind;

/// All CRDs, as JSON of `apiextensions.k8s.io/v1`, in [`Kind::ALL`]'s order.
#[must_use]
pub fn crds() -> Vec<Value> {
    Kind::ALL.into_iter().map(crd).collect()
}

/// The CRD of one kind.
#[must_use]
pub fn crd(kind: Kind) -> Value {
    let mut names = json!({
        "kind": kind.name(),
        "listKind": format!("{kind}List"),
        "plural": kind.plural(),
        "singular": kind.name().to_ascii_lowercase(),
        "categories": ["istio-io", category(kind)],
    });
    if let Some(short) = kind.short_name() {
        names["shortNames"] = json!([short]);
    }
    let schema = object_schema(kind);
    let versions: Vec<Value> = kind
        .versions()
        .iter()
        .map(|version| {
            json!({
                "name": version,
                "served": true,
                "storage": *version == kind.storage_version(),
                "subresources": { "status": {} },
                "additionalPrinterColumns": columns(kind),
                "schema": { "openAPIV3Schema": schema },
            })
        })
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{}", kind.plural(), kind.group()),
            "labels": { "app": "istio-pilot", "app.kubernetes.io/part-of": "malla" },
        },
        "spec": {
            "group": kind.group(),
            "names": names,
            "scope": "Namespaced",
            "versions": versions,
        },
    })
}

/// `kubectl get networking-istio-io` lists a whole group.
fn category(kind: Kind) -> String {
    let family = kind.group().split('.').next().unwrap_or_default();
    format!("{family}-istio-io")
}

fn object_schema(kind: Kind) -> Value {
    let mut schema = json!({
        "type": "object",
        "properties": {
            "spec": kind.spec_schema(),
            "status": status_schema(),
        },
    });
    let needs_spec = matches!(
        kind,
        Kind::ServiceEntry | Kind::WorkloadEntry | Kind::WorkloadGroup | Kind::WasmPlugin
    );
    if needs_spec {
        schema["required"] = json!(["spec"]);
    }
    schema
}

/// Istio's status: conditions and validation messages, and whatever else a controller writes.
fn status_schema() -> Value {
    let generation = json!({
        "anyOf": [{ "type": "integer" }, { "type": "string" }],
        "x-kubernetes-int-or-string": true,
    });
    let text = |description: &str| json!({ "type": "string", "description": description });
    let time = |description: &str| json!({ "type": "string", "format": "date-time", "description": description });
    json!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": {
            "observedGeneration": generation,
            "conditions": {
                "type": "array",
                "description": "What the control plane and the proxies have made of the object.",
                "items": {
                    "type": "object",
                    "properties": {
                        "type": text("Name of the condition."),
                        "status": text("True, False or Unknown."),
                        "reason": text("One word on why."),
                        "message": text("A sentence on why."),
                        "lastTransitionTime": time("When the status last changed."),
                        "lastProbeTime": time("When the condition was last checked."),
                        "observedGeneration": generation,
                    },
                },
            },
            "validationMessages": {
                "type": "array",
                "description": "What the analyzer says of the object.",
                "items": {
                    "type": "object",
                    "properties": {
                        "documentationUrl": text("Where the message is explained."),
                        "level": {
                            "type": "string",
                            "description": "How bad it is.",
                            "enum": ["UNKNOWN", "ERROR", "WARNING", "INFO"],
                        },
                        "type": {
                            "type": "object",
                            "properties": {
                                "code": text("Such as IST0101."),
                                "name": text("Such as ReferencedResourceNotFound."),
                            },
                        },
                    },
                    "x-kubernetes-preserve-unknown-fields": true,
                },
            },
        },
    })
}

fn columns(kind: Kind) -> Vec<Value> {
    let text = |name: &str, path: &str, description: &str| json!({ "name": name, "type": "string", "jsonPath": path, "description": description });
    let age = json!({
        "name": "Age",
        "type": "date",
        "jsonPath": ".metadata.creationTimestamp",
        "description": "Time since the object was created.",
    });
    let mut columns = match kind {
        Kind::VirtualService => vec![
            text(
                "Gateways",
                ".spec.gateways",
                "Gateways and sidecars that apply these routes.",
            ),
            text(
                "Hosts",
                ".spec.hosts",
                "Hosts whose requests these routes take.",
            ),
        ],
        Kind::DestinationRule => vec![text("Host", ".spec.host", "The service this is about.")],
        Kind::ServiceEntry => vec![
            text("Hosts", ".spec.hosts", "Names of the service."),
            text(
                "Location",
                ".spec.location",
                "Whether it is part of the mesh.",
            ),
            text(
                "Resolution",
                ".spec.resolution",
                "How proxies find its addresses.",
            ),
        ],
        Kind::WorkloadEntry => {
            return vec![
                age,
                text("Address", ".spec.address", "Address of the endpoint."),
            ];
        }
        Kind::PeerAuthentication => vec![text("Mode", ".spec.mtls.mode", "What workloads accept.")],
        Kind::AuthorizationPolicy => vec![text(
            "Action",
            ".spec.action",
            "What happens to matching requests.",
        )],
        Kind::Gateway
        | Kind::WorkloadGroup
        | Kind::Sidecar
        | Kind::EnvoyFilter
        | Kind::ProxyConfig
        | Kind::RequestAuthentication
        | Kind::Telemetry
        | Kind::WasmPlugin => Vec::new(),
    };
    columns.push(age);
    columns
}
