//! Fields of a pod that this node does not honour: named in an event, never passed over in silence.
//!
//! Resource requests and limits are not among them: they are accepted and not enforced, for every
//! pod alike, which the documentation says once.

use k8s_openapi::api::core::v1::{Container, Pod};

/// Paths of the fields that are set and change nothing.
pub(super) fn fields(pod: &Pod) -> Vec<String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let context = spec.security_context.clone().unwrap_or_default();
    let ephemeral = spec
        .ephemeral_containers
        .as_ref()
        .is_some_and(|all| !all.is_empty());
    let pod_fields = [
        ("spec.hostPID", spec.host_pid.unwrap_or(false)),
        ("spec.hostIPC", spec.host_ipc.unwrap_or(false)),
        (
            "spec.shareProcessNamespace",
            spec.share_process_namespace.unwrap_or(false),
        ),
        ("spec.runtimeClassName", spec.runtime_class_name.is_some()),
        ("spec.ephemeralContainers", ephemeral),
        (
            "spec.securityContext.seLinuxOptions",
            context.se_linux_options.is_some(),
        ),
        ("spec.securityContext.sysctls", context.sysctls.is_some()),
    ];
    let mut found: Vec<String> = pod_fields
        .into_iter()
        .filter(|(_, set)| *set)
        .map(|(path, _)| path.to_owned())
        .collect();
    for container in spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
    {
        found.extend(of_container(container));
    }
    found
}

fn of_container(container: &Container) -> Vec<String> {
    let context = container.security_context.clone().unwrap_or_default();
    let mut ports = container.ports.iter().flatten();
    let host_port = ports.any(|port| port.host_port.is_some_and(|port| port != 0));
    let propagation = |mode: &Option<String>| mode.as_deref().is_some_and(|mode| mode != "None");
    let mut mounts = container.volume_mounts.iter().flatten();
    let fields = [
        ("ports[].hostPort", host_port),
        ("volumeDevices", container.volume_devices.is_some()),
        (
            "restartPolicyRules",
            container.restart_policy_rules.is_some(),
        ),
        (
            "securityContext.seLinuxOptions",
            context.se_linux_options.is_some(),
        ),
        (
            "volumeMounts[].mountPropagation",
            mounts.any(|mount| propagation(&mount.mount_propagation)),
        ),
    ];
    let set = fields.into_iter().filter(|(_, set)| *set);
    set.map(|(path, _)| format!("{path} of container {}", container.name))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::fields;

    #[test]
    fn only_what_changes_nothing_is_named() {
        let plain = json!({"spec": {"hostNetwork": true, "containers": [
            {"name": "c", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1"}}}]}});
        assert_eq!(
            fields(&serde_json::from_value(plain).unwrap()),
            Vec::<String>::new()
        );
        let odd = json!({"spec": {"hostPID": true, "containers": [
            {"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}});
        let named = fields(&serde_json::from_value(odd).unwrap());
        assert_eq!(named, ["spec.hostPID", "ports[].hostPort of container c"]);
    }
}
