//! Who is asked for names, and how: a cluster's or the bootstrap's resolver settings in their three spellings.

use std::net::SocketAddr;
use std::time::Duration;

use crate::address::Address;
use crate::checked::{Cx, Invalid, ignorable, type_name};
use crate::pb::bootstrap::Bootstrap;
use crate::pb::core;
use crate::pb::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use crate::pb::extensions::network::dns_resolver::getaddrinfo::v3::GetAddrInfoDnsResolverConfig;

/// What differs from the system's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsResolver {
    /// Servers to ask; empty leaves the system's.
    pub servers: Vec<SocketAddr>,
    /// Only where the system names none.
    pub fallback: bool,
    /// Ask over TCP alone.
    pub tcp: bool,
    /// Names are asked for as they are.
    pub no_search: bool,
    /// How long a server may take to answer.
    pub timeout: Option<Duration>,
    /// How often servers are asked.
    pub tries: Option<u32>,
    /// Each question begins with another server.
    pub rotate: bool,
}

/// The fields that say it, newest first.
pub(crate) struct Legacy {
    pub(crate) typed: Option<core::TypedExtensionConfig>,
    pub(crate) resolution: Option<core::DnsResolutionConfig>,
    pub(crate) resolvers: Vec<core::Address>,
    pub(crate) tcp: bool,
}

impl DnsResolver {
    /// What a bootstrap says for all clusters that say nothing; `None` if it says nothing either, or nothing that makes
    /// sense.
    pub fn of_bootstrap(wire: &Bootstrap) -> Option<Self> {
        Cx::check(|cx| Self::in_bootstrap(wire, cx)).ok()?.value
    }

    pub(crate) fn in_bootstrap(wire: &Bootstrap, cx: &mut Cx) -> Result<Option<Self>, Invalid> {
        let legacy = Legacy {
            typed: wire.typed_dns_resolver_config.clone(),
            resolution: wire.dns_resolution_config.clone(),
            resolvers: Vec::new(),
            tcp: wire.use_tcp_for_dns_lookups,
        };
        Self::parse(legacy, cx)
    }

    pub(crate) fn parse(wire: Legacy, cx: &mut Cx) -> Result<Option<Self>, Invalid> {
        if let Some(typed) = wire.typed {
            return cx.field("typed_dns_resolver_config", |cx| Self::typed(typed, cx));
        }
        if let Some(resolution) = wire.resolution {
            let own = cx.field("dns_resolution_config", |cx| {
                Self::of(resolution.resolvers, resolution.dns_resolver_options, cx)
            })?;
            return Ok(Some(own));
        }
        if wire.resolvers.is_empty() && !wire.tcp {
            return Ok(None);
        }
        Ok(Some(Self {
            servers: cx.each("dns_resolvers", wire.resolvers, server)?,
            tcp: wire.tcp,
            ..Self::default()
        }))
    }

    fn typed(wire: core::TypedExtensionConfig, cx: &mut Cx) -> Result<Option<Self>, Invalid> {
        let any = cx.required("typed_config", wire.typed_config)?;
        match type_name(&any).as_str() {
            "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig" => {
                let CaresDnsResolverConfig {
                    resolvers,
                    use_resolvers_as_fallback,
                    filter_unroutable_families,
                    dns_resolver_options,
                    udp_max_queries,
                    query_timeout_seconds,
                    query_tries,
                    rotate_nameservers,
                    edns0_max_payload_size,
                    max_udp_channel_duration,
                    reinit_channel_on_timeout,
                    qcache_max_ttl,
                } = cx.unpack("typed_config", &any)?;
                ignorable!(cx; filter_unroutable_families, qcache_max_ttl);
                // Each question has a socket of its own here.
                let _ = (
                    udp_max_queries,
                    max_udp_channel_duration,
                    reinit_channel_on_timeout,
                    qcache_max_ttl,
                );
                let _ = edns0_max_payload_size;
                let seconds = query_timeout_seconds.map(|seconds| seconds.value.clamp(1, 3600));
                Ok(Some(Self {
                    fallback: use_resolvers_as_fallback,
                    timeout: seconds.map(Duration::from_secs),
                    tries: query_tries.map(|tries| tries.value.clamp(1, 20)),
                    rotate: rotate_nameservers,
                    ..Self::of(resolvers, dns_resolver_options, cx)?
                }))
            }
            "envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig" => {
                let GetAddrInfoDnsResolverConfig {
                    num_retries,
                    num_resolver_threads,
                } = cx.unpack("typed_config", &any)?;
                ignorable!(cx; num_retries, num_resolver_threads);
                Ok(None)
            }
            other => Err(cx.invalid(
                "typed_config",
                format!("resolver {other} is not supported by this proxy"),
            )),
        }
    }

    fn of(
        resolvers: Vec<core::Address>,
        options: Option<core::DnsResolverOptions>,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        let core::DnsResolverOptions {
            use_tcp_for_dns_lookups,
            no_default_search_domain,
        } = options.unwrap_or_default();
        Ok(Self {
            servers: cx.each("resolvers", resolvers, server)?,
            tcp: use_tcp_for_dns_lookups,
            no_search: no_default_search_domain,
            ..Self::default()
        })
    }
}

fn server(wire: core::Address, cx: &mut Cx) -> Result<SocketAddr, Invalid> {
    let address = Address::parse(wire, cx)?;
    let address = address.socket();
    address.ok_or_else(|| cx.invalid("", "a name server is an IP address and a port"))
}
