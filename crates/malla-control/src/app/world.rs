//! Keeps the world: takes changes in, and publishes a new world when they have come to rest.
//!
//! A change after a quiet time is published almost at once; a burst waits until it is over, or at
//! most ten seconds (Istio: `PILOT_DEBOUNCE_AFTER` 100 ms, `PILOT_DEBOUNCE_MAX` 10 s).

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use malla_model::{MeshSettings, Secrets};
use malla_runtime::ready::Gate;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info};

use crate::index::{Index, World};
use crate::source::Update;
use crate::webhook::review::NamespaceLabels;

/// How long a first change waits for others that belong to it, such as the rest of one file.
const AT_ONCE: Duration = Duration::from_millis(10);
/// How long a burst must be over.
const QUIET: Duration = Duration::from_millis(100);
/// How long a burst may hold the world back.
const LONGEST: Duration = Duration::from_secs(10);

/// Where changes come from.
pub(super) struct Input {
    pub(super) updates: mpsc::Receiver<Update>,
    pub(super) secrets: watch::Receiver<Arc<Secrets>>,
}

impl Input {
    /// Takes the next change into the index; whether a new world is due. `None` when there will be
    /// no more.
    async fn next(&mut self, index: &mut Index) -> Option<bool> {
        tokio::select! {
            update = self.updates.recv() => Some(index.apply(update?)),
            Ok(()) = self.secrets.changed() => {
                index.set_secrets(Arc::clone(&self.secrets.borrow_and_update()));
                Some(true)
            }
        }
    }

    /// As [`Input::next`]; `None` also when the time has come.
    async fn next_until(&mut self, index: &mut Index, time: Instant) -> Option<bool> {
        tokio::select! {
            biased;
            next = self.next(index) => next,
            () = sleep_until(time) => None,
        }
    }
}

pub(super) async fn keep(
    mut input: Input,
    defaults: MeshSettings,
    worlds: watch::Sender<Option<World>>,
    namespaces: Arc<ArcSwap<NamespaceLabels>>,
    listed: Gate,
) {
    let mut index = Index::new(defaults);
    let mut published: Option<Instant> = None;
    while let Some(mut due) = input.next(&mut index).await {
        let first = Instant::now();
        let busy = published.is_none_or(|at| first.duration_since(at) < QUIET);
        let rest = if busy { QUIET } else { AT_ONCE };
        let mut until = first + rest;
        while let Some(more) = input
            .next_until(&mut index, until.min(first + LONGEST))
            .await
        {
            due |= more;
            // Lists that arrive while starting are complete when the last one is: no need to wait.
            if published.is_none() && index.is_complete() {
                break;
            }
            until = Instant::now() + rest;
        }
        if !index.is_complete() || !(due || published.is_none()) {
            continue;
        }
        let world = index.world();
        debug!(world = world.number, services = world.mesh.services.len(), took = ?first.elapsed(), "a new world");
        namespaces.store(Arc::clone(&world.namespaces));
        worlds.send_replace(Some(world));
        if published.is_none() {
            info!("the cluster's objects are known");
            listed.open();
        }
        published = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use malla_runtime::ready::Readiness;

    use super::*;
    use crate::source::{Change, Watched};

    #[tokio::test]
    async fn a_world_comes_when_all_is_listed_and_after_a_change() {
        let (send, updates) = mpsc::channel(64);
        let (worlds, mut world) = watch::channel(None);
        let readiness = Readiness::new();
        let gate = readiness.gate("lists");
        let namespaces = Arc::new(ArcSwap::default());
        let (secrets, read) = watch::channel(Arc::default());
        let input = Input {
            updates,
            secrets: read,
        };
        let keeping = tokio::spawn(keep(
            input,
            MeshSettings::default(),
            worlds,
            Arc::clone(&namespaces),
            gate,
        ));
        for watched in Watched::all() {
            assert!(world.borrow().is_none());
            send.send((watched, Change::Replaced(vec![])))
                .await
                .unwrap();
        }
        world.changed().await.unwrap();
        assert!(readiness.is_ready());

        let namespace = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "base", "labels": {"a": "b"}}});
        let namespace = Arc::new(serde_json::from_value(namespace).unwrap());
        send.send((Watched::Namespace, Change::Applied(namespace)))
            .await
            .unwrap();
        world.changed().await.unwrap();
        assert_eq!(namespaces.load()["base"]["a"], "b");

        let known = Secrets {
            namespaces: [("base".into(), Arc::default())].into(),
        };
        secrets.send_replace(Arc::new(known.clone()));
        world.changed().await.unwrap();
        let mesh = world.borrow().as_ref().map(|world| Arc::clone(&world.mesh));
        assert_eq!(*mesh.unwrap().secrets, known);
        drop(send);
        keeping.await.unwrap();
    }
}
