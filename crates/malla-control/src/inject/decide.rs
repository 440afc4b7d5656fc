//! Which pods get a proxy. Istio's order: the host's network never, then what the pod says, then
//! what its namespace says; a refusal beats a request.

use std::collections::BTreeMap;

use serde_json::Value;

const INJECT: &str = "sidecar.istio.io/inject";
const REVISION: &str = "istio.io/rev";
const NAMESPACE_SWITCH: &str = "istio-injection";

/// Namespaces of the platform itself.
const NEVER: [&str; 4] = [
    "kube-system",
    "kube-public",
    "kube-node-lease",
    "local-path-storage",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// It shares the host's network, whose traffic must not be captured.
    HostNetwork,
    SystemNamespace,
    /// The pod's label or annotation says `false`.
    PodRefuses,
    /// The namespace says `disabled`.
    NamespaceRefuses,
    /// Neither asks for it.
    NotAsked,
    AlreadyInjected,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Skip(Skip),
    Inject { warnings: Vec<String> },
}

/// Decides about one pod. `revisions` are the ones this control plane answers to.
#[must_use]
pub fn decide(
    pod: &Value,
    namespace: &str,
    namespace_labels: &BTreeMap<String, String>,
    revisions: &[String],
) -> Decision {
    let metadata = |map: &str, key: &str| {
        pod.pointer("/metadata")
            .and_then(|m| m.get(map)?.get(key)?.as_str())
            .map(str::to_owned)
    };
    if pod.pointer("/spec/hostNetwork").and_then(Value::as_bool) == Some(true) {
        return Decision::Skip(Skip::HostNetwork);
    }
    if NEVER.contains(&namespace) {
        return Decision::Skip(Skip::SystemNamespace);
    }
    if metadata("annotations", "sidecar.istio.io/status").is_some() {
        return Decision::Skip(Skip::AlreadyInjected);
    }
    let asked = metadata("labels", INJECT).or_else(|| metadata("annotations", INJECT));
    let pod_revision = metadata("labels", REVISION);
    let namespace_switch = namespace_labels.get(NAMESPACE_SWITCH).map(String::as_str);
    let namespace_revision = namespace_labels.get(REVISION);

    match asked.as_deref() {
        Some("false" | "no" | "off" | "n") => return Decision::Skip(Skip::PodRefuses),
        Some("true" | "yes" | "on" | "y") => {}
        _ if namespace_switch == Some("disabled") => return Decision::Skip(Skip::NamespaceRefuses),
        _ if namespace_switch == Some("enabled") => {}
        _ if namespace_revision.is_some() || pod_revision.is_some() => {}
        _ => return Decision::Skip(Skip::NotAsked),
    }
    let wanted = pod_revision.as_ref().or(namespace_revision);
    let warnings = wanted
        .and_then(|name| unknown_revision(namespace, name, revisions))
        .into_iter()
        .collect();
    Decision::Inject { warnings }
}

/// What to tell the user about a revision label that names no control plane of this mesh.
#[must_use]
pub fn unknown_revision(namespace: &str, wanted: &str, revisions: &[String]) -> Option<String> {
    if revisions.iter().any(|known| known == wanted) {
        return None;
    }
    let known = revisions.join(", ");
    Some(format!(
        "namespace {namespace}: no control plane has the revision {wanted:?} (label {REVISION}); \
         its pods are given the proxy of {known} (set the label to one of: {known})"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(pod: &Value, labels: &[(&str, &str)], want: &Decision) {
        let labels = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        assert_eq!(
            decide(pod, "base", &labels, &["default".to_owned()]),
            *want,
            "{pod}"
        );
    }

    fn yes() -> Decision {
        Decision::Inject { warnings: vec![] }
    }

    #[test]
    fn namespaces_ask_and_pods_refuse() {
        let plain = json!({"metadata": {}});
        let refusing = json!({"metadata": {"labels": {"sidecar.istio.io/inject": "false"}}});
        let refusing_old =
            json!({"metadata": {"annotations": {"sidecar.istio.io/inject": "false"}}});
        let asking = json!({"metadata": {"labels": {"sidecar.istio.io/inject": "true"}}});
        check(&plain, &[], &Decision::Skip(Skip::NotAsked));
        check(&plain, &[("istio-injection", "enabled")], &yes());
        check(
            &plain,
            &[("istio-injection", "disabled")],
            &Decision::Skip(Skip::NamespaceRefuses),
        );
        check(&plain, &[("istio.io/rev", "default")], &yes());
        check(
            &refusing,
            &[("istio-injection", "enabled")],
            &Decision::Skip(Skip::PodRefuses),
        );
        check(
            &refusing_old,
            &[("istio-injection", "enabled")],
            &Decision::Skip(Skip::PodRefuses),
        );
        check(&asking, &[], &yes());
        check(
            &json!({"spec": {"hostNetwork": true}}),
            &[("istio-injection", "enabled")],
            &Decision::Skip(Skip::HostNetwork),
        );
    }

    #[test]
    fn an_unknown_revision_is_injected_with_a_warning() {
        let labels = BTreeMap::from([("istio.io/rev".to_owned(), "1-12-5".to_owned())]);
        let Decision::Inject { warnings } =
            decide(&json!({}), "base", &labels, &["default".to_owned()])
        else {
            panic!("not injected");
        };
        assert!(
            warnings.len() == 1
                && warnings[0].contains("\"1-12-5\"")
                && warnings[0].contains("default"),
            "{warnings:?}"
        );
    }
}
