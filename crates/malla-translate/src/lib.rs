//! Turns a [`Mesh`](malla_model::Mesh) into what one proxy is sent: Envoy xDS resources with
//! Istio's names, defaults and behaviour.
//!
//! Everything here is a pure function of the mesh and a [`NodeView`]: no IO, no clock, no global
//! state, and the same input gives the same bytes, so a resource's version is a hash of its content.
//!
//! Reading order: [`node`] is who asks, `view` is what it may see (`scope` by its Sidecar), `rules` finds DestinationRules;
//! `cluster`, `endpoints`, `route` and `listener` build the four kinds of resources, `dns` the names; `metrics` what is counted; `tls`, `secret` and `authn` are identity,
//! `security` with `ext_authz`, `jwt` and `rbac` who may do what; `share` tells what proxies have in common; `telemetry` and [`access_log`] are what is told, `providers` whom; `patch` applies EnvoyFilters; [`references`] finds what is named but not there; [`simulate`] walks a
//! request through emitted resources.
pub mod access_log;
mod authn;
mod cluster;
mod dns;
mod endpoints;
mod ext_authz;
mod gateways;
mod jwt;
mod listener;
mod metrics;
pub mod names;
pub mod node;
mod patch;
mod providers;
mod rbac;
pub mod references;
pub mod resource;
mod route;
mod rules;
mod scope;
mod secret;
mod security;
mod share;
pub mod simulate;
mod telemetry;
mod tls;
mod view;

use malla_model::Mesh;
use malla_model::secret::NoSecret;

pub use node::{Interception, NodeKind, NodeView, Profile};
pub use references::{Missing, Unresolved, unresolved};
pub use resource::{Resource, Resources};
pub use share::{Distinctions, Part, Upstreams};
pub use view::View;

/// Everything `node` needs.
#[must_use]
pub fn translate(mesh: &Mesh, node: &NodeView) -> Resources {
    let view = View::new(mesh, node);
    let listeners = view.listeners();
    let Upstreams {
        mut clusters,
        endpoints,
    } = view.upstreams();
    clusters.extend(view.own_clusters());
    Resources {
        listeners,
        routes: view.routes(),
        clusters: resource::sorted(clusters),
        endpoints,
    }
}

impl View<'_> {
    /// Every listener (LDS), by name.
    #[must_use]
    pub fn listeners(&self) -> Vec<Resource> {
        let mut listeners = listener::outward(self);
        listeners.extend(listener::inward(self));
        resource::sorted(listeners)
    }

    /// Every cluster (CDS), by name.
    #[must_use]
    pub fn clusters(&self) -> Vec<Resource> {
        let mut clusters = cluster::outward(self);
        clusters.extend(cluster::inward(self));
        resource::sorted(clusters)
    }

    /// Names of the route configurations that [`View::listeners`] refers to, sorted.
    #[must_use]
    pub fn route_names(&self) -> Vec<String> {
        route::names(self)
    }

    /// One route configuration (RDS). `None` when no listener of this node could ask for that name.
    #[must_use]
    pub fn route(&self, name: &str) -> Option<Resource> {
        route::configuration(self, name)
    }

    /// One secret (SDS): the certificate or the trust anchors that a Secret of the cluster holds.
    /// `None` for names that are no Secret's.
    ///
    /// # Errors
    /// Why the node is not given it.
    #[must_use]
    pub fn secret(&self, name: &str) -> Option<Result<Resource, NoSecret>> {
        secret::secret(self, name)
    }

    /// What the DNS proxy of the node answers from (NDS), under the name `nametable`.
    #[must_use]
    pub fn name_table(&self) -> Resource {
        Resource::new("nametable", &dns::name_table(self))
    }

    /// The endpoints (EDS) of one cluster. `None` when the cluster does not take them from EDS.
    #[must_use]
    pub fn endpoints(&self, cluster: &str) -> Option<Resource> {
        endpoints::assignment(self, cluster)
    }
}
