//! A filter chain from proto.

use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use prost::Message;

use super::authz::NetworkAuthz;
use super::limits::{ConnectionLimit, ConnectionRate, NetworkRateLimit};
use super::{
    ChainMatch, FilterChain, NetworkFilter, NetworkRbac, ServerName, SourceType, Terminal,
};
use crate::address::cidr;
use crate::checked::{Cx, Invalid, ignorable, refuse, type_name};
use crate::http_filter::StateNote;
use crate::http_manager::HttpManager;
use crate::istio_stats::StatsConfig;
use crate::metadata::Metadata;
use crate::pb::extensions::filters::network as ext;
use crate::pb::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use crate::pb::{Any, core, hcm, listener as pb, tls};
use crate::peer_metadata::MetadataExchange;
use crate::rbac::Rbac;
use crate::tcp_proxy::TcpProxy;
use crate::tls::DownstreamTls;

impl FilterChain {
    pub(crate) fn parse(wire: pb::FilterChain, cx: &mut Cx) -> Result<Self, Invalid> {
        let (fingerprint, before) = (fingerprint(&wire), cx.runtime_used());
        let pb::FilterChain {
            filter_chain_match,
            filters,
            use_proxy_proto,
            metadata,
            transport_socket,
            transport_socket_connect_timeout,
            name,
        } = wire;
        refuse!(cx; use_proxy_proto);
        let timeout = cx.duration(
            "transport_socket_connect_timeout",
            transport_socket_connect_timeout,
        )?;
        let (filters, terminal) = network_filters(filters, cx)?;
        Ok(Self {
            name: name.into(),
            metadata: Metadata::parse(metadata, "metadata", cx),
            matches: cx.field("filter_chain_match", |cx| {
                ChainMatch::parse(filter_chain_match.unwrap_or_default(), cx)
            })?,
            tls: cx.field("transport_socket", |cx| {
                downstream_tls(transport_socket, cx)
            })?,
            transport_connect_timeout: timeout.filter(|timeout| !timeout.is_zero()),
            filters,
            terminal,
            fingerprint,
        })
        .map(|chain| chain.with_runtime(before, cx.runtime_used()))
    }
}

impl FilterChain {
    /// The same chain with other runtime values is another one.
    fn with_runtime(mut self, before: u64, after: u64) -> Self {
        if before != after {
            self.fingerprint ^= after;
        }
        self
    }
}

fn fingerprint(wire: &pb::FilterChain) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&wire.encode_to_vec());
    hasher.finish()
}

/// The filters before the last, and the last, which must be terminal.
fn network_filters(
    wire: Vec<pb::Filter>,
    cx: &mut Cx,
) -> Result<(Vec<NetworkFilter>, Terminal), Invalid> {
    let mut filters = Vec::new();
    let mut terminal = None;
    let last = wire.len().saturating_sub(1);
    for (index, filter) in wire.into_iter().enumerate() {
        cx.field(&format!("filters[{index}]"), |cx| {
            match network_filter(filter, cx)? {
                Parsed::Terminal(end) if index == last => terminal = Some(end),
                Parsed::Terminal(_) => {
                    return Err(cx.invalid("", "is a terminal filter and must be the last one"));
                }
                Parsed::Filter(_) if index == last => {
                    return Err(cx.invalid(
                        "",
                        "is the last filter and must be http_connection_manager or tcp_proxy",
                    ));
                }
                Parsed::Filter(filter) => filters.push(filter),
                Parsed::Nothing => {}
            }
            Ok(())
        })?;
    }
    Ok((filters, terminal.unwrap_or(Terminal::Close)))
}

enum Parsed {
    Filter(NetworkFilter),
    Terminal(Terminal),
    /// Changes nothing for the connection.
    Nothing,
}

fn network_filter(wire: pb::Filter, cx: &mut Cx) -> Result<Parsed, Invalid> {
    use pb::filter::ConfigType;
    let any = match cx.required("typed_config", wire.config_type)? {
        ConfigType::TypedConfig(any) => any,
        ConfigType::ConfigDiscovery(_) => {
            return Err(cx.invalid(
                "config_discovery",
                "not supported by this proxy; use typed_config",
            ));
        }
    };
    cx.field("typed_config", |cx| typed_filter(&any, cx))
}

fn typed_filter(any: &Any, cx: &mut Cx) -> Result<Parsed, Invalid> {
    match type_name(any).as_str() {
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager" => {
            let wire: hcm::HttpConnectionManager = cx.unpack("", any)?;
            Ok(Parsed::Terminal(Terminal::Http(Arc::new(
                HttpManager::parse(wire, cx)?,
            ))))
        }
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy" => {
            let wire = cx.unpack("", any)?;
            Ok(Parsed::Terminal(Terminal::Tcp(Arc::new(TcpProxy::parse(
                wire, cx,
            )?))))
        }
        "envoy.extensions.filters.network.rbac.v3.RBAC" => {
            let wire = cx.unpack("", any)?;
            Ok(Parsed::Filter(NetworkFilter::Rbac(Arc::new(
                NetworkRbac::parse(wire, cx)?,
            ))))
        }
        "stats.PluginConfig" => {
            let wire = cx.unpack("", any)?;
            Ok(Parsed::Filter(NetworkFilter::IstioStats(Arc::new(
                StatsConfig::parse(wire, cx)?,
            ))))
        }
        "envoy.tcp.metadataexchange.config.MetadataExchange" => {
            let wire = cx.unpack("", any)?;
            Ok(Parsed::Filter(NetworkFilter::MetadataExchange(Arc::new(
                MetadataExchange::parse(wire, cx)?,
            ))))
        }
        "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit" => {
            let wire = cx.unpack("", any)?;
            Ok(Parsed::Filter(NetworkFilter::ConnectionRate(Arc::new(
                ConnectionRate::parse(wire, cx)?,
            ))))
        }
        "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit" => {
            let wire = cx.unpack("", any)?;
            Ok(Parsed::Filter(NetworkFilter::ConnectionLimit(Arc::new(
                ConnectionLimit::parse(wire, cx)?,
            ))))
        }
        "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz" => {
            let wire = cx.unpack("", any)?;
            Ok(Parsed::Filter(NetworkFilter::ExtAuthz(Arc::new(
                NetworkAuthz::parse(wire, cx)?,
            ))))
        }
        "envoy.extensions.filters.network.ratelimit.v3.RateLimit" => {
            let wire = cx.unpack("", any)?;
            Ok(Parsed::Filter(NetworkFilter::RateLimit(Arc::new(
                NetworkRateLimit::parse(wire, cx)?,
            ))))
        }
        "envoy.extensions.filters.network.sni_cluster.v3.SniCluster" => {
            let ext::sni_cluster::v3::SniCluster {} = cx.unpack("", any)?;
            Ok(Parsed::Filter(NetworkFilter::SniCluster))
        }
        "envoy.extensions.filters.network.mongo_proxy.v3.MongoProxy" => {
            let ext::mongo_proxy::v3::MongoProxy {
                stat_prefix: _,
                access_log,
                delay,
                emit_dynamic_metadata,
                commands: _,
                max_bson_depth: _,
            } = cx.unpack("", any)?;
            refuse!(cx; delay, emit_dynamic_metadata);
            ignorable!(cx; access_log);
            cx.warn("", "what MongoDB's clients ask for is not counted");
            Ok(Parsed::Nothing)
        }
        "envoy.extensions.filters.network.set_filter_state.v3.Config" => {
            let notes = StateNote::of_connection(cx.unpack("", any)?, cx)?;
            Ok(Parsed::Filter(NetworkFilter::SetFilterState(notes.into())))
        }
        other => Err(cx.invalid(
            "",
            format!("network filter {other} is not supported by this proxy"),
        )),
    }
}

impl NetworkRbac {
    fn parse(wire: ext::rbac::v3::Rbac, cx: &mut Cx) -> Result<Self, Invalid> {
        let ext::rbac::v3::Rbac {
            rules,
            matcher,
            shadow_rules,
            shadow_matcher,
            shadow_rules_stat_prefix,
            stat_prefix,
            enforcement_type,
            delay_deny,
        } = wire;
        refuse!(cx; matcher, shadow_matcher, enforcement_type);
        Ok(Self {
            stat_prefix: stat_prefix.into(),
            rules: Rbac::parse_optional("rules", rules, cx)?,
            shadow: Rbac::parse_optional("shadow_rules", shadow_rules, cx)?,
            shadow_prefix: shadow_rules_stat_prefix.into(),
            delay_deny: cx
                .duration("delay_deny", delay_deny)?
                .filter(|delay| !delay.is_zero()),
        })
    }
}

fn downstream_tls(
    wire: Option<core::TransportSocket>,
    cx: &mut Cx,
) -> Result<Option<Arc<DownstreamTls>>, Invalid> {
    use core::transport_socket::ConfigType;
    let Some(core::TransportSocket { name, config_type }) = wire else {
        return Ok(None);
    };
    let Some(ConfigType::TypedConfig(any)) = config_type else {
        return match name.as_str() {
            "envoy.transport_sockets.raw_buffer" | "raw_buffer" => Ok(None),
            _ => Err(cx.invalid("typed_config", "is required")),
        };
    };
    cx.field("typed_config", |cx| match type_name(&any).as_str() {
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext" => {
            let context: tls::DownstreamTlsContext = cx.unpack("", &any)?;
            Ok(Some(Arc::new(DownstreamTls::parse(context, cx)?)))
        }
        "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" => {
            let RawBuffer {} = cx.unpack("", &any)?;
            Ok(None)
        }
        other => Err(cx.invalid(
            "",
            format!("transport socket {other} is not supported by this proxy"),
        )),
    })
}

impl ChainMatch {
    fn parse(wire: pb::FilterChainMatch, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::filter_chain_match::ConnectionSourceType;
        let pb::FilterChainMatch {
            destination_port,
            prefix_ranges,
            address_suffix,
            suffix_len,
            direct_source_prefix_ranges,
            source_type,
            source_prefix_ranges,
            source_ports,
            server_names,
            transport_protocol,
            application_protocols,
        } = wire;
        refuse!(cx; address_suffix, suffix_len);
        let destination_port = match destination_port {
            Some(port) => Some(cx.port("destination_port", port.value)?),
            None => None,
        };
        Ok(Self {
            destination_port,
            prefix_ranges: cx.each("prefix_ranges", prefix_ranges, |range, cx| cidr(range, cx))?,
            direct_source_prefix_ranges: cx.each(
                "direct_source_prefix_ranges",
                direct_source_prefix_ranges,
                |range, cx| cidr(range, cx),
            )?,
            source_type: match cx.enumeration("source_type", source_type)? {
                ConnectionSourceType::Any => SourceType::Any,
                ConnectionSourceType::SameIpOrLoopback => SourceType::SameIpOrLoopback,
                ConnectionSourceType::External => SourceType::External,
            },
            source_prefix_ranges: cx.each(
                "source_prefix_ranges",
                source_prefix_ranges,
                |range, cx| cidr(range, cx),
            )?,
            source_ports: cx.each("source_ports", source_ports, |port, cx| cx.port("", port))?,
            server_names: cx.each("server_names", server_names, ServerName::parse)?,
            transport_protocol: (!transport_protocol.is_empty()).then_some(transport_protocol),
            application_protocols,
        })
    }
}

impl ServerName {
    fn parse(wire: String, cx: &mut Cx) -> Result<Self, Invalid> {
        let name = wire.to_ascii_lowercase();
        match name.strip_prefix('*') {
            Some("") => Ok(Self::Suffix(String::new())),
            Some(suffix) if suffix.starts_with('.') && !suffix.contains('*') => {
                Ok(Self::Suffix(suffix.to_owned()))
            }
            None if !name.is_empty() && !name.contains('*') => Ok(Self::Exact(name)),
            _ => Err(cx.invalid("", format!("`{wire}` must be a name or `*.` and a name"))),
        }
    }
}
