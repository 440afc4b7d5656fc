//! Retry policies, with Istio's defaults.

use malla_model::MeshSettings;
use malla_model::route::Retries;
use malla_xds_proto::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use malla_xds_proto::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use malla_xds_proto::route::RetryPolicy;
use malla_xds_proto::route::retry_policy::retry_host_predicate;
use malla_xds_proto::route::retry_policy::retry_priority;
use malla_xds_proto::route::retry_policy::{RetryBackOff, RetryHostPredicate, RetryPriority};
use malla_xds_proto::{any, wkt};

const DEFAULT_ATTEMPTS: u32 = 2;
const OUTBOUND_CONDITIONS: &str =
    "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
const INBOUND_CONDITIONS: &str = "reset-before-request";
const BY_STATUS: &str = "retriable-status-codes";
/// How often another host is drawn when one was drawn that failed before.
const HOST_SELECTION_ATTEMPTS: i64 = 5;
/// Failed priorities are given up after that many attempts.
const PRIORITY_UPDATE_FREQUENCY: i32 = 2;

/// `None` where retries are off. `hashed` requests stick to their host.
pub(crate) fn outbound(
    settings: &MeshSettings,
    retries: Option<&Retries>,
    hashed: bool,
) -> Option<RetryPolicy> {
    let retries = retries.or(settings.retries.as_ref());
    let mut policy = RetryPolicy {
        retry_on: OUTBOUND_CONDITIONS.into(),
        num_retries: Some(wkt::uint32(DEFAULT_ATTEMPTS)),
        ..RetryPolicy::default()
    };
    let mut avoid_previous = !hashed;
    if let Some(retries) = retries {
        if retries.attempts == 0 {
            return None;
        }
        policy.num_retries = Some(wkt::uint32(retries.attempts));
        policy.per_try_timeout = retries.per_try_timeout.map(wkt::duration);
        if !retries.retry_on.is_empty() {
            (policy.retry_on, policy.retriable_status_codes) = conditions(retries);
        }
        if retries.remote_localities {
            policy.retry_priority = Some(other_priorities());
        }
        policy.retry_back_off = back_off(retries);
        avoid_previous = retries.ignore_previous_hosts.unwrap_or(avoid_previous);
    }
    if avoid_previous {
        policy.retry_host_predicate = vec![RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".into(),
            config_type: Some(retry_host_predicate::ConfigType::TypedConfig(any::pack(
                &PreviousHostsPredicate {},
            ))),
        }];
        policy.host_selection_retry_max_attempts = HOST_SELECTION_ATTEMPTS;
    }
    Some(policy)
}

/// The workload closed a kept-alive connection while the request was on its way.
pub(crate) fn inbound(settings: &MeshSettings) -> Option<RetryPolicy> {
    let mut policy = RetryPolicy {
        retry_on: INBOUND_CONDITIONS.into(),
        num_retries: Some(wkt::uint32(DEFAULT_ATTEMPTS)),
        ..RetryPolicy::default()
    };
    if let Some(retries) = &settings.inbound_retries {
        if retries.attempts == 0 {
            return None;
        }
        policy.num_retries = Some(wkt::uint32(retries.attempts));
        policy.retry_back_off = back_off(retries);
        if !retries.retry_on.is_empty() {
            (policy.retry_on, policy.retriable_status_codes) = conditions(retries);
        }
    }
    Some(policy)
}

fn back_off(retries: &Retries) -> Option<RetryBackOff> {
    retries.backoff.map(|base| RetryBackOff {
        base_interval: Some(wkt::duration(base)),
        ..RetryBackOff::default()
    })
}

/// Numbers among the conditions are status codes.
fn conditions(retries: &Retries) -> (String, Vec<u32>) {
    let mut words = Vec::new();
    let mut codes = Vec::new();
    for condition in retries.retry_on.iter().flat_map(|c| c.split(',')) {
        let condition = condition.trim();
        match condition.parse::<u32>() {
            Ok(code) if (100..600).contains(&code) => codes.push(code),
            _ if condition.is_empty() => {}
            _ => words.push(condition),
        }
    }
    if !codes.is_empty() && !words.contains(&BY_STATUS) {
        words.push(BY_STATUS);
    }
    (words.join(","), codes)
}

fn other_priorities() -> RetryPriority {
    RetryPriority {
        name: "envoy.retry_priorities.previous_priorities".into(),
        config_type: Some(retry_priority::ConfigType::TypedConfig(any::pack(
            &PreviousPrioritiesConfig {
                update_frequency: PRIORITY_UPDATE_FREQUENCY,
            },
        ))),
    }
}

#[cfg(test)]
mod tests {
    use malla_model::MeshSettings;
    use malla_model::route::Retries;

    use super::{OUTBOUND_CONDITIONS, outbound};

    fn retries(attempts: u32, on: &str) -> Retries {
        Retries {
            attempts,
            per_try_timeout: None,
            retry_on: on
                .split(',')
                .filter(|c| !c.is_empty())
                .map(Into::into)
                .collect(),
            remote_localities: false,
            ignore_previous_hosts: None,
            backoff: None,
        }
    }

    #[test]
    fn conditions_and_codes() {
        let check = |on: &str, words: &str, codes: &[u32]| {
            let policy = outbound(&MeshSettings::default(), Some(&retries(3, on)), false).unwrap();
            assert_eq!(
                (&*policy.retry_on, &*policy.retriable_status_codes),
                (words, codes)
            );
        };
        check("", OUTBOUND_CONDITIONS, &[]);
        check("5xx,connect-failure", "5xx,connect-failure", &[]);
        check("503,504", "retriable-status-codes", &[503, 504]);
        check(
            "gateway-error,503",
            "gateway-error,retriable-status-codes",
            &[503],
        );
        assert_eq!(
            outbound(&MeshSettings::default(), Some(&retries(0, "5xx")), false),
            None
        );
    }

    #[test]
    fn hashed_requests_stick_to_their_host() {
        assert_eq!(
            outbound(&MeshSettings::default(), None, true)
                .unwrap()
                .retry_host_predicate
                .len(),
            0
        );
        assert_eq!(
            outbound(&MeshSettings::default(), None, false)
                .unwrap()
                .retry_host_predicate
                .len(),
            1
        );
    }
}
