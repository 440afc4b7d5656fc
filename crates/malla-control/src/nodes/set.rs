//! One proxy's resources at one moment, as the xDS server takes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use malla_translate::{NodeView, Resources, translate};
use malla_xds::{NodeResources, Resource, ResourceMap};
use malla_xds_proto::type_url;

use crate::index::World;

/// Resources by type and name. Immutable.
#[derive(Debug)]
pub(super) struct NodeSet {
    version: String,
    types: BTreeMap<&'static str, ResourceMap>,
}

impl NodeSet {
    /// Translates the world for a view. What is the same as in `before` is shared with it.
    pub(super) fn translate(world: &World, view: &NodeView, before: Option<&Self>) -> Arc<Self> {
        let Resources {
            listeners,
            routes,
            clusters,
            endpoints,
        } = translate(&world.mesh, view);
        let mut types = BTreeMap::new();
        for (url, list) in [
            (type_url::LISTENER, listeners),
            (type_url::ROUTE, routes),
            (type_url::CLUSTER, clusters),
            (type_url::ENDPOINTS, endpoints),
        ] {
            let known = before.and_then(|set| set.types.get(url));
            let map = list.into_iter().map(|resource| {
                let shared = known
                    .and_then(|map| map.get(&resource.name))
                    .filter(|r| r.version == resource.version);
                let body = shared.cloned().unwrap_or_else(|| Resource {
                    version: resource.version,
                    body: Bytes::from(Arc::unwrap_or_clone(resource.body).value),
                });
                (resource.name, body)
            });
            types.insert(url, map.collect());
        }
        Arc::new(Self {
            version: world.number.to_string(),
            types,
        })
    }

    /// Names and versions of a type.
    pub(super) fn of(&self, type_url: &str) -> Option<&ResourceMap> {
        self.types.get(type_url)
    }
}

impl NodeResources for NodeSet {
    fn version(&self) -> &str {
        &self.version
    }

    fn wildcard(&self, type_url: &str) -> Option<&ResourceMap> {
        // Routes and endpoints are asked for by name.
        let by_name = [type_url::ROUTE, type_url::ENDPOINTS].contains(&type_url);
        self.of(type_url).filter(|_| !by_name)
    }

    fn get(&self, type_url: &str, name: &str) -> Option<Resource> {
        self.of(type_url)?.get(name).cloned()
    }
}
