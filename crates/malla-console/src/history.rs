//! Every change of Istio's objects, whoever made it: who, when, before and after.
//!
//! Fed by the watches and, for changes made here, by the call that made them; whichever comes first
//! records the change, the other finds nothing new. A change is on disk before the call that made
//! it is answered. Bounded in number and bytes: the oldest go first.

mod log;

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Mutex;
use tracing::{error, warn};

use crate::mirror::{Mirror, Object};
use crate::yaml::print;
use log::Log;

/// Most changes kept.
const MOST_CHANGES: usize = 1000;
/// Most bytes of YAML kept.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// Deletions by others do not say who.
const NOBODY_KNOWN: &str = "unknown";

/// One change of one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) id: String,
    /// RFC 3339.
    pub(crate) time: String,
    pub(crate) who: String,
    pub(crate) action: Action,
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// YAML; absent for a creation.
    pub(crate) before: Option<String>,
    /// YAML; absent for a deletion.
    pub(crate) after: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    Create,
    Update,
    Delete,
}

impl Change {
    fn bytes(&self) -> usize {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        length(&self.before) + length(&self.after) + length(&self.note)
    }
}

/// Who made a change here, and why.
#[derive(Debug, Clone)]
pub(crate) struct Author {
    pub(crate) who: String,
    pub(crate) note: Option<String>,
}

type Key = (String, String, String);

/// The last form of an object; `None` once it is gone, so that an event from before is not taken for a creation.
#[derive(Debug)]
struct Known {
    yaml: Option<String>,
    version: u64,
}

#[derive(Debug)]
struct State {
    changes: VecDeque<Change>,
    bytes: usize,
    known: HashMap<Key, Known>,
    next: u64,
    /// When the log was empty as it was opened, what is there already is recorded as created.
    fresh: bool,
}

/// The history.
#[derive(Debug)]
pub(crate) struct History {
    state: Mutex<State>,
    log: Option<Arc<std::sync::Mutex<Log>>>,
    /// Why the last change is not saved.
    unsaved: std::sync::Mutex<Option<String>>,
}

impl History {
    /// Opens the file, or begins it; without one, or when it can be neither read nor made, the
    /// history ends with the process. What cannot be saved must not keep the mesh from being seen.
    pub(crate) fn open(path: Option<&Path>) -> Self {
        let (mut log, mut read, mut unsaved) = (None, Vec::new(), None);
        if let Some(path) = path {
            match Log::open(path) {
                Ok((opened, changes)) => {
                    log = Some(Arc::new(std::sync::Mutex::new(opened)));
                    read = changes;
                }
                Err(error) => {
                    let path = path.display();
                    error!(%error, %path, "the history is not kept (is its folder there and writable?)");
                    unsaved = Some(format!("{path} cannot be opened: {error}"));
                }
            }
        }
        let mut state = State {
            changes: VecDeque::new(),
            bytes: 0,
            known: HashMap::new(),
            next: 1,
            fresh: read.is_empty(),
        };
        for change in read {
            let key = (
                change.kind.clone(),
                change.namespace.clone(),
                change.name.clone(),
            );
            let yaml = change.after.clone();
            state.next = state.next.max(change.id.parse().unwrap_or(0) + 1);
            state.known.insert(key, Known { yaml, version: 0 });
            state.push(change);
        }
        Self {
            state: Mutex::new(state),
            log,
            unsaved: std::sync::Mutex::new(unsaved),
        }
    }

    /// Why changes are not saved, while they are not.
    pub(crate) fn unsaved(&self) -> Option<String> {
        let unsaved = self.unsaved.lock();
        unsaved.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_saved(&self, problem: Option<String>) {
        let mut unsaved = self.unsaved.lock().unwrap_or_else(PoisonError::into_inner);
        *unsaved = problem;
    }

    /// A watch shows an object.
    pub(crate) async fn seen(&self, object: &Object, mirror: &Mirror) {
        let mut state = self.state.lock().await;
        let change = state.note(object, None);
        self.keep(&state, change, mirror).await;
    }

    /// A watch shows that an object is gone.
    pub(crate) async fn gone(&self, object: &Object, mirror: &Mirror) {
        let mut state = self.state.lock().await;
        let change = state.note_gone(&key(object), version(object), None);
        self.keep(&state, change, mirror).await;
    }

    /// A watch starts over with all objects of a kind.
    pub(crate) async fn relisted(
        &self,
        kind: &str,
        objects: impl Iterator<Item = &Arc<Object>>,
        mirror: &Mirror,
    ) {
        let mut state = self.state.lock().await;
        let mut there = Vec::new();
        let mut changes = Vec::new();
        for object in objects {
            there.push(key(object));
            changes.extend(state.note(object, None));
        }
        let missing = state
            .known
            .keys()
            .filter(|key| key.0 == kind && !there.contains(key));
        for key in missing.cloned().collect::<Vec<_>>() {
            changes.extend(state.note_gone(&key, 0, None));
            state.known.remove(&key);
        }
        for change in changes {
            self.keep(&state, Some(change), mirror).await;
        }
    }

    /// Somebody has written an object here; the id of that change, or `None` if it changed nothing.
    pub(crate) async fn written(
        &self,
        object: &Object,
        author: &Author,
        mirror: &Mirror,
    ) -> Option<String> {
        let mut state = self.state.lock().await;
        let (before, yaml) = (state.next, print(&object.value));
        let change = state.note(object, Some(author));
        let change = match change {
            Some(change) => Some(change),
            // The watch was faster: the change is there, without its author.
            None => state.sign(&key(object), Some(&yaml), author),
        };
        let id = change.as_ref().map(|change| change.id.clone());
        debug_assert!(state.next >= before);
        self.keep(&state, change, mirror).await;
        id
    }

    /// Somebody has deleted an object here, which was last like this.
    pub(crate) async fn removed(
        &self,
        object: &Object,
        author: &Author,
        mirror: &Mirror,
    ) -> Option<String> {
        let mut state = self.state.lock().await;
        let change = match state.note_gone(&key(object), version(object), Some(author)) {
            Some(change) => Some(change),
            None => state.sign(&key(object), None, author),
        };
        let id = change.as_ref().map(|change| change.id.clone());
        self.keep(&state, change, mirror).await;
        id
    }

    /// Changes that `wanted` picks, the newest first.
    pub(crate) async fn list(&self, most: usize, wanted: impl Fn(&Change) -> bool) -> Vec<Change> {
        let state = self.state.lock().await;
        let newest_first = state.changes.iter().rev();
        newest_first
            .filter(|change| wanted(change))
            .take(most)
            .cloned()
            .collect()
    }

    pub(crate) async fn get(&self, id: &str) -> Option<Change> {
        let state = self.state.lock().await;
        state.changes.iter().find(|change| change.id == id).cloned()
    }

    /// Writes a change down and tells whoever listens. The state's lock is held, so that the file has the same order.
    async fn keep(&self, state: &State, change: Option<Change>, mirror: &Mirror) {
        let Some(change) = change else { return };
        mirror.publish(
            "change",
            json!({"id": change.id, "kind": change.kind, "namespace": change.namespace, "name": change.name, "who": change.who}),
        );
        let Some(log) = self.log.clone() else { return };
        // Only a log that has grown well past its contents is written anew.
        let whole = {
            let log = log.lock().unwrap_or_else(PoisonError::into_inner);
            (log.lines() > 2 * MOST_CHANGES || log.bytes() > 3 * MOST_BYTES)
                .then(|| state.changes.iter().cloned().collect::<Vec<_>>())
        };
        let written = tokio::task::spawn_blocking(move || {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            match whole {
                Some(changes) => log.rewrite(&changes),
                None => log.append(&change),
            }
        });
        match written.await {
            Ok(Ok(())) => self.note_saved(None),
            Ok(Err(error)) => {
                self.note_saved(Some(error.to_string()));
                error!(%error, "a change is not saved: the history will miss it after a restart (is the disk full?)")
            }
            Err(error) => warn!(%error, "a change was being saved as the process stopped"),
        }
    }
}

impl State {
    fn note(&mut self, object: &Object, author: Option<&Author>) -> Option<Change> {
        let (key, version, yaml) = (key(object), version(object), print(&object.value));
        let before = match self.known.get(&key) {
            // From before what is known already.
            Some(known) if version != 0 && version <= known.version => return None,
            Some(known) => known.yaml.clone(),
            None => None,
        };
        let unknown = !self.known.contains_key(&key);
        let known = Known {
            yaml: Some(yaml.clone()),
            version,
        };
        self.known.insert(key.clone(), known);
        if before.as_ref() == Some(&yaml) {
            return None;
        }
        let written = object.writer.as_ref();
        let time = match (author, written) {
            (None, Some(writer)) => writer.time.clone(),
            _ => now(),
        };
        let forgotten = !self.fresh
            && self
                .changes
                .front()
                .is_some_and(|oldest| oldest.time > time);
        if unknown && author.is_none() && forgotten {
            return None; // It is older than what is kept.
        }
        let who = author.map_or_else(|| object.manager(), |author| author.who.clone());
        let note = author.and_then(|author| author.note.clone());
        Some(self.add(key, time, who, before, Some(yaml), note))
    }

    fn note_gone(&mut self, key: &Key, version: u64, author: Option<&Author>) -> Option<Change> {
        let known = self.known.get_mut(key)?;
        known.version = known.version.max(version);
        let before = known.yaml.take()?;
        let who = author.map_or(NOBODY_KNOWN, |author| &author.who).to_owned();
        let note = author.and_then(|author| author.note.clone());
        Some(self.add(key.clone(), now(), who, Some(before), None, note))
    }

    /// Names the author of the newest change of an object, if it led to that form and has none yet.
    fn sign(&mut self, key: &Key, after: Option<&str>, author: &Author) -> Option<Change> {
        let of_object = |change: &&mut Change| {
            change.kind == key.0 && change.namespace == key.1 && change.name == key.2
        };
        let change = self.changes.iter_mut().rev().find(of_object)?;
        let unsigned = change.who == NOBODY_KNOWN || change.who == crate::cluster::MANAGER;
        if change.after.as_deref() != after || !unsigned {
            return None;
        }
        change.who.clone_from(&author.who);
        change.note.clone_from(&author.note);
        Some(change.clone())
    }

    fn add(
        &mut self,
        (kind, namespace, name): Key,
        time: String,
        who: String,
        before: Option<String>,
        after: Option<String>,
        note: Option<String>,
    ) -> Change {
        let action = match (&before, &after) {
            (None, _) => Action::Create,
            (_, Some(_)) => Action::Update,
            (_, None) => Action::Delete,
        };
        let change = Change {
            id: self.next.to_string(),
            time,
            who,
            action,
            kind,
            namespace,
            name,
            before,
            after,
            note,
        };
        self.next += 1;
        self.push(change.clone());
        change
    }

    fn push(&mut self, change: Change) {
        self.bytes += change.bytes();
        self.changes.push_back(change);
        while self.changes.len() > MOST_CHANGES
            || (self.bytes > MOST_BYTES && self.changes.len() > 1)
        {
            if let Some(oldest) = self.changes.pop_front() {
                self.bytes -= oldest.bytes();
            }
        }
    }
}

fn key(object: &Object) -> Key {
    (
        object.text("/kind").to_owned(),
        object.namespace().to_owned(),
        object.name().to_owned(),
    )
}

/// Kubernetes promises since 1.35 that they can be compared as numbers; 0 is "cannot tell".
fn version(object: &Object) -> u64 {
    object
        .text("/metadata/resourceVersion")
        .parse()
        .unwrap_or(0)
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::Writer;

    fn object(version: u64, host: &str, manager: &str) -> Object {
        Object {
            value: json!({
                "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
                "metadata": {"namespace": "base", "name": "a", "resourceVersion": version.to_string()},
                "spec": {"hosts": [host]}, "status": {"version": version},
            }),
            writer: Some(Writer {
                name: manager.into(),
                time: format!("2026-01-01T00:00:0{version}Z"),
            }),
        }
    }

    fn author() -> Author {
        Author {
            who: "ann".into(),
            note: Some("why".into()),
        }
    }

    async fn lines(history: &History) -> Vec<String> {
        let changes = history.list(100, |_| true).await;
        changes
            .iter()
            .map(|c| {
                format!(
                    "{} {:?} {} {}",
                    c.id,
                    c.action,
                    c.who,
                    c.note.as_deref().unwrap_or("-")
                )
            })
            .collect()
    }

    #[tokio::test]
    async fn a_change_is_recorded_once_with_its_author() {
        let (history, mirror) = (History::open(None), Mirror::new());
        history.seen(&object(1, "x", "kubectl"), &mirror).await;
        // Only the status differs.
        history.seen(&object(2, "x", "kubectl"), &mirror).await;
        // The call comes first, then the watch.
        let id = history
            .written(&object(3, "ya", "malla-console"), &author(), &mirror)
            .await;
        history
            .seen(&object(3, "ya", "malla-console"), &mirror)
            .await;
        assert_eq!(id.as_deref(), Some("2"));
        // The watch comes first, then the call.
        history
            .seen(&object(4, "za", "malla-console"), &mirror)
            .await;
        let id = history
            .written(&object(4, "za", "malla-console"), &author(), &mirror)
            .await;
        assert_eq!(id.as_deref(), Some("3"));
        // A late event of an old form is no change.
        history
            .seen(&object(3, "ya", "malla-console"), &mirror)
            .await;
        let id = history
            .removed(&object(4, "za", ""), &author(), &mirror)
            .await;
        assert_eq!(id.as_deref(), Some("4"));
        history
            .seen(&object(4, "za", "malla-console"), &mirror)
            .await;
        history.gone(&object(5, "za", ""), &mirror).await;
        assert_eq!(
            lines(&history).await,
            [
                "4 Delete ann why",
                "3 Update ann why",
                "2 Update ann why",
                "1 Create kubectl -"
            ]
        );
        let update = history.get("3").await.unwrap();
        assert!(update.before.unwrap().contains("- ya") && update.after.unwrap().contains("- za"));
    }

    #[tokio::test]
    async fn it_outlives_its_process_and_a_torn_last_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        let mirror = Mirror::new();
        {
            let history = History::open(Some(&path));
            history.seen(&object(1, "x", "kubectl"), &mirror).await;
            history
                .written(&object(2, "ya", "malla-console"), &author(), &mirror)
                .await;
        }
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("{\"id\": \"3\", \"ti");
        std::fs::write(&path, text).unwrap();
        let history = History::open(Some(&path));
        assert_eq!(
            lines(&history).await,
            ["2 Update ann why", "1 Create kubectl -"]
        );
        // What happened meanwhile is noticed, what is as before is not.
        history
            .relisted(
                "VirtualService",
                [&Arc::new(object(2, "ya", "malla-console"))].into_iter(),
                &mirror,
            )
            .await;
        assert_eq!(lines(&history).await.len(), 2);
        history
            .relisted("VirtualService", [].into_iter(), &mirror)
            .await;
        assert_eq!(lines(&history).await[0], "3 Delete unknown -");
        drop(history);
        assert_eq!(lines(&History::open(Some(&path))).await.len(), 3);
    }

    #[tokio::test]
    async fn the_oldest_go_first() {
        let (history, mirror) = (History::open(None), Mirror::new());
        for version in 1..=(MOST_CHANGES as u64 + 5) {
            let mut object = object(1, &version.to_string(), "kubectl");
            object.value["metadata"]["resourceVersion"] = json!(version.to_string());
            history.seen(&object, &mirror).await;
        }
        let all = history.list(usize::MAX, |_| true).await;
        assert_eq!(
            (all.len(), all.last().unwrap().id.as_str()),
            (MOST_CHANGES, "6")
        );
    }

    #[tokio::test]
    async fn a_history_that_cannot_be_kept_says_so_and_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let history = History::open(Some(&file.join("changes.jsonl")));
        assert!(history.unsaved().unwrap().contains("changes.jsonl"));
        history.seen(&object(1, "a", "x"), &Mirror::new()).await;
        assert_eq!(lines(&history).await.len(), 1);
        assert!(History::open(None).unsaved().is_none());
    }
}
