//! What turns wishes into objects: the controllers of kube-controller-manager that a mesh and its
//! users need.
//!
//! Each is a queue of keys and one function from a key to the wanted state. Feeds only note keys;
//! the function reads the server's own memory, which holds every finished write, so no controller
//! acts on a stale view.

mod collector;
mod deployment;
mod endpoints;
mod namespace;
mod replicaset;
mod scheduler;

use std::fmt;
use std::sync::Arc;

use malla_apiserver::{Client, Server, kinds};
use tokio_util::task::AbortOnDropHandle;

use crate::events::Recorder;
use crate::feed::Feed;

/// What every controller works with.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) events: Recorder,
    pub(crate) settings: Arc<Settings>,
}

/// What controllers must know of the cluster.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) node: String,
    pub(crate) zone: Option<String>,
    pub(crate) ca_pem: String,
}

/// One feed per kind that somebody listens to.
#[derive(Debug)]
pub(crate) struct Feeds {
    pub(crate) pods: Feed,
    pub(crate) services: Feed,
    pub(crate) endpoint_slices: Feed,
    pub(crate) config_maps: Feed,
    pub(crate) secrets: Feed,
    pub(crate) namespaces: Feed,
    service_accounts: Feed,
    endpoints: Feed,
    deployments: Feed,
    replica_sets: Feed,
    nodes: Feed,
}

impl Feeds {
    pub(crate) fn new() -> Self {
        Self {
            pods: Feed::of(kinds::PODS),
            services: Feed::of(kinds::SERVICES),
            endpoint_slices: Feed::of(kinds::ENDPOINT_SLICES),
            config_maps: Feed::of(kinds::CONFIG_MAPS),
            secrets: Feed::of(kinds::SECRETS),
            namespaces: Feed::of(kinds::NAMESPACES),
            service_accounts: Feed::of(kinds::SERVICE_ACCOUNTS),
            endpoints: Feed::of(kinds::ENDPOINTS),
            deployments: Feed::of(kinds::DEPLOYMENTS),
            replica_sets: Feed::of(kinds::REPLICA_SETS),
            nodes: Feed::of(kinds::NODES),
        }
    }

    pub(crate) fn start(self, client: &Client) -> Vec<AbortOnDropHandle<()>> {
        let feeds = [
            self.pods,
            self.services,
            self.endpoint_slices,
            self.config_maps,
            self.secrets,
            self.namespaces,
            self.service_accounts,
            self.endpoints,
            self.deployments,
            self.replica_sets,
            self.nodes,
        ];
        feeds
            .into_iter()
            .map(|feed| feed.start(client.clone()))
            .collect()
    }
}

/// The running controllers; they end when this is dropped.
pub(crate) struct Controllers(Vec<AbortOnDropHandle<()>>);

impl fmt::Debug for Controllers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Controllers({})", self.0.len())
    }
}

impl Controllers {
    /// Ends the work; nothing of it runs afterwards.
    pub(crate) async fn shut_down(self) {
        for task in self.0 {
            task.abort();
            let _aborted = task.await;
        }
    }

    /// Adds the controllers' listeners to `feeds` and starts their work.
    pub(crate) fn start(
        server: &Server,
        events: &Recorder,
        settings: Settings,
        feeds: &mut Feeds,
    ) -> Self {
        let settings = Arc::new(settings);
        let context = |manager: &str| Context {
            client: server.client(manager),
            events: events.clone(),
            settings: Arc::clone(&settings),
        };
        let controllers = vec![
            namespace::start(context("namespace-controller"), feeds),
            scheduler::start(context("malla-scheduler"), feeds),
            deployment::start(context("deployment-controller"), feeds),
            replicaset::start(context("replicaset-controller"), feeds),
            endpoints::start(context("endpointslice-controller"), feeds),
            collector::start(context("generic-garbage-collector")),
        ];
        Self(controllers)
    }
}
