//! Who has which address: what an access log entry does not say of the peer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

/// A pod as Istio's metrics describe it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workload {
    pub name: String,
    pub namespace: String,
    pub app: String,
    pub version: String,
    pub canonical_service: String,
    pub canonical_revision: String,
    pub cluster: String,
    /// The services that lead here.
    pub services: Vec<ServicePort>,
}

/// A port of a service that leads to a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// The pod's port.
    pub target: u16,
    /// `cart.base.svc.cluster.local`
    pub host: String,
    pub name: String,
    pub namespace: String,
}

/// All pods by address: replaced as a whole by whoever watches the cluster.
#[derive(Debug, Default)]
pub struct Workloads(RwLock<Arc<HashMap<IpAddr, Arc<Workload>>>>);

impl Workloads {
    pub fn replace(&self, all: HashMap<IpAddr, Arc<Workload>>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *known = Arc::new(all);
    }

    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<Arc<Workload>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&address).cloned()
    }
}
