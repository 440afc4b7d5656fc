//! What a node tells of its requests: which objects are in force for it, and what it calls itself.

pub(crate) mod logs;
pub(crate) mod tracing;

use malla_model::telemetry::Side;

use crate::listener::Side as Place;
use crate::node::NodeView;

/// Labels that name a service across its versions, the strongest first (Istio's canonical service).
const CANONICAL_NAMES: [&str; 3] = [
    "service.istio.io/canonical-name",
    "app.kubernetes.io/name",
    "app",
];
const CANONICAL_REVISIONS: [&str; 3] = [
    "service.istio.io/canonical-revision",
    "app.kubernetes.io/version",
    "version",
];

/// The side of a call a filter is on.
pub(crate) fn side(of: Place) -> Side {
    match of {
        Place::Inbound => Side::Server,
        Place::Outbound | Place::Gateway => Side::Client,
    }
}

/// The service a node is part of, whatever its version.
fn canonical_service(node: &NodeView) -> &str {
    first_label(node, &CANONICAL_NAMES).unwrap_or(&node.name)
}

fn canonical_revision(node: &NodeView) -> &str {
    first_label(node, &CANONICAL_REVISIONS).unwrap_or("latest")
}

/// Labels by which a node without any other is of the same canonical service and revision.
pub(crate) fn canonical_labels(node: &NodeView) -> [(String, String); 2] {
    let [name, ..] = CANONICAL_NAMES;
    let [revision, ..] = CANONICAL_REVISIONS;
    [
        (name, canonical_service(node)),
        (revision, canonical_revision(node)),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
}

fn first_label<'n>(node: &'n NodeView, names: &[&str]) -> Option<&'n str> {
    let mut labels = names.iter().filter_map(|name| node.labels.get(*name));
    labels.find(|value| !value.is_empty()).map(String::as_str)
}
