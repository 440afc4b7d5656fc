//! Which pods get a proxy. Only pods come here that the webhook's selectors let through: the API
//! server has judged the namespace's labels, which it knows before we do. What is left to decide is
//! what the pod itself says, as in Istio's injector.

use serde_json::Value;

const INJECT: &str = "sidecar.istio.io/inject";
pub(super) const REVISION: &str = "istio.io/rev";

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
    AlreadyInjected,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Skip(Skip),
    Inject { warnings: Vec<String> },
}

/// Decides about one pod. `namespace_revision` is the namespace's `istio.io/rev`, as far as it is
/// known; `revisions` are the ones this control plane answers to.
#[must_use]
pub fn decide(
    pod: &Value,
    namespace: &str,
    namespace_revision: Option<&str>,
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
    if let Some("false" | "no" | "off" | "n") = asked.as_deref() {
        return Decision::Skip(Skip::PodRefuses);
    }
    let pod_revision = metadata("labels", REVISION);
    let wanted = pod_revision.as_deref().or(namespace_revision);
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

    fn check(pod: &Value, want: &Decision) {
        let revisions = ["default".to_owned()];
        assert_eq!(decide(pod, "base", None, &revisions), *want, "{pod}");
    }

    #[test]
    fn pods_refuse_and_hosts_are_left_alone() {
        let injected = Decision::Inject { warnings: vec![] };
        let refused = Decision::Skip(Skip::PodRefuses);
        check(&json!({"metadata": {}}), &injected);
        for place in ["labels", "annotations"] {
            let pod = json!({"metadata": {place: {"sidecar.istio.io/inject": "false"}}});
            check(&pod, &refused);
            let pod = json!({"metadata": {place: {"sidecar.istio.io/inject": "true"}}});
            check(&pod, &injected);
        }
        let done = json!({"metadata": {"annotations": {"sidecar.istio.io/status": "{}"}}});
        check(&done, &Decision::Skip(Skip::AlreadyInjected));
        let host = json!({"spec": {"hostNetwork": true}});
        check(&host, &Decision::Skip(Skip::HostNetwork));
    }

    #[test]
    fn an_unknown_revision_is_injected_with_a_warning() {
        let revisions = ["default".to_owned()];
        let Decision::Inject { warnings } = decide(&json!({}), "base", Some("1-12-5"), &revisions)
        else {
            panic!("not injected");
        };
        let [warning] = &warnings[..] else {
            panic!("{warnings:?}")
        };
        assert!(
            warning.contains("\"1-12-5\"") && warning.contains("default"),
            "{warning}"
        );
    }
}
