//! A world, and what of it proxies share: each part is made when the first of them needs it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use malla_model::Service;
use malla_translate::{Distinctions, NodeView, Part, Upstreams, View};
use malla_xds_proto::type_url;

use super::layer::Layer;
use crate::index::World;

/// One part for all nodes that come to the same.
#[derive(Debug, Clone)]
pub(super) struct Shared(Vec<(&'static str, Arc<Layer>)>);

impl Shared {
    /// Its layers and their types.
    pub(super) fn layers(&self) -> impl Iterator<Item = (&'static str, &Arc<Layer>)> {
        self.0.iter().map(|(url, layer)| (*url, layer))
    }

    fn layer(&self, type_url: &str) -> Option<&Arc<Layer>> {
        self.layers()
            .find(|(url, _)| *url == type_url)
            .map(|(_, layer)| layer)
    }
}

/// A part, and the node without what it does not depend on.
type Key = (Part, NodeView);

/// One world for all proxies.
#[derive(Debug)]
pub(crate) struct SharedWorld {
    pub(super) world: World,
    distinctions: Arc<Distinctions>,
    parts: Mutex<HashMap<Key, Arc<OnceLock<Shared>>>>,
    /// Only until the next world comes.
    before: Mutex<Option<Before>>,
}

/// The world that stood before.
#[derive(Debug, Clone)]
struct Before {
    shared: Arc<SharedWorld>,
    /// Services whose endpoints changed, as they are now; `None` where more than endpoints changed.
    endpoints: Option<Arc<[Arc<Service>]>>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves whole values: every change is one assignment.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SharedWorld {
    pub(super) fn new(world: World, before: Option<Arc<Self>>) -> Arc<Self> {
        let before = before.map(|shared| {
            lock(&shared.before).take();
            let endpoints = world.mesh.endpoints_since(&shared.world.mesh);
            Before {
                endpoints: endpoints.map(|all| all.into_iter().cloned().collect()),
                shared,
            }
        });
        let known = before.as_ref().filter(|before| before.endpoints.is_some());
        let distinctions = match known {
            Some(before) => Arc::clone(&before.shared.distinctions),
            None => Arc::new(Distinctions::of(&world.mesh)),
        };
        Arc::new(Self {
            world,
            distinctions,
            parts: Mutex::default(),
            before: Mutex::new(before),
        })
    }

    /// Services whose endpoints, and nothing else but workloads, have changed since the world of that number.
    /// `None` where that is not known, or more has changed.
    pub(super) fn endpoints_since(&self, number: u64) -> Option<Arc<[Arc<Service>]>> {
        let before = lock(&self.before);
        let before = before.as_ref()?;
        let endpoints = before.endpoints.as_ref()?;
        (before.shared.world.number == number).then(|| Arc::clone(endpoints))
    }

    /// A part of what a node is sent.
    pub(super) fn part(&self, node: &NodeView, part: Part) -> Shared {
        let node = self.distinctions.reduced(&self.world.mesh, node, part);
        let key = (part, node);
        let cell = {
            let mut parts = lock(&self.parts);
            match parts.get(&key) {
                Some(cell) => Arc::clone(cell),
                None => Arc::clone(parts.entry(key.clone()).or_default()),
            }
        };
        // Not under the lock: others are needed meanwhile. Who needs this very one waits for it.
        cell.get_or_init(|| self.make(&key)).clone()
    }

    fn make(&self, key: &Key) -> Shared {
        let before = lock(&self.before).clone();
        let known = before.as_ref().and_then(|before| {
            let cell = lock(&before.shared.parts).get(key).cloned();
            cell?.get().cloned()
        });
        let (part, node) = key;
        let view = View::new(&self.world.mesh, node);
        let endpoints = before.and_then(|before| before.endpoints);
        if let (Some(known), Some(endpoints)) = (&known, endpoints)
            && let Some(same) = carried(*part, known, &endpoints, &view)
        {
            return same;
        }
        let layer = |url, made| {
            let before = known.as_ref().and_then(|known| known.layer(url));
            (url, Layer::of(made, before))
        };
        Shared(match part {
            Part::Upstreams => {
                let Upstreams {
                    clusters,
                    endpoints,
                } = view.upstreams();
                vec![
                    layer(type_url::CLUSTER, clusters),
                    layer(type_url::ENDPOINTS, endpoints),
                ]
            }
            Part::Listeners => vec![layer(type_url::LISTENER, view.shared_listeners())],
            Part::Routes => vec![layer(type_url::ROUTE, view.routes())],
        })
    }
}

/// The part as it was, but for what depends on the endpoints of these services, which alone have changed.
fn carried(
    part: Part,
    known: &Shared,
    changed: &[Arc<Service>],
    view: &View<'_>,
) -> Option<Shared> {
    match part {
        _ if changed.is_empty() => Some(known.clone()),
        Part::Routes => Some(known.clone()),
        // A headless service has listeners by its pods.
        Part::Listeners => (!changed.iter().any(|it| it.headless)).then(|| known.clone()),
        Part::Upstreams => {
            let changed: Vec<&Arc<Service>> = changed.iter().collect();
            let Upstreams {
                clusters,
                endpoints,
            } = view.upstreams_of(&changed)?;
            let with = |url, made| Some((url, known.layer(url)?.with(made)));
            Some(Shared(vec![
                with(type_url::CLUSTER, clusters)?,
                with(type_url::ENDPOINTS, endpoints)?,
            ]))
        }
    }
}
