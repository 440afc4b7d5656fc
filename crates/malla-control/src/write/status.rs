//! Status of Istio's objects: whether Malla acts on them, what of them it does not honour, on how many
//! of the proxies that use them they are active, and which of these refuse what was made of them.

mod usage;

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use malla_api::Kind;
use malla_api::analyze::{Code, Message, Subject};
use malla_api::status::{Outcome, Progress};
use malla_translate::{Unresolved, unresolved};
use serde_json::Value;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::{api, patch_status};
use crate::index::{ConfigObject, World};
use crate::nodes::{NodeReport, NodeSet, Nodes};
use crate::source::Watched;

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
    let mut denied = Denied::default();
    loop {
        if leading.wait_for(|leads| *leads).await.is_err()
            || worlds.wait_for(Option::is_some).await.is_err()
        {
            return;
        }
        let Some(world) = worlds.borrow_and_update().clone() else {
            continue;
        };
        if remember(&world, &mut written) {
            settle(&nodes, &worlds).await;
        }
        let proxies = nodes.connected().proxies();
        let seen = digest(&proxies);
        let failed = write_changed(&client, &world, &proxies, &mut written, &mut denied).await;
        tokio::select! {
            changed = worlds.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(PATIENCE), if failed => worlds.mark_changed(),
            () = changed(&nodes, seen) => worlds.mark_changed(),
        }
    }
}

/// What was last said of an object.
#[derive(Debug)]
struct Written {
    generation: Option<i64>,
    /// The first world it was in like this.
    since: u64,
    /// What its status says, but for times.
    said: Option<String>,
}

/// Notes the first world of each object; says whether there are new ones.
fn remember(world: &World, written: &mut HashMap<String, Written>) -> bool {
    let mut seen = HashMap::with_capacity(world.configs.len());
    let mut new = false;
    for object in world.configs.iter() {
        let Some(uid) = object.object.metadata.uid.clone() else {
            continue;
        };
        let generation = object.object.metadata.generation;
        let entry = written
            .remove(&uid)
            .filter(|known| known.generation == generation);
        new |= entry.is_none();
        let entry = entry.unwrap_or(Written {
            generation,
            since: world.number,
            said: None,
        });
        seen.insert(uid, entry);
    }
    *written = seen;
    new
}

/// Writes the statuses that say something new; whether one could not be written.
async fn write_changed(
    client: &kube::Client,
    world: &World,
    proxies: &[(NodeReport, Arc<NodeSet>)],
    written: &mut HashMap<String, Written>,
    denied: &mut Denied,
) -> bool {
    let missing = unresolved(&world.mesh);
    let mut failed = false;
    for object in world.configs.iter() {
        let known = object
            .object
            .metadata
            .uid
            .as_ref()
            .and_then(|uid| written.get_mut(uid));
        let Some(known) = known else {
            continue;
        };
        let messages: Vec<Message> = missing
            .iter()
            .filter(|m| {
                m.object.kind == object.kind.name()
                    && is(&m.object.namespace, &m.object.name, object)
            })
            .map(message)
            .collect();
        let progress = progress(
            object,
            proxies,
            &world.mesh.settings.root_namespace,
            known.since,
        );
        let said = said(object, &messages, &progress);
        if known.said.as_ref() == Some(&said) {
            continue;
        }
        let status = status(object, &messages, progress);
        match write(client, object, &status).await {
            Ok(()) => {
                known.said = Some(said);
                denied.0.remove(&object.kind);
            }
            Err(error) => {
                failed = true;
                denied.tell(object.kind, &error);
            }
        }
    }
    failed
}

/// Kinds whose status may not be written. That is said once, and again after it was allowed in between.
#[derive(Debug, Default)]
struct Denied(BTreeSet<Kind>);

impl Denied {
    fn tell(&mut self, kind: Kind, error: &kube::Error) {
        let forbidden = matches!(error, kube::Error::Api(answer) if answer.code == 403);
        if forbidden && self.0.insert(kind) {
            warn!(%kind, %error, "statuses are not written: the control plane's ClusterRole does not allow it");
        } else {
            debug!(%kind, %error, "a status could not be written");
        }
    }
}

/// What a status says, but for times: equal texts need no new one.
fn said(object: &ConfigObject, messages: &[Message], progress: &Progress) -> String {
    let refused = object.outcome.as_ref().err();
    let Progress {
        active,
        of,
        rejections,
        ..
    } = progress;
    format!("{refused:?} {messages:?} {active}/{of} {rejections:?}")
}

/// Completes when proxies have come, gone, refused something or taken it after all.
async fn changed(nodes: &Nodes, seen: u64) {
    while digest(&nodes.connected().proxies()) == seen {
        tokio::time::sleep(PATIENCE).await;
    }
}

/// Changes with what statuses say of proxies.
fn digest(proxies: &[(NodeReport, Arc<NodeSet>)]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (report, _) in proxies {
        (report.connection, report.offered == report.progress.settled).hash(&mut hasher);
        for refusal in &report.progress.refused {
            (&refusal.type_url, &refusal.names, &refusal.message).hash(&mut hasher);
        }
    }
    hasher.finish()
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

/// On how many of the proxies that use the object it is active, and how long the slowest took.
pub(crate) fn progress(
    object: &ConfigObject,
    proxies: &[(NodeReport, Arc<NodeSet>)],
    root: &str,
    since: u64,
) -> Progress {
    let users = proxies
        .iter()
        .filter(|(report, set)| usage::uses(object, report, set, root));
    let mut progress = Progress::default();
    for (report, set) in users {
        progress.of += 1;
        if report.progress.settled >= since {
            progress.active += 1;
            progress.took = progress.took.max(Some(report.progress.after));
        }
        for refusal in &report.progress.refused {
            let names: Vec<&str> = refusal
                .names
                .iter()
                .map(String::as_str)
                .filter(|name| usage::caused(object, set, &refusal.type_url, name))
                .collect();
            if !names.is_empty() {
                progress.rejections.push(format!(
                    "{} refuses {}: {}",
                    report.name,
                    names.join(", "),
                    refusal.message
                ));
            }
        }
    }
    progress
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
    malla_api::status(&outcome, previous, &now.to_string())
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
    let metadata = &object.object.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or("default");
    let name = metadata.name.as_deref().unwrap_or_default();
    let resource = Watched::Istio(object.kind).resource();
    patch_status(&api(client, &resource, Some(namespace)), name, status).await
}
