//! One API server: opening, serving, and what the rest of the process gets from it.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::Arc;

use serde_json::json;
use thiserror::Error;
use tokio_util::task::AbortOnDropHandle;

use crate::auth::{Authority, KeysError, Names, TokenKeys};
use crate::client::Client;
use crate::config::Config;
use crate::core::Core;
use crate::janitor;
use crate::kinds::NAMESPACES;
use crate::outside::{Dial, NodeRuntime};
use crate::store::{Disk, Store, StoreError, WriteError};

/// Namespaces every cluster has.
const SYSTEM_NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// A running server; cheap to clone. The store closes when the last clone and the last [`Client`] are gone.
#[derive(Clone, Debug)]
pub struct Server {
    core: Arc<Core>,
    _janitor: Arc<AbortOnDropHandle<()>>,
}

/// Why a server could not open.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The store's file cannot be opened, read or written; names it.
    #[error("{0}")]
    Store(String),
    /// Keys or certificates could not be made or read.
    #[error("{0}")]
    Keys(String),
}

impl Server {
    /// Opens or makes the store, the certificate authority and the keys in it, and the namespaces `default`,
    /// `kube-system`, `kube-public` and `kube-node-lease`. Serves nobody yet.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let mut disk = Store::open_disk(&config.store)?;
        let (authority, tokens) = keys(&mut disk, &config)?;
        let store = Store::start(disk, config.limits.watch_window)?;
        let core = Arc::new(Core::new(config, store, authority, tokens));
        let janitor = tokio::spawn(janitor::run(Arc::downgrade(&core)));
        let server = Self {
            core,
            _janitor: Arc::new(AbortOnDropHandle::new(janitor)),
        };
        server.make_namespaces().await?;
        Ok(server)
    }

    /// How admission webhooks are reached from now on.
    pub fn attach_dial(&self, dial: Arc<dyn Dial>) {
        self.core.attach_dial(dial);
    }

    /// Who runs the pods: answers logs, exec, attach and port-forward from now on.
    pub fn attach_node(&self, node: Arc<dyn NodeRuntime>) {
        self.core.attach_node(node);
    }

    /// An in-process client that owns its fields as `manager`, with all rights.
    pub fn client(&self, manager: &str) -> Client {
        Client::new(self.core.clone(), manager)
    }

    /// Serves TLS (HTTP/1.1 and HTTP/2) on listeners the caller bound, until `stop`; then lets requests end for
    /// a short time.
    pub async fn serve(
        &self,
        listeners: Vec<TcpListener>,
        stop: impl Future<Output = ()> + Send,
    ) -> io::Result<()> {
        let tls = self.core.authority.server_config(self.names());
        let tls = tls.map_err(io::Error::other)?;
        crate::listen::serve(self.core.clone(), listeners, Arc::new(tls), stop).await
    }

    /// A kubeconfig with all rights (group `system:masters`), certificates embedded.
    /// `cluster` names cluster, user and context; `url` is where `serve` listens, e.g. `https://127.0.0.1:6443`.
    pub fn admin_kubeconfig(&self, cluster: &str, url: &str) -> Result<String, OpenError> {
        Ok(self.core.authority.kubeconfig(cluster, url)?)
    }

    /// Certificate of the cluster's authority, PEM: what `kube-root-ca.crt` holds.
    pub fn ca_pem(&self) -> &str {
        self.core.authority.pem()
    }

    /// Forgets all changes up to now, as a long-running server's window would: watches and continued lists from earlier
    /// get `410 Expired`. For tests of clients.
    pub fn compact(&self) {
        self.core.store.compact();
    }

    fn names(&self) -> Names {
        let config = &self.core.config;
        let domain = &config.cluster_domain;
        let mut hosts: Vec<String> = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
        ]
        .map(str::to_owned)
        .into();
        hosts.push(format!("kubernetes.default.svc.{domain}"));
        hosts.extend(config.names.iter().cloned());
        let mut addresses = vec![
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
            IpAddr::V4(config.kubernetes_service_ip()),
        ];
        addresses.extend(&config.addresses);
        Names { hosts, addresses }
    }

    async fn make_namespaces(&self) -> Result<(), OpenError> {
        let client = self.client("kube-apiserver");
        for name in SYSTEM_NAMESPACES {
            let namespace = json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
            });
            match client.create(&NAMESPACES, None, namespace).await {
                Ok(_) => {}
                Err(error) if error.is_already_exists() => {}
                Err(error) => {
                    return Err(OpenError::Store(format!("make namespace {name}: {error}")));
                }
            }
        }
        Ok(())
    }
}

/// Reads the kept keys; makes and keeps them in a new store.
fn keys(disk: &mut Disk, config: &Config) -> Result<(Authority, TokenKeys), OpenError> {
    let mut kept = Vec::new();
    for name in ["ca.crt", "ca.key", "sa.key"] {
        let key = disk.key(name)?;
        kept.push(key.and_then(|bytes| String::from_utf8(bytes).ok()));
    }
    let (certificate, key, accounts) = match kept.as_slice() {
        [Some(certificate), Some(key), Some(accounts)] => {
            (certificate.clone(), key.clone(), accounts.clone())
        }
        _ => {
            let (certificate, key) = Authority::make((config.clock)())?;
            let accounts = TokenKeys::make()?;
            disk.put_keys(&[
                ("ca.crt", certificate.as_bytes()),
                ("ca.key", key.as_bytes()),
                ("sa.key", accounts.as_bytes()),
            ])?;
            (certificate, key, accounts)
        }
    };
    let authority = Authority::read(certificate, &key, config.clock)?;
    let tokens = TokenKeys::read(&accounts, &config.issuer)?;
    Ok((authority, tokens))
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}

impl From<WriteError> for OpenError {
    fn from(error: WriteError) -> Self {
        Self::Store(error.to_string())
    }
}

impl From<KeysError> for OpenError {
    fn from(error: KeysError) -> Self {
        Self::Keys(error.to_string())
    }
}
