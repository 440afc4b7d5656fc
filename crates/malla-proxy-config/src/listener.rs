//! Listeners: where to accept, what to sniff, which chains there are.

mod parse;

use std::sync::Arc;
use std::time::Duration;

use crate::access_log::AccessLog;
use crate::address::Address;
use crate::filter_chain::FilterChain;
use crate::metadata::Metadata;

/// `envoy.config.listener.v3.Listener`.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Resource name.
    pub name: Arc<str>,
    /// Name in statistics; the address when not configured.
    pub stat_prefix: Option<Arc<str>>,
    /// The address and any additional ones; never empty.
    pub addresses: Vec<Address>,
    /// False for listeners that only receive connections handed over by a `use_original_dst` listener.
    pub bind_to_port: bool,
    /// Hand each connection to the listener of its original destination, if there is one.
    pub use_original_dst: bool,
    /// IP_TRANSPARENT on the socket (TPROXY).
    pub transparent: bool,
    /// IP_FREEBIND on the socket.
    pub freebind: bool,
    /// `listen(2)` backlog.
    pub backlog: Option<u32>,
    /// Keep-alive on accepted sockets.
    pub keepalive: Option<TcpKeepalive>,
    /// Set on listening sockets; accepted ones inherit them.
    pub socket_options: Vec<SocketOption>,
    /// Each worker has a socket of its own (SO_REUSEPORT); else they share one. Unix sockets are always shared.
    pub reuse_port: bool,
    /// Each connection goes to the worker that has the fewest of this listener's.
    pub exact_balance: bool,
    /// An IPv6 wildcard address takes IPv4, too.
    pub ipv4_compat: bool,
    /// No more connections than this at once (a runtime value).
    pub max_connections: Option<u64>,
    /// What to look at before a chain is chosen, in order.
    pub filters: Vec<ListenerFilter>,
    /// How long to look; `None` waits for ever.
    pub filters_timeout: Option<Duration>,
    /// After that time go on with what is known instead of closing.
    pub continue_on_timeout: bool,
    /// Chains to match, in order.
    pub chains: Vec<Arc<FilterChain>>,
    /// Used when no chain matches.
    pub default_chain: Option<Arc<FilterChain>>,
    /// Bytes buffered per connection before reading stops.
    pub buffer_limit: u32,
    /// Logs of connections that matched no chain.
    pub access_logs: Vec<Arc<AccessLog>>,
    /// Inbound or outbound, for logs and statistics.
    pub direction: Direction,
    /// Metadata.
    pub metadata: Metadata,
}

/// `envoy.config.core.v3.SocketOption`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOption {
    /// Such as `SOL_SOCKET`.
    pub level: i32,
    /// Such as `SO_KEEPALIVE`.
    pub name: i32,
    /// What it is set to.
    pub value: SocketValue,
}

/// The value of a socket option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketValue {
    /// An `int`.
    Number(i32),
    /// Any other structure.
    Bytes(Vec<u8>),
}

/// `envoy.config.core.v3.TrafficDirection`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Not said.
    Unspecified,
    /// Towards the workload.
    Inbound,
    /// From the workload.
    Outbound,
}

/// A listener filter, and on which original destination ports it is off.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerFilter {
    /// What it does.
    pub kind: ListenerFilterKind,
    /// `filter_disabled`.
    pub disabled: Option<PortPredicate>,
}

/// The listener filters this proxy has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerFilterKind {
    /// Reads SO_ORIGINAL_DST.
    OriginalDst,
    /// Detects TLS, SNI and ALPN.
    TlsInspector,
    /// Detects HTTP/1.x and HTTP/2 in plain text.
    HttpInspector,
    /// Connections to endpoints come from the client's address (IP_TRANSPARENT).
    OriginalSrc {
        /// And from its port.
        bind_port: bool,
        /// SO_MARK of those connections; 0 is none.
        mark: u32,
    },
    /// Reads a PROXY protocol header, version 1 or 2.
    ProxyProtocol {
        /// Connections without the header pass.
        optional: bool,
        /// Versions 1 and 2 are known; what is not known is no header.
        versions: [bool; 2],
    },
}

/// `ListenerFilterChainMatchPredicate` over the destination port.
#[derive(Debug, Clone, PartialEq)]
pub enum PortPredicate {
    /// Any of them.
    Or(Vec<PortPredicate>),
    /// All of them.
    And(Vec<PortPredicate>),
    /// Not it.
    Not(Box<PortPredicate>),
    /// Always.
    Any,
    /// `start <= port < end`.
    Range {
        /// First port.
        start: i32,
        /// One past the last port.
        end: i32,
    },
}

impl PortPredicate {
    /// True if `port` satisfies the predicate.
    pub fn matches(&self, port: u16) -> bool {
        match self {
            Self::Or(all) => all.iter().any(|one| one.matches(port)),
            Self::And(all) => all.iter().all(|one| one.matches(port)),
            Self::Not(one) => !one.matches(port),
            Self::Any => true,
            Self::Range { start, end } => (*start..*end).contains(&i32::from(port)),
        }
    }
}

/// `envoy.config.core.v3.TcpKeepalive`; absent values leave the system's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// Unanswered probes before the connection is dead.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}
