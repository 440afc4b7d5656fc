//! One proxy's resources at one moment, as the xDS server takes them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use malla_model::secret::NoSecret;
use malla_model::workload::Address;
use malla_model::{Mesh, Service};
use malla_translate::{NodeView, Part, View};
use malla_xds::{Layers, Name, NodeResources, Resource};
use malla_xds_proto::type_url;

use super::layer::{Layer, Stacks};
use super::shared::SharedWorld;
use crate::secrets::{Asked, Reader};

/// Resources by type and name. Immutable.
#[derive(Debug)]
pub(crate) struct NodeSet {
    number: u64,
    version: String,
    stacks: Stacks,
    own: Own,
    /// Secrets are looked up when they are asked for.
    mesh: Arc<Mesh>,
    view: Arc<NodeView>,
    asked: Arc<Asked>,
}

/// What no other proxy is sent: clusters and listeners that lead to its workload.
#[derive(Debug, Clone)]
struct Own {
    clusters: Arc<Layer>,
    listeners: Arc<Layer>,
}

impl NodeSet {
    /// Translates the world for a view. What is the same as in `before` is shared with it.
    pub(super) fn translate(
        shared: &SharedWorld,
        view: &Arc<NodeView>,
        before: Option<&Self>,
        asked: &Arc<Asked>,
    ) -> Arc<Self> {
        let own = Own::of(shared, view, before);
        let mut parts: HashMap<&'static str, Vec<Arc<Layer>>> = HashMap::from([
            (type_url::CLUSTER, vec![Arc::clone(&own.clusters)]),
            (type_url::LISTENER, vec![Arc::clone(&own.listeners)]),
        ]);
        for part in [Part::Upstreams, Part::Listeners, Part::Routes] {
            for (url, layer) in shared.part(view, part).layers() {
                parts.entry(url).or_default().push(Arc::clone(layer));
            }
        }
        let mut stacks = Stacks::default();
        for (url, layers) in parts {
            stacks.put(url, layers, before.map(|before| &before.stacks));
        }
        Arc::new(Self {
            number: shared.world.number,
            version: shared.world.number.to_string(),
            stacks,
            own,
            mesh: Arc::clone(&shared.world.mesh),
            view: Arc::clone(view),
            asked: Arc::clone(asked),
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

    /// Whether any resource was made of the object with that path (see `origins`).
    pub(crate) fn made_of(&self, path: &str) -> bool {
        self.stacks.origins().any(|origins| origins.contains(path))
    }

    /// Whether a resource was made of that object; `None` where it names none.
    pub(crate) fn is_made_of(&self, type_url: &str, name: &str, path: &str) -> Option<bool> {
        let mut of = self.stacks.origins_of(type_url);
        let found = of.find_map(|origins| origins.of_resource(name))?;
        Some(found.contains(path))
    }

    /// Resources of a type.
    pub(crate) fn of(&self, type_url: &str) -> Option<Layers<'_>> {
        Some(self.stacks.get(type_url)?.resources())
    }
}

impl Own {
    fn of(shared: &SharedWorld, view: &Arc<NodeView>, before: Option<&NodeSet>) -> Self {
        if let Some(before) = before
            && before.view == *view
            && let Some(changed) = shared.endpoints_since(before.number)
            && !changed
                .iter()
                .any(|it| runs_at(it, view) || runs_at_before(before, it, view))
        {
            return before.own.clone();
        }
        let of = View::new(&shared.world.mesh, view);
        let known = before.map(|before| &before.own);
        Self {
            clusters: Layer::of(of.own_clusters(), known.map(|own| &own.clusters)),
            listeners: Layer::of(of.own_listeners(), known.map(|own| &own.listeners)),
        }
    }
}

/// Whether an endpoint of the service is at the node.
fn runs_at(service: &Service, view: &NodeView) -> bool {
    let mut endpoints = service.endpoints.iter();
    endpoints.any(|it| matches!(it.address, Address::Ip(ip) if view.addresses.contains(&ip)))
}

/// The same of that service in the world before.
fn runs_at_before(before: &NodeSet, service: &Service, view: &NodeView) -> bool {
    let known = before.mesh.service(&service.hostname, service.namespace());
    known.is_some_and(|known| runs_at(known, view))
}

impl NodeResources for NodeSet {
    fn version(&self) -> &str {
        &self.version
    }

    fn wildcard(&self, type_url: &str) -> Option<Layers<'_>> {
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

    fn revision(&self, type_url: &str) -> Option<u64> {
        Some(self.stacks.get(type_url)?.revision())
    }

    fn changed(&self, type_url: &str, since: u64) -> Option<Vec<Name>> {
        self.stacks.get(type_url)?.changed(since)
    }

    fn shared_name(&self, type_url: &str, name: &str) -> Option<Name> {
        self.stacks.get(type_url)?.shared_name(name)
    }
}
