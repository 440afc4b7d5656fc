//! What Kubernetes says of a proxy's pod, in place of what the proxy says.

use std::net::IpAddr;
use std::sync::Arc;

use malla_model::id::Labels;
use malla_model::{SpiffeId, Workload};
use malla_translate::NodeView;

use crate::index::World;

/// The view of the pod that has one of the claimed addresses and runs as the proved identity.
/// `None` while there is no such pod.
pub(super) fn attested(world: &World, claimed: &NodeView, identity: &SpiffeId) -> Option<NodeView> {
    let pod = pod_of(world, &claimed.addresses, identity)?;
    // The claimed order says which address the proxy prefers.
    let mut addresses = claimed.addresses.clone();
    addresses.retain(|ip| pod.addresses.contains(ip));
    Some(NodeView {
        service_account: Arc::clone(&identity.service_account),
        labels: pod.meta.labels.clone(),
        locality: pod.locality.clone(),
        machine: Arc::clone(&pod.node),
        addresses,
        ..claimed.clone()
    })
}

/// The view of a proxy whose pod is not known: the namespace it proved, and nothing by which it
/// would be taken for anybody.
pub(super) fn restricted(world: &World, claimed: &NodeView, identity: &SpiffeId) -> NodeView {
    let mesh = &world.mesh;
    let mut addresses = claimed.addresses.clone();
    addresses.retain(|ip| mesh.workload_by_ip(*ip).is_none() && mesh.services_at(*ip).is_empty());
    NodeView {
        service_account: Arc::clone(&identity.service_account),
        labels: Labels::new(),
        locality: malla_model::workload::Locality::default(),
        machine: "".into(),
        addresses,
        stranger: true,
        ..claimed.clone()
    }
}

fn pod_of<'a>(
    world: &'a World,
    addresses: &[IpAddr],
    identity: &SpiffeId,
) -> Option<&'a Arc<Workload>> {
    let mut pods = addresses
        .iter()
        .filter_map(|ip| world.mesh.workload_by_ip(*ip));
    pods.find(|pod| pod.identity == *identity)
}
