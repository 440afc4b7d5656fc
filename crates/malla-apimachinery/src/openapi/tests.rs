//! The documents hold what kubectl looks for.

use serde_json::{Value, json};

use super::{v2, v3, v3_index};
use crate::builtin;
use crate::crd;
use crate::kind::ResourceKind;

fn gateway() -> ResourceKind {
    let crd = json!({
        "metadata": {"name": "gateways.networking.istio.io"},
        "spec": {"group": "networking.istio.io", "scope": "Namespaced", "names": {"plural": "gateways", "kind": "Gateway"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                "properties": {"spec": {"type": "object", "nullable": true, "properties": {"port": {"x-kubernetes-int-or-string": true,
                    "anyOf": [{"type": "integer"}, {"type": "string"}]}}}}}}}]},
    });
    crd::kinds(&crd).unwrap().remove(0)
}

/// Every reference of the document leads somewhere.
fn dangling(document: &Value, at: &Value, found: &mut Vec<String>) {
    match at {
        Value::Object(map) => {
            if let Some(target) = map.get("$ref").and_then(Value::as_str)
                && document.pointer(target.trim_start_matches('#')).is_none()
            {
                found.push(target.to_owned());
            }
            map.values()
                .for_each(|child| dangling(document, child, found));
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| dangling(document, item, found)),
        _ => {}
    }
}

#[test]
fn explain_finds_kinds_by_path_and_by_definition() {
    let kinds = builtin::kinds();
    let apps: Vec<&ResourceKind> = kinds.iter().filter(|kind| kind.group == "apps").collect();
    let document = v3(&apps);
    let gvk = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    let path = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments"];
    assert_eq!(path["get"]["x-kubernetes-group-version-kind"], gvk);
    let definition = &document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(definition["x-kubernetes-group-version-kind"], json!([gvk]));
    let ports =
        &document["components"]["schemas"]["io.k8s.api.core.v1.Container"]["properties"]["ports"];
    assert_eq!(
        ports["x-kubernetes-list-map-keys"],
        json!(["containerPort", "protocol"])
    );
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "containerPort");
    let mut found = Vec::new();
    dangling(&document, &document, &mut found);
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn patches_declare_field_validation_for_every_kind() {
    let mut kinds = builtin::kinds();
    kinds.push(gateway());
    for kind in kinds.iter().filter(|kind| !kind.review) {
        let document = v3(&[kind]);
        let gvk = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        let patches = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .filter_map(|item| item.get("patch"));
        let declared = patches
            .filter(|patch| patch["x-kubernetes-group-version-kind"] == gvk)
            .any(|patch| {
                patch["parameters"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|parameter| parameter["name"] == "fieldValidation")
            });
        assert!(declared, "{}", kind.kind);
    }
}

#[test]
fn custom_kinds_are_explained_too() {
    let kind = gateway();
    let document = v3(&[&kind]);
    let definition = &document["components"]["schemas"]["io.istio.networking.v1.Gateway"];
    assert_eq!(
        definition["properties"]["spec"]["properties"]["port"]["x-kubernetes-int-or-string"],
        true
    );
    assert_eq!(
        definition["properties"]["metadata"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    );
    let mut found = Vec::new();
    dangling(&document, &document, &mut found);
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn version_two_has_no_version_three_left() {
    let mut kinds = builtin::kinds();
    kinds.push(gateway());
    let document = v2(&kinds.iter().collect::<Vec<_>>());
    let mut found = Vec::new();
    dangling(&document, &document, &mut found);
    assert_eq!(found, Vec::<String>::new());
    let text = document.to_string();
    assert!(!text.contains("#/components/"), "a v3 reference is left");
    let spec = &document["definitions"]["io.istio.networking.v1.Gateway"]["properties"]["spec"];
    assert_eq!(spec.get("nullable"), None);
    assert_eq!(
        spec["properties"]["port"],
        json!({"x-kubernetes-int-or-string": true, "type": "string", "format": "int-or-string"})
    );
}

#[test]
fn the_index_points_to_documents() {
    let index = v3_index(&[("apis/apps/v1".to_owned(), "AB".to_owned())]);
    assert_eq!(
        index,
        json!({"paths": {"apis/apps/v1": {"serverRelativeURL": "/openapi/v3/apis/apps/v1?hash=AB"}}})
    );
}
