//! The router's own settings.

use crate::checked::{Cx, Invalid, ignorable, refuse};
use crate::pb::extensions::filters::http as ext;

/// `envoy.extensions.filters.http.router.v3.Router`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouterFilter {
    /// Add no `x-envoy-*` headers.
    pub suppress_envoy_headers: bool,
    /// Take the timeout from `x-envoy-expected-rq-timeout-ms` of the request.
    pub respect_expected_timeout: bool,
    /// A span for each try, where the manager traces.
    pub start_child_span: bool,
}

impl RouterFilter {
    pub(super) fn parse(wire: ext::router::v3::Router, cx: &mut Cx) -> Result<Self, Invalid> {
        let ext::router::v3::Router {
            dynamic_stats,
            start_child_span,
            upstream_log,
            upstream_log_options,
            suppress_envoy_headers,
            strict_check_headers,
            respect_expected_rq_timeout,
            suppress_grpc_request_failure_code_stats,
            upstream_http_filters,
            reject_connect_request_early_data,
        } = wire;
        refuse!(cx; upstream_log, upstream_log_options, strict_check_headers, upstream_http_filters,
            reject_connect_request_early_data);
        ignorable!(cx; dynamic_stats, suppress_grpc_request_failure_code_stats);
        Ok(Self {
            suppress_envoy_headers,
            respect_expected_timeout: respect_expected_rq_timeout,
            start_child_span,
        })
    }
}
