//! One watch per kind, shared by everything in the process that reacts to the kind.
//!
//! Invariants: listeners see every object's last state, in order; a broken or expired watch is
//! replaced by a list whose differences are delivered as changes, so nobody can tell; listeners
//! are called on the feed's task and only note what there is to do.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use malla_apiserver::{ApiError, Client, ListParams, Resource, WatchEvent};
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;

use crate::object::Key;

/// Pause before a watch that ended with an error is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// What happened to one object.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) key: Key,
    pub(crate) old: Option<Arc<Value>>,
    /// `None`: it was deleted.
    pub(crate) new: Option<Arc<Value>>,
}

impl Change {
    /// The object, or what it last was.
    pub(crate) fn object(&self) -> Option<&Arc<Value>> {
        self.new.as_ref().or(self.old.as_ref())
    }
}

type Listener = Box<dyn Fn(&Change) + Send + Sync>;

/// Changes of one resource. Listeners are added before [`Feed::start`].
pub(crate) struct Feed {
    resource: Resource,
    listeners: Vec<Listener>,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Feed").field(&self.resource).finish()
    }
}

impl Feed {
    pub(crate) fn of(resource: Resource) -> Self {
        Self {
            resource,
            listeners: Vec::new(),
        }
    }

    pub(crate) fn listen(&mut self, listener: impl Fn(&Change) + Send + Sync + 'static) {
        self.listeners.push(Box::new(listener));
    }

    /// Follows the resource until the handle is dropped.
    pub(crate) fn start(self, client: Client) -> AbortOnDropHandle<()> {
        AbortOnDropHandle::new(tokio::spawn(async move {
            let known = Mutex::default();
            loop {
                if let Err(error) = self.follow(&client, &known).await {
                    let resource = &self.resource;
                    tracing::debug!(%resource, error = error.message(), "list again");
                }
                tokio::time::sleep(RETRY).await;
            }
        }))
    }

    async fn follow(&self, client: &Client, known: &Known) -> Result<(), ApiError> {
        let listed = client.list(&self.resource, None, &ListParams::default())?;
        let mut watch = client.watch(
            &self.resource,
            None,
            &ListParams::default(),
            listed.resource_version,
        )?;
        self.replace(listed.items, known);
        while let Some(event) = watch.next().await {
            match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    self.put(object, known);
                }
                WatchEvent::Deleted(object) => self.remove(&Key::of(&object), object, known),
                WatchEvent::Bookmark(_) => {}
            }
        }
        Ok(())
    }

    fn replace(&self, items: Vec<Arc<Value>>, known: &Known) {
        let mut gone = lock(known).clone();
        for item in items {
            gone.remove(&Key::of(&item));
            self.put(item, known);
        }
        for (key, object) in gone {
            self.remove(&key, object, known);
        }
    }

    fn put(&self, object: Arc<Value>, known: &Known) {
        let key = Key::of(&object);
        let old = lock(known).insert(key.clone(), Arc::clone(&object));
        if old
            .as_ref()
            .is_some_and(|old| version(old) == version(&object))
        {
            return;
        }
        self.tell(&Change {
            key,
            old,
            new: Some(object),
        });
    }

    fn remove(&self, key: &Key, last: Arc<Value>, known: &Known) {
        lock(known).remove(key);
        self.tell(&Change {
            key: key.clone(),
            old: Some(last),
            new: None,
        });
    }

    fn tell(&self, change: &Change) {
        for listener in &self.listeners {
            listener(change);
        }
    }
}

type Known = Mutex<BTreeMap<Key, Arc<Value>>>;

fn lock(known: &Known) -> std::sync::MutexGuard<'_, BTreeMap<Key, Arc<Value>>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

fn version(object: &Value) -> Option<&str> {
    object.pointer("/metadata/resourceVersion")?.as_str()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use malla_apiserver::kinds;
    use serde_json::{Value, json};

    use super::Feed;

    fn object(name: &str, version: u32) -> Arc<Value> {
        let metadata = json!({"name": name, "resourceVersion": version.to_string()});
        Arc::new(json!({"metadata": metadata}))
    }

    #[test]
    fn a_list_after_a_gap_is_told_as_changes() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let mut feed = Feed::of(kinds::PODS);
        let listener = Arc::clone(&told);
        feed.listen(move |change| {
            let what = match (&change.old, &change.new) {
                (None, Some(_)) => "+",
                (Some(_), Some(_)) => "~",
                _ => "-",
            };
            listener
                .lock()
                .unwrap()
                .push(format!("{what}{}", change.key));
        });
        let known = Mutex::default();
        feed.replace(vec![object("a", 1), object("b", 2)], &known);
        feed.put(object("b", 2), &known);
        feed.replace(vec![object("b", 5), object("c", 4)], &known);
        assert_eq!(*told.lock().unwrap(), ["+a", "+b", "~b", "+c", "-a"]);
    }
}
