//! Keeps the world: takes changes in, and publishes a new world when they have come to rest.
//!
//! A change after a quiet time is published almost at once; a burst waits until it is over, or at
//! most ten seconds (Istio: `PILOT_DEBOUNCE_AFTER` 100 ms, `PILOT_DEBOUNCE_MAX` 10 s).

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use malla_model::MeshSettings;
use malla_runtime::ready::Gate;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
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

pub(super) async fn keep(
    mut updates: mpsc::Receiver<Update>,
    defaults: MeshSettings,
    worlds: watch::Sender<Option<World>>,
    namespaces: Arc<ArcSwap<NamespaceLabels>>,
    listed: Gate,
) {
    let mut index = Index::new(defaults);
    let mut published: Option<Instant> = None;
    while let Some(update) = updates.recv().await {
        let mut due = index.apply(update);
        let first = Instant::now();
        let busy = published.is_none_or(|at| first.duration_since(at) < QUIET);
        let rest = if busy { QUIET } else { AT_ONCE };
        let mut until = first + rest;
        while let Ok(Some(update)) = timeout_at(until.min(first + LONGEST), updates.recv()).await {
            due |= index.apply(update);
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
        let keeping = tokio::spawn(keep(
            updates,
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
        drop(send);
        keeping.await.unwrap();
    }
}
