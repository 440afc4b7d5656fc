//! In which order types travel, and who waits for whom.
//!
//! "Make before break": what is referred to travels before what refers to it, and goes after it. The
//! xDS protocol asks ADS servers for clusters, endpoints, listeners, routes; Istio adds secrets.
//!
//! Envoy does not acknowledge clusters while some of them are warming, and warming ends when
//! endpoints and secrets arrive. So endpoints and secrets never wait for clusters to be acknowledged;
//! listeners and routes do, when clusters they may need have not been sent yet.

use malla_xds_proto::type_url::{CLUSTER, ENDPOINTS, LISTENER, ROUTE, SCOPED_ROUTE, SECRET};

/// Position of a type in a round of pushes; types without a place of their own go last.
#[must_use]
pub fn rank(type_url: &str) -> u8 {
    match type_url {
        CLUSTER => 0,
        ENDPOINTS => 1,
        LISTENER => 2,
        SCOPED_ROUTE => 3,
        ROUTE => 4,
        SECRET => 5,
        _ => 6,
    }
}

/// Whether others refer to this type, and must wait until its additions have been sent.
pub(crate) fn is_referred_to(type_url: &str) -> bool {
    type_url == CLUSTER
}

/// Whether this type refers to others: it waits for their additions, and they are removed only
/// after it has been updated.
pub(crate) fn refers(type_url: &str) -> bool {
    matches!(type_url, LISTENER | ROUTE | SCOPED_ROUTE)
}

/// Whether removals of this type wait until what may refer to it has been updated.
pub(crate) fn removed_last(type_url: &str) -> bool {
    matches!(type_url, CLUSTER | ENDPOINTS)
}

/// Whether every SotW response must hold all subscribed resources of the type, absence meaning
/// removal (xDS protocol, "How the client specifies what resources to return"). Of other types a
/// response may hold some, and none is ever removed by absence.
pub(crate) fn full_state(type_url: &str) -> bool {
    matches!(type_url, CLUSTER | LISTENER)
}

/// The type whose same-named resource a client waits for after one of this type has changed.
pub(crate) fn warms(type_url: &str) -> Option<&'static str> {
    (type_url == CLUSTER).then_some(ENDPOINTS)
}
