//! CDS: one cluster for each port and subset of every service, those of the node's own ports, and
//! the ones traffic ends up in that belongs nowhere.

mod inbound;
mod keys;
mod outbound;
mod policy;

use std::collections::{BTreeSet, HashMap};

use malla_model::id::ObjectRef;
use malla_model::patch::Context;
use malla_model::{Host, Service};
use malla_xds_proto::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
use malla_xds_proto::cluster::{CircuitBreakers, Cluster};
use malla_xds_proto::core::Metadata;
use malla_xds_proto::upstream_http::HttpProtocolOptions;
use malla_xds_proto::{any, wkt};

use crate::names::{BLACK_HOLE, PASSTHROUGH, stat_name};
use crate::node::NodeKind;
use crate::patch;
use crate::resource::Resource;
use crate::view::View;

/// The clusters for calls to others.
pub(crate) fn outward(view: &View<'_>) -> Vec<Resource> {
    let mut clusters = outbound::clusters(view, None);
    clusters.extend(keys::clusters(view));
    clusters.push(black_hole(view));
    clusters.push(passthrough(view));
    let mut clusters = patch::clusters(view, clusters);
    clusters.extend(patch::more_clusters(view, patch::outbound(view.node)));
    packed(&clusters)
}

/// Those of them that lead to `hosts`. `None` where an EnvoyFilter adds clusters, which may take the place of any.
pub(crate) fn outward_to(view: &View<'_>, hosts: &BTreeSet<&Host>) -> Option<Vec<Resource>> {
    if !patch::more_clusters(view, patch::outbound(view.node)).is_empty() {
        return None;
    }
    let clusters = outbound::clusters(view, Some(hosts));
    Some(packed(&patch::clusters(view, clusters)))
}

/// The clusters that lead to the workload of a sidecar.
pub(crate) fn inward(view: &View<'_>) -> Vec<Resource> {
    if view.node.kind != NodeKind::Sidecar {
        return Vec::new();
    }
    let mut clusters = patch::clusters(view, inbound::clusters(view));
    clusters.extend(patch::more_clusters(view, Context::SidecarInbound));
    packed(&clusters)
}

fn packed(clusters: &[Cluster]) -> Vec<Resource> {
    let packed = clusters.iter();
    packed
        .map(|cluster| Resource::new(&cluster.name, cluster))
        .collect()
}

/// Refuses every connection.
fn black_hole(view: &View<'_>) -> Cluster {
    base(view, BLACK_HOLE, DiscoveryType::Static)
}

/// Leads to wherever the client was going.
fn passthrough(view: &View<'_>) -> Cluster {
    let mut cluster = original_dst(view, PASSTHROUGH);
    set_protocol(&mut cluster, &policy::passthrough_protocol());
    cluster
}

fn original_dst(view: &View<'_>, name: &str) -> Cluster {
    Cluster {
        lb_policy: LbPolicy::ClusterProvided.into(),
        ..base(view, name, DiscoveryType::OriginalDst)
    }
}

/// What all clusters have in common.
fn base(view: &View<'_>, name: &str, discovery: DiscoveryType) -> Cluster {
    Cluster {
        name: name.to_owned(),
        alt_stat_name: stat_name(name),
        connect_timeout: Some(wkt::duration(view.mesh.settings.connect_timeout)),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery.into())),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![policy::unlimited()],
            ..CircuitBreakers::default()
        }),
        ..Cluster::default()
    }
}

fn set_protocol(cluster: &mut Cluster, options: &HttpProtocolOptions) {
    cluster.typed_extension_protocol_options.insert(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".into(),
        any::pack(options),
    );
}

/// Metadata that `istioctl` and telemetry read: the services behind a cluster, whether they are outside of the mesh,
/// the subset, and the DestinationRule that shaped it.
fn istio_metadata<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    external: bool,
    subset: Option<&str>,
    rule: Option<&ObjectRef>,
) -> Metadata {
    let services = services
        .into_iter()
        .map(|service| {
            wkt::object([
                ("host", wkt::string(service.hostname.as_str())),
                ("name", wkt::string(service.meta.name())),
                ("namespace", wkt::string(service.namespace())),
            ])
        })
        .collect();
    let mut fields = vec![("services", wkt::list(services))];
    if external {
        // What is said of the mesh in headers does not go there.
        fields.push(("external", wkt::truth(true)));
    }
    if let Some(subset) = subset {
        fields.push(("subset", wkt::string(subset)));
    }
    if let Some(rule) = rule {
        fields.push(("config", wkt::string(&config_path(rule))));
    }
    Metadata {
        filter_metadata: HashMap::from([("istio".to_owned(), wkt::structure(fields))]),
        ..Metadata::default()
    }
}

/// `/apis/GROUP/v1/namespaces/NAMESPACE/KIND/NAME`, the kind in kebab case: `virtual-service`,
/// `http-route`.
pub(crate) fn config_path(object: &ObjectRef) -> String {
    let letters: Vec<char> = object.kind.chars().collect();
    let is_lower = |at: usize| letters.get(at).is_some_and(char::is_ascii_lowercase);
    let mut kind = String::new();
    for (at, letter) in letters.iter().enumerate() {
        let begins_word =
            letter.is_ascii_uppercase() && (is_lower(at + 1) || is_lower(at.wrapping_sub(1)));
        if begins_word && at > 0 {
            kind.push('-');
        }
        kind.push(letter.to_ascii_lowercase());
    }
    let group = if kind.ends_with("-route") {
        "gateway.networking.k8s.io"
    } else {
        "networking.istio.io"
    };
    format!(
        "/apis/{group}/v1/namespaces/{}/{kind}/{}",
        object.namespace, object.name
    )
}
