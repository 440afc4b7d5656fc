//! How lists and maps of the built-in types merge: the `+listType`, `+listMapKey`, `+mapType`, `+structType`, `+patchMergeKey`
//! and `+patchStrategy` markers of `k8s.io/api`.
//!
//! A list that is not named here is atomic: applying or patching replaces it whole. Strategic merge patch knows one key per
//! list (`containerPort`), server-side apply several (`containerPort` and `protocol`): both are kept.

use serde_json::{Map, Value, json};

/// (type, field, server-side apply keys, strategic merge key, strategic merge also retains keys)
type ListRow = (
    &'static str,
    &'static str,
    &'static [&'static str],
    Option<&'static str>,
    bool,
);

const LISTS: &[ListRow] = &[
    ("PodSpec", "containers", &["name"], Some("name"), false),
    ("PodSpec", "initContainers", &["name"], Some("name"), false),
    (
        "PodSpec",
        "ephemeralContainers",
        &["name"],
        Some("name"),
        false,
    ),
    ("PodSpec", "volumes", &["name"], Some("name"), true),
    (
        "PodSpec",
        "imagePullSecrets",
        &["name"],
        Some("name"),
        false,
    ),
    ("PodSpec", "hostAliases", &["ip"], Some("ip"), false),
    (
        "PodSpec",
        "topologySpreadConstraints",
        &["topologyKey", "whenUnsatisfiable"],
        Some("topologyKey"),
        false,
    ),
    ("PodSpec", "resourceClaims", &["name"], Some("name"), true),
    ("PodSpec", "schedulingGates", &["name"], Some("name"), false),
    ("PodStatus", "conditions", &["type"], Some("type"), false),
    ("PodStatus", "podIPs", &["ip"], Some("ip"), false),
    ("PodStatus", "hostIPs", &[], Some("ip"), false),
    (
        "PodStatus",
        "resourceClaimStatuses",
        &["name"],
        Some("name"),
        true,
    ),
    (
        "Container",
        "ports",
        &["containerPort", "protocol"],
        Some("containerPort"),
        false,
    ),
    ("Container", "env", &["name"], Some("name"), false),
    (
        "Container",
        "volumeMounts",
        &["mountPath"],
        Some("mountPath"),
        false,
    ),
    (
        "Container",
        "volumeDevices",
        &["devicePath"],
        Some("devicePath"),
        false,
    ),
    (
        "EphemeralContainer",
        "ports",
        &["containerPort", "protocol"],
        Some("containerPort"),
        false,
    ),
    ("EphemeralContainer", "env", &["name"], Some("name"), false),
    (
        "EphemeralContainer",
        "volumeMounts",
        &["mountPath"],
        Some("mountPath"),
        false,
    ),
    (
        "EphemeralContainer",
        "volumeDevices",
        &["devicePath"],
        Some("devicePath"),
        false,
    ),
    (
        "ContainerStatus",
        "volumeMounts",
        &["mountPath"],
        Some("mountPath"),
        false,
    ),
    (
        "ContainerStatus",
        "allocatedResourcesStatus",
        &["name"],
        Some("name"),
        false,
    ),
    ("ResourceRequirements", "claims", &["name"], None, false),
    (
        "ServiceSpec",
        "ports",
        &["port", "protocol"],
        Some("port"),
        false,
    ),
    (
        "ServiceStatus",
        "conditions",
        &["type"],
        Some("type"),
        false,
    ),
    ("ServiceAccount", "secrets", &["name"], Some("name"), false),
    (
        "NamespaceStatus",
        "conditions",
        &["type"],
        Some("type"),
        false,
    ),
    ("NodeStatus", "conditions", &["type"], Some("type"), false),
    ("NodeStatus", "addresses", &["type"], Some("type"), false),
    (
        "ObjectMeta",
        "ownerReferences",
        &["uid"],
        Some("uid"),
        false,
    ),
    (
        "DeploymentStatus",
        "conditions",
        &["type"],
        Some("type"),
        false,
    ),
    (
        "ReplicaSetStatus",
        "conditions",
        &["type"],
        Some("type"),
        false,
    ),
    (
        "MutatingWebhookConfiguration",
        "webhooks",
        &["name"],
        Some("name"),
        false,
    ),
    (
        "ValidatingWebhookConfiguration",
        "webhooks",
        &["name"],
        Some("name"),
        false,
    ),
    (
        "MutatingWebhook",
        "matchConditions",
        &["name"],
        Some("name"),
        false,
    ),
    (
        "ValidatingWebhook",
        "matchConditions",
        &["name"],
        Some("name"),
        false,
    ),
    (
        "CustomResourceDefinitionStatus",
        "conditions",
        &["type"],
        None,
        false,
    ),
];

/// Lists of distinct scalars; strategic merge patch unites them if the last word says so.
const SETS: &[(&str, &str, bool)] = &[
    ("ObjectMeta", "finalizers", true),
    ("NodeSpec", "podCIDRs", true),
    ("Endpoint", "addresses", false),
];

/// Maps that are one value.
const ATOMIC_MAPS: &[(&str, &str)] = &[
    ("PodSpec", "nodeSelector"),
    ("ServiceSpec", "selector"),
    ("ReplicationControllerSpec", "selector"),
];

/// Structs that are one value.
const ATOMIC_STRUCTS: &[&str] = &[
    "ConfigMapKeySelector",
    "ConfigMapNodeConfigSource",
    "EndpointAddress",
    "EndpointPort",
    "FileKeySelector",
    "ForZone",
    "LabelSelector",
    "LocalObjectReference",
    "NodeSelector",
    "NodeSelectorTerm",
    "ObjectFieldSelector",
    "ObjectReference",
    "OwnerReference",
    "ResourceFieldSelector",
    "RoleRef",
    "ScopeSelector",
    "SecretKeySelector",
    "SecretReference",
    "Subject",
    "TopologySelectorTerm",
    "TypedLocalObjectReference",
];

/// Structs of which a strategic merge patch may say what to retain.
const RETAIN_KEYS: &[(&str, &str)] = &[("DeploymentSpec", "strategy")];

/// Writes the merge extensions into the definition called `short` (its name without package).
pub(super) fn annotate(short: &str, definition: &mut Map<String, Value>) {
    if ATOMIC_STRUCTS.contains(&short) {
        definition.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    let Some(properties) = definition
        .get_mut("properties")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    let mut set = |field: &str, extension: &str, value: Value| {
        if let Some(schema) = properties.get_mut(field).and_then(Value::as_object_mut) {
            schema.insert(format!("x-kubernetes-{extension}"), value);
        }
    };
    for (_, field, keys, merge_key, retain) in LISTS.iter().filter(|row| row.0 == short) {
        if !keys.is_empty() {
            set(field, "list-type", "map".into());
            set(field, "list-map-keys", json!(keys));
        }
        if let Some(key) = merge_key {
            set(field, "patch-merge-key", (*key).into());
            set(
                field,
                "patch-strategy",
                if *retain { "merge,retainKeys" } else { "merge" }.into(),
            );
        }
    }
    for (_, field, united) in SETS.iter().filter(|row| row.0 == short) {
        set(field, "list-type", "set".into());
        if *united {
            set(field, "patch-strategy", "merge".into());
        }
    }
    for (_, field) in ATOMIC_MAPS.iter().filter(|row| row.0 == short) {
        set(field, "map-type", "atomic".into());
    }
    for (_, field) in RETAIN_KEYS.iter().filter(|row| row.0 == short) {
        set(field, "patch-strategy", "retainKeys".into());
    }
}
