//! What the cluster holds, kept by one watch per kind.
//!
//! Invariant: the watches are the only writers. Objects are kept without what the console never
//! shows; a pod without most of its spec.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures_util::StreamExt as _;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use malla_api::Kind;
use malla_runtime::task::AbortOnDrop;
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};
use tracing::{info_span, warn};

use crate::history::History;
use crate::yaml::LAST_APPLIED;

/// Events that wait for a slow reader; one that is slower starts over.
const EVENT_BACKLOG: usize = 256;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Watched {
    Namespace,
    Node,
    Pod,
    Service,
    Deployment,
    Istio(Kind),
}

impl Watched {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let builtin = [
            Self::Namespace,
            Self::Node,
            Self::Pod,
            Self::Service,
            Self::Deployment,
        ];
        builtin
            .into_iter()
            .chain(Kind::ALL.into_iter().map(Self::Istio))
    }

    /// How the API server names the kind.
    pub(crate) fn resource(self) -> ApiResource {
        let builtin = |group: &str, kind: &str| {
            ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind))
        };
        match self {
            Self::Namespace => builtin("", "Namespace"),
            Self::Node => builtin("", "Node"),
            Self::Pod => builtin("", "Pod"),
            Self::Service => builtin("", "Service"),
            Self::Deployment => builtin("apps", "Deployment"),
            Self::Istio(kind) => {
                let gvk = GroupVersionKind::gvk(kind.group(), kind.storage_version(), kind.name());
                ApiResource::from_gvk_with_plural(&gvk, kind.plural())
            }
        }
    }
}

/// One object as it was last seen.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) value: Value,
    /// Who wrote its spec last, and when (RFC 3339).
    pub(crate) writer: Option<Writer>,
}

/// From `metadata.managedFields`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Writer {
    pub(crate) name: String,
    pub(crate) time: String,
}

impl Object {
    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.value
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    pub(crate) fn namespace(&self) -> &str {
        self.text("/metadata/namespace")
    }

    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        labels(&self.value)?.get(name)?.as_str()
    }

    pub(crate) fn manager(&self) -> String {
        self.writer
            .as_ref()
            .map_or_else(|| "unknown".to_owned(), |writer| writer.name.clone())
    }
}

pub(crate) fn labels(object: &Value) -> Option<&serde_json::Map<String, Value>> {
    object.pointer("/metadata/labels")?.as_object()
}

/// Whether the labels of `object` are what a selector (a map of strings) asks for; an empty selector selects all.
pub(crate) fn selects(selector: &Value, object: &Value) -> bool {
    let wanted = selector.as_object().into_iter().flatten();
    let have = labels(object);
    wanted
        .into_iter()
        .all(|(name, value)| have.and_then(|have| have.get(name)) == Some(value))
}

/// For `/events`: a name and what it carries.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    pub(crate) name: &'static str,
    pub(crate) data: Value,
}

type Name = (String, String);

#[derive(Debug, Default)]
struct State {
    version: u64,
    kinds: BTreeMap<Watched, BTreeMap<Name, Arc<Object>>>,
}

/// The cluster as the watches see it.
#[derive(Debug)]
pub(crate) struct Mirror {
    state: RwLock<State>,
    events: broadcast::Sender<Told>,
    /// How many kinds have been listed.
    listed: watch::Sender<usize>,
    /// Grows with every change of a pod or service.
    pods: watch::Sender<u64>,
}

impl Mirror {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: RwLock::default(),
            events: broadcast::Sender::new(EVENT_BACKLOG),
            listed: watch::Sender::new(0),
            pods: watch::Sender::new(0),
        })
    }

    /// Starts the watches; they end with the returned tasks.
    #[must_use]
    pub(crate) fn follow(
        self: &Arc<Self>,
        client: &kube::Client,
        history: &Arc<History>,
    ) -> Vec<AbortOnDrop<()>> {
        Watched::all()
            .map(|watched| {
                let (mirror, client, history) =
                    (Arc::clone(self), client.clone(), Arc::clone(history));
                AbortOnDrop::spawn(info_span!("watch", kind = ?watched), async move {
                    mirror.watch(watched, client, &history).await;
                })
            })
            .collect()
    }

    async fn watch(&self, watched: Watched, client: kube::Client, history: &History) {
        let resource = watched.resource();
        let api: Api<DynamicObject> = Api::all_with(client, &resource);
        let stream = watcher::watcher(api, watcher::Config::default()).default_backoff();
        let mut stream = std::pin::pin!(stream);
        let mut list = BTreeMap::new();
        let mut first = true;
        while let Some(event) = stream.next().await {
            match event {
                Ok(Event::Init) => list.clear(),
                Ok(Event::InitApply(object)) => drop(keep(&mut list, read(object, &resource))),
                Ok(Event::InitDone) => {
                    let whole = std::mem::take(&mut list);
                    if let Watched::Istio(kind) = watched {
                        history.relisted(kind.name(), whole.values(), self).await;
                    }
                    self.replace(watched, whole);
                    if std::mem::take(&mut first) {
                        self.listed.send_modify(|count| *count += 1);
                    }
                }
                Ok(Event::Apply(object)) => {
                    let object = self.apply(watched, read(object, &resource));
                    self.tell(watched, &object, "applied");
                    if matches!(watched, Watched::Istio(_)) {
                        history.seen(&object, self).await;
                    }
                }
                Ok(Event::Delete(object)) => {
                    let object = read(object, &resource);
                    self.delete(watched, &object);
                    self.tell(watched, &object, "deleted");
                    if matches!(watched, Watched::Istio(_)) {
                        history.gone(&object, self).await;
                    }
                }
                // Back-off is the stream's; what was known stays known meanwhile.
                Err(error) => warn!(%error, "the watch broke off and will be resumed"),
            }
        }
    }

    /// Waits until every kind has been listed once.
    pub(crate) async fn ready(&self) {
        let all = Watched::all().count();
        // The sender is ours, so this does not fail.
        drop(
            self.listed
                .subscribe()
                .wait_for(|listed| *listed >= all)
                .await,
        );
    }

    pub(crate) fn is_ready(&self) -> bool {
        *self.listed.borrow() >= Watched::all().count()
    }

    /// Grows with every change.
    pub(crate) fn version(&self) -> u64 {
        self.read().version
    }

    pub(crate) fn list(&self, watched: Watched) -> Vec<Arc<Object>> {
        let state = self.read();
        state
            .kinds
            .get(&watched)
            .into_iter()
            .flat_map(|all| all.values().cloned())
            .collect()
    }

    pub(crate) fn get(&self, watched: Watched, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let key = (namespace.to_owned(), name.to_owned());
        self.read().kinds.get(&watched)?.get(&key).cloned()
    }

    /// Hears of every change of a pod or service.
    pub(crate) fn pods_changed(&self) -> watch::Receiver<u64> {
        self.pods.subscribe()
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Told> {
        self.events.subscribe()
    }

    pub(crate) fn listeners(&self) -> usize {
        self.events.receiver_count()
    }

    /// Nobody listening is no error.
    pub(crate) fn publish(&self, name: &'static str, data: Value) {
        drop(self.events.send(Told { name, data }));
    }

    fn tell(&self, watched: Watched, object: &Object, action: &str) {
        match watched {
            Watched::Istio(kind) => self.publish(
                "object",
                json!({
                    "kind": kind.name(), "namespace": object.namespace(), "name": object.name(), "action": action,
                    "active": active(&object.value),
                }),
            ),
            Watched::Pod if has_proxy(&object.value) => {
                self.publish("proxy", json!({"namespace": object.namespace(), "pod": object.name()}));
            }
            _ => {}
        }
    }

    fn replace(&self, watched: Watched, whole: BTreeMap<Name, Arc<Object>>) {
        let mut state = self.write();
        state.version += 1;
        state.kinds.insert(watched, whole);
        drop(state);
        self.note(watched);
    }

    fn apply(&self, watched: Watched, object: Object) -> Arc<Object> {
        let mut state = self.write();
        state.version += 1;
        let object = keep(state.kinds.entry(watched).or_default(), object);
        drop(state);
        self.note(watched);
        object
    }

    fn delete(&self, watched: Watched, object: &Object) {
        let mut state = self.write();
        state.version += 1;
        let key = (object.namespace().to_owned(), object.name().to_owned());
        state.kinds.entry(watched).or_default().remove(&key);
        drop(state);
        self.note(watched);
    }

    fn note(&self, watched: Watched) {
        if matches!(watched, Watched::Pod | Watched::Service) {
            self.pods.send_modify(|count| *count += 1);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep(into: &mut BTreeMap<Name, Arc<Object>>, object: Object) -> Arc<Object> {
    let object = Arc::new(object);
    let key = (object.namespace().to_owned(), object.name().to_owned());
    into.insert(key, Arc::clone(&object));
    object
}

/// From what the API server sends to what is kept.
pub(crate) fn read(mut object: DynamicObject, resource: &ApiResource) -> Object {
    let fields = object.metadata.managed_fields.take().unwrap_or_default();
    let written = fields
        .into_iter()
        .filter(|entry| entry.subresource.as_deref().unwrap_or_default().is_empty());
    let writer = written
        .filter_map(|entry| {
            Some(Writer {
                name: entry.manager?,
                time: entry
                    .time
                    .map(|time| time.0.to_string())
                    .unwrap_or_default(),
            })
        })
        .max_by(|a, b| a.time.cmp(&b.time));
    // What was read as JSON can be written as JSON.
    let mut value = serde_json::to_value(object).unwrap_or_default();
    value["apiVersion"] = json!(resource.api_version);
    value["kind"] = json!(resource.kind);
    if resource.kind == "Pod" {
        slim(&mut value);
    }
    Object { value, writer }
}

/// A pod without its containers' details.
fn slim(pod: &mut Value) {
    for list in ["/spec/containers", "/spec/initContainers"] {
        for container in pod
            .pointer_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(fields) = container.as_object_mut() {
                fields.retain(|name, _| {
                    ["name", "image", "ports", "restartPolicy"].contains(&name.as_str())
                });
            }
        }
    }
    for (holder, field) in [
        ("/spec", "volumes"),
        ("/spec", "tolerations"),
        ("/metadata/annotations", LAST_APPLIED),
    ] {
        if let Some(fields) = pod.pointer_mut(holder).and_then(Value::as_object_mut) {
            fields.remove(field);
        }
    }
}

/// Whether a pod runs a proxy of the mesh, as a container or as an init container that stays.
pub(crate) fn has_proxy(pod: &Value) -> bool {
    containers(pod).any(|name| name == "istio-proxy")
}

/// Names of a pod's containers, init containers included.
pub(crate) fn containers(pod: &Value) -> impl Iterator<Item = &str> {
    ["/spec/containers", "/spec/initContainers"]
        .into_iter()
        .filter_map(|list| pod.pointer(list)?.as_array())
        .flatten()
        .filter_map(|container| container.get("name")?.as_str())
}

/// On how many proxies the object's present form is active: `{acked, total, ms}`, or null while
/// nobody has said.
pub(crate) fn active(object: &Value) -> Value {
    let generation = object
        .pointer("/metadata/generation")
        .and_then(Value::as_i64)
        .unwrap_or_default();
    let status = object.get("status").unwrap_or(&Value::Null);
    match malla_api::status::progress(status, generation) {
        Some(progress) => json!({
            "acked": progress.active, "total": progress.of,
            "ms": progress.took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
        }),
        None => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_writer_of_the_spec_is_known() {
        let resource = Watched::Istio(Kind::Gateway).resource();
        let field = |manager: &str, time: &str, subresource: &str| json!({"manager": manager, "time": time, "subresource": subresource, "operation": "Update"});
        let object = json!({"metadata": {"name": "g", "managedFields": [
            field("kubectl", "2026-01-01T00:00:00Z", ""),
            field("malla-console", "2026-01-02T00:00:00Z", ""),
            field("istiod", "2026-01-03T00:00:00Z", "status"),
        ]}});
        let read = read(serde_json::from_value(object).unwrap(), &resource);
        assert_eq!(read.manager(), "malla-console");
        assert!(read.value["metadata"].get("managedFields").is_none());
        assert_eq!(read.value["kind"], "Gateway");
    }

    #[test]
    fn a_selector_asks_for_all_of_its_labels() {
        let pod = json!({"metadata": {"labels": {"app": "cart", "version": "v1"}}});
        assert!(selects(&json!({"app": "cart"}), &pod));
        assert!(selects(&json!({}), &pod));
        assert!(!selects(&json!({"app": "cart", "version": "v2"}), &pod));
        assert!(!selects(&json!({"app": "cart"}), &json!({"metadata": {}})));
    }
}
