//! One proxy's resources at one moment, as the xDS server takes them.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use malla_model::Mesh;
use malla_model::secret::NoSecret;
use malla_translate::{NodeView, Resources, View, translate};
use malla_xds::{NodeResources, Resource, ResourceMap};
use malla_xds_proto::type_url;

use super::origins::Origins;
use crate::index::World;
use crate::secrets::{Asked, Reader};

/// Resources by type and name. Immutable.
#[derive(Debug)]
pub(crate) struct NodeSet {
    version: String,
    types: BTreeMap<&'static str, ResourceMap>,
    origins: OnceLock<Origins>,
    /// Secrets are looked up when they are asked for.
    mesh: Arc<Mesh>,
    view: NodeView,
    asked: Arc<Asked>,
}

impl NodeSet {
    /// Translates the world for a view. What is the same as in `before` is shared with it.
    pub(super) fn translate(
        world: &World,
        view: &NodeView,
        before: Option<&Self>,
        asked: &Arc<Asked>,
    ) -> Arc<Self> {
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
            mesh: Arc::clone(&world.mesh),
            view: view.clone(),
            asked: Arc::clone(asked),
            origins: OnceLock::new(),
        })
    }

    /// A secret, if the node may have it. What nobody has read yet will be, and then comes by itself.
    fn secret(&self, name: &str) -> Option<Resource> {
        match View::new(&self.mesh, &self.view).secret(name)? {
            Ok(secret) => Some(Resource {
                version: secret.version,
                body: Bytes::from(Arc::unwrap_or_clone(secret.body).value),
            }),
            Err(NoSecret::Unread(namespace)) => {
                // Of another namespace it is only where that has been granted.
                let own = namespace == self.view.namespace;
                self.asked.ask(Reader {
                    namespace,
                    account: own.then(|| Arc::clone(&self.view.service_account)),
                });
                None
            }
            Err(_) => None,
        }
    }

    /// Which objects the resources were made of, as far as these say so.
    pub(crate) fn origins(&self) -> &Origins {
        self.origins.get_or_init(|| Origins::of(&self.types))
    }

    /// Names and versions of a type.
    pub(crate) fn of(&self, type_url: &str) -> Option<&ResourceMap> {
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
        if type_url == type_url::SECRET {
            return self.secret(name);
        }
        self.of(type_url)?.get(name).cloned()
    }
}
