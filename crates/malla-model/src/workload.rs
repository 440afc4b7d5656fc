//! Workloads: pods and other processes of the mesh, and the endpoints services reach them by.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::id::{Labels, Meta, SpiffeId};
use crate::service::ServicePort;

/// Where something runs, `region/zone/subzone`; empty parts are unknown.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub subzone: Arc<str>,
}

impl Locality {
    /// Reads `region/zone/subzone`; missing parts stay empty.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut parts = text.splitn(3, '/');
        let mut next = || Arc::from(parts.next().unwrap_or_default());
        Self {
            region: next(),
            zone: next(),
            subzone: next(),
        }
    }
}

/// Whether the peer's sidecar terminates mutual TLS (pod label `security.istio.io/tlsMode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TlsMode {
    Istio,
    #[default]
    Disabled,
}

/// One process (pod) of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    pub meta: Meta,
    pub addresses: Vec<IpAddr>,
    pub identity: SpiffeId,
    pub node: Arc<str>,
    pub locality: Locality,
    pub network: Arc<str>,
    pub tls_mode: TlsMode,
    /// Name of the owner users know (Deployment), not of the ReplicaSet.
    pub owner: Arc<str>,
}

impl Workload {
    /// Istio's canonical service name of the workload, for telemetry.
    #[must_use]
    pub fn canonical_name(&self) -> &str {
        canonical_name(&self.meta.labels).unwrap_or(&self.owner)
    }

    /// Istio's canonical revision, `latest` when nothing says otherwise.
    #[must_use]
    pub fn canonical_revision(&self) -> &str {
        canonical_revision(&self.meta.labels).unwrap_or("latest")
    }

    /// As in [`Endpoint::workload`].
    #[must_use]
    pub fn described(&self, cluster: &str) -> Arc<str> {
        format!(
            "{};{};{};{};{cluster}",
            self.owner,
            self.meta.namespace(),
            self.canonical_name(),
            self.canonical_revision(),
        )
        .into()
    }

    /// As an endpoint of a service that selects it; `None` while it has no address.
    #[must_use]
    pub fn endpoint(&self, port: &ServicePort, cluster: &str) -> Option<Endpoint> {
        Some(Endpoint {
            port_name: port.name.clone(),
            address: Address::Ip(*self.addresses.first()?),
            port: port.target_port.unwrap_or(port.port),
            labels: Arc::new(self.meta.labels.clone()),
            health: Health::Healthy,
            weight: 1,
            locality: self.locality.clone(),
            network: self.network.clone(),
            tls_mode: self.tls_mode,
            identity: Some(self.identity.clone()),
            workload: self.described(cluster),
            node: self.node.clone(),
        })
    }
}

fn canonical_name(labels: &Labels) -> Option<&str> {
    first(
        labels,
        [
            "service.istio.io/canonical-name",
            "app.kubernetes.io/name",
            "app",
        ],
    )
}

fn canonical_revision(labels: &Labels) -> Option<&str> {
    first(
        labels,
        [
            "service.istio.io/canonical-revision",
            "app.kubernetes.io/version",
            "version",
        ],
    )
}

fn first<'l>(labels: &'l Labels, names: [&str; 3]) -> Option<&'l str> {
    let mut values = names.into_iter().filter_map(|name| labels.get(name));
    values.next().map(String::as_str)
}

/// An endpoint somebody wrote down: a WorkloadEntry, or one inside a ServiceEntry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadEntry {
    /// Of the object it stands in; the labels are the endpoint's.
    pub meta: Meta,
    pub address: Address,
    /// Where it listens, by names of service ports; others are the service's own.
    pub ports: BTreeMap<String, u16>,
    pub weight: u32,
    pub locality: Locality,
    pub network: Arc<str>,
    pub identity: Option<SpiffeId>,
    pub tls_mode: TlsMode,
}

impl WorkloadEntry {
    /// As an endpoint of a service; `None` where the service goes by a port name that the entry lacks.
    #[must_use]
    pub fn endpoint(&self, port: &ServicePort, cluster: &str) -> Option<Endpoint> {
        let number = match &port.target_name {
            Some(name) => *self.ports.get(&**name)?,
            None => {
                let own = self.ports.get(&*port.name).copied();
                own.or(port.target_port).unwrap_or(port.port)
            }
        };
        let (name, labels) = (self.meta.name(), &self.meta.labels);
        Some(Endpoint {
            port_name: port.name.clone(),
            address: self.address.clone(),
            port: number,
            labels: Arc::new(labels.clone()),
            health: Health::Healthy,
            weight: self.weight,
            locality: self.locality.clone(),
            network: self.network.clone(),
            tls_mode: self.tls_mode,
            identity: self.identity.clone(),
            workload: format!(
                "{name};{};{};{};{cluster}",
                self.meta.namespace(),
                canonical_name(labels).unwrap_or(name),
                canonical_revision(labels).unwrap_or_default(),
            )
            .into(),
            node: "".into(),
        })
    }
}

/// Where an endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    Ip(IpAddr),
    /// Resolved by the proxy.
    Dns(Arc<str>),
    /// A Unix domain socket.
    Unix(Arc<str>),
}

/// Health as the platform reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Health {
    #[default]
    Healthy,
    Unhealthy,
    Draining,
}

/// One address of one service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Name of the service's port it serves.
    pub port_name: Arc<str>,
    pub address: Address,
    pub port: u16,
    pub labels: Arc<Labels>,
    pub health: Health,
    pub weight: u32,
    pub locality: Locality,
    pub network: Arc<str>,
    pub tls_mode: TlsMode,
    /// Who the peer must be; `None` where nothing is known of the workload.
    pub identity: Option<SpiffeId>,
    /// `name;namespace;canonical name;canonical revision;cluster`, Istio's `istio.workload` endpoint metadata.
    pub workload: Arc<str>,
    pub node: Arc<str>,
}
