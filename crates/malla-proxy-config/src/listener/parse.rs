//! A listener from proto.

use std::sync::Arc;
use std::time::Duration;

use super::{
    Direction, Listener, ListenerFilter, ListenerFilterKind, PortPredicate, SocketOption,
    SocketValue, TcpKeepalive,
};
use crate::access_log::AccessLog;
use crate::address::Address;
use crate::checked::{Checked, Cx, Invalid, ignorable, refuse, type_name};
use crate::cluster::DEFAULT_BUFFER_LIMIT;
use crate::filter_chain::FilterChain;
use crate::metadata::Metadata;
use crate::pb::extensions::filters::listener as ext;
use crate::pb::{core, google, listener as pb};
use crate::runtime::Values;

const DEFAULT_FILTERS_TIMEOUT: Duration = Duration::from_secs(15);
/// `filter_disabled` may nest, but not for ever.
const MAX_PREDICATE_DEPTH: u32 = 16;

impl Listener {
    /// Parses one listener.
    pub fn from_proto(wire: pb::Listener) -> Result<Checked<Self>, Invalid> {
        Cx::check(|cx| Self::parse(wire, cx))
    }

    /// As [`Self::from_proto`], with runtime values.
    pub fn from_proto_with(
        wire: pb::Listener,
        runtime: &Arc<Values>,
    ) -> Result<Checked<Self>, Invalid> {
        Cx::with_runtime(runtime, |cx| Self::parse(wire, cx))
    }

    pub(crate) fn parse(wire: pb::Listener, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::Listener {
            name,
            address,
            additional_addresses,
            stat_prefix,
            stats_matcher,
            filter_chains,
            fcds_config,
            filter_chain_matcher,
            use_original_dst,
            default_filter_chain,
            per_connection_buffer_limit_bytes,
            per_connection_buffer_high_watermark_timeout,
            metadata,
            deprecated_v1,
            drain_type,
            listener_filters,
            listener_filters_timeout,
            continue_on_listener_filters_timeout,
            transparent,
            freebind,
            socket_options,
            tcp_fast_open_queue_length,
            traffic_direction,
            udp_listener_config,
            api_listener,
            connection_balance_config,
            reuse_port,
            enable_reuse_port,
            access_log,
            tcp_backlog_size,
            max_connections_to_accept_per_socket_event,
            bind_to_port,
            enable_mptcp,
            ignore_global_conn_limit,
            bypass_overload_manager,
            tcp_keepalive,
            listener_specifier,
        } = wire;
        refuse!(cx; fcds_config, filter_chain_matcher, udp_listener_config, api_listener, enable_mptcp,
            listener_specifier);
        // How connections are drained is this proxy's own.
        ignorable!(cx; stats_matcher, per_connection_buffer_high_watermark_timeout, drain_type,
            tcp_fast_open_queue_length, max_connections_to_accept_per_socket_event,
            ignore_global_conn_limit, bypass_overload_manager);
        // The old spelling has no effect in Envoy either.
        let _ = reuse_port;
        let flag =
            |value: Option<google::BoolValue>, default| value.map_or(default, |value| value.value);
        let bind = match deprecated_v1 {
            Some(old) if bind_to_port.is_none() => flag(old.bind_to_port, true),
            _ => flag(bind_to_port, true),
        };
        let timeout = cx
            .duration("listener_filters_timeout", listener_filters_timeout)?
            .unwrap_or(DEFAULT_FILTERS_TIMEOUT);
        let (chains, default_chain) = chains(filter_chains, default_filter_chain, cx)?;
        Ok(Self {
            socket_options: cx.each("socket_options", socket_options, SocketOption::parse)?,
            reuse_port: flag(enable_reuse_port, true),
            exact_balance: exact_balance(connection_balance_config, cx)?,
            ipv4_compat: any_wants_ipv4(&address, &additional_addresses),
            max_connections: connection_limit(&name, cx),
            addresses: addresses(address, additional_addresses, cx)?,
            name: name.into(),
            stat_prefix: (!stat_prefix.is_empty()).then(|| stat_prefix.into()),
            bind_to_port: bind,
            use_original_dst: flag(use_original_dst, false),
            transparent: flag(transparent, false),
            freebind: flag(freebind, false),
            backlog: tcp_backlog_size.map(|size| size.value),
            keepalive: tcp_keepalive.map(TcpKeepalive::parse),
            filters: cx.each("listener_filters", listener_filters, ListenerFilter::parse)?,
            filters_timeout: (!timeout.is_zero()).then_some(timeout),
            continue_on_timeout: continue_on_listener_filters_timeout,
            chains,
            default_chain,
            buffer_limit: per_connection_buffer_limit_bytes
                .map_or(DEFAULT_BUFFER_LIMIT, |limit| limit.value),
            access_logs: AccessLog::parse_all("access_log", access_log, cx)?,
            direction: match cx.enumeration("traffic_direction", traffic_direction)? {
                core::TrafficDirection::Unspecified => Direction::Unspecified,
                core::TrafficDirection::Inbound => Direction::Inbound,
                core::TrafficDirection::Outbound => Direction::Outbound,
            },
            metadata: Metadata::parse(metadata, "metadata", cx),
        })
    }
}

/// The chains to match and the one for everything else.
type Chains = (Vec<Arc<FilterChain>>, Option<Arc<FilterChain>>);

fn chains(
    wire: Vec<pb::FilterChain>,
    default: Option<pb::FilterChain>,
    cx: &mut Cx,
) -> Result<Chains, Invalid> {
    let parse = |wire, cx: &mut Cx| FilterChain::parse(wire, cx).map(Arc::new);
    let chains: Vec<_> = cx.each("filter_chains", wire, parse)?;
    let default = match default {
        None => None,
        Some(wire) => Some(cx.field("default_filter_chain", |cx| parse(wire, cx))?),
    };
    if chains.is_empty() && default.is_none() {
        return Err(cx.invalid("filter_chains", "at least one is required"));
    }
    Ok((chains, default))
}

fn exact_balance(
    wire: Option<pb::listener::ConnectionBalanceConfig>,
    cx: &mut Cx,
) -> Result<bool, Invalid> {
    use pb::listener::connection_balance_config::{BalanceType, ExactBalance};
    let Some(pb::listener::ConnectionBalanceConfig { balance_type }) = wire else {
        return Ok(false);
    };
    cx.field("connection_balance_config", |cx| {
        match cx.required("balance_type", balance_type)? {
            BalanceType::ExactBalance(ExactBalance {}) => Ok(true),
            BalanceType::ExtendBalance(_) | BalanceType::CpuLocalityBalance(_) => Err(cx.invalid(
                "",
                "extend_balance and cpu_locality_balance are not supported by this proxy; use exact_balance",
            )),
        }
    })
}

fn connection_limit(name: &str, cx: &mut Cx) -> Option<u64> {
    let key = format!("envoy.resource_limits.listener.{name}.connection_limit");
    let limit = cx.runtime_integer(&key, u64::MAX);
    (limit != u64::MAX).then_some(limit)
}

fn any_wants_ipv4(first: &Option<core::Address>, more: &[pb::AdditionalAddress]) -> bool {
    let more = more.iter().flat_map(|more| &more.address);
    first.iter().chain(more).any(wants_ipv4)
}

fn wants_ipv4(address: &core::Address) -> bool {
    matches!(&address.address, Some(core::address::Address::SocketAddress(socket)) if socket.ipv4_compat)
}

impl SocketOption {
    pub(crate) fn parse(wire: core::SocketOption, cx: &mut Cx) -> Result<Self, Invalid> {
        use core::socket_option::Value;
        let core::SocketOption {
            description: _,
            level,
            name,
            state: _,
            r#type,
            ip_version,
            value,
        } = wire;
        // All sockets here are TCP's, and are given their options before the first connection.
        refuse!(cx; r#type, ip_version);
        let number = |field: &str, value: i64, cx: &Cx| {
            i32::try_from(value).map_err(|_| cx.invalid(field, "is no number of an option"))
        };
        Ok(Self {
            level: number("level", level, cx)?,
            name: number("name", name, cx)?,
            value: match cx.required("value", value)? {
                Value::IntValue(value) => SocketValue::Number(number("int_value", value, cx)?),
                Value::BufValue(bytes) => SocketValue::Bytes(bytes),
            },
        })
    }
}

fn addresses(
    first: Option<core::Address>,
    more: Vec<pb::AdditionalAddress>,
    cx: &mut Cx,
) -> Result<Vec<Address>, Invalid> {
    let listen = |wire, cx: &mut Cx| match Address::parse(wire, cx)? {
        Address::Name { host, .. } => Err(cx.invalid(
            "socket_address.address",
            format!("`{host}` is not an IP address"),
        )),
        address => Ok(address),
    };
    let first = cx.required("address", first)?;
    let mut out = vec![cx.field("address", |cx| listen(first, cx))?];
    let more: Vec<Address> = cx.each("additional_addresses", more, |wire, cx| {
        let pb::AdditionalAddress {
            address,
            socket_options,
            tcp_keepalive,
        } = wire;
        refuse!(cx; socket_options, tcp_keepalive);
        let address = cx.required("address", address)?;
        cx.field("address", |cx| listen(address, cx))
    })?;
    out.extend(more);
    Ok(out)
}

impl ListenerFilter {
    fn parse(wire: pb::ListenerFilter, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::listener_filter::ConfigType;
        let pb::ListenerFilter {
            name: _,
            filter_disabled,
            config_type,
        } = wire;
        let any = match cx.required("typed_config", config_type)? {
            ConfigType::TypedConfig(any) => any,
            ConfigType::ConfigDiscovery(_) => {
                return Err(cx.invalid(
                    "config_discovery",
                    "not supported by this proxy; use typed_config",
                ));
            }
        };
        let disabled = match filter_disabled {
            None => None,
            Some(rule) => Some(cx.field("filter_disabled", |cx| {
                PortPredicate::parse(rule, MAX_PREDICATE_DEPTH, cx)
            })?),
        };
        let kind = cx.field("typed_config", |cx| ListenerFilterKind::parse(&any, cx))?;
        Ok(Self { kind, disabled })
    }
}

impl ListenerFilterKind {
    fn parse(any: &google::Any, cx: &mut Cx) -> Result<Self, Invalid> {
        match type_name(any).as_str() {
            "envoy.extensions.filters.listener.original_dst.v3.OriginalDst" => {
                let ext::original_dst::v3::OriginalDst {} = cx.unpack("", any)?;
                Ok(Self::OriginalDst)
            }
            "envoy.extensions.filters.listener.original_src.v3.OriginalSrc" => {
                let ext::original_src::v3::OriginalSrc { bind_port, mark } = cx.unpack("", any)?;
                Ok(Self::OriginalSrc { bind_port, mark })
            }
            "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector" => {
                let ext::tls_inspector::v3::TlsInspector {
                    enable_ja3_fingerprinting,
                    enable_ja4_fingerprinting,
                    initial_read_buffer_size,
                    close_connection_on_client_hello_parsing_errors,
                    max_client_hello_size,
                } = cx.unpack("", any)?;
                refuse!(cx; enable_ja3_fingerprinting, enable_ja4_fingerprinting);
                ignorable!(cx; initial_read_buffer_size, close_connection_on_client_hello_parsing_errors,
                    max_client_hello_size);
                Ok(Self::TlsInspector)
            }
            "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector" => {
                let ext::http_inspector::v3::HttpInspector {} = cx.unpack("", any)?;
                Ok(Self::HttpInspector)
            }
            "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol" => {
                let ext::proxy_protocol::v3::ProxyProtocol {
                    rules,
                    allow_requests_without_proxy_protocol,
                    pass_through_tlvs,
                    disallowed_versions,
                    stat_prefix,
                    tlv_location,
                } = cx.unpack("", any)?;
                refuse!(cx; rules);
                let versions = [0, 1].map(|version| !disallowed_versions.contains(&version));
                ignorable!(cx; pass_through_tlvs, stat_prefix, tlv_location);
                Ok(Self::ProxyProtocol {
                    optional: allow_requests_without_proxy_protocol,
                    versions,
                })
            }
            other => Err(cx.invalid(
                "",
                format!("listener filter {other} is not supported by this proxy"),
            )),
        }
    }
}

impl PortPredicate {
    fn parse(
        wire: pb::ListenerFilterChainMatchPredicate,
        depth: u32,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        use pb::listener_filter_chain_match_predicate::Rule;
        let Some(depth) = depth.checked_sub(1) else {
            return Err(cx.invalid("", "nested too deeply"));
        };
        let set =
            |field: &str, set: pb::listener_filter_chain_match_predicate::MatchSet, cx: &mut Cx| {
                cx.field(field, |cx| {
                    cx.each("rules", set.rules, |rule, cx| Self::parse(rule, depth, cx))
                })
            };
        Ok(match cx.required("rule", wire.rule)? {
            Rule::OrMatch(rules) => Self::Or(set("or_match", rules, cx)?),
            Rule::AndMatch(rules) => Self::And(set("and_match", rules, cx)?),
            Rule::NotMatch(rule) => Self::Not(Box::new(
                cx.field("not_match", |cx| Self::parse(*rule, depth, cx))?,
            )),
            Rule::AnyMatch(true) => Self::Any,
            Rule::AnyMatch(false) => return Err(cx.invalid("any_match", "must be true")),
            Rule::DestinationPortRange(range) => Self::Range {
                start: range.start,
                end: range.end,
            },
        })
    }
}

impl TcpKeepalive {
    pub(crate) fn parse(wire: core::TcpKeepalive) -> Self {
        let core::TcpKeepalive {
            keepalive_probes,
            keepalive_time,
            keepalive_interval,
        } = wire;
        let seconds = |value: Option<google::UInt32Value>| {
            value.map(|value| Duration::from_secs(value.value.into()))
        };
        Self {
            probes: keepalive_probes.map(|probes| probes.value),
            time: seconds(keepalive_time),
            interval: seconds(keepalive_interval),
        }
    }
}
