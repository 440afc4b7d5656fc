//! Defaults of built-in types that depend on nothing else: `SetDefaults_*` of `k8s.io/kubernetes/pkg/apis/*/v1/defaults.go`.
//!
//! They are written into the schemas, so that one defaulting pass serves built-in and custom kinds and `kubectl explain` shows
//! them. Defaults that look at other fields are in `rules`.

use serde_json::{Map, Value};

/// (type, field, default as JSON)
const DEFAULTS: &[(&str, &str, &str)] = &[
    ("DeploymentSpec", "replicas", "1"),
    ("DeploymentSpec", "strategy", r#"{"type":"RollingUpdate"}"#),
    ("DeploymentSpec", "revisionHistoryLimit", "10"),
    ("DeploymentSpec", "progressDeadlineSeconds", "600"),
    ("DeploymentStrategy", "type", r#""RollingUpdate""#),
    ("RollingUpdateDeployment", "maxUnavailable", r#""25%""#),
    ("RollingUpdateDeployment", "maxSurge", r#""25%""#),
    ("ReplicaSetSpec", "replicas", "1"),
    ("PodSpec", "restartPolicy", r#""Always""#),
    ("PodSpec", "dnsPolicy", r#""ClusterFirst""#),
    ("PodSpec", "terminationGracePeriodSeconds", "30"),
    ("PodSpec", "schedulerName", r#""default-scheduler""#),
    ("PodSpec", "securityContext", "{}"),
    (
        "Container",
        "terminationMessagePath",
        r#""/dev/termination-log""#,
    ),
    ("Container", "terminationMessagePolicy", r#""File""#),
    ("Container", "resources", "{}"),
    (
        "EphemeralContainer",
        "terminationMessagePath",
        r#""/dev/termination-log""#,
    ),
    (
        "EphemeralContainer",
        "terminationMessagePolicy",
        r#""File""#,
    ),
    ("ContainerPort", "protocol", r#""TCP""#),
    ("Probe", "timeoutSeconds", "1"),
    ("Probe", "periodSeconds", "10"),
    ("Probe", "successThreshold", "1"),
    ("Probe", "failureThreshold", "3"),
    ("HTTPGetAction", "path", r#""/""#),
    ("HTTPGetAction", "scheme", r#""HTTP""#),
    ("GRPCAction", "service", r#""""#),
    ("ObjectFieldSelector", "apiVersion", r#""v1""#),
    ("SecretVolumeSource", "defaultMode", "420"),
    ("ConfigMapVolumeSource", "defaultMode", "420"),
    ("DownwardAPIVolumeSource", "defaultMode", "420"),
    ("ProjectedVolumeSource", "defaultMode", "420"),
    ("HostPathVolumeSource", "type", r#""""#),
    ("ServiceAccountTokenProjection", "expirationSeconds", "3600"),
    ("ServiceSpec", "sessionAffinity", r#""None""#),
    ("ServiceSpec", "type", r#""ClusterIP""#),
    ("ServicePort", "protocol", r#""TCP""#),
    ("Secret", "type", r#""Opaque""#),
    ("NamespaceStatus", "phase", r#""Active""#),
    ("MutatingWebhook", "failurePolicy", r#""Fail""#),
    ("MutatingWebhook", "matchPolicy", r#""Equivalent""#),
    ("MutatingWebhook", "namespaceSelector", "{}"),
    ("MutatingWebhook", "objectSelector", "{}"),
    ("MutatingWebhook", "timeoutSeconds", "10"),
    ("MutatingWebhook", "reinvocationPolicy", r#""Never""#),
    ("ValidatingWebhook", "failurePolicy", r#""Fail""#),
    ("ValidatingWebhook", "matchPolicy", r#""Equivalent""#),
    ("ValidatingWebhook", "namespaceSelector", "{}"),
    ("ValidatingWebhook", "objectSelector", "{}"),
    ("ValidatingWebhook", "timeoutSeconds", "10"),
    ("RuleWithOperations", "scope", r#""*""#),
    ("ServiceReference", "port", "443"),
    (
        "CustomResourceDefinitionSpec",
        "conversion",
        r#"{"strategy":"None"}"#,
    ),
    ("RoleRef", "apiGroup", r#""rbac.authorization.k8s.io""#),
];

/// Writes the defaults into the definition called `short`.
pub(super) fn annotate(short: &str, definition: &mut Map<String, Value>) {
    let Some(properties) = definition
        .get_mut("properties")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    for (_, field, text) in DEFAULTS.iter().filter(|row| row.0 == short) {
        if let (Some(schema), Ok(default)) = (
            properties.get_mut(*field).and_then(Value::as_object_mut),
            serde_json::from_str(text),
        ) {
            schema.insert("default".into(), default);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::DEFAULTS;

    #[test]
    fn every_default_is_json() {
        for (kind, field, text) in DEFAULTS {
            assert!(
                serde_json::from_str::<Value>(text).is_ok(),
                "{kind}.{field}: {text}"
            );
        }
    }
}
