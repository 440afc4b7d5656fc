//! Clients that ask about proxies and are none: `istioctl` over xDS.

use std::sync::Arc;

use malla_model::SpiffeId;
use malla_xds::server::{Answer, Event, NodeHandle};
use malla_xds::{NodeResources, ResourceSet};
use tokio::sync::watch;
use tonic::Status;

use super::Connected;
use crate::debug;

/// Has no resources, only answers. Counts nowhere as a proxy.
pub(super) struct Guest {
    identity: SpiffeId,
    connected: Arc<Connected>,
    nothing: watch::Sender<Arc<dyn NodeResources>>,
}

impl Guest {
    pub(super) fn new(identity: SpiffeId, connected: Arc<Connected>) -> Self {
        // Clients take an answer without a version for none.
        let version = connected.world().map_or(0, |world| world.number);
        let nothing: Arc<dyn NodeResources> = Arc::new(ResourceSet::new(&version.to_string()));
        Self {
            identity,
            connected,
            nothing: watch::Sender::new(nothing),
        }
    }
}

impl NodeHandle for Guest {
    fn resources(&self) -> watch::Receiver<Arc<dyn NodeResources>> {
        self.nothing.subscribe()
    }

    fn event(&self, _: &Event) {}

    fn answer(&self, type_url: &str, names: &[String]) -> Option<Result<Vec<Answer>, Status>> {
        debug::answer(&self.connected, &self.identity, type_url, names)
    }
}
