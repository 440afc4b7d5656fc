//! Binds pods to the one node there is, if the pod allows it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, Pod, PodSpec};
use malla_apiserver::{ApiError, Patch, kinds};
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

use super::{Context, Feeds};
use crate::events::{Severity, Subject, seconds};
use crate::object::{self, Key, text};
use crate::queue::{Next, Queue};

const COMPONENT: &str = "default-scheduler";
/// Pods naming another scheduler are left alone.
const OWN_NAMES: [&str; 2] = ["", "default-scheduler"];

pub(super) fn start(context: Context, feeds: &mut Feeds) -> AbortOnDropHandle<()> {
    let queue = Queue::new();
    let pods = Arc::clone(&queue);
    feeds.pods.listen(move |change| {
        let unbound = |pod: &serde_json::Value| text(pod, "/spec/nodeName").is_empty();
        if change.new.as_ref().is_some_and(|pod| unbound(pod)) {
            pods.add(change.key.clone());
        }
    });
    // New labels of the node may let a waiting pod in.
    let (nodes, client) = (Arc::clone(&queue), context.client.clone());
    feeds.nodes.listen(move |change| {
        let labels = |node: Option<&Arc<serde_json::Value>>| {
            node.and_then(|node| node.pointer("/metadata/labels").cloned())
        };
        if labels(change.old.as_ref()) != labels(change.new.as_ref()) {
            let waiting = client.list(&kinds::PODS, None, &malla_apiserver::ListParams::default());
            for pod in waiting.map(|listed| listed.items).unwrap_or_default() {
                if text(&pod, "/spec/nodeName").is_empty() {
                    nodes.add(Key::of(&pod));
                }
            }
        }
    });
    queue.run("scheduler", 4, move |key| schedule(context.clone(), key))
}

async fn schedule(context: Context, key: Key) -> Result<Next, ApiError> {
    let Some(pod) = object::find::<Pod>(&context.client, &kinds::PODS, &key)? else {
        return Ok(Next::Done);
    };
    let spec = pod.spec.clone().unwrap_or_default();
    if spec
        .scheduling_gates
        .as_ref()
        .is_some_and(|gates| !gates.is_empty())
    {
        return Ok(Next::Done); // Lifting the last gate is a change of the pod.
    }
    let ours = OWN_NAMES.contains(&spec.scheduler_name.as_deref().unwrap_or_default());
    if !ours || spec.node_name.is_some() || pod.metadata.deletion_timestamp.is_some() {
        return Ok(Next::Done);
    }
    let node = &context.settings.node;
    let subject = Subject::new("v1", "Pod", &pod.metadata);
    let Some(found) = object::find::<Node>(&context.client, &kinds::NODES, &Key::new("", node))?
    else {
        return Ok(Next::Done); // The node's arrival is a change of its labels.
    };
    if let Err(reason) = admits(&found, &spec) {
        let message = format!("0/1 nodes are available: {reason}.");
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": message, "lastTransitionTime": seconds(jiff::Timestamp::now()),
        });
        let known = pod
            .status
            .and_then(|status| status.conditions)
            .unwrap_or_default();
        if !known
            .iter()
            .any(|known| known.message.as_ref() == Some(&message))
        {
            let status = Patch::Merge(json!({"status": {"conditions": [condition]}}));
            let (client, name) = (&context.client, &key.name);
            client
                .patch_status(&kinds::PODS, key.scope(), name, status)
                .await?;
            context.events.record(
                COMPONENT,
                Severity::Warning,
                subject,
                "FailedScheduling",
                message,
            );
        }
        return Ok(Next::Done);
    }
    context.client.bind(&key.namespace, &key.name, node).await?;
    let message = format!("Successfully assigned {key} to {node}");
    context
        .events
        .record(COMPONENT, Severity::Normal, subject, "Scheduled", message);
    Ok(Next::Done)
}

/// Whether a node fits `nodeSelector` and the required node affinity.
fn admits(node: &Node, spec: &PodSpec) -> Result<(), &'static str> {
    let labels = object::labels(&node.metadata);
    let mut wanted = spec.node_selector.iter().flatten();
    if !wanted.all(|(key, value)| labels.get(key) == Some(value)) {
        return Err("1 node(s) didn't match Pod's node affinity/selector");
    }
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    let Some(required) = required else {
        return Ok(());
    };
    let name = node.metadata.name.clone().unwrap_or_default();
    let any = required.node_selector_terms.iter().any(|term| {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let fields = term.match_fields.as_deref().unwrap_or_default();
        let some = !expressions.is_empty() || !fields.is_empty();
        some && expressions.iter().all(|e| meets(e, labels.get(&e.key)))
            && fields
                .iter()
                .all(|e| meets(e, (e.key == "metadata.name").then_some(&name)))
    });
    if any {
        Ok(())
    } else {
        Err("1 node(s) didn't match Pod's node affinity/selector")
    }
}

fn meets(wanted: &NodeSelectorRequirement, found: Option<&String>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let number = |text: Option<&String>| text.and_then(|text| text.parse::<i64>().ok());
    let compare = |holds: fn(i64, i64) -> bool| matches!((number(found), number(values.first())), (Some(a), Some(b)) if holds(a, b));
    match wanted.operator.as_str() {
        "In" => found.is_some_and(|value| values.contains(value)),
        "NotIn" => found.is_none_or(|value| !values.contains(value)),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => compare(|a, b| a > b),
        "Lt" => compare(|a, b| a < b),
        _ => false,
    }
}
