//! Pods: initial status, service-account admission, default tolerations, graceful deletion.

use std::time::Duration;

use malla_apimachinery::meta::ObjectKey;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout_at};

use crate::core::Core;
use crate::error::ApiError;
use crate::rest::create::text;
use crate::rest::{Target, random_suffix};

/// Where tokens are mounted (plugin/pkg/admission/serviceaccount `DefaultAPITokenMountPath`).
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Lifetime asked for in the projected volume (`WarnOnlyBoundTokenExpirationSeconds`).
const TOKEN_SECONDS: u64 = 3607;
/// `terminationGracePeriodSeconds` of pods that name none.
const DEFAULT_GRACE: u64 = 30;
/// How long a new pod waits for the `default` account of a namespace just made, as kube-apiserver does.
const ACCOUNT_WAIT: Duration = Duration::from_secs(1);

pub(super) fn begin_create(object: &mut Value) {
    object["status"] = json!({"phase": "Pending", "qosClass": qos_class(object)});
}

/// Gives the pod its service account, the account's token, priority and tolerations.
pub(super) async fn admit(
    core: &Core,
    target: &Target,
    object: &mut Value,
) -> Result<(), ApiError> {
    let name = text(object, "/metadata/name").to_owned();
    if object["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string() {
        return Ok(());
    }
    if text(object, "/spec/serviceAccountName").is_empty() {
        object["spec"]["serviceAccountName"] = "default".into();
    }
    let account_name = text(object, "/spec/serviceAccountName").to_owned();
    object["spec"]["serviceAccount"] = account_name.clone().into();
    let key = ObjectKey {
        namespace: target.namespace.clone(),
        name: account_name.clone(),
    };
    let Some(account) = account(core, &key).await else {
        return Err(ApiError::forbidden(
            target.about_name(&name),
            format!(
                "error looking up service account {}/{account_name}: serviceaccount {account_name:?} not found",
                target.namespace
            ),
        ));
    };
    if wants_token(object, &account) {
        mount_token(object);
    }
    let secrets = &account["imagePullSecrets"];
    if object["spec"]["imagePullSecrets"].is_null() && secrets.is_array() {
        object["spec"]["imagePullSecrets"] = secrets.clone();
    }
    fill(&mut object["spec"], "priority", || json!(0));
    fill(&mut object["spec"], "preemptionPolicy", || {
        json!("PreemptLowerPriority")
    });
    tolerate(object);
    Ok(())
}

/// Seconds a pod may take to end.
pub(super) fn grace_period(object: &Value, requested: Option<u64>) -> u64 {
    let unscheduled = text(object, "/spec/nodeName").is_empty();
    if unscheduled || matches!(text(object, "/status/phase"), "Succeeded" | "Failed") {
        return 0;
    }
    let own = object["spec"]["terminationGracePeriodSeconds"].as_u64();
    requested.or(own).unwrap_or(DEFAULT_GRACE)
}

async fn account(core: &Core, key: &ObjectKey) -> Option<std::sync::Arc<Value>> {
    let resource: std::sync::Arc<str> = "serviceaccounts".into();
    let deadline = Instant::now() + ACCOUNT_WAIT;
    loop {
        let since = core.store.read().version();
        if let Some(stored) = core.store.get(&resource, key) {
            return Some(stored.object);
        }
        if key.name != "default" {
            return None;
        }
        let mut news = core.store.follow(&resource, since)?;
        timeout_at(deadline, news.changed()).await.ok()?;
    }
}

fn wants_token(pod: &Value, account: &Value) -> bool {
    let own = pod["spec"]["automountServiceAccountToken"].as_bool();
    own.or(account["automountServiceAccountToken"].as_bool())
        .unwrap_or(true)
}

fn mount_token(pod: &mut Value) {
    let volumes = pod["spec"]["volumes"].as_array();
    let existing = volumes.into_iter().flatten().find_map(|volume| {
        let name = volume["name"].as_str()?;
        name.starts_with("kube-api-access-")
            .then(|| name.to_owned())
    });
    let volume = existing
        .clone()
        .unwrap_or_else(|| format!("kube-api-access-{}", random_suffix()));
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            let Some(mounts) = list_mut(container, "volumeMounts") else {
                continue;
            };
            if mounts.iter().any(|mount| mount["mountPath"] == TOKEN_PATH) {
                continue;
            }
            mounts.push(json!({"name": volume, "readOnly": true, "mountPath": TOKEN_PATH}));
            mounted = true;
        }
    }
    if mounted && existing.is_none() {
        let volume = token_volume(&volume);
        if let Some(volumes) = list_mut(&mut pod["spec"], "volumes") {
            volumes.push(volume);
        }
    }
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 420,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{
                    "path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                }]}},
            ],
        },
    })
}

/// Pods stay five minutes on a node that is not ready (admission plugin DefaultTolerationSeconds).
fn tolerate(pod: &mut Value) {
    let Some(tolerations) = list_mut(&mut pod["spec"], "tolerations") else {
        return;
    };
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        let tolerated = tolerations.iter().any(|toleration| {
            let any_key = toleration["key"].as_str().unwrap_or("").is_empty();
            let effect = toleration["effect"].as_str().unwrap_or("");
            (any_key || toleration["key"] == key) && (effect.is_empty() || effect == "NoExecute")
        });
        if !tolerated {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300,
            }));
        }
    }
}

/// The list at `field`, made when absent; `None` if something else is there.
fn list_mut<'a>(object: &'a mut Value, field: &str) -> Option<&'a mut Vec<Value>> {
    let fields = object.as_object_mut()?;
    let list = fields
        .entry(field.to_owned())
        .or_insert_with(|| Value::Array(Vec::new()));
    if list.is_null() {
        *list = Value::Array(Vec::new());
    }
    list.as_array_mut()
}

fn fill(object: &mut Value, field: &str, value: impl FnOnce() -> Value) {
    if object[field].is_null() {
        object[field] = value();
    }
}

/// `status.qosClass` (k8s.io/kubernetes/pkg/apis/core/v1/helper/qos).
fn qos_class(pod: &Value) -> &'static str {
    let lists = ["containers", "initContainers"];
    let containers: Vec<&Value> = lists
        .iter()
        .filter_map(|list| pod["spec"][list].as_array())
        .flatten()
        .collect();
    let empty = Map::new();
    let amounts = |container: &Value, side: &str| {
        let amounts = container["resources"][side].as_object().unwrap_or(&empty);
        let counted = ["cpu", "memory"].map(|name| amounts.get(name).cloned());
        counted.map(|amount| amount.filter(|amount| *amount != "0" && *amount != 0))
    };
    let all: Vec<_> = containers
        .iter()
        .map(|container| (amounts(container, "requests"), amounts(container, "limits")))
        .collect();
    let nothing = all
        .iter()
        .all(|(requests, limits)| requests.iter().chain(limits).all(Option::is_none));
    if nothing {
        return "BestEffort";
    }
    let guaranteed = all.iter().all(|(requests, limits)| {
        let pairs = requests.iter().zip(limits);
        pairs
            .into_iter()
            .all(|(request, limit)| limit.is_some() && (request.is_none() || request == limit))
    });
    if guaranteed {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{grace_period, mount_token, qos_class};

    #[test]
    fn qos_follows_requests_and_limits() {
        let check = |resources: Value, want: &str| {
            let pod = json!({"spec": {"containers": [{"name": "a", "resources": resources}]}});
            assert_eq!(qos_class(&pod), want, "{pod}");
        };
        check(json!({}), "BestEffort");
        check(json!({"requests": {"cpu": "1"}}), "Burstable");
        check(json!({"limits": {"cpu": "1"}}), "Burstable");
        check(
            json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
            "Guaranteed",
        );
        check(
            json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "1", "memory": "1Gi"}}),
            "Burstable",
        );
    }

    #[test]
    fn only_a_running_pod_gets_time_to_end() {
        let check =
            |pod: Value, requested, want| assert_eq!(grace_period(&pod, requested), want, "{pod}");
        check(json!({"spec": {}}), None, 0);
        check(json!({"spec": {"nodeName": "n"}}), None, 30);
        check(
            json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 5}}),
            None,
            5,
        );
        check(
            json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 5}}),
            Some(0),
            0,
        );
        check(
            json!({"spec": {"nodeName": "n"}, "status": {"phase": "Failed"}}),
            None,
            0,
        );
    }

    #[test]
    fn a_container_with_its_own_token_mount_keeps_it() {
        let own =
            json!({"name": "own", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"});
        let mut pod =
            json!({"spec": {"containers": [{"name": "a", "volumeMounts": [own]}, {"name": "b"}]}});
        mount_token(&mut pod);
        let mounts = |n: usize| {
            pod["spec"]["containers"][n]["volumeMounts"]
                .as_array()
                .unwrap()
                .len()
        };
        assert_eq!((mounts(0), mounts(1)), (1, 1));
        assert_eq!(pod["spec"]["volumes"].as_array().unwrap().len(), 1);
    }
}
