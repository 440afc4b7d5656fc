//! What one proxy knows and serves (Istio: Sidecar).

use std::sync::Arc;

use crate::gateway::ServerTls;
use crate::host::Host;
use crate::id::{Labels, Meta};
use crate::protocol::Protocol;
use crate::route::Destination;
use crate::settings::OutboundPolicy;
use crate::traffic::ConnectionPool;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    pub meta: Meta,
    /// `None` is every workload of the namespace; in the root namespace, of the mesh.
    pub selector: Option<Labels>,
    /// Never empty: absent means one that imports everything.
    pub egress: Vec<Egress>,
    /// Empty: the ports are those of the workload's services.
    pub ingress: Vec<Ingress>,
    /// For inbound connections; an ingress listener's own stands before it.
    pub inbound_pool: Option<ConnectionPool>,
    /// `None` is the mesh's.
    pub outbound: Option<OutboundPolicy>,
    /// Where calls to unknown hosts go instead of straight there.
    pub egress_proxy: Option<Destination>,
}

/// A listener for the workload's calls and what can be called through it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Egress {
    /// `None` is every port that no other listener has.
    pub port: Option<ListenerPort>,
    /// An IP address or `unix:///path`.
    pub bind: Option<Arc<str>>,
    pub capture: Capture,
    pub imports: Vec<Import>,
}

impl Egress {
    /// Imports everything that is exported to the workload.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            imports: vec![Import {
                namespace: None,
                host: Host::new("*"),
                excluded: false,
            }],
            ..Self::default()
        }
    }
}

/// `namespace/host` of an egress listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// `None` is any. `.` is already replaced by the namespace of the workload, or kept for a Sidecar of the root
    /// namespace, which is used in many.
    pub namespace: Option<Arc<str>>,
    pub host: Host,
    /// Written with `~`: such hosts are left out, whatever else imports them.
    pub excluded: bool,
}

/// The namespace of an [`Import`] that stands for the workload's own.
pub const OWN_NAMESPACE: &str = ".";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerPort {
    /// 0 only where the listener is a Unix domain socket.
    pub number: u16,
    pub name: Arc<str>,
    pub protocol: Protocol,
}

/// How connections get to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Capture {
    /// As the workload's traffic is captured.
    #[default]
    Default,
    /// The listener opens its port itself.
    None,
}

/// A port the proxy serves for its workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingress {
    pub port: ListenerPort,
    pub bind: Option<Arc<str>>,
    pub capture: Capture,
    pub endpoint: Backend,
    /// TLS that ends here, instead of the mesh's own.
    pub tls: Option<ServerTls>,
    pub pool: Option<ConnectionPool>,
}

/// Where the workload listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// Where the client was going.
    Meant,
    /// That port of the loopback address.
    Loopback(u16),
    /// That port of the workload's own address.
    Instance(u16),
    /// A path.
    Unix(Arc<str>),
}
