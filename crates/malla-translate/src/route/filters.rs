//! Faults and CORS: HTTP filters that are in every chain and told what to do route by route.

use malla_model::route::{AbortStatus, Cors, Fault, PerMillion};
use malla_xds_proto::core::RuntimeFractionalPercent;
use malla_xds_proto::envoy_type::FractionalPercent;
use malla_xds_proto::envoy_type::fractional_percent::DenominatorType;
use malla_xds_proto::http_filters::cors::v3::CorsPolicy;
use malla_xds_proto::http_filters::fault::v3::fault_abort::ErrorType;
use malla_xds_proto::http_filters::fault::v3::{FaultAbort, HttpFault};
use malla_xds_proto::pb::envoy::extensions::filters::common::fault::v3::FaultDelay;
use malla_xds_proto::pb::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use malla_xds_proto::wkt;

use super::matching;

pub(crate) const FAULT: &str = "envoy.filters.http.fault";
pub(crate) const CORS: &str = "envoy.filters.http.cors";

pub(crate) fn share(share: PerMillion) -> FractionalPercent {
    FractionalPercent {
        numerator: share.0,
        denominator: DenominatorType::Million.into(),
    }
}

pub(crate) fn runtime_share(of: PerMillion) -> RuntimeFractionalPercent {
    RuntimeFractionalPercent {
        default_value: Some(share(of)),
        ..RuntimeFractionalPercent::default()
    }
}

pub(crate) fn fault(fault: &Fault) -> HttpFault {
    HttpFault {
        delay: fault.delay.map(|(delay, of)| FaultDelay {
            percentage: Some(share(of)),
            fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(wkt::duration(delay))),
        }),
        abort: fault.abort.map(|(status, of)| FaultAbort {
            percentage: Some(share(of)),
            error_type: Some(match status {
                AbortStatus::Http(status) => ErrorType::HttpStatus(status.into()),
                AbortStatus::Grpc(status) => ErrorType::GrpcStatus(status),
            }),
            ..FaultAbort::default()
        }),
        ..HttpFault::default()
    }
}

pub(crate) fn cors(cors: &Cors) -> CorsPolicy {
    CorsPolicy {
        allow_origin_string_match: cors.allow_origins.iter().map(origin).collect(),
        allow_methods: cors.allow_methods.join(","),
        allow_headers: cors.allow_headers.join(","),
        expose_headers: cors.expose_headers.join(","),
        max_age: cors
            .max_age
            .map_or(String::new(), |age| age.as_secs().to_string()),
        allow_credentials: cors.allow_credentials.map(wkt::boolean),
        filter_enabled: Some(runtime_share(PerMillion::ALL)),
        forward_not_matching_preflights: Some(wkt::boolean(!cors.ignore_unmatched_preflights)),
        ..CorsPolicy::default()
    }
}

/// An origin that only has to be present is any origin.
fn origin(of: &malla_model::matching::StringMatch) -> malla_xds_proto::matcher::StringMatcher {
    matching::string(of).unwrap_or_else(|| malla_xds_proto::matcher::StringMatcher {
        match_pattern: Some(
            malla_xds_proto::matcher::string_matcher::MatchPattern::SafeRegex(matching::regex(
                ".*",
            )),
        ),
        ..malla_xds_proto::matcher::StringMatcher::default()
    })
}
