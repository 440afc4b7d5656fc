//! Edges of the mesh (Istio: networking.istio.io Gateway).

use std::sync::Arc;

use crate::host::Host;
use crate::id::{Labels, Meta};
use crate::protocol::Protocol;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    pub meta: Meta,
    /// Empty selects every gateway workload.
    pub selector: Labels,
    pub servers: Vec<Server>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub name: Arc<str>,
    pub port: u16,
    pub port_name: Arc<str>,
    pub protocol: Protocol,
    pub bind: Option<Arc<str>>,
    pub hosts: Vec<ServerHost>,
    pub tls: Option<ServerTls>,
}

/// `namespace/host` of a server: which VirtualServices may bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerHost {
    /// `None` is `*`: any namespace. `.` is already replaced by the Gateway's.
    pub namespace: Option<Arc<str>>,
    pub host: Host,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    pub https_redirect: bool,
    pub mode: ServerTlsMode,
    pub credential_names: Vec<Arc<str>>,
    pub ca_credential_name: Option<Arc<str>>,
    pub server_certificate: Option<Arc<str>>,
    pub private_key: Option<Arc<str>>,
    pub ca_certificates: Option<Arc<str>>,
    pub subject_alt_names: Vec<Arc<str>>,
    pub min_version: Option<TlsVersion>,
    pub max_version: Option<TlsVersion>,
    pub cipher_suites: Vec<Arc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServerTlsMode {
    Passthrough,
    Simple,
    Mutual,
    OptionalMutual,
    IstioMutual,
    AutoPassthrough,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TlsVersion {
    V1_0,
    V1_1,
    V1_2,
    V1_3,
}
