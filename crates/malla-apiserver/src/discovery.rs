//! What is served, as clients discover it.

use serde_json::{Value, json};

use crate::registry::{Registry, Served};

/// The Kubernetes release whose API this is: kubectl 1.32 is the newest it is tested with.
const MAJOR: &str = "1";
const MINOR: &str = "32";
const VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// A subresource a resource has.
struct Subresource {
    name: &'static str,
    /// Group, version, kind of its object, if not the resource's own.
    kind: Option<(&'static str, &'static str, &'static str)>,
    verbs: &'static [&'static str],
}

/// `/version`.
pub(crate) fn version() -> Value {
    let malla = env!("CARGO_PKG_VERSION");
    json!({
        "major": MAJOR, "minor": MINOR,
        "gitVersion": format!("v{MAJOR}.{MINOR}.0+malla-{malla}"),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, go_arch()),
    })
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `/`.
pub(crate) fn paths(registry: &Registry) -> Value {
    let mut paths: Vec<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
    ]
    .map(str::to_owned)
    .into();
    for group in registry.groups().iter().filter(|g| !g.group.is_empty()) {
        paths.push(format!("/apis/{}", group.group));
        let versions = group.versions.iter();
        paths.extend(versions.map(|version| format!("/apis/{}/{version}", group.group)));
    }
    paths.extend(
        [
            "/healthz",
            "/livez",
            "/openapi/v2",
            "/openapi/v3",
            "/openid/v1/jwks",
            "/readyz",
            "/version",
        ]
        .map(str::to_owned),
    );
    json!({"paths": paths})
}

/// `/api`.
pub(crate) fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// `/apis`.
pub(crate) fn groups(registry: &Registry) -> Value {
    let groups = registry.groups();
    let groups = groups.iter().filter(|group| !group.group.is_empty());
    let groups: Vec<Value> = groups
        .map(|group| group_value(&group.group, &group.versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/{group}`.
pub(crate) fn group(registry: &Registry, name: &str) -> Option<Value> {
    let groups = registry.groups();
    let group = groups
        .iter()
        .find(|group| !name.is_empty() && group.group == name)?;
    let mut value = group_value(&group.group, &group.versions);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

fn group_value(group: &str, versions: &[String]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions.first()})
}

/// `/api/v1`, `/apis/{group}/{version}`.
pub(crate) fn resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let served = registry.kinds_of(group, version);
    let first = served.first()?;
    let api_version = first.kind.api_version();
    let mut resources = Vec::new();
    for served in &served {
        resources.push(resource(served));
        resources.extend(
            subresources(served)
                .iter()
                .map(|sub| subresource(served, sub)),
        );
    }
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version,
        "resources": resources,
    }))
}

fn resource(served: &Served) -> Value {
    let kind = &served.kind;
    let mut value = json!({
        "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
        "kind": kind.kind, "verbs": verbs(served),
    });
    if !kind.short_names.is_empty() {
        value["shortNames"] = kind.short_names.clone().into();
    }
    if !kind.categories.is_empty() {
        value["categories"] = kind.categories.clone().into();
    }
    if !kind.review {
        value["storageVersionHash"] = storage_hash(served).into();
    }
    value
}

fn subresource(served: &Served, sub: &Subresource) -> Value {
    let kind = &served.kind;
    let mut value = json!({
        "name": format!("{}/{}", kind.plural, sub.name), "singularName": "",
        "namespaced": kind.namespaced, "kind": kind.kind, "verbs": sub.verbs,
    });
    if let Some((group, version, name)) = sub.kind {
        value["kind"] = name.into();
        value["group"] = group.into();
        value["version"] = version.into();
    }
    value
}

/// A name of the stored form, so that clients notice its change; any stable text will do.
fn storage_hash(served: &Served) -> String {
    use base64::Engine;
    let storage = &served.family.storage;
    let text = format!("{}/{}/{}", storage.group, storage.version, storage.kind);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let short = digest.as_ref().get(..8).unwrap_or_default();
    base64::engine::general_purpose::STANDARD.encode(short)
}

fn verbs(served: &Served) -> Vec<&'static str> {
    if served.kind.review {
        return vec!["create"];
    }
    let all = VERBS.into_iter();
    let no_collection = &*served.family.group_resource == "namespaces";
    all.filter(|verb| !(no_collection && *verb == "deletecollection"))
        .collect()
}

fn subresources(served: &Served) -> Vec<Subresource> {
    let kind = &served.kind;
    let mut all = Vec::new();
    let plain = |name, verbs| Subresource {
        name,
        kind: None,
        verbs,
    };
    if kind.status {
        all.push(plain("status", &["get", "patch", "update"]));
    }
    if kind.scale.is_some() {
        all.push(Subresource {
            name: "scale",
            kind: Some(("autoscaling", "v1", "Scale")),
            verbs: &["get", "patch", "update"],
        });
    }
    let options = |name, kind| Subresource {
        name,
        kind: Some(("", "v1", kind)),
        verbs: &["create", "get"],
    };
    match &*served.family.group_resource {
        "pods" => {
            all.push(options("attach", "PodAttachOptions"));
            all.push(Subresource {
                name: "binding",
                kind: Some(("", "v1", "Binding")),
                verbs: &["create"],
            });
            all.push(options("exec", "PodExecOptions"));
            all.push(plain("log", &["get"]));
            all.push(options("portforward", "PodPortForwardOptions"));
        }
        "namespaces" => all.push(plain("finalize", &["update"])),
        "serviceaccounts" => all.push(Subresource {
            name: "token",
            kind: Some(("authentication.k8s.io", "v1", "TokenRequest")),
            verbs: &["create"],
        }),
        _ => {}
    }
    all
}

/// Aggregated discovery (`APIGroupDiscoveryList` v2) of the core group, or of all others.
pub(crate) fn aggregated(registry: &Registry, core: bool) -> Value {
    let groups = registry.groups();
    let groups = groups.iter().filter(|group| group.group.is_empty() == core);
    let items: Vec<Value> = groups
        .map(|group| {
            let versions = group.versions.iter();
            let versions: Vec<Value> = versions
                .map(|version| aggregated_version(registry, &group.group, version))
                .collect();
            let mut metadata = json!({"creationTimestamp": null});
            if !group.group.is_empty() {
                metadata["name"] = group.group.clone().into();
            }
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {}, "items": items,
    })
}

fn aggregated_version(registry: &Registry, group: &str, version: &str) -> Value {
    let served = registry.kinds_of(group, version);
    let resources: Vec<Value> = served.iter().map(aggregated_resource).collect();
    json!({"version": version, "resources": resources, "freshness": "Current"})
}

fn aggregated_resource(served: &Served) -> Value {
    let kind = &served.kind;
    let scope = if kind.namespaced {
        "Namespaced"
    } else {
        "Cluster"
    };
    let own = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let subresources: Vec<Value> = subresources(served)
        .iter()
        .map(|sub| {
            let response = match sub.kind {
                Some((group, version, kind)) => {
                    json!({"group": group, "version": version, "kind": kind})
                }
                None => own.clone(),
            };
            json!({"subresource": sub.name, "responseKind": response, "verbs": sub.verbs})
        })
        .collect();
    let mut value = json!({
        "resource": kind.plural, "responseKind": own, "scope": scope,
        "singularResource": kind.singular, "verbs": verbs(served),
    });
    for (field, list) in [
        ("shortNames", &kind.short_names),
        ("categories", &kind.categories),
    ] {
        if !list.is_empty() {
            value[field] = list.clone().into();
        }
    }
    if !subresources.is_empty() {
        value["subresources"] = subresources.into();
    }
    value
}
