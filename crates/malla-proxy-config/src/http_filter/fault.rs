//! Delays and aborts that are injected.

use std::time::Duration;

use http::StatusCode;

use crate::checked::{Cx, Invalid, ignorable, refuse};
use crate::matcher::Fraction;
use crate::pb::extensions::filters::common::fault::v3 as common_fault;
use crate::pb::extensions::filters::http as ext;
use crate::request::HeaderMatcher;

/// `envoy.extensions.filters.http.fault.v3.HTTPFault`.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// Wait before going on.
    pub delay: Option<(Fraction, FaultDelay)>,
    /// Answer at once.
    pub abort: Option<(Fraction, FaultAbort)>,
    /// Only for requests to this cluster.
    pub upstream_cluster: Option<String>,
    /// Only for requests that match all of these.
    pub headers: Vec<HeaderMatcher>,
    /// Only for these values of `x-envoy-downstream-service-node`.
    pub downstream_nodes: Vec<String>,
    /// At most so many at a time.
    pub max_active: Option<u64>,
}

/// How long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultDelay {
    /// Always the same.
    Fixed(Duration),
    /// What `x-envoy-fault-delay-request` says, in milliseconds.
    Header,
}

/// With what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultAbort {
    /// An HTTP status.
    Http(StatusCode),
    /// A gRPC status.
    Grpc(u32),
    /// What `x-envoy-fault-abort-request` or `x-envoy-fault-abort-grpc-request` says.
    Header,
}

impl Fault {
    pub(super) fn parse(wire: ext::fault::v3::HttpFault, cx: &mut Cx) -> Result<Self, Invalid> {
        let ext::fault::v3::HttpFault {
            delay,
            abort,
            upstream_cluster,
            headers,
            downstream_nodes,
            max_active_faults,
            response_rate_limit,
            delay_percent_runtime,
            abort_percent_runtime,
            delay_duration_runtime,
            abort_http_status_runtime,
            max_active_faults_runtime,
            response_rate_limit_percent_runtime,
            abort_grpc_status_runtime,
            disable_downstream_cluster_stats,
            filter_metadata,
        } = wire;
        refuse!(cx; response_rate_limit, filter_metadata);
        // There is no runtime layer: configured values always rule.
        ignorable!(cx; delay_percent_runtime, abort_percent_runtime, delay_duration_runtime,
            abort_http_status_runtime, max_active_faults_runtime, response_rate_limit_percent_runtime,
            abort_grpc_status_runtime, disable_downstream_cluster_stats);
        Ok(Self {
            delay: delay
                .map(|delay| cx.field("delay", |cx| parse_delay(delay, cx)))
                .transpose()?,
            abort: abort
                .map(|abort| cx.field("abort", |cx| parse_abort(abort, cx)))
                .transpose()?,
            upstream_cluster: (!upstream_cluster.is_empty()).then_some(upstream_cluster),
            headers: cx.each("headers", headers, HeaderMatcher::parse)?,
            downstream_nodes,
            max_active: max_active_faults.map(|max| max.value.into()),
        })
    }
}

fn share(
    wire: Option<crate::pb::types::FractionalPercent>,
    cx: &mut Cx,
) -> Result<Fraction, Invalid> {
    match wire {
        Some(share) => cx.field("percentage", |cx| Fraction::parse(share, cx)),
        None => Ok(Fraction::NEVER),
    }
}

fn parse_delay(
    wire: common_fault::FaultDelay,
    cx: &mut Cx,
) -> Result<(Fraction, FaultDelay), Invalid> {
    use common_fault::fault_delay::FaultDelaySecifier;
    let common_fault::FaultDelay {
        percentage,
        fault_delay_secifier,
        ..
    } = wire;
    let delay = match cx.required("fixed_delay", fault_delay_secifier)? {
        FaultDelaySecifier::FixedDelay(delay) => {
            let delay = cx.duration("fixed_delay", Some(delay))?.unwrap_or_default();
            if delay.is_zero() {
                return Err(cx.invalid("fixed_delay", "must be more than 0s"));
            }
            FaultDelay::Fixed(delay)
        }
        FaultDelaySecifier::HeaderDelay(_) => FaultDelay::Header,
    };
    Ok((share(percentage, cx)?, delay))
}

fn parse_abort(
    wire: ext::fault::v3::FaultAbort,
    cx: &mut Cx,
) -> Result<(Fraction, FaultAbort), Invalid> {
    use ext::fault::v3::fault_abort::ErrorType;
    let ext::fault::v3::FaultAbort {
        percentage,
        response_body,
        error_type,
    } = wire;
    refuse!(cx; response_body);
    let abort = match cx.required("http_status", error_type)? {
        ErrorType::HttpStatus(status) => FaultAbort::Http(status_code("http_status", status, cx)?),
        ErrorType::GrpcStatus(status) => FaultAbort::Grpc(status),
        ErrorType::HeaderAbort(_) => FaultAbort::Header,
    };
    Ok((share(percentage, cx)?, abort))
}

/// A status from 200 to 599.
pub(crate) fn status_code(field: &str, status: u32, cx: &Cx) -> Result<StatusCode, Invalid> {
    u16::try_from(status)
        .ok()
        .filter(|status| (200..600).contains(status))
        .and_then(|status| StatusCode::from_u16(status).ok())
        .ok_or_else(|| cx.invalid(field, format!("{status} is not a status from 200 to 599")))
}
