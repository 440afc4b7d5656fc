//! Status of Istio's objects: whether Malla acts on them, what of them it does not honour, and on
//! how many proxies they are active.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use malla_translate::unresolved;
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::debug;

use super::roots::MANAGER;
use crate::index::{ConfigObject, World};
use crate::nodes::{NodeReport, Nodes};

/// How often the proxies' progress is looked at while something is not active everywhere.
const LOOK: Duration = Duration::from_millis(100);
/// Progress that takes longer is reported as it stands.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps statuses true while this replica leads.
pub async fn keep(
    client: kube::Client,
    mut worlds: watch::Receiver<Option<World>>,
    nodes: Arc<Nodes>,
    mut leading: watch::Receiver<bool>,
) {
    let mut written: HashMap<String, Written> = HashMap::new();
    loop {
        if leading.wait_for(|leads| *leads).await.is_err()
            || worlds.wait_for(Option::is_some).await.is_err()
        {
            return;
        }
        let Some(world) = worlds.borrow_and_update().clone() else {
            continue;
        };
        let due = due(&world, &mut written);
        if !due.is_empty() {
            settle(&nodes, &worlds).await;
        }
        let reports = nodes.reports();
        let missing = unresolved(&world.mesh);
        for (uid, object, since) in due {
            let notes: Vec<String> = missing
                .iter()
                .filter(|m| {
                    m.object.kind == object.kind.name()
                        && is(&m.object.namespace, &m.object.name, &object)
                })
                .map(|m| format!("{}: {}", m.field, m.missing))
                .collect();
            let status = status(&object, &notes, &active(&reports, since));
            match write(&client, &object, &status).await {
                Ok(()) => drop(written.get_mut(&uid).map(|w| w.done = true)),
                Err(error) => debug!(kind = %object.kind, %error, "a status could not be written"),
            }
        }
        let again = written.values().any(|w| !w.done);
        tokio::select! {
            changed = worlds.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(PATIENCE), if again => worlds.mark_changed(),
        }
    }
}

/// What was last said of an object.
struct Written {
    fingerprint: String,
    /// The first world it was in like this.
    since: u64,
    done: bool,
}

/// Objects whose status is not what it should be, with the first world they were in as they are.
fn due(
    world: &World,
    written: &mut HashMap<String, Written>,
) -> Vec<(String, Arc<ConfigObject>, u64)> {
    let missing = unresolved(&world.mesh);
    let mut due = Vec::new();
    let mut seen = HashMap::with_capacity(world.configs.len());
    for object in world.configs.iter() {
        let Some(uid) = object.object.metadata.uid.clone() else {
            continue;
        };
        let notes = missing
            .iter()
            .filter(|m| is(&m.object.namespace, &m.object.name, object))
            .count();
        let fingerprint = format!(
            "{:?} {} {notes}",
            object.object.metadata.generation,
            object.outcome.is_ok()
        );
        let entry = match written.remove(&uid) {
            Some(known) if known.fingerprint == fingerprint => known,
            _ => Written {
                fingerprint,
                since: world.number,
                done: false,
            },
        };
        if !entry.done {
            due.push((uid.clone(), Arc::clone(object), entry.since));
        }
        seen.insert(uid, entry);
    }
    *written = seen;
    due
}

fn is(namespace: &str, name: &str, object: &ConfigObject) -> bool {
    let metadata = &object.object.metadata;
    metadata.namespace.as_deref() == Some(namespace) && metadata.name.as_deref() == Some(name)
}

/// Waits until every proxy has answered the newest world, within reason.
async fn settle(nodes: &Nodes, worlds: &watch::Receiver<Option<World>>) {
    let settled = async {
        loop {
            tokio::time::sleep(LOOK).await;
            let newest = worlds.borrow().as_ref().map_or(0, |world| world.number);
            if nodes
                .reports()
                .iter()
                .all(|report| report.progress.settled >= newest)
            {
                return;
            }
        }
    };
    // Whoever is slow is counted as not active.
    drop(tokio::time::timeout(PATIENCE, settled).await);
}

/// On how many proxies, of how many, and how long the slowest took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Active {
    on: usize,
    of: usize,
    after: Duration,
    refusals: Vec<String>,
}

fn active(reports: &[NodeReport], since: u64) -> Active {
    let on: Vec<&NodeReport> = reports
        .iter()
        .filter(|report| report.progress.settled >= since)
        .collect();
    let refusals = reports.iter().flat_map(|report| {
        report.progress.refused.iter().map(move |refusal| {
            format!(
                "{} refuses {}: {}",
                report.name,
                refusal.names.join(", "),
                refusal.message
            )
        })
    });
    Active {
        on: on.len(),
        of: reports.len(),
        after: on
            .iter()
            .map(|report| report.progress.after)
            .max()
            .unwrap_or_default(),
        refusals: refusals.collect(),
    }
}

fn status(object: &ConfigObject, unresolved: &[String], active: &Active) -> Value {
    let generation = object.object.metadata.generation.unwrap_or_default();
    let condition = |kind: &str, yes: bool, reason: &str, message: String| {
        json!({
            "type": kind, "status": if yes { "True" } else { "False" }, "reason": reason, "message": message,
            "observedGeneration": generation.to_string(),
            "lastTransitionTime": transition(object, kind, yes),
        })
    };
    let mut messages: Vec<Value> = Vec::new();
    let accepted = match &object.outcome {
        Err(refused) => condition("Accepted", false, "NotHonoured", refused.to_string()),
        Ok(lowered) => {
            let notes = lowered
                .not_honoured
                .iter()
                .map(|note| ("MAL0001", "WARNING", note.to_string()));
            let missing = unresolved
                .iter()
                .map(|text| ("IST0101", "ERROR", text.clone()));
            messages.extend(missing.chain(notes).map(|(code, level, text)| {
                json!({"type": {"code": code}, "level": level, "documentationUrl": "", "message": text})
            }));
            let partly = !lowered.not_honoured.is_empty();
            let reason = if partly { "PartlyHonoured" } else { "Accepted" };
            let text = if partly {
                format!(
                    "{} fields are not honoured, see validationMessages",
                    lowered.not_honoured.len()
                )
            } else {
                String::new()
            };
            condition("Accepted", true, reason, text)
        }
    };
    let everywhere = active.on == active.of && object.outcome.is_ok() && active.refusals.is_empty();
    let mut progress = format!(
        "active on {}/{} proxies, {} ms",
        active.on,
        active.of,
        active.after.as_millis()
    );
    for refusal in &active.refusals {
        progress = format!("{progress}; {refusal}");
    }
    let reason = if active.refusals.is_empty() {
        if everywhere { "Active" } else { "Pending" }
    } else {
        "Refused"
    };
    let reconciled = condition("Reconciled", everywhere, reason, progress);
    json!({"status": {
        "conditions": [accepted, reconciled],
        "validationMessages": messages,
        "observedGeneration": generation.to_string(),
    }})
}

/// When the condition last changed; what stands there is kept while it stays the same.
fn transition(object: &ConfigObject, kind: &str, yes: bool) -> String {
    let wanted = if yes { "True" } else { "False" };
    let conditions = object
        .object
        .data
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    let known = conditions
        .into_iter()
        .flatten()
        .find(|c| c["type"] == kind && c["status"] == wanted);
    match known.and_then(|c| c["lastTransitionTime"].as_str()) {
        Some(time) => time.to_owned(),
        None => jiff::Timestamp::from_second(jiff::Timestamp::now().as_second())
            .unwrap_or_default()
            .to_string(),
    }
}

async fn write(client: &kube::Client, object: &ConfigObject, status: &Value) -> kube::Result<()> {
    let kind = object.kind;
    let resource = ApiResource {
        group: kind.group().to_owned(),
        version: kind.storage_version().to_owned(),
        api_version: format!("{}/{}", kind.group(), kind.storage_version()),
        kind: kind.name().to_owned(),
        plural: kind.plural().to_owned(),
    };
    let metadata = &object.object.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or("default");
    let name = metadata.name.as_deref().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let parameters = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    match api
        .patch_status(name, &parameters, &Patch::Merge(status))
        .await
    {
        // Deleted meanwhile.
        Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
        other => other.map(drop),
    }
}
