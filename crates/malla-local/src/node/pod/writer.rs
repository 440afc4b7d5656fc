//! Writes a pod's status whenever what it says has changed.
//!
//! Changes that happen while a write is on its way are written together by the next one.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use malla_apiserver::{Patch, kinds};
use serde_json::{Value, json};

use super::shared::PodShared;
use crate::node::NodeShared;
use crate::node::status::{self, View};

/// Pause after a write that failed.
const RETRY: Duration = Duration::from_millis(200);

/// Keeps the status written; ends only by being dropped.
pub(super) async fn run(node: Arc<NodeShared>, pod: Arc<PodShared>) {
    let mut records = pod.board.watch();
    let mut facts = pod.watch_facts();
    let mut current = pod.watch_current();
    let mut written = stored(&pod);
    loop {
        records.borrow_and_update();
        facts.borrow_and_update();
        current.borrow_and_update();
        if pod.facts().frozen {
            return;
        }
        let status = compute(&node, &pod, &written);
        if status != written {
            if write(&node, &pod, &status).await {
                written = status;
            } else {
                tokio::time::sleep(RETRY).await;
                continue;
            }
        }
        let changed = tokio::select! {
            changed = records.changed() => changed,
            changed = facts.changed() => changed,
            changed = current.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Writes the status once more, before the object goes.
pub(super) async fn write_last(node: &NodeShared, pod: &PodShared) {
    let known = stored(pod);
    let status = compute(node, pod, &known);
    if status != known {
        write(node, pod, &status).await;
    }
}

fn stored(pod: &PodShared) -> Value {
    json!(pod.current().status)
}

fn compute(node: &NodeShared, pod: &PodShared, before: &Value) -> Value {
    let facts = pod.facts();
    let (current, records) = (pod.current(), pod.board.all());
    let pod_ip = facts
        .address
        .map(|address| address.to_string())
        .unwrap_or_default();
    let view = View {
        pod: &current,
        records: &records,
        pod_ip: &pod_ip,
        host_ip: &node.network.address().to_string(),
        begun: pod.begun,
        initialized: facts.initialized,
        failure: facts
            .failure
            .as_ref()
            .map(|(reason, message)| (*reason, message.as_str())),
        now: Timestamp::now(),
    };
    status::compute(&view, before)
}

/// Whether the status is written, or there is nothing to write it to.
async fn write(node: &NodeShared, pod: &PodShared, status: &Value) -> bool {
    let patch = Patch::Merge(json!({"metadata": {"uid": pod.uid}, "status": status}));
    let (scope, name) = (pod.key.scope(), &pod.key.name);
    match node
        .client
        .patch_status(&kinds::PODS, scope, name, patch)
        .await
    {
        Ok(_) => true,
        Err(error) if error.is_not_found() || error.is_conflict() => true,
        Err(error) => {
            tracing::warn!(pod = %pod.key, error = error.message(), "a pod's status was not written");
            false
        }
    }
}
