//! Status of Istio's objects: whether Malla acts on them, what of them it does not honour, and on
//! how many proxies they are active.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use malla_api::analyze::{Code, Message, Subject};
use malla_api::status::{Outcome, Progress};
use malla_translate::{Unresolved, unresolved};
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
            let messages: Vec<Message> = missing
                .iter()
                .filter(|m| {
                    m.object.kind == object.kind.name()
                        && is(&m.object.namespace, &m.object.name, &object)
                })
                .map(message)
                .collect();
            let status = status(&object, &messages, progress(&reports, since));
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
fn progress(reports: &[NodeReport], since: u64) -> Progress {
    let on: Vec<&NodeReport> = reports
        .iter()
        .filter(|report| report.progress.settled >= since)
        .collect();
    let rejections = reports.iter().flat_map(|report| {
        report.progress.refused.iter().map(move |refusal| {
            format!(
                "{} refuses {}: {}",
                report.name,
                refusal.names.join(", "),
                refusal.message
            )
        })
    });
    Progress {
        active: on.len(),
        of: reports.len(),
        took: on.iter().map(|report| report.progress.after).max(),
        rejections: rejections.collect(),
    }
}

/// The new status over the one that stands.
fn status(object: &ConfigObject, messages: &[Message], progress: Progress) -> Value {
    let outcome = Outcome {
        generation: object.object.metadata.generation.unwrap_or_default(),
        refused: object.outcome.as_ref().err(),
        not_honoured: match &object.outcome {
            Ok(lowered) => &lowered.not_honoured,
            Err(_) => &[],
        },
        messages,
        progress: Some(progress),
    };
    let previous = object.object.data.get("status").unwrap_or(&Value::Null);
    let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap_or_default();
    json!({"status": malla_api::status(&outcome, previous, &now.to_string())})
}

/// A reference to something that is not there, as the analyzer says it.
fn message(unresolved: &Unresolved) -> Message {
    Message {
        code: Code::ReferencedResourceNotFound,
        subject: Subject {
            kind: unresolved.object.kind.to_owned(),
            namespace: unresolved.object.namespace.to_string(),
            name: unresolved.object.name.to_string(),
            source: None,
        },
        field: Some(unresolved.field.clone()),
        text: unresolved.missing.to_string(),
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
