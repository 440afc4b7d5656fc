//! Istio's standard metrics: which are kept, and with which labels (the filter `istio.stats`).
//!
//! Invariant: what a configuration changes is decided here, once; a request finds finished rules by metric.

mod expression;
mod parse;

use std::sync::Arc;
use std::time::Duration;

pub use expression::{Expression, Part, PeerField, Side};

/// Declares the standard metrics.
macro_rules! metrics {
    ($($(#[$doc:meta])* $metric:ident = $name:literal),+ $(,)?) => {
        /// The standard metrics.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Metric { $($(#[$doc])* $metric),+ }

        impl Metric {
            /// All of them, each at the place of its number.
            pub const ALL: [Self; 10] = [$(Self::$metric),+];

            /// As configurations name it; scrapes see it behind `istio_`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$metric => $name),+ }
            }
        }
    };
}

metrics! {
    /// Requests.
    Requests = "requests_total",
    /// How long they took.
    Duration = "request_duration_milliseconds",
    /// How long requests were.
    RequestBytes = "request_bytes",
    /// How long answers were.
    ResponseBytes = "response_bytes",
    /// gRPC messages of clients.
    RequestMessages = "request_messages_total",
    /// gRPC messages of servers.
    ResponseMessages = "response_messages_total",
    /// Connections of bytes that began.
    TcpOpened = "tcp_connections_opened_total",
    /// Those that ended.
    TcpClosed = "tcp_connections_closed_total",
    /// Bytes to clients.
    TcpSent = "tcp_sent_bytes_total",
    /// Bytes from clients.
    TcpReceived = "tcp_received_bytes_total",
}

impl Metric {
    /// The metrics of connections of bytes.
    pub const TCP: [Self; 4] = [
        Self::TcpOpened,
        Self::TcpClosed,
        Self::TcpSent,
        Self::TcpReceived,
    ];
}

/// `stats.PluginConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct StatsConfig {
    /// The request's host stands for a destination nothing is known of.
    pub host_fallback: bool,
    /// How often open connections are counted anew; `None` only when they end.
    pub reporting: Option<Duration>,
    /// Equal for configurations that change the same; 0 if nothing is changed.
    pub fingerprint: u64,
    rules: Option<Box<[Rules; Metric::ALL.len()]>>,
}

/// What a configuration changes in one metric.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules {
    /// It is not kept at all.
    pub dropped: bool,
    /// Labels taken away.
    pub removed: Vec<Arc<str>>,
    /// Labels replaced or added, by name.
    pub labels: Vec<(Arc<str>, Arc<Expression>)>,
}

impl StatsConfig {
    /// What differs in `metric`; `None` if nothing does.
    pub fn rules(&self, metric: Metric) -> Option<&Rules> {
        let rules = self.rules.as_ref()?.get(metric as usize)?;
        (*rules != Rules::default()).then_some(rules)
    }

    /// Every expression that some label comes from.
    pub fn expressions(&self) -> impl Iterator<Item = &Arc<Expression>> {
        let rules = self.rules.iter().flat_map(|rules| rules.iter());
        rules.flat_map(|rules| rules.labels.iter().map(|(_, expression)| expression))
    }
}

impl Default for StatsConfig {
    fn default() -> Self {
        Self {
            host_fallback: true,
            reporting: Some(parse::DEFAULT_REPORTING),
            fingerprint: 0,
            rules: None,
        }
    }
}
