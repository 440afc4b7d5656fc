//! What stands before a workload, in Istio's order: external authorization, tokens, policies.

use malla_xds_proto::hcm::HttpFilter;
use malla_xds_proto::listener::Filter;

use crate::view::View;
use crate::{ext_authz, jwt, rbac};

/// Before requests are acted on.
pub(crate) fn http_filters(view: &View<'_>) -> Vec<HttpFilter> {
    let mut filters = ext_authz::http_filters(view);
    filters.extend(jwt::filter(view));
    filters.extend(rbac::http_filters(view));
    filters
}

/// Before bytes are passed on.
pub(crate) fn network_filters(view: &View<'_>) -> Vec<Filter> {
    let mut filters = ext_authz::network_filters(view);
    filters.extend(rbac::network_filters(view));
    filters
}
