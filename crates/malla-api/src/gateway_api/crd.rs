//! The CustomResourceDefinitions of the Gateway API's kinds, generated from our own types.

use serde_json::{Value, json};

use super::{GROUP, GatewayKind};

/// The release of the Gateway API that the schemas follow.
const BUNDLE: &str = "v1.6.0";

/// All of them, as JSON of `apiextensions.k8s.io/v1`.
#[must_use]
pub fn crds() -> Vec<Value> {
    GatewayKind::ALL.into_iter().map(crd).collect()
}

fn crd(kind: GatewayKind) -> Value {
    let name = kind.name();
    let mut names = json!({
        "kind": name, "listKind": format!("{name}List"),
        "plural": kind.plural(), "singular": name.to_ascii_lowercase(),
        "categories": ["gateway-api"],
    });
    if let Some(short) = kind.short_name() {
        names["shortNames"] = json!([short]);
    }
    let mut properties = json!({"spec": kind.spec_schema()});
    let mut subresources = json!({});
    if kind != GatewayKind::ReferenceGrant {
        properties["status"] =
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        subresources["status"] = json!({});
    }
    let schema = json!({"type": "object", "required": ["spec"], "properties": properties});
    let versions: Vec<Value> = kind
        .versions()
        .iter()
        .enumerate()
        .map(|(at, version)| {
            json!({
                "name": version, "served": true, "storage": at == 0,
                "subresources": subresources,
                "additionalPrinterColumns": columns(kind),
                "schema": {"openAPIV3Schema": schema},
            })
        })
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{GROUP}", kind.plural()),
            "labels": {"app.kubernetes.io/part-of": "malla"},
            "annotations": {
                "api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/2997",
                "gateway.networking.k8s.io/bundle-version": BUNDLE,
                "gateway.networking.k8s.io/channel": "standard",
            },
        },
        "spec": {
            "group": GROUP, "names": names,
            "scope": if kind.is_namespaced() { "Namespaced" } else { "Cluster" },
            "versions": versions,
        },
    })
}

fn columns(kind: GatewayKind) -> Vec<Value> {
    let text = |name: &str, path: &str| json!({"name": name, "type": "string", "jsonPath": path});
    let condition = |name: &str| {
        let path = format!(".status.conditions[?(@.type==\"{name}\")].status");
        text(name, &path)
    };
    let mut columns = match kind {
        GatewayKind::GatewayClass => vec![
            text("Controller", ".spec.controllerName"),
            condition("Accepted"),
        ],
        GatewayKind::Gateway => vec![
            text("Class", ".spec.gatewayClassName"),
            text("Address", ".status.addresses[*].value"),
            condition("Programmed"),
        ],
        GatewayKind::ListenerSet => vec![condition("Accepted"), condition("Programmed")],
        GatewayKind::HttpRoute | GatewayKind::GrpcRoute => {
            vec![text("Hostnames", ".spec.hostnames")]
        }
        GatewayKind::TlsRoute
        | GatewayKind::TcpRoute
        | GatewayKind::BackendTlsPolicy
        | GatewayKind::ReferenceGrant => Vec::new(),
    };
    columns.push(json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}));
    columns
}
