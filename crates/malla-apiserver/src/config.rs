//! What the caller decides before the server opens.
//!
//! Invariant: nothing here is read from the environment; the binary passes values.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;
use jiff::Timestamp;

/// Settings of one API server.
#[derive(Debug, Clone)]
pub struct Config {
    /// The store's file; made when absent. Everything the cluster must remember is in it.
    pub store: PathBuf,
    /// Range the cluster IPs of Services are taken from. Its first address is the
    /// `kubernetes` Service's own, as in kube-apiserver.
    pub service_cidr: Ipv4Net,
    /// Range of `nodePort`s (kube-apiserver's `--service-node-port-range`).
    pub node_ports: RangeInclusive<u16>,
    /// Issuer of service-account tokens, and the audience tokens have by default.
    pub issuer: String,
    /// Host names in the serving certificate, besides `localhost` and `kubernetes[.default[.svc[.DOMAIN]]]`.
    pub names: Vec<String>,
    /// Addresses in the serving certificate, besides loopback and the `kubernetes` Service's.
    pub addresses: Vec<IpAddr>,
    /// DNS domain of the cluster.
    pub cluster_domain: String,
    /// Tells the wall-clock time that objects, tokens and certificates carry.
    pub clock: fn() -> Timestamp,
    pub limits: Limits,
}

/// Bounds on what one client may cost.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest request body, bytes. kube-apiserver takes 3 MiB.
    pub body: usize,
    /// Changes remembered per resource for watches; an older start gets `410 Expired`.
    pub watch_window: usize,
    /// How often a watch with `allowWatchBookmarks` gets a bookmark.
    pub bookmark_every: Duration,
    /// Most connections open at a time.
    pub connections: usize,
}

impl Config {
    /// The defaults of a local cluster, storing in `store`.
    pub fn new(store: impl Into<PathBuf>) -> Self {
        Self {
            store: store.into(),
            service_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16),
            node_ports: 30000..=32767,
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            names: Vec::new(),
            addresses: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            clock: Timestamp::now,
            limits: Limits::default(),
        }
    }

    /// Address of the `kubernetes` Service: the first of the range.
    pub fn kubernetes_service_ip(&self) -> Ipv4Addr {
        self.service_cidr
            .hosts()
            .next()
            .unwrap_or(self.service_cidr.addr())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 3 * 1024 * 1024,
            watch_window: 1024,
            bookmark_every: Duration::from_secs(60),
            connections: 1024,
        }
    }
}
