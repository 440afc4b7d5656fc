//! A TCP proxy from proto.

use std::time::Duration;

use super::{TcpProxy, WeightedTarget};
use crate::access_log::AccessLog;
use crate::checked::{Cx, Invalid, ignorable, refuse};
use crate::metadata::Metadata;
use crate::pb::extensions::filters::network::tcp_proxy::v3 as pb;
use crate::pb::types;

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
        refuse!(cx; on_demand, downstream_idle_timeout, upstream_idle_timeout, backoff_options, tunneling_config,
            max_downstream_connection_duration_jitter_percentage, access_log_flush_interval,
            flush_access_log_on_connected, access_log_options, proxy_protocol_tlvs, proxy_protocol_tlv_merge_policy,
            upstream_connect_mode);
        ignorable!(cx; max_early_data_bytes, check_drain_close);
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
            max_connect_attempts: max_connect_attempts.map_or(1, |attempts| attempts.value.max(1)),
            hash_source_ip: hashes_source_ip(hash_policy, cx)?,
            access_logs: AccessLog::parse_all("access_log", access_log, cx)?,
        })
    }
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
