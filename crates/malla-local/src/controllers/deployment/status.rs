//! A Deployment's status: counts, and the conditions Available, Progressing and ReplicaFailure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DeploymentCondition;
use malla_apiserver::{ApiError, Patch, kinds};
use serde_json::{Value, json};

use super::{View, numbers};
use crate::controllers::Context;
use crate::events::seconds;
use crate::object::text;
use crate::queue::Next;

/// `progressDeadlineSeconds` when it is not set.
const DEFAULT_DEADLINE: i32 = 600;

/// A condition without its times.
struct Finding {
    kind: &'static str,
    holds: &'static str,
    reason: &'static str,
    message: String,
}

/// Counts of all the Deployment's sets.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    replicas: i64,
    updated: i64,
    ready: i64,
    available: i64,
}

/// Writes the status if it changed. Comes back when the progress deadline passes.
pub(super) async fn write(
    context: &Context,
    view: &View,
    failure: Option<&ApiError>,
) -> Result<Next, ApiError> {
    let now = Timestamp::now();
    let counts = Counts::of(view);
    let known = view.deployment.status.clone().unwrap_or_default();
    let conditions = known.conditions.unwrap_or_default();
    let deadline = deadline(view);
    let progressing = progressing(view, &counts, &conditions, now, deadline);
    let waits = progressing.as_ref().is_some_and(|finding| {
        finding.holds == "True" && finding.reason != "NewReplicaSetAvailable"
    });
    let mut findings = vec![available(view, &counts)];
    findings.extend(progressing);
    findings.extend(failure.map(|error| Finding {
        kind: "ReplicaFailure",
        holds: "True",
        reason: "FailedCreate",
        message: error.message().to_owned(),
    }));
    let conditions: Vec<Value> = findings
        .into_iter()
        .map(|finding| dated(finding, &conditions, made_progress(view, &counts), now))
        .collect();
    let status = json!({
        "observedGeneration": view.deployment.metadata.generation,
        "replicas": counts.replicas,
        "updatedReplicas": counts.updated,
        "readyReplicas": counts.ready,
        "availableReplicas": counts.available,
        "unavailableReplicas": (i64::from(view.desired()).max(counts.replicas) - counts.available).max(0),
        "conditions": conditions,
    });
    let stored = view.raw.get("status").cloned().unwrap_or_default();
    let fields = status.as_object().into_iter().flatten();
    let zero = |value: &Value| value == &json!(0);
    let same = fields.into_iter().all(|(name, value)| {
        stored.get(name) == Some(value) || (stored.get(name).is_none() && zero(value))
    });
    if !same {
        let patch = Patch::Merge(json!({"status": status}));
        let (scope, name) = (view.key.scope(), &view.key.name);
        let client = &context.client;
        client
            .patch_status(&kinds::DEPLOYMENTS, scope, name, patch)
            .await?;
    }
    if let (true, Some(deadline)) = (waits, deadline) {
        return Ok(Next::After(deadline));
    }
    Ok(Next::Done)
}

impl Counts {
    fn of(view: &View) -> Self {
        let sum = |pointer: &str| -> i64 {
            let count = |set: &Value| set.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
            view.sets.iter().map(|set| count(set)).sum()
        };
        let updated = view
            .new_set()
            .and_then(|set| set.pointer("/status/replicas"));
        Self {
            replicas: sum("/status/replicas"),
            updated: updated.and_then(Value::as_i64).unwrap_or(0),
            ready: sum("/status/readyReplicas"),
            available: sum("/status/availableReplicas"),
        }
    }

    fn complete(&self, view: &View) -> bool {
        let desired = i64::from(view.desired());
        let scaled = view
            .new_set()
            .is_some_and(|set| i64::from(numbers(set).replicas) == desired);
        scaled && self.updated == desired && self.replicas == desired && self.available >= desired
    }
}

fn available(view: &View, counts: &Counts) -> Finding {
    let limits = view.limits();
    let enough = counts.available >= i64::from(limits.desired - limits.unavailable);
    let (holds, reason, message) = if enough {
        (
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        )
    } else {
        (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    };
    Finding {
        kind: "Available",
        holds,
        reason,
        message: message.to_owned(),
    }
}

fn deadline(view: &View) -> Option<Duration> {
    let seconds = view
        .spec
        .progress_deadline_seconds
        .unwrap_or(DEFAULT_DEADLINE);
    // Kubernetes takes the largest number for "never".
    (seconds != i32::MAX).then(|| Duration::from_secs(seconds.max(0).unsigned_abs().into()))
}

fn progressing(
    view: &View,
    counts: &Counts,
    known: &[DeploymentCondition],
    now: Timestamp,
    deadline: Option<Duration>,
) -> Option<Finding> {
    let known = known
        .iter()
        .find(|condition| condition.type_.as_deref() == Some("Progressing"));
    let finding = |holds, reason, message| {
        Some(Finding {
            kind: "Progressing",
            holds,
            reason,
            message,
        })
    };
    if view.spec.paused.unwrap_or(false) {
        return finding(
            "Unknown",
            "DeploymentPaused",
            "Deployment is paused".to_owned(),
        );
    }
    let set = view.new_set()?;
    let name = text(set, "/metadata/name");
    if counts.complete(view) {
        let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
        return finding("True", "NewReplicaSetAvailable", message);
    }
    let last = known
        .filter(|condition| condition.reason.as_deref() != Some("NewReplicaSetAvailable"))
        .and_then(|condition| condition.last_update_time.as_ref());
    let late = last.zip(deadline).is_some_and(|(last, deadline)| {
        let waited = Duration::try_from(now.duration_since(last.0)).unwrap_or_default();
        waited >= deadline && !made_progress(view, counts)
    });
    if late {
        let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
        return finding("False", "ProgressDeadlineExceeded", message);
    }
    let message = format!("ReplicaSet \"{name}\" is progressing.");
    finding("True", "ReplicaSetUpdated", message)
}

/// Whether the counts are nearer to the goal than the stored ones.
fn made_progress(view: &View, counts: &Counts) -> bool {
    let stored = |name: &str| {
        let status = view.raw.get("status").and_then(|status| status.get(name));
        status.and_then(Value::as_i64).unwrap_or(0)
    };
    let old = |replicas: i64, updated: i64| replicas - updated;
    counts.updated > stored("updatedReplicas")
        || counts.ready > stored("readyReplicas")
        || counts.available > stored("availableReplicas")
        || old(counts.replicas, counts.updated) < old(stored("replicas"), stored("updatedReplicas"))
}

/// Adds times: of the last change of the verdict, and of the last news.
fn dated(finding: Finding, known: &[DeploymentCondition], progress: bool, now: Timestamp) -> Value {
    let known = known
        .iter()
        .find(|condition| condition.type_.as_deref() == Some(finding.kind));
    let time = |time: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
        seconds(time.map_or(now, |time| time.0))
    };
    let unchanged = known.filter(|known| known.status.as_deref() == Some(finding.holds));
    let no_news = unchanged.filter(|known| {
        let touched =
            finding.kind == "Progressing" && progress && finding.reason != "NewReplicaSetAvailable";
        known.reason.as_deref() == Some(finding.reason) && !touched
    });
    json!({
        "type": finding.kind,
        "status": finding.holds,
        "reason": finding.reason,
        "message": finding.message,
        "lastTransitionTime": time(unchanged.and_then(|known| known.last_transition_time.as_ref())),
        "lastUpdateTime": time(no_news.and_then(|known| known.last_update_time.as_ref())),
    })
}
