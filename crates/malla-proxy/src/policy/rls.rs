//! Calls to a rate limit service (`envoy.service.ratelimit.v3`).

use malla_proxy_config::rate_limit::RateLimitService;
use malla_xds_proto::pb::envoy::extensions::common::ratelimit::v3 as common;
use malla_xds_proto::pb::envoy::service::ratelimit::v3 as pb;
use malla_xds_proto::pb::google::protobuf::UInt64Value;

use super::limiter::Descriptor;
use crate::call::{CallError, Caller};
use crate::upstream::Upstreams;

const METHOD: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
/// Of an answer, bytes: headers and a body for one refusal.
const MOST_ANSWER: usize = 256 * 1024;

/// Asks whether a request with these descriptors may go on.
pub async fn ask<U: Upstreams>(
    caller: &Caller<U>,
    service: &RateLimitService,
    domain: &str,
    descriptors: &[Descriptor],
) -> Result<pb::RateLimitResponse, CallError> {
    let request = pb::RateLimitRequest {
        domain: domain.to_owned(),
        descriptors: descriptors.iter().map(wire).collect(),
        hits_addend: 0,
    };
    caller
        .unary(&service.service, METHOD, &[], &request, MOST_ANSWER)
        .await
}

/// True if the answer is that there were too many.
pub fn is_over(answer: &pb::RateLimitResponse) -> bool {
    answer.overall_code == pb::rate_limit_response::Code::OverLimit as i32
}

fn wire(descriptor: &Descriptor) -> common::RateLimitDescriptor {
    use common::rate_limit_descriptor::{Entry, RateLimitOverride};
    let entries = descriptor.entries.iter().map(|entry| Entry {
        key: entry.key.clone(),
        value: entry.value.clone(),
    });
    let limit = descriptor
        .limit
        .map(|(requests_per_unit, unit)| RateLimitOverride {
            requests_per_unit,
            unit,
        });
    common::RateLimitDescriptor {
        entries: entries.collect(),
        limit,
        hits_addend: descriptor.hits.map(|value| UInt64Value { value }),
        is_negative_hits: descriptor.negative,
    }
}
