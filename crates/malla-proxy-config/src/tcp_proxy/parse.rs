//! A TCP proxy from proto.

use std::time::Duration;

use super::{LogOptions, TcpProxy, Tunnel, WeightedTarget};
use crate::access_log::AccessLog;
use crate::checked::{Cx, Invalid, ignorable, refuse};
use crate::metadata::Metadata;
use crate::pb::extensions::filters::network::tcp_proxy::v3 as pb;
use crate::pb::{core, google, types};

const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

impl TcpProxy {
    pub(crate) fn parse(wire: pb::TcpProxy, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::TcpProxy {
            stat_prefix,
            on_demand,
            metadata_match,
            idle_timeout,
            downstream_idle_timeout,
            upstream_idle_timeout,
            access_log,
            max_connect_attempts,
            backoff_options,
            hash_policy,
            tunneling_config,
            max_downstream_connection_duration,
            max_downstream_connection_duration_jitter_percentage,
            access_log_flush_interval,
            flush_access_log_on_connected,
            access_log_options,
            proxy_protocol_tlvs,
            proxy_protocol_tlv_merge_policy,
            upstream_connect_mode,
            max_early_data_bytes,
            check_drain_close,
            cluster_specifier,
        } = wire;
        refuse!(cx; on_demand, proxy_protocol_tlvs, proxy_protocol_tlv_merge_policy,
            upstream_connect_mode);
        // The first two Envoy does not implement either.
        ignorable!(cx; downstream_idle_timeout, upstream_idle_timeout, max_early_data_bytes, check_drain_close);
        let log_options = log_options(
            access_log_options,
            access_log_flush_interval,
            flush_access_log_on_connected,
            cx,
        )?;
        let jitter = max_downstream_connection_duration_jitter_percentage
            .map_or(0.0, |percent| percent.value);
        if !(0.0..=100.0).contains(&jitter) {
            return Err(cx.invalid(
                "max_downstream_connection_duration_jitter_percentage",
                "must be from 0 to 100",
            ));
        }
        let idle = cx
            .duration("idle_timeout", idle_timeout)?
            .unwrap_or(DEFAULT_IDLE_TIMEOUT);
        let max = cx.duration(
            "max_downstream_connection_duration",
            max_downstream_connection_duration,
        )?;
        let clusters = targets(cluster_specifier, cx)?;
        let total_weight: u64 = clusters.iter().map(|target| target.weight).sum();
        if total_weight == 0 {
            return Err(cx.invalid("weighted_clusters", "weights must sum to at least 1"));
        }
        Ok(Self {
            stat_prefix: stat_prefix.into(),
            clusters,
            total_weight,
            metadata_match: metadata_match
                .map(|wire| Metadata::parse(Some(wire), "metadata_match", cx)),
            idle_timeout: (!idle.is_zero()).then_some(idle),
            max_connection_duration: max.filter(|max| !max.is_zero()),
            max_duration_jitter: jitter / 100.0,
            backoff: backoff(backoff_options, cx)?,
            log_options,
            max_connect_attempts: max_connect_attempts.map_or(1, |attempts| attempts.value.max(1)),
            hash_source_ip: hashes_source_ip(hash_policy, cx)?,
            tunnel: match tunneling_config {
                None => None,
                Some(wire) => Some(cx.field("tunneling_config", |cx| {
                    Tunnel::parse(wire, cx).map(Box::new)
                })?),
            },
            access_logs: AccessLog::parse_all("access_log", access_log, cx)?,
        })
    }
}

/// Waits between attempts to connect: ten times the first one is the longest unless said otherwise.
fn backoff(
    wire: Option<core::BackoffStrategy>,
    cx: &mut Cx,
) -> Result<Option<(Duration, Duration)>, Invalid> {
    let Some(wire) = wire else { return Ok(None) };
    cx.field("backoff_options", |cx| {
        let core::BackoffStrategy {
            base_interval,
            max_interval,
        } = wire;
        let base = cx.required("base_interval", base_interval)?;
        let base = cx
            .duration("base_interval", Some(base))?
            .unwrap_or_default();
        let max = cx.duration("max_interval", max_interval)?;
        let max = max.unwrap_or_else(|| base.saturating_mul(10));
        if base < Duration::from_millis(1) {
            return Err(cx.invalid("base_interval", "must be at least 1ms"));
        }
        if max < base {
            return Err(cx.invalid("max_interval", "must not be less than base_interval"));
        }
        Ok(Some((base, max)))
    })
}

fn log_options(
    wire: Option<pb::tcp_proxy::TcpAccessLogOptions>,
    old_interval: Option<google::Duration>,
    old_on_connected: bool,
    cx: &mut Cx,
) -> Result<LogOptions, Invalid> {
    let Some(wire) = wire else {
        return Ok(LogOptions {
            on_start: false,
            on_connected: old_on_connected,
            interval: interval("access_log_flush_interval", old_interval, cx)?,
        });
    };
    if old_interval.is_some() || old_on_connected {
        return Err(cx.invalid(
            "access_log_options",
            "cannot be there together with the fields that it replaces",
        ));
    }
    cx.field("access_log_options", |cx| {
        let pb::tcp_proxy::TcpAccessLogOptions {
            access_log_flush_interval,
            flush_access_log_on_connected,
            flush_access_log_on_start,
        } = wire;
        Ok(LogOptions {
            on_start: flush_access_log_on_start,
            on_connected: flush_access_log_on_connected,
            interval: interval("access_log_flush_interval", access_log_flush_interval, cx)?,
        })
    })
}

fn interval(
    field: &str,
    wire: Option<google::Duration>,
    cx: &Cx,
) -> Result<Option<Duration>, Invalid> {
    let interval = cx.duration(field, wire)?;
    if interval.is_some_and(|interval| interval < Duration::from_millis(1)) {
        return Err(cx.invalid(field, "must be at least 1ms"));
    }
    Ok(interval)
}

fn targets(
    wire: Option<pb::tcp_proxy::ClusterSpecifier>,
    cx: &mut Cx,
) -> Result<Vec<WeightedTarget>, Invalid> {
    use pb::tcp_proxy::ClusterSpecifier;
    match cx.required("cluster", wire)? {
        ClusterSpecifier::Cluster(name) if name.is_empty() => {
            Err(cx.invalid("cluster", "is empty"))
        }
        ClusterSpecifier::Cluster(name) => Ok(vec![WeightedTarget {
            cluster: name.into(),
            weight: 1,
            metadata_match: None,
        }]),
        ClusterSpecifier::WeightedClusters(list) => cx.field("weighted_clusters", |cx| {
            cx.each("clusters", list.clusters, |wire, cx| {
                let pb::tcp_proxy::weighted_cluster::ClusterWeight {
                    name,
                    weight,
                    metadata_match,
                } = wire;
                if name.is_empty() {
                    return Err(cx.invalid("name", "is empty"));
                }
                if weight == 0 {
                    return Err(cx.invalid("weight", "must be at least 1"));
                }
                Ok(WeightedTarget {
                    cluster: name.into(),
                    weight: weight.into(),
                    metadata_match: metadata_match
                        .map(|wire| Metadata::parse(Some(wire), "metadata_match", cx)),
                })
            })
        }),
    }
}

fn hashes_source_ip(wire: Vec<types::HashPolicy>, cx: &Cx) -> Result<bool, Invalid> {
    use types::hash_policy::PolicySpecifier;
    let mut source_ip = false;
    for policy in wire {
        match cx.required("hash_policy", policy.policy_specifier)? {
            PolicySpecifier::SourceIp(_) => source_ip = true,
            PolicySpecifier::FilterState(_) => {
                return Err(cx.invalid("hash_policy.filter_state", "not supported by this proxy"));
            }
        }
    }
    Ok(source_ip)
}
