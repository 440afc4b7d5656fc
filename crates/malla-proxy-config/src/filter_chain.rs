//! Filter chains: which connections they take and what they do with them.

pub mod authz;
pub mod limits;
mod parse;

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::http_filter::StateNote;
use crate::http_manager::HttpManager;
use crate::istio_stats::StatsConfig;
use crate::metadata::Metadata;
use crate::peer_metadata::MetadataExchange;
use crate::rbac::Rbac;
use crate::tcp_proxy::TcpProxy;
use crate::tls::DownstreamTls;
use authz::NetworkAuthz;
use limits::{ConnectionLimit, ConnectionRate, NetworkRateLimit};

/// `envoy.config.listener.v3.FilterChain`.
#[derive(Debug, Clone)]
pub struct FilterChain {
    /// Name, `%FILTER_CHAIN_NAME%` in logs; may be empty.
    pub name: Arc<str>,
    /// Metadata.
    pub metadata: Metadata,
    /// Which connections.
    pub matches: ChainMatch,
    /// TLS, or plain text.
    pub tls: Option<Arc<DownstreamTls>>,
    /// Limit for the TLS handshake.
    pub transport_connect_timeout: Option<Duration>,
    /// Filters before the last one, in order.
    pub filters: Vec<NetworkFilter>,
    /// What finally handles the connection.
    pub terminal: Terminal,
    /// Hash of the proto it came from: equal chains of two versions of a listener keep their connections.
    pub fingerprint: u64,
}

impl FilterChain {
    /// Takes any connection and closes it: what stands in logs for a connection that no chain took.
    pub fn closed() -> Self {
        Self {
            name: Arc::from(""),
            metadata: Metadata::default(),
            matches: ChainMatch::default(),
            tls: None,
            transport_connect_timeout: None,
            filters: Vec::new(),
            terminal: Terminal::Close,
            fingerprint: 0,
        }
    }
}

/// Network filters that decide, look on, and pass on.
#[derive(Debug, Clone)]
pub enum NetworkFilter {
    /// `envoy.filters.network.rbac`.
    Rbac(Arc<NetworkRbac>),
    /// `istio.stats`: Istio's standard metrics of connections.
    IstioStats(Arc<StatsConfig>),
    /// `istio.metadata_exchange`: proxies tell each other who they are.
    MetadataExchange(Arc<MetadataExchange>),
    /// `envoy.filters.network.local_ratelimit`.
    ConnectionRate(Arc<ConnectionRate>),
    /// `envoy.filters.network.connection_limit`.
    ConnectionLimit(Arc<ConnectionLimit>),
    /// `envoy.filters.network.ext_authz`.
    ExtAuthz(Arc<NetworkAuthz>),
    /// `envoy.filters.network.ratelimit`.
    RateLimit(Arc<NetworkRateLimit>),
    /// `envoy.filters.network.sni_cluster`: bytes go to the cluster that the SNI names.
    SniCluster,
    /// `envoy.filters.network.set_filter_state`.
    SetFilterState(Arc<[StateNote]>),
}

/// `envoy.extensions.filters.network.rbac.v3.RBAC`.
#[derive(Debug, Clone)]
pub struct NetworkRbac {
    /// Prefix of its statistics.
    pub stat_prefix: Arc<str>,
    /// Enforced rules; `None` allows all.
    pub rules: Option<Rbac>,
    /// Rules only counted and logged.
    pub shadow: Option<Rbac>,
    /// Prefix of the shadow statistics.
    pub shadow_prefix: Arc<str>,
    /// Wait before a denied connection is closed.
    pub delay_deny: Option<Duration>,
}

/// The last network filter of a chain.
#[derive(Debug, Clone)]
pub enum Terminal {
    /// HTTP connection manager.
    Http(Arc<HttpManager>),
    /// TCP proxy.
    Tcp(Arc<TcpProxy>),
    /// An empty filter list: the connection is closed, as Envoy does.
    Close,
}

/// `FilterChainMatch`; empty lists and `None` match anything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChainMatch {
    /// Original destination port.
    pub destination_port: Option<u16>,
    /// Original destination address; the longest prefix wins.
    pub prefix_ranges: Vec<IpNet>,
    /// Directly connected peer.
    pub direct_source_prefix_ranges: Vec<IpNet>,
    /// Kind of source.
    pub source_type: SourceType,
    /// Source address (after PROXY protocol).
    pub source_prefix_ranges: Vec<IpNet>,
    /// Source port.
    pub source_ports: Vec<u16>,
    /// SNI: exact names, or `*.suffix` written as `.suffix`.
    pub server_names: Vec<ServerName>,
    /// `tls`, `raw_buffer`, or anything.
    pub transport_protocol: Option<String>,
    /// ALPN, or what the HTTP inspector detected (`http/1.0`, `http/1.1`, `h2c`).
    pub application_protocols: Vec<String>,
}

/// One server name of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServerName {
    /// The whole name, lower case.
    Exact(String),
    /// `*.example.com` as `.example.com`: any name that ends so; the longest wins.
    Suffix(String),
}

/// `ConnectionSourceType`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SourceType {
    /// Anything.
    #[default]
    Any,
    /// From this host.
    SameIpOrLoopback,
    /// From another host.
    External,
}
