//! Workloads: pods and other processes of the mesh, and the endpoints services reach them by.

use std::net::IpAddr;
use std::sync::Arc;

use crate::id::{Labels, Meta, SpiffeId};

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
        [
            "service.istio.io/canonical-name",
            "app.kubernetes.io/name",
            "app",
        ]
        .iter()
        .find_map(|label| self.meta.labels.get(*label))
        .map_or(&*self.owner, String::as_str)
    }

    /// Istio's canonical revision, `latest` when nothing says otherwise.
    #[must_use]
    pub fn canonical_revision(&self) -> &str {
        [
            "service.istio.io/canonical-revision",
            "app.kubernetes.io/version",
            "version",
        ]
        .iter()
        .find_map(|label| self.meta.labels.get(*label))
        .map_or("latest", String::as_str)
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
