//! Who a container's processes run as: the pod's and the container's security contexts.
//!
//! What this node cannot enforce is refused, so that nothing runs with more rights than asked for.

use k8s_openapi::api::core::v1::{Container, PodSpec, SecurityContext};

use crate::process::{Capabilities, Credentials};

/// A security context this node cannot give (`CreateContainerConfigError`).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum IdentityError {
    #[error("container has runAsNonRoot and image will run as root: set securityContext.runAsUser")]
    Root,
    #[error("securityContext.capabilities: unknown capability {0:?}")]
    Capability(String),
    #[error("securityContext.{field}: {value} is not a user or group id (0..=4294967294)")]
    Id { field: &'static str, value: i64 },
}

/// Resolves the credentials of `container`; images have no user of their own, so root is the default.
pub(super) fn credentials(
    spec: &PodSpec,
    container: &Container,
) -> Result<Credentials, IdentityError> {
    let pod = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let uid = id(
        "runAsUser",
        own.run_as_user.or(pod.run_as_user).unwrap_or(0),
    )?;
    let gid = id(
        "runAsGroup",
        own.run_as_group.or(pod.run_as_group).unwrap_or(0),
    )?;
    if own.run_as_non_root.or(pod.run_as_non_root).unwrap_or(false) && uid == 0 {
        return Err(IdentityError::Root);
    }
    let mut groups = vec![gid];
    let supplemental = pod.supplemental_groups.iter().flatten().copied();
    for group in supplemental.chain(pod.fs_group) {
        let group = id("supplementalGroups", group)?;
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    let privileged = own.privileged.unwrap_or(false);
    Ok(Credentials {
        uid,
        gid,
        groups,
        capabilities: capabilities(&own)?,
        no_new_privileges: own.allow_privilege_escalation == Some(false) && !privileged,
    })
}

fn capabilities(context: &SecurityContext) -> Result<Capabilities, IdentityError> {
    if context.privileged.unwrap_or(false) {
        return Ok(Capabilities::ALL);
    }
    let named = |names: &Option<Vec<String>>| {
        let mut set = Capabilities::NONE;
        for name in names.iter().flatten() {
            let known = Capabilities::named(name);
            set = set.with(known.ok_or_else(|| IdentityError::Capability(name.clone()))?);
        }
        Ok(set)
    };
    let change = context.capabilities.clone().unwrap_or_default();
    // Dropped first, so that `drop: [ALL], add: [NET_ADMIN]` leaves NET_ADMIN.
    let base = Capabilities::usual().without(named(&change.drop)?);
    Ok(base.with(named(&change.add)?))
}

fn id(field: &'static str, value: i64) -> Result<u32, IdentityError> {
    let valid = u32::try_from(value).ok().filter(|id| *id != u32::MAX);
    valid.ok_or(IdentityError::Id { field, value })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{IdentityError, credentials};
    use crate::process::Credentials;

    fn check(pod: Value, container: Value) -> Result<Credentials, IdentityError> {
        let pod = json!({"containers": [], "securityContext": pod});
        let container = json!({"name": "c", "securityContext": container});
        let pod = serde_json::from_value(pod).unwrap();
        credentials(&pod, &serde_json::from_value(container).unwrap())
    }

    #[test]
    fn the_container_overrides_the_pod() {
        let got = check(
            json!({"runAsUser": 7, "runAsGroup": 8, "fsGroup": 9, "supplementalGroups": [8, 10]}),
            json!({"runAsUser": 1337, "allowPrivilegeEscalation": false}),
        )
        .unwrap();
        assert_eq!((got.uid, got.gid, got.groups), (1337, 8, vec![8, 10, 9]));
        assert!(got.no_new_privileges);
    }

    #[test]
    fn the_usual_init_container_keeps_only_what_it_adds() {
        let add = json!({"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]}});
        let got = check(json!({}), add).unwrap();
        assert_eq!(got.capabilities.mask(), (1 << 12) | (1 << 13));
    }

    #[test]
    fn what_cannot_be_given_is_refused() {
        let root = check(json!({"runAsNonRoot": true}), json!({}));
        assert_eq!(root.err(), Some(IdentityError::Root));
        let unknown = check(json!({}), json!({"capabilities": {"add": ["FLY"]}}));
        assert_eq!(
            unknown.err(),
            Some(IdentityError::Capability("FLY".to_owned()))
        );
        assert!(check(json!({"runAsUser": -1}), json!({})).is_err());
    }
}
