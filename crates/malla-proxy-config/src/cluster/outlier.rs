//! Circuit breakers and passive health checks, with Envoy's defaults.

use std::time::Duration;

use super::{Enforced, FailurePercentage, OutlierDetection, RetryBudget, SuccessRate, Thresholds};
use crate::checked::{Cx, Invalid, refuse};
use crate::pb::{cluster as pb, core, google};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
const DEFAULT_BASE_EJECTION: Duration = Duration::from_secs(30);
const DEFAULT_MAX_EJECTION: Duration = Duration::from_secs(300);
/// `RetryBudget.budget_percent` when none is given.
const DEFAULT_BUDGET_PERCENT: f64 = 20.0;

fn or(value: Option<google::UInt32Value>, default: u32) -> u32 {
    value.map_or(default, |value| value.value)
}

impl Thresholds {
    pub(super) fn parse_all(
        wire: Option<pb::CircuitBreakers>,
        cx: &mut Cx,
    ) -> Result<([Self; 2], Option<u32>), Invalid> {
        let pb::CircuitBreakers {
            thresholds,
            per_host_thresholds,
        } = wire.unwrap_or_default();
        let mut out = [Self::default(); 2];
        let parsed: Vec<_> = cx.each("thresholds", thresholds, Self::parse)?;
        for (priority, thresholds) in parsed {
            match priority {
                core::RoutingPriority::Default => out[0] = thresholds,
                core::RoutingPriority::High => out[1] = thresholds,
            }
        }
        let mut per_host = None;
        for wire in per_host_thresholds {
            let max = wire.max_connections;
            let rest = pb::circuit_breakers::Thresholds {
                max_connections: None,
                priority: 0,
                ..wire
            };
            cx.unset("per_host_thresholds (other than max_connections)", &rest)?;
            per_host = max.map(|max| max.value);
        }
        Ok((out, per_host))
    }

    fn parse(
        wire: pb::circuit_breakers::Thresholds,
        cx: &mut Cx,
    ) -> Result<(core::RoutingPriority, Self), Invalid> {
        let pb::circuit_breakers::Thresholds {
            priority,
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
            retry_budget,
            track_remaining,
            max_connection_pools,
        } = wire;
        refuse!(cx; max_connection_pools);
        let default = Self::default();
        let retry_budget = match retry_budget {
            None => None,
            Some(pb::circuit_breakers::thresholds::RetryBudget {
                budget_percent,
                budget_interval,
                min_retry_concurrency,
            }) => {
                cx.unset("retry_budget.budget_interval", &budget_interval)?;
                Some(RetryBudget {
                    percent: budget_percent.map_or(DEFAULT_BUDGET_PERCENT, |percent| percent.value),
                    min_concurrency: or(min_retry_concurrency, 3),
                })
            }
        };
        let thresholds = Self {
            max_connections: or(max_connections, default.max_connections),
            max_pending_requests: or(max_pending_requests, default.max_pending_requests),
            max_requests: or(max_requests, default.max_requests),
            max_retries: or(max_retries, default.max_retries),
            retry_budget,
            track_remaining,
        };
        Ok((cx.enumeration("priority", priority)?, thresholds))
    }
}

impl OutlierDetection {
    pub(super) fn parse(wire: pb::OutlierDetection, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::OutlierDetection {
            consecutive_5xx,
            interval,
            base_ejection_time,
            max_ejection_percent,
            enforcing_consecutive_5xx,
            enforcing_success_rate,
            success_rate_minimum_hosts,
            success_rate_request_volume,
            success_rate_stdev_factor,
            consecutive_gateway_failure,
            enforcing_consecutive_gateway_failure,
            split_external_local_origin_errors,
            consecutive_local_origin_failure,
            enforcing_consecutive_local_origin_failure,
            enforcing_local_origin_success_rate,
            failure_percentage_threshold,
            enforcing_failure_percentage,
            enforcing_failure_percentage_local_origin,
            failure_percentage_minimum_hosts,
            failure_percentage_request_volume,
            max_ejection_time,
            max_ejection_time_jitter,
            successful_active_health_check_uneject_host,
            monitors,
            always_eject_one_host,
            detect_degraded_hosts,
        } = wire;
        refuse!(cx; monitors, detect_degraded_hosts);
        let enforced = |threshold, default, enforcing, enforcing_default| Enforced {
            threshold: or(threshold, default),
            enforcing_percent: or(enforcing, enforcing_default),
        };
        let base_ejection_time = cx
            .duration("base_ejection_time", base_ejection_time)?
            .unwrap_or(DEFAULT_BASE_EJECTION);
        Ok(Self {
            consecutive_5xx: enforced(consecutive_5xx, 5, enforcing_consecutive_5xx, 100),
            consecutive_gateway_failure: enforced(
                consecutive_gateway_failure,
                5,
                enforcing_consecutive_gateway_failure,
                0,
            ),
            consecutive_local_origin_failure: enforced(
                consecutive_local_origin_failure,
                5,
                enforcing_consecutive_local_origin_failure,
                100,
            ),
            split_local_origin_errors: split_external_local_origin_errors,
            interval: cx
                .duration("interval", interval)?
                .unwrap_or(DEFAULT_INTERVAL),
            base_ejection_time,
            max_ejection_time: cx
                .duration("max_ejection_time", max_ejection_time)?
                .unwrap_or(DEFAULT_MAX_EJECTION)
                .max(base_ejection_time),
            max_ejection_jitter: cx
                .duration("max_ejection_time_jitter", max_ejection_time_jitter)?
                .unwrap_or_default(),
            max_ejection_percent: or(max_ejection_percent, 10),
            always_eject_one: always_eject_one_host.is_some_and(|value| value.value),
            uneject_on_check: successful_active_health_check_uneject_host
                .is_none_or(|value| value.value),
            success_rate: SuccessRate {
                enforcing_percent: or(enforcing_success_rate, 100),
                enforcing_local_percent: or(enforcing_local_origin_success_rate, 100),
                minimum_hosts: or(success_rate_minimum_hosts, 5),
                request_volume: or(success_rate_request_volume, 100),
                stdev_factor: or(success_rate_stdev_factor, 1900),
            },
            failure_percentage: FailurePercentage {
                threshold: or(failure_percentage_threshold, 85),
                enforcing_percent: or(enforcing_failure_percentage, 0),
                enforcing_local_percent: or(enforcing_failure_percentage_local_origin, 0),
                minimum_hosts: or(failure_percentage_minimum_hosts, 5),
                request_volume: or(failure_percentage_request_volume, 50),
            },
        })
    }
}
