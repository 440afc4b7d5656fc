//! Load-balancing policies, in Envoy's old and new spelling.

use std::sync::Arc;
use std::time::Duration;

use malla_xds_proto::malla::PeakEwma;

use super::subset::Subsets;
use super::{Balance, BalancePolicy, LocalityPolicy, SlowStart, ZoneAware};
use crate::checked::{Cx, Invalid, ignorable, refuse, type_name};
use crate::pb::extensions::load_balancing_policies as ext;
use crate::pb::{cluster as pb, core, google, types};

/// Envoy's default panic threshold in percent.
const DEFAULT_PANIC: f64 = 50.0;
const DEFAULT_MIN_RING: u64 = 1024;
const DEFAULT_MAX_RING: u64 = 8 << 20;
const DEFAULT_MAGLEV_TABLE: u64 = 65_537;
/// Envoy's largest Maglev table.
const MAX_MAGLEV_TABLE: u64 = 5_000_011;
/// Linkerd's `decay` and `default_rtt` of its peak EWMA balancer.
const DEFAULT_DECAY: Duration = Duration::from_secs(10);
const DEFAULT_RTT: Duration = Duration::from_millis(30);
const DEFAULT_MIN_WEIGHT_PERCENT: f64 = 10.0;
/// `LoadBalancingPolicy` may nest (`wrr_locality`), but not for ever.
const MAX_NESTING: u32 = 4;

/// The load-balancing fields of a cluster, in their old places.
pub(super) struct Legacy {
    pub(super) lb_policy: i32,
    pub(super) lb_config: Option<pb::cluster::LbConfig>,
    pub(super) common: Option<pb::cluster::CommonLbConfig>,
    pub(super) policy: Option<pb::LoadBalancingPolicy>,
    pub(super) subsets: Option<pb::cluster::LbSubsetConfig>,
}

impl Balance {
    pub(super) fn parse(wire: Legacy, cx: &mut Cx) -> Result<Self, Invalid> {
        let mut out = Self {
            policy: BalancePolicy::RoundRobin,
            locality: LocalityPolicy::None,
            panic_threshold: DEFAULT_PANIC,
            slow_start: None,
            close_on_set_change: false,
            ignore_unchecked: false,
            subsets: None,
        };
        let consistent = out.set_common(wire.common, cx)?;
        match wire.policy {
            Some(policy) => cx.field("load_balancing_policy", |cx| {
                out.set_policy(policy, MAX_NESTING, cx)
            })?,
            None => {
                out.set_legacy(wire.lb_policy, wire.lb_config, consistent, cx)?;
                if let Some(subsets) = wire.subsets {
                    let subsets = cx.field("lb_subset_config", |cx| Subsets::parse(subsets, cx))?;
                    out.subsets = subsets.map(Arc::new);
                }
            }
        }
        Ok(out)
    }

    fn set_common(
        &mut self,
        wire: Option<pb::cluster::CommonLbConfig>,
        cx: &mut Cx,
    ) -> Result<(bool, Option<u32>), Invalid> {
        use pb::cluster::common_lb_config::LocalityConfigSpecifier;
        let Some(wire) = wire else {
            return Ok((false, None));
        };
        cx.field("common_lb_config", |cx| {
            let pb::cluster::CommonLbConfig {
                healthy_panic_threshold,
                update_merge_window,
                ignore_new_hosts_until_first_hc,
                close_connections_on_host_set_change,
                consistent_hashing_lb_config,
                override_host_status,
                locality_config_specifier,
            } = wire;
            // Updates are applied at once; hosts are never overridden.
            ignorable!(cx; update_merge_window, override_host_status);
            self.ignore_unchecked = ignore_new_hosts_until_first_hc;
            self.panic_threshold =
                healthy_panic_threshold.map_or(DEFAULT_PANIC, |percent| percent.value);
            self.close_on_set_change = close_connections_on_host_set_change;
            self.locality = match locality_config_specifier {
                None => LocalityPolicy::None,
                Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {
                    LocalityPolicy::Weighted
                }
                Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zone)) => {
                    LocalityPolicy::ZoneAware(zone_aware(
                        zone.routing_enabled,
                        zone.min_cluster_size,
                        zone.fail_traffic_on_panic,
                    ))
                }
            };
            let consistent = consistent_hashing_lb_config.unwrap_or_default();
            Ok((
                consistent.use_hostname_for_hashing,
                consistent.hash_balance_factor.map(|factor| factor.value),
            ))
        })
    }

    fn set_legacy(
        &mut self,
        policy: i32,
        config: Option<pb::cluster::LbConfig>,
        (by_hostname, balance_factor): (bool, Option<u32>),
        cx: &mut Cx,
    ) -> Result<(), Invalid> {
        use pb::cluster::{LbConfig, LbPolicy};
        self.policy = match (cx.enumeration("lb_policy", policy)?, config) {
            (LbPolicy::RoundRobin, config) => {
                if let Some(LbConfig::RoundRobinLbConfig(config)) = config {
                    self.slow_start = slow_start_legacy(config.slow_start_config, cx)?;
                }
                BalancePolicy::RoundRobin
            }
            (LbPolicy::LeastRequest, config) => {
                let config = match config {
                    Some(LbConfig::LeastRequestLbConfig(config)) => config,
                    _ => pb::cluster::LeastRequestLbConfig::default(),
                };
                self.slow_start = slow_start_legacy(config.slow_start_config, cx)?;
                least_request(config.choice_count, config.active_request_bias, false)
            }
            (LbPolicy::Random, _) => BalancePolicy::Random,
            (LbPolicy::RingHash, config) => {
                use pb::cluster::ring_hash_lb_config::HashFunction;
                let config = match config {
                    Some(LbConfig::RingHashLbConfig(config)) => config,
                    _ => pb::cluster::RingHashLbConfig::default(),
                };
                let function: HashFunction =
                    cx.enumeration("ring_hash_lb_config.hash_function", config.hash_function)?;
                let sizes = (config.minimum_ring_size, config.maximum_ring_size);
                ring_hash(
                    sizes,
                    function == HashFunction::MurmurHash2,
                    by_hostname,
                    balance_factor,
                    cx,
                )?
            }
            (LbPolicy::Maglev, config) => {
                let config = match config {
                    Some(LbConfig::MaglevLbConfig(config)) => config,
                    _ => pb::cluster::MaglevLbConfig::default(),
                };
                maglev(config.table_size, by_hostname, balance_factor, cx)?
            }
            (LbPolicy::ClusterProvided, _) => BalancePolicy::ClusterProvided,
            (LbPolicy::LoadBalancingPolicyConfig, _) => {
                return Err(cx.invalid(
                    "load_balancing_policy",
                    "is required with LOAD_BALANCING_POLICY_CONFIG",
                ));
            }
        };
        Ok(())
    }

    /// The first policy that this proxy knows, as Envoy chooses.
    fn set_policy(
        &mut self,
        wire: pb::LoadBalancingPolicy,
        depth: u32,
        cx: &mut Cx,
    ) -> Result<(), Invalid> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(cx.invalid("", "nested too deeply"));
        };
        let mut unknown = Vec::new();
        for (index, policy) in wire.policies.into_iter().enumerate() {
            let any = policy
                .typed_extension_config
                .and_then(|extension| extension.typed_config);
            let any = cx.required("policies.typed_extension_config.typed_config", any)?;
            let field = format!("policies[{index}].typed_extension_config.typed_config");
            let name = type_name(&any);
            if cx.field(&field, |cx| self.set_extension(&name, &any, depth, cx))? {
                return Ok(());
            }
            unknown.push(name);
        }
        Err(cx.invalid(
            "policies",
            format!("none is supported by this proxy: {}", unknown.join(", ")),
        ))
    }

    fn set_extension(
        &mut self,
        name: &str,
        any: &google::Any,
        depth: u32,
        cx: &mut Cx,
    ) -> Result<bool, Invalid> {
        if name == "malla.extensions.load_balancing_policies.peak_ewma.v1.PeakEwma" {
            self.policy = peak_ewma(cx.unpack("", any)?, cx)?;
            return Ok(true);
        }
        let Some(name) = name.strip_prefix("envoy.extensions.load_balancing_policies.") else {
            return Ok(false);
        };
        match name {
            "round_robin.v3.RoundRobin" => {
                let ext::round_robin::v3::RoundRobin {
                    slow_start_config,
                    locality_lb_config,
                } = cx.unpack("", any)?;
                self.policy = BalancePolicy::RoundRobin;
                self.slow_start = slow_start(slow_start_config, cx)?;
                self.set_locality(locality_lb_config, cx)?;
            }
            "least_request.v3.LeastRequest" => {
                use ext::least_request::v3::least_request::SelectionMethod;
                let ext::least_request::v3::LeastRequest {
                    choice_count,
                    active_request_bias,
                    slow_start_config,
                    locality_lb_config,
                    enable_full_scan,
                    selection_method,
                } = cx.unpack("", any)?;
                let method: SelectionMethod =
                    cx.enumeration("selection_method", selection_method)?;
                let full = enable_full_scan.is_some_and(|value| value.value)
                    || method == SelectionMethod::FullScan;
                self.policy = least_request(choice_count, active_request_bias, full);
                self.slow_start = slow_start(slow_start_config, cx)?;
                self.set_locality(locality_lb_config, cx)?;
            }
            "random.v3.Random" => {
                let ext::random::v3::Random { locality_lb_config } = cx.unpack("", any)?;
                self.policy = BalancePolicy::Random;
                self.set_locality(locality_lb_config, cx)?;
            }
            "ring_hash.v3.RingHash" => self.set_ring_hash(cx.unpack("", any)?, cx)?,
            "maglev.v3.Maglev" => {
                let ext::maglev::v3::Maglev {
                    table_size,
                    consistent_hashing_lb_config,
                    locality_weighted_lb_config,
                } = cx.unpack("", any)?;
                let (by_hostname, factor) = consistent(consistent_hashing_lb_config, cx)?;
                self.policy = maglev(table_size, by_hostname, factor, cx)?;
                self.set_weighted(locality_weighted_lb_config.is_some());
            }
            "cluster_provided.v3.ClusterProvided" => self.policy = BalancePolicy::ClusterProvided,
            "subset.v3.Subset" => {
                let subset: ext::subset::v3::Subset = cx.unpack("", any)?;
                let inner = cx.required("subset_lb_policy", subset.subset_lb_policy.clone())?;
                self.subsets = Subsets::parse_new(subset, cx)?.map(Arc::new);
                cx.field("subset_lb_policy", |cx| self.set_policy(inner, depth, cx))?;
            }
            "wrr_locality.v3.WrrLocality" => {
                let ext::wrr_locality::v3::WrrLocality {
                    endpoint_picking_policy,
                } = cx.unpack("", any)?;
                let inner = cx.required("endpoint_picking_policy", endpoint_picking_policy)?;
                cx.field("endpoint_picking_policy", |cx| {
                    self.set_policy(inner, depth, cx)
                })?;
                self.locality = LocalityPolicy::Weighted;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn set_ring_hash(
        &mut self,
        wire: ext::ring_hash::v3::RingHash,
        cx: &mut Cx,
    ) -> Result<(), Invalid> {
        use ext::ring_hash::v3::ring_hash::HashFunction;
        let ext::ring_hash::v3::RingHash {
            hash_function,
            minimum_ring_size,
            maximum_ring_size,
            use_hostname_for_hashing,
            hash_balance_factor,
            consistent_hashing_lb_config,
            locality_weighted_lb_config,
        } = wire;
        let function: HashFunction = cx.enumeration("hash_function", hash_function)?;
        let (by_hostname, factor) = match consistent_hashing_lb_config {
            Some(config) => consistent(Some(config), cx)?,
            None => (
                use_hostname_for_hashing,
                hash_balance_factor.map(|factor| factor.value),
            ),
        };
        let murmur = function == HashFunction::MurmurHash2;
        self.policy = ring_hash(
            (minimum_ring_size, maximum_ring_size),
            murmur,
            by_hostname,
            factor,
            cx,
        )?;
        self.set_weighted(locality_weighted_lb_config.is_some());
        Ok(())
    }

    fn set_weighted(&mut self, weighted: bool) {
        if weighted {
            self.locality = LocalityPolicy::Weighted;
        }
    }

    fn set_locality(
        &mut self,
        wire: Option<ext::common::v3::LocalityLbConfig>,
        cx: &mut Cx,
    ) -> Result<(), Invalid> {
        use ext::common::v3::locality_lb_config::zone_aware_lb_config::LocalityBasis;
        use ext::common::v3::locality_lb_config::{LocalityConfigSpecifier, ZoneAwareLbConfig};
        match wire.and_then(|wire| wire.locality_config_specifier) {
            None => {}
            Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {
                self.locality = LocalityPolicy::Weighted
            }
            Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zone)) => {
                let ZoneAwareLbConfig {
                    routing_enabled,
                    min_cluster_size,
                    fail_traffic_on_panic,
                    force_locality_direct_routing,
                    force_local_zone,
                    locality_basis,
                } = zone;
                let basis: LocalityBasis = cx.enumeration("locality_basis", locality_basis)?;
                let force = force_local_zone.map(|force| force.min_size.map_or(1, |min| min.value));
                self.locality = LocalityPolicy::ZoneAware(ZoneAware {
                    force_local: force.or(force_locality_direct_routing.then_some(1)),
                    by_weight: basis == LocalityBasis::HealthyHostsWeight,
                    ..zone_aware(routing_enabled, min_cluster_size, fail_traffic_on_panic)
                });
            }
        }
        Ok(())
    }
}

fn peak_ewma(wire: PeakEwma, cx: &Cx) -> Result<BalancePolicy, Invalid> {
    let time = |field, wire, default| {
        let time = cx.duration(field, wire)?.unwrap_or(default);
        if time.is_zero() {
            return Err(cx.invalid(field, "must be more than 0"));
        }
        Ok(time)
    };
    Ok(BalancePolicy::PeakEwma {
        decay: time("decay_time", wire.decay_time, DEFAULT_DECAY)?,
        default_rtt: time("default_rtt", wire.default_rtt, DEFAULT_RTT)?,
    })
}

fn zone_aware(
    enabled: Option<types::Percent>,
    min_cluster_size: Option<google::UInt64Value>,
    fail_on_panic: bool,
) -> ZoneAware {
    let defaults = ZoneAware::default();
    ZoneAware {
        enabled_percent: enabled.map_or(defaults.enabled_percent, |percent| {
            percent.value.clamp(0.0, 100.0).round() as u32
        }),
        min_cluster_size: min_cluster_size.map_or(defaults.min_cluster_size, |size| size.value),
        fail_on_panic,
        ..defaults
    }
}

fn least_request(
    choices: Option<google::UInt32Value>,
    bias: Option<core::RuntimeDouble>,
    full_scan: bool,
) -> BalancePolicy {
    BalancePolicy::LeastRequest {
        choices: choices.map_or(2, |choices| choices.value.max(2)),
        active_request_bias: bias.map_or(1.0, |bias| bias.default_value.max(0.0)),
        full_scan,
    }
}

fn ring_hash(
    (min, max): (Option<google::UInt64Value>, Option<google::UInt64Value>),
    murmur: bool,
    by_hostname: bool,
    balance_factor: Option<u32>,
    cx: &Cx,
) -> Result<BalancePolicy, Invalid> {
    let min_size = min.map_or(DEFAULT_MIN_RING, |size| size.value);
    let max_size = max.map_or(DEFAULT_MAX_RING, |size| size.value);
    if max_size > DEFAULT_MAX_RING {
        return Err(cx.invalid(
            "maximum_ring_size",
            format!("is more than {DEFAULT_MAX_RING}"),
        ));
    }
    if min_size > max_size {
        return Err(cx.invalid("minimum_ring_size", "is more than maximum_ring_size"));
    }
    Ok(BalancePolicy::RingHash {
        min_size,
        max_size,
        murmur,
        by_hostname,
        balance_factor,
    })
}

fn maglev(
    size: Option<google::UInt64Value>,
    by_hostname: bool,
    balance_factor: Option<u32>,
    cx: &Cx,
) -> Result<BalancePolicy, Invalid> {
    let table_size = size.map_or(DEFAULT_MAGLEV_TABLE, |size| size.value);
    if table_size > MAX_MAGLEV_TABLE || !is_prime(table_size) {
        return Err(cx.invalid(
            "table_size",
            format!("must be a prime of at most {MAX_MAGLEV_TABLE}"),
        ));
    }
    Ok(BalancePolicy::Maglev {
        table_size,
        by_hostname,
        balance_factor,
    })
}

fn is_prime(n: u64) -> bool {
    n >= 2
        && (2..)
            .take_while(|d| d * d <= n)
            .all(|d| !n.is_multiple_of(d))
}

fn consistent(
    wire: Option<ext::common::v3::ConsistentHashingLbConfig>,
    cx: &mut Cx,
) -> Result<(bool, Option<u32>), Invalid> {
    let ext::common::v3::ConsistentHashingLbConfig {
        use_hostname_for_hashing,
        hash_balance_factor,
        hash_policy,
    } = wire.unwrap_or_default();
    refuse!(cx; hash_policy);
    Ok((
        use_hostname_for_hashing,
        hash_balance_factor.map(|factor| factor.value),
    ))
}

fn slow_start(
    wire: Option<ext::common::v3::SlowStartConfig>,
    cx: &Cx,
) -> Result<Option<SlowStart>, Invalid> {
    let Some(wire) = wire else { return Ok(None) };
    make_slow_start(
        wire.slow_start_window,
        wire.aggression,
        wire.min_weight_percent,
        cx,
    )
}

fn slow_start_legacy(
    wire: Option<pb::cluster::SlowStartConfig>,
    cx: &Cx,
) -> Result<Option<SlowStart>, Invalid> {
    let Some(wire) = wire else { return Ok(None) };
    make_slow_start(
        wire.slow_start_window,
        wire.aggression,
        wire.min_weight_percent,
        cx,
    )
}

fn make_slow_start(
    window: Option<google::Duration>,
    aggression: Option<core::RuntimeDouble>,
    min_weight: Option<types::Percent>,
    cx: &Cx,
) -> Result<Option<SlowStart>, Invalid> {
    let window = cx
        .duration("slow_start_config.slow_start_window", window)?
        .unwrap_or_default();
    if window.is_zero() {
        return Ok(None);
    }
    let aggression = aggression.map_or(1.0, |aggression| aggression.default_value);
    if aggression <= 0.0 {
        return Err(cx.invalid("slow_start_config.aggression", "must be more than 0"));
    }
    let min_weight_percent = min_weight.map_or(DEFAULT_MIN_WEIGHT_PERCENT, |percent| percent.value);
    Ok(Some(SlowStart {
        window,
        aggression,
        min_weight_percent,
    }))
}
