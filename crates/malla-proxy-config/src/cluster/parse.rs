//! A cluster from proto.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::http_options::Legacy as LegacyHttp;
use super::{
    Balance, BalancePolicy, Bind, Cluster, Discovery, Dns, DnsFamily, DnsResolver, HealthCheck,
    MeshFacts, OriginalDst, OutlierDetection, Preconnect, Thresholds, Transport, TransportMatch,
    UpstreamHttp, resolver,
};
use crate::address::Address;
use crate::checked::{
    Checked, Cx, Invalid, ignorable, ignorable_refs, refuse, refuse_refs, type_name,
};
use crate::config_source::ConfigSource;
use crate::endpoints::EndpointSet;
use crate::listener::{SocketOption, TcpKeepalive};
use crate::metadata::Metadata;
use crate::pb::{Any, cluster as pb, core, endpoint, extensions, google};
use crate::peer_metadata::MetadataExchange;
use crate::runtime::Values;

const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Envoy's `per_connection_buffer_limit_bytes`.
pub(crate) const DEFAULT_BUFFER_LIMIT: u32 = 1 << 20;
const DEFAULT_DNS_REFRESH: Duration = Duration::from_secs(5);
const DEFAULT_CLEANUP: Duration = Duration::from_secs(5);
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The fields that say how DNS is used.
struct DnsFields {
    refresh: Option<crate::pb::google::Duration>,
    jitter: Option<crate::pb::google::Duration>,
    failure: Option<pb::cluster::RefreshRate>,
    respect_ttl: bool,
    min_ttl: Option<crate::pb::google::Duration>,
    family: i32,
    resolver: Option<DnsResolver>,
}

impl Cluster {
    /// Parses one cluster.
    pub fn from_proto(wire: pb::Cluster) -> Result<Checked<Self>, Invalid> {
        Cx::check(|cx| Self::parse(wire, cx))
    }

    /// As [`Self::from_proto`], with runtime values.
    pub fn from_proto_with(
        wire: pb::Cluster,
        runtime: &Arc<Values>,
    ) -> Result<Checked<Self>, Invalid> {
        Cx::with_runtime(runtime, |cx| Self::parse(wire, cx))
    }

    pub(crate) fn parse(wire: pb::Cluster, cx: &mut Cx) -> Result<Self, Invalid> {
        check_fields(&wire, cx)?;
        let dns = dns_fields(&wire, cx)?;
        if wire.name.is_empty() {
            return Err(cx.invalid("name", "is required"));
        }
        let name: Arc<str> = wire.name.into();
        let original = match &wire.lb_config {
            Some(pb::cluster::LbConfig::OriginalDstLbConfig(config)) => {
                original_dst(config.clone(), cx)?
            }
            _ => OriginalDst::default(),
        };
        let discovery = discovery(
            &name,
            wire.cluster_discovery_type,
            wire.eds_cluster_config,
            wire.load_assignment,
            dns,
            original,
            cx,
        )?;
        let legacy = LegacyHttp {
            upstream: wire.upstream_http_protocol_options,
            common: wire.common_http_protocol_options,
            http1: wire.http_protocol_options,
            http2: wire.http2_protocol_options,
            protocol_selection: wire.protocol_selection,
            max_requests_per_connection: wire.max_requests_per_connection,
        };
        let (thresholds, max_connections_per_host) = cx.field("circuit_breakers", |cx| {
            Thresholds::parse_all(wire.circuit_breakers, cx)
        })?;
        let balance = Balance::parse(
            super::balance::Legacy {
                lb_policy: wire.lb_policy,
                lb_config: wire.lb_config,
                common: wire.common_lb_config,
                policy: wire.load_balancing_policy,
                subsets: wire.lb_subset_config,
            },
            cx,
        )?;
        check_balance(&discovery, &balance, cx)?;
        let outlier = match wire.outlier_detection {
            Some(wire) => {
                Some(cx.field("outlier_detection", |cx| OutlierDetection::parse(wire, cx))?)
            }
            None => None,
        };
        let metadata = Metadata::parse(wire.metadata, "metadata", cx);
        let mesh = MeshFacts::of(&name, &metadata);
        Ok(Self {
            stat_name: if wire.alt_stat_name.is_empty() {
                Arc::clone(&name)
            } else {
                wire.alt_stat_name.into()
            },
            name,
            discovery,
            connect_timeout: cx
                .duration("connect_timeout", wire.connect_timeout)?
                .unwrap_or(DEFAULT_CONNECT_TIMEOUT),
            balance,
            thresholds,
            max_connections_per_host,
            outlier,
            health_check: HealthCheck::parse_all(wire.health_checks, cx)?,
            ignore_health_on_removal: wire.ignore_health_on_host_removal,
            http: http_options(wire.typed_extension_protocol_options, legacy, cx)?,
            transport: cx.field("transport_socket", |cx| {
                Transport::parse(wire.transport_socket, cx)
            })?,
            transport_matches: cx.each(
                "transport_socket_matches",
                wire.transport_socket_matches,
                TransportMatch::parse,
            )?,
            keepalive: keepalive(wire.upstream_connection_options, cx),
            bind: Bind::parse_optional(wire.upstream_bind_config, cx)?,
            buffer_limit: wire
                .per_connection_buffer_limit_bytes
                .map_or(DEFAULT_BUFFER_LIMIT, |limit| limit.value),
            cleanup_interval: cx
                .duration("cleanup_interval", wire.cleanup_interval)?
                .unwrap_or(DEFAULT_CLEANUP),
            close_on_health_failure: wire.close_connections_on_host_health_failure,
            pool_per_downstream: wire.connection_pool_per_downstream_connection,
            preconnect: preconnect(wire.preconnect_policy, cx)?,
            mesh,
            exchange: exchange(wire.filters, cx)?,
            metadata,
        })
    }
}

/// Refuses what is not supported. Every field is named, so that a new one does not compile unnoticed.
/// Network filters of a cluster's connections: the one that Istio puts there.
fn exchange(wire: Vec<pb::Filter>, cx: &mut Cx) -> Result<Option<MetadataExchange>, Invalid> {
    let filters: Vec<MetadataExchange> = cx.each("filters", wire, |filter, cx| {
        let pb::Filter {
            name: _,
            typed_config,
            config_discovery,
        } = filter;
        refuse!(cx; config_discovery);
        let any = cx.required("typed_config", typed_config)?;
        cx.field("typed_config", |cx| match type_name(&any).as_str() {
            "envoy.tcp.metadataexchange.config.MetadataExchange" => {
                MetadataExchange::parse(cx.unpack("", &any)?, cx)
            }
            other => Err(cx.invalid(
                "",
                format!("network filter {other} of a cluster is not supported by this proxy"),
            )),
        })
    })?;
    Ok(filters.into_iter().next())
}

fn check_fields(wire: &pb::Cluster, cx: &mut Cx) -> Result<(), Invalid> {
    let pb::Cluster {
        transport_socket_matches: _,
        transport_socket_matcher,
        name: _,
        alt_stat_name: _,
        stats_matcher,
        eds_cluster_config: _,
        connect_timeout: _,
        per_connection_buffer_limit_bytes: _,
        per_connection_buffer_high_watermark_timeout,
        lb_policy: _,
        load_assignment: _,
        health_checks: _,
        max_requests_per_connection: _,
        circuit_breakers: _,
        upstream_http_protocol_options: _,
        common_http_protocol_options: _,
        http_protocol_options: _,
        http2_protocol_options: _,
        typed_extension_protocol_options: _,
        dns_refresh_rate: _,
        dns_jitter: _,
        dns_failure_refresh_rate: _,
        respect_dns_ttl: _,
        dns_lookup_family: _,
        dns_resolvers: _,
        use_tcp_for_dns_lookups: _,
        dns_resolution_config: _,
        typed_dns_resolver_config: _,
        wait_for_warm_on_init,
        outlier_detection: _,
        cleanup_interval: _,
        upstream_bind_config: _,
        lb_subset_config: _,
        common_lb_config: _,
        transport_socket: _,
        metadata: _,
        protocol_selection: _,
        upstream_connection_options: _,
        close_connections_on_host_health_failure: _,
        ignore_health_on_host_removal: _,
        filters: _,
        load_balancing_policy: _,
        lrs_server,
        lrs_report_endpoint_metrics,
        track_timeout_budgets,
        upstream_config,
        track_cluster_stats,
        preconnect_policy: _,
        connection_pool_per_downstream_connection: _,
        queuing_policies,
        cluster_discovery_type: _,
        lb_config: _,
    } = wire;
    refuse_refs!(cx; transport_socket_matcher, upstream_config, queuing_policies);
    // When a cluster counts as warm and what is measured is this proxy's own.
    ignorable_refs!(cx; stats_matcher, per_connection_buffer_high_watermark_timeout,
    wait_for_warm_on_init, lrs_server, lrs_report_endpoint_metrics,
    track_timeout_budgets, track_cluster_stats);
    Ok(())
}

fn preconnect(
    wire: Option<pb::cluster::PreconnectPolicy>,
    cx: &mut Cx,
) -> Result<Option<Preconnect>, Invalid> {
    let Some(wire) = wire else { return Ok(None) };
    cx.field("preconnect_policy", |cx| {
        let pb::cluster::PreconnectPolicy {
            per_upstream_preconnect_ratio,
            predictive_preconnect_ratio,
            preconnect_enabled_metadata,
        } = wire;
        refuse!(cx; preconnect_enabled_metadata);
        let ratio = |field: &str, value: Option<google::DoubleValue>, cx: &Cx| {
            let ratio = value.map_or(1.0, |value| value.value);
            if (1.0..=3.0).contains(&ratio) {
                return Ok(ratio);
            }
            Err(cx.invalid(field, format!("{ratio} is not from 1 to 3")))
        };
        Ok(Some(Preconnect {
            per_upstream: ratio(
                "per_upstream_preconnect_ratio",
                per_upstream_preconnect_ratio,
                cx,
            )?,
            predictive: ratio(
                "predictive_preconnect_ratio",
                predictive_preconnect_ratio,
                cx,
            )?,
        }))
    })
}

/// ORIGINAL_DST and CLUSTER_PROVIDED only make sense together.
fn check_balance(discovery: &Discovery, balance: &Balance, cx: &Cx) -> Result<(), Invalid> {
    let original = matches!(discovery, Discovery::OriginalDst(_));
    let provided = balance.policy == BalancePolicy::ClusterProvided;
    if original != provided {
        return Err(cx.invalid(
            "lb_policy",
            "CLUSTER_PROVIDED goes with type ORIGINAL_DST and only with it",
        ));
    }
    Ok(())
}

fn discovery(
    name: &Arc<str>,
    kind: Option<pb::cluster::ClusterDiscoveryType>,
    eds: Option<pb::cluster::EdsClusterConfig>,
    assignment: Option<endpoint::ClusterLoadAssignment>,
    dns: DnsFields,
    original: OriginalDst,
    cx: &mut Cx,
) -> Result<Discovery, Invalid> {
    use pb::cluster::{ClusterDiscoveryType, DiscoveryType};
    let kind = match kind {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => cx.enumeration("type", kind)?,
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            return cx.field("cluster_type", |cx| {
                custom_discovery(name, custom, assignment, cx)
            });
        }
    };
    match kind {
        DiscoveryType::Eds => {
            cx.unset("load_assignment", &assignment)?;
            let pb::cluster::EdsClusterConfig {
                eds_config,
                service_name,
            } = cx.required("eds_cluster_config", eds)?;
            let source = cx.required("eds_cluster_config.eds_config", eds_config)?;
            let source = cx.field("eds_cluster_config.eds_config", |cx| {
                ConfigSource::parse(source, cx)
            })?;
            Ok(Discovery::Eds {
                service: if service_name.is_empty() {
                    Arc::clone(name)
                } else {
                    service_name.into()
                },
                source,
            })
        }
        DiscoveryType::OriginalDst => Ok(Discovery::OriginalDst(original)),
        DiscoveryType::Static => {
            let set = inline(name, assignment, cx)?;
            if let Some((_, endpoint)) = set
                .iter()
                .find(|(_, it)| matches!(it.address, Address::Name { .. }))
            {
                let reason = format!(
                    "`{}` is not an IP address; use STRICT_DNS or LOGICAL_DNS",
                    endpoint.address
                );
                return Err(cx.invalid("load_assignment", reason));
            }
            Ok(Discovery::Static(set))
        }
        DiscoveryType::StrictDns => Ok(Discovery::StrictDns(make_dns(
            inline(name, assignment, cx)?,
            dns,
            cx,
        )?)),
        DiscoveryType::LogicalDns => {
            let set = inline(name, assignment, cx)?;
            logical(make_dns(set, dns, cx)?, cx)
        }
    }
}

fn inline(
    name: &Arc<str>,
    assignment: Option<endpoint::ClusterLoadAssignment>,
    cx: &mut Cx,
) -> Result<Arc<EndpointSet>, Invalid> {
    let mut assignment = assignment.unwrap_or_default();
    if assignment.cluster_name.is_empty() {
        assignment.cluster_name = name.to_string();
    }
    cx.field("load_assignment", |cx| EndpointSet::parse(assignment, cx))
        .map(Arc::new)
}

fn logical(dns: Dns, cx: &Cx) -> Result<Discovery, Invalid> {
    if dns.template.iter().count() != 1 {
        return Err(cx.invalid("load_assignment", "LOGICAL_DNS takes exactly one endpoint"));
    }
    Ok(Discovery::LogicalDns(dns))
}

fn dns_fields(wire: &pb::Cluster, cx: &mut Cx) -> Result<DnsFields, Invalid> {
    let legacy = resolver::Legacy {
        typed: wire.typed_dns_resolver_config.clone(),
        resolution: wire.dns_resolution_config.clone(),
        resolvers: wire.dns_resolvers.clone(),
        tcp: wire.use_tcp_for_dns_lookups,
    };
    Ok(DnsFields {
        refresh: wire.dns_refresh_rate,
        jitter: wire.dns_jitter,
        failure: wire.dns_failure_refresh_rate,
        respect_ttl: wire.respect_dns_ttl,
        min_ttl: None,
        family: wire.dns_lookup_family,
        resolver: DnsResolver::parse(legacy, cx)?,
    })
}

fn make_dns(template: Arc<EndpointSet>, wire: DnsFields, cx: &Cx) -> Result<Dns, Invalid> {
    use pb::cluster::DnsLookupFamily;
    let refresh = cx
        .duration("dns_refresh_rate", wire.refresh)?
        .unwrap_or(DEFAULT_DNS_REFRESH);
    let failure_refresh = match wire.failure {
        None => None,
        Some(rate) => {
            let base = cx.duration("dns_failure_refresh_rate.base_interval", rate.base_interval)?;
            let base = cx.required("dns_failure_refresh_rate.base_interval", base)?;
            let max = cx.duration("dns_failure_refresh_rate.max_interval", rate.max_interval)?;
            Some((base, max.unwrap_or(base * 10).max(base)))
        }
    };
    Ok(Dns {
        template,
        refresh,
        jitter: cx.duration("dns_jitter", wire.jitter)?.unwrap_or_default(),
        failure_refresh,
        respect_ttl: wire.respect_ttl,
        min_ttl: cx
            .duration("dns_min_refresh_rate", wire.min_ttl)?
            .unwrap_or_default(),
        resolver: wire.resolver.map(Arc::new),
        family: match cx.enumeration("dns_lookup_family", wire.family)? {
            DnsLookupFamily::Auto => DnsFamily::Auto,
            DnsLookupFamily::V4Only => DnsFamily::V4Only,
            DnsLookupFamily::V6Only => DnsFamily::V6Only,
            DnsLookupFamily::V4Preferred => DnsFamily::V4Preferred,
            DnsLookupFamily::All => DnsFamily::All,
        },
    })
}

/// `cluster_type`: the DNS cluster extension is the new spelling of STRICT_DNS and LOGICAL_DNS.
fn custom_discovery(
    name: &Arc<str>,
    wire: pb::cluster::CustomClusterType,
    assignment: Option<endpoint::ClusterLoadAssignment>,
    cx: &mut Cx,
) -> Result<Discovery, Invalid> {
    use extensions::clusters::common::dns::v3::DnsLookupFamily;
    let any = cx.required("typed_config", wire.typed_config)?;
    let kind = type_name(&any);
    if kind != "envoy.extensions.clusters.dns.v3.DnsCluster" {
        return Err(cx.invalid(
            "typed_config",
            format!("cluster type {kind} is not supported by this proxy"),
        ));
    }
    let extensions::clusters::dns::v3::DnsCluster {
        dns_refresh_rate,
        dns_failure_refresh_rate,
        respect_dns_ttl,
        dns_jitter,
        typed_dns_resolver_config,
        dns_lookup_family,
        all_addresses_in_single_endpoint,
        dns_min_refresh_rate,
    } = cx.unpack("typed_config", &any)?;
    let resolver = DnsResolver::parse(
        resolver::Legacy {
            typed: typed_dns_resolver_config,
            resolution: None,
            resolvers: Vec::new(),
            tcp: false,
        },
        cx,
    )?;
    let family = match cx.enumeration("dns_lookup_family", dns_lookup_family)? {
        DnsLookupFamily::Unspecified | DnsLookupFamily::Auto => pb::cluster::DnsLookupFamily::Auto,
        DnsLookupFamily::V4Only => pb::cluster::DnsLookupFamily::V4Only,
        DnsLookupFamily::V6Only => pb::cluster::DnsLookupFamily::V6Only,
        DnsLookupFamily::V4Preferred => pb::cluster::DnsLookupFamily::V4Preferred,
        DnsLookupFamily::All => pb::cluster::DnsLookupFamily::All,
    };
    let fields = DnsFields {
        refresh: dns_refresh_rate,
        jitter: dns_jitter,
        failure: dns_failure_refresh_rate.map(|rate| pb::cluster::RefreshRate {
            base_interval: rate.base_interval,
            max_interval: rate.max_interval,
        }),
        respect_ttl: respect_dns_ttl,
        min_ttl: dns_min_refresh_rate,
        family: family as i32,
        resolver,
    };
    let dns = make_dns(inline(name, assignment, cx)?, fields, cx)?;
    if all_addresses_in_single_endpoint {
        logical(dns, cx)
    } else {
        Ok(Discovery::StrictDns(dns))
    }
}

fn original_dst(
    wire: pb::cluster::OriginalDstLbConfig,
    cx: &mut Cx,
) -> Result<OriginalDst, Invalid> {
    let pb::cluster::OriginalDstLbConfig {
        use_http_header,
        http_header_name,
        upstream_port_override,
        metadata_key,
    } = wire;
    refuse!(cx; metadata_key);
    let header = match (use_http_header, http_header_name.as_str()) {
        (false, _) => None,
        (true, "") => Some(http::HeaderName::from_static("x-envoy-original-dst-host")),
        (true, name) => Some(name.parse().map_err(|_| {
            cx.invalid(
                "original_dst_lb_config.http_header_name",
                "is not a header name",
            )
        })?),
    };
    let port_override = match upstream_port_override {
        Some(port) => Some(cx.port("original_dst_lb_config.upstream_port_override", port.value)?),
        None => None,
    };
    Ok(OriginalDst {
        header,
        port_override,
    })
}

fn http_options(
    typed: std::collections::HashMap<String, Any>,
    legacy: LegacyHttp,
    cx: &mut Cx,
) -> Result<UpstreamHttp, Invalid> {
    let mut found = None;
    for (name, any) in typed {
        let field = format!("typed_extension_protocol_options[{name}]");
        if type_name(&any) != HTTP_OPTIONS {
            return Err(cx.invalid(
                &field,
                format!("{} is not supported by this proxy", type_name(&any)),
            ));
        }
        let options = cx.unpack(&field, &any)?;
        found = Some(cx.field(&field, |cx| UpstreamHttp::parse(options, cx))?);
    }
    match found {
        Some(options) => Ok(options),
        None => UpstreamHttp::parse_legacy(legacy, cx),
    }
}

fn keepalive(wire: Option<pb::UpstreamConnectionOptions>, cx: &mut Cx) -> Option<TcpKeepalive> {
    let pb::UpstreamConnectionOptions {
        tcp_keepalive,
        set_local_interface_name_on_upstream_connections,
        happy_eyeballs_config,
    } = wire?;
    ignorable!(cx; set_local_interface_name_on_upstream_connections, happy_eyeballs_config);
    tcp_keepalive.map(TcpKeepalive::parse)
}

impl Cluster {
    /// Takes over where connections come from, if the cluster does not say it (`cluster_manager.upstream_bind_config`).
    pub fn bind_by(&mut self, default: Option<&Bind>) {
        if self.bind.is_none() {
            self.bind = default.cloned();
        }
    }
}

impl Bind {
    /// Parses the field `upstream_bind_config` of a cluster or of the cluster manager.
    pub(crate) fn parse_optional(
        wire: Option<core::BindConfig>,
        cx: &mut Cx,
    ) -> Result<Option<Self>, Invalid> {
        let Some(wire) = wire else { return Ok(None) };
        cx.field("upstream_bind_config", |cx| {
            let core::BindConfig {
                source_address,
                freebind,
                socket_options,
                extra_source_addresses,
                additional_source_addresses,
                local_address_selector,
                validate_network_namespaces,
            } = wire;
            refuse!(cx; additional_source_addresses, local_address_selector);
            ignorable!(cx; validate_network_namespaces);
            let mut sources = Vec::new();
            if let Some(first) = source_address {
                sources.push(cx.field("source_address", |cx| source(first, cx))?);
            } else if !extra_source_addresses.is_empty() {
                return Err(cx.invalid(
                    "source_address",
                    "is required beside extra_source_addresses",
                ));
            }
            if extra_source_addresses.len() > 1 {
                return Err(cx.invalid(
                    "extra_source_addresses",
                    "at most one: of the other address family",
                ));
            }
            let extra: Vec<SocketAddr> = cx.each(
                "extra_source_addresses",
                extra_source_addresses,
                |wire, cx| {
                    let core::ExtraSourceAddress {
                        address,
                        socket_options,
                    } = wire;
                    refuse!(cx; socket_options);
                    let address = cx.required("address", address)?;
                    cx.field("address", |cx| source(address, cx))
                },
            )?;
            sources.extend(extra);
            if let [first, second] = sources[..]
                && first.is_ipv4() == second.is_ipv4()
            {
                return Err(cx.invalid(
                    "extra_source_addresses",
                    "must be of the other address family",
                ));
            }
            let options = cx.each("socket_options", socket_options, SocketOption::parse)?;
            let freebind = freebind.is_some_and(|value| value.value);
            Ok(Some(Self {
                sources,
                freebind,
                options,
            }))
        })
    }
}

fn source(wire: core::SocketAddress, cx: &mut Cx) -> Result<SocketAddr, Invalid> {
    let address = core::Address {
        address: Some(core::address::Address::SocketAddress(wire)),
    };
    let address = Address::parse(address, cx)?;
    cx.required("address", address.socket())
}
