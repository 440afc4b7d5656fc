//! Which proxies use an object, and whose objects a refused resource was made of.

use malla_api::Kind;
use malla_model::id::{Labels, selects};
use malla_translate::NodeKind;
use malla_xds::Layers;
use malla_xds_proto::type_url;
use serde_json::Value;

use crate::index::ConfigObject;
use crate::nodes::{NodeReport, NodeSet};

/// Whether anything a proxy is offered depends on the object. Kinds that leave no trace in resources
/// are used by whom they select.
pub(super) fn uses(object: &ConfigObject, report: &NodeReport, set: &NodeSet, root: &str) -> bool {
    let spec = &object.object.data["spec"];
    let namespace = object.object.metadata.namespace.as_deref();
    let here = namespace == Some(&*report.namespace) || namespace == Some(root);
    match object.kind {
        Kind::VirtualService | Kind::DestinationRule => {
            path(object).is_some_and(|path| set.made_of(&path))
        }
        Kind::ServiceEntry => {
            let clusters = set.of(type_url::CLUSTER);
            let mut clusters = clusters.into_iter().flat_map(Layers::iter);
            clusters.any(|(name, _)| of_host(spec, name))
        }
        Kind::Gateway => report.kind == NodeKind::Router && selected(&spec["selector"], report),
        Kind::Sidecar => {
            let labels = &spec["workloadSelector"]["labels"];
            report.kind == NodeKind::Sidecar && here && selected(labels, report)
        }
        Kind::EnvoyFilter => here && selected(&spec["workloadSelector"]["labels"], report),
        Kind::AuthorizationPolicy
        | Kind::PeerAuthentication
        | Kind::RequestAuthentication
        | Kind::Telemetry
        | Kind::WasmPlugin => here && selected(&spec["selector"]["matchLabels"], report),
        // What of these reaches proxies does so by the services they belong to.
        _ => true,
    }
}

/// Whether a resource that was refused may have been made of the object, which the proxy uses. Where a
/// resource names its objects, it was those.
pub(super) fn caused(object: &ConfigObject, set: &NodeSet, type_url: &str, name: &str) -> bool {
    let made = path(object).and_then(|path| set.is_made_of(type_url, name, &path));
    if let Some(made) = made {
        return made;
    }
    match object.kind {
        // Their routes and clusters name them: this is none of theirs.
        Kind::VirtualService | Kind::DestinationRule => false,
        Kind::ServiceEntry => of_host(&object.object.data["spec"], name),
        Kind::EnvoyFilter => true,
        _ => type_url == type_url::LISTENER,
    }
}

/// A cluster of one of a ServiceEntry's hosts.
fn of_host(spec: &Value, cluster: &str) -> bool {
    let Some((_, host)) = cluster.rsplit_once('|') else {
        return false;
    };
    let mut hosts = spec["hosts"].as_array().into_iter().flatten();
    hosts.any(|known| known == host)
}

fn selected(labels: &Value, report: &NodeReport) -> bool {
    let labels = labels.as_object().into_iter().flatten();
    let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
    selects(&labels.collect::<Labels>(), &report.labels)
}

/// As in metadata: `namespaces/base/virtual-service/order`.
fn path(object: &ConfigObject) -> Option<String> {
    let kind = match object.kind {
        Kind::VirtualService => "virtual-service",
        Kind::DestinationRule => "destination-rule",
        _ => return None,
    };
    let metadata = &object.object.metadata;
    let (namespace, name) = (metadata.namespace.as_ref()?, metadata.name.as_ref()?);
    Some(format!("namespaces/{namespace}/{kind}/{name}"))
}
