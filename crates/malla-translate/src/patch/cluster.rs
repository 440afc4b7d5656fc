//! Patches of clusters.

use malla_model::patch::{ApplyTo, ClusterPlace, Context, Operation, Patch, Place};
use malla_xds_proto::cluster::Cluster;

use super::{merge_socket, merge_value, outbound, value};
use crate::names::{INBOUND_PASSTHROUGH, parse_outbound};
use crate::view::View;

/// Merges into and removes clusters.
pub(crate) fn clusters(view: &View<'_>, clusters: Vec<Cluster>) -> Vec<Cluster> {
    let patches = view.patches();
    if patches.is_empty() {
        return clusters;
    }
    let mut kept = Vec::with_capacity(clusters.len());
    for mut cluster in clusters {
        let inbound = inbound_port(&cluster.name).is_some() || cluster.name == INBOUND_PASSTHROUGH;
        let context = if inbound {
            Context::SidecarInbound
        } else {
            outbound(view.node)
        };
        let mut removed = false;
        for patch in patches.of(ApplyTo::Cluster, context) {
            if !is_there(view, patch, &cluster) {
                continue;
            }
            if patch.operation == Operation::Remove {
                removed = true;
                break;
            }
            if patch.operation.merges()
                && let Some(value) = value::<Cluster>(patch)
                && !merge_transport(&value, &mut cluster)
            {
                merge_value(patch, &value, &mut cluster);
            }
        }
        if !removed {
            kept.push(cluster);
        }
    }
    kept
}

/// The clusters that patches add in a context.
pub(crate) fn more_clusters(view: &View<'_>, context: Context) -> Vec<Cluster> {
    let added = view.patches().added(ApplyTo::Cluster, context);
    added.collect()
}

fn inbound_port(cluster: &str) -> Option<u16> {
    let (port, _) = cluster.strip_prefix("inbound|")?.split_once('|')?;
    port.parse().ok()
}

fn is_there(view: &View<'_>, patch: &Patch, cluster: &Cluster) -> bool {
    let place = match &patch.place {
        Place::Cluster(place) => place,
        // The others name something that a cluster does not have.
        Place::Anywhere | Place::Listener(_) | Place::Routes(_) => return true,
    };
    if let Some(name) = &place.name {
        return cluster.name == **name;
    }
    let ClusterPlace {
        port,
        service,
        subset,
        ..
    } = place;
    let (own_port, own_subset, hosts) = match parse_outbound(&cluster.name) {
        Some((port, subset, host)) => (port, subset, vec![host.to_string()]),
        None => {
            let port = inbound_port(&cluster.name).unwrap_or_default();
            let own = view.own_services().iter();
            let hosts = own.filter(|own| own.target == port);
            let hosts = hosts.map(|own| own.service.hostname.to_string()).collect();
            (port, "", hosts)
        }
    };
    port.is_none_or(|port| port == own_port)
        && subset.as_ref().is_none_or(|subset| **subset == *own_subset)
        && service
            .as_ref()
            .is_none_or(|service| hosts.iter().any(|host| host == &**service))
}

/// A patch with a transport socket changes that and nothing else: it is merged into the one of its name, of several by
/// the endpoints' kind into the first. `false` where the patch has none.
fn merge_transport(patch: &Cluster, cluster: &mut Cluster) -> bool {
    let Some(socket) = &patch.transport_socket else {
        return false;
    };
    if !cluster.transport_socket_matches.is_empty() {
        let mut sockets = cluster.transport_socket_matches.iter_mut();
        // With none of that name there would be both forms, which Envoy refuses.
        sockets.any(|it| (it.transport_socket.as_mut()).is_some_and(|it| merge_socket(it, socket)));
        return true;
    }
    let merged = cluster.transport_socket.as_mut();
    if !merged.is_some_and(|it| merge_socket(it, socket)) {
        cluster.transport_socket = Some(socket.clone());
    }
    true
}
