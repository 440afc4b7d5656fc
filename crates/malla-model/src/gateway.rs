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
    /// Only pods of this namespace carry it; `None` is any.
    pub pods_in: Option<Arc<str>>,
    pub servers: Vec<Server>,
}

/// A Secret by its full name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretRef {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
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
    /// Secrets that whoever owns them lets this server use, in place of `credential_names`.
    pub granted: Vec<SecretRef>,
    pub ca_credential_name: Option<Arc<str>>,
    pub server_certificate: Option<Arc<str>>,
    pub private_key: Option<Arc<str>>,
    pub ca_certificates: Option<Arc<str>>,
    pub subject_alt_names: Vec<Arc<str>>,
    pub min_version: Option<TlsVersion>,
    pub max_version: Option<TlsVersion>,
    pub cipher_suites: Vec<Arc<str>>,
}

impl ServerTls {
    /// Of that mode, and nothing else said.
    #[must_use]
    pub fn new(mode: ServerTlsMode) -> Self {
        Self {
            https_redirect: false,
            mode,
            credential_names: Vec::new(),
            granted: Vec::new(),
            ca_credential_name: None,
            server_certificate: None,
            private_key: None,
            ca_certificates: None,
            subject_alt_names: Vec::new(),
            min_version: None,
            max_version: None,
            cipher_suites: Vec::new(),
        }
    }
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
