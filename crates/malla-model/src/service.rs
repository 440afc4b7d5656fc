//! Services: what clients call. Kubernetes Services and ServiceEntries both become this.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::host::Host;
use crate::id::{Labels, Meta};
use crate::protocol::Protocol;
use crate::workload::Endpoint;

/// Who may see an object (Istio: `exportTo`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Visibility {
    /// `*`
    #[default]
    Public,
    /// `.` or namespace names, `.` already replaced by the object's own namespace.
    Namespaces(BTreeSet<Arc<str>>),
    /// `~`
    Nobody,
}

impl Visibility {
    #[must_use]
    pub fn allows(&self, namespace: &str) -> bool {
        match self {
            Self::Public => true,
            Self::Namespaces(names) => names.contains(namespace),
            Self::Nobody => false,
        }
    }
}

/// How the addresses of a service's endpoints come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// Endpoints are known to the control plane (Kubernetes endpoints; ServiceEntry `STATIC`).
    Static,
    /// The proxy resolves every endpoint's name (ServiceEntry `DNS`).
    Dns,
    /// The proxy resolves one name and uses one address at a time (`DNS_ROUND_ROBIN`).
    DnsRoundRobin,
    /// Wherever the client was going (headless Services; ServiceEntry `NONE`).
    Passthrough,
}

/// Which endpoints clients prefer, where no DestinationRule says so (Kubernetes: `trafficDistribution`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Distribution {
    #[default]
    Any,
    SameZone,
    SameNode,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    pub name: Arc<str>,
    /// The number clients use.
    pub port: u16,
    /// The number workloads listen on where it is the same for all; endpoints carry their own.
    pub target_port: Option<u16>,
    /// The name workloads give the port they listen on, where the service goes by that.
    pub target_name: Option<Arc<str>>,
    pub protocol: Protocol,
}

/// A service and its endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub meta: Meta,
    pub hostname: Host,
    /// Virtual IPs; empty for headless services and for ServiceEntries without addresses.
    pub addresses: Vec<IpNet>,
    pub ports: Vec<ServicePort>,
    pub resolution: Resolution,
    /// Outside of the mesh: no automatic mutual TLS (ServiceEntry `MESH_EXTERNAL`).
    pub external: bool,
    /// `clusterIP: None`.
    pub headless: bool,
    /// Of type ExternalName: this service is another name of that host.
    pub alias_of: Option<Host>,
    pub visibility: Visibility,
    pub distribution: Distribution,
    /// Only endpoints on the client's own machine are called (`internalTrafficPolicy: Local`).
    pub same_machine: bool,
    /// The pods' labels this service selects by; policies and DestinationRule subsets do not use it.
    pub selector: Labels,
    /// Identities that servers of this service may present besides those of its endpoints.
    pub subject_alt_names: BTreeSet<String>,
    /// Gateways open these ports on themselves: Service port to container port.
    pub endpoints: Arc<Vec<Endpoint>>,
}

impl Service {
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.meta.namespace()
    }

    /// Whether it is a Kubernetes Service, not a ServiceEntry.
    #[must_use]
    pub fn is_kubernetes(&self) -> bool {
        self.meta.object.kind == "Service"
    }

    #[must_use]
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.port == number)
    }

    /// The service's only TCP port, which a route may leave out.
    #[must_use]
    pub fn only_port(&self) -> Option<&ServicePort> {
        let mut tcp = self.ports.iter().filter(|p| p.protocol != Protocol::Udp);
        match (tcp.next(), tcp.next()) {
            (Some(port), None) => Some(port),
            _ => None,
        }
    }

    /// Virtual IPs that are single addresses.
    pub fn virtual_ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses
            .iter()
            .filter(|net| net.prefix_len() == net.max_prefix_len())
            .map(IpNet::addr)
    }
}
