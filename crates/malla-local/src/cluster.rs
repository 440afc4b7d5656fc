//! A whole cluster in this process: API server, controllers, and a node.
//!
//! Runs inside a [`crate::sandbox`]. Order of a start: directories, then store and network at the
//! same time, then what listens, then the objects every cluster has, then everything that reacts.

mod system;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::Ipv4Net;
use malla_apiserver::outside::HostDial;
use malla_apiserver::{ApiError, Client, Config, NodeRuntime, OpenError, Server};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use crate::controllers::{Controllers, Feeds, Settings};
use crate::directory::{DirectoryError, RunDirectory};
use crate::dns::{DnsServer, Zone};
use crate::events::Recorder;
use crate::net::rules::Addresses;
use crate::net::{
    AddressPool, ClusterDial, EGRESS_PORT, Egress, LinkError, NodeNetwork, RulesError, ServiceRules,
};
use crate::node::{Image, Images, Node, NodeSettings};
use crate::process::Spawner;
use crate::sandbox::Inside;
use crate::services::{self, Outlets};

/// Where the API server listens inside the node's network namespace.
const NODE_API_PORT: u16 = 6443;
const NODE_DNS_PORT: u16 = 53;
/// The cluster's DNS is the tenth address of the service range, as kubeadm has it.
const DNS_INDEX: usize = 9;
/// How many ports after the wished one are tried for the API server.
const PORT_TRIES: u16 = 200;

/// How long a stopping cluster waits for its store to be closed.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
/// Where files live that must not be on disk.
const MEMORY: &str = "memory";

/// What a cluster is to be.
#[derive(Debug)]
pub struct ClusterConfig {
    /// Names the cluster in its kubeconfig.
    pub name: String,
    /// Where everything it keeps is.
    pub directory: RunDirectory,
    pub node: NodeConfig,
    /// Addresses of pods; the first is the node's own.
    pub pods: Ipv4Net,
    /// Pod ranges of clusters this one will be linked with.
    pub peers: Vec<Ipv4Net>,
    /// Addresses of Services; the first is the API server's, the tenth the DNS server's.
    pub services: Ipv4Net,
    /// DNS domain.
    pub domain: String,
    /// Port of 127.0.0.1 for the API server; the next free one is taken.
    pub api_port: u16,
    /// What images run, besides the table users edit.
    pub images: Vec<Image>,
    /// Programs that every container finds in `/malla/bin`, first in its PATH: name and place.
    pub binaries: Vec<(String, std::path::PathBuf)>,
}

/// The cluster's node.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    pub name: String,
    /// `topology.kubernetes.io/region` and `…/zone`.
    pub region: Option<String>,
    pub zone: Option<String>,
}

impl ClusterConfig {
    /// The defaults, in `directory`.
    pub fn new(name: impl Into<String>, directory: RunDirectory) -> Self {
        Self {
            name: name.into(),
            directory,
            node: NodeConfig {
                name: "local".to_owned(),
                region: None,
                zone: None,
            },
            pods: Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 24),
            peers: Vec::new(),
            services: Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16),
            domain: "cluster.local".to_owned(),
            api_port: 6443,
            images: Vec::new(),
            binaries: Vec::new(),
        }
    }
}

/// Why a cluster could not start.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("{0}")]
    Directory(#[from] DirectoryError),
    #[error("{doing}: {source}")]
    Io {
        doing: &'static str,
        source: io::Error,
    },
    #[error("{0}")]
    Server(#[from] OpenError),
    #[error("{0}")]
    Link(#[from] LinkError),
    #[error("{0}")]
    Rules(#[from] RulesError),
    #[error("write the cluster's own objects: {}", .0.message())]
    Api(ApiError),
    #[error("no port of 127.0.0.1 from {from} to {to} is free for the API server")]
    NoPort { from: u16, to: u16 },
}

fn doing(doing: &'static str) -> impl Fn(io::Error) -> ClusterError {
    move |source| ClusterError::Io { doing, source }
}

/// A running cluster. Dropping it ends it at once; see [`Cluster::stop`].
#[derive(Debug)]
pub struct Cluster {
    server: Server,
    name: String,
    url: String,
    node: Node,
    network: Arc<NodeNetwork>,
    pods: Ipv4Net,
    directory: RunDirectory,
    stop_serving: Option<oneshot::Sender<()>>,
    serving: AbortOnDropHandle<()>,
    controllers: Controllers,
    tasks: Vec<AbortOnDropHandle<()>>,
    _dns: DnsServer,
    _egress: Egress,
}

impl Cluster {
    /// Starts a cluster inside a sandbox.
    pub async fn start(config: ClusterConfig, inside: &Inside) -> Result<Self, ClusterError> {
        let settings = directories(&config)?;
        let node_address = AddressPool::node_address(config.pods);
        let mut api = Config::new(config.directory.store());
        api.service_cidr = config.services;
        api.cluster_domain = config.domain.clone();
        api.addresses = vec![IpAddr::V4(node_address)];
        let (server, network) = tokio::join!(
            Server::open(api),
            NodeNetwork::create(node_address, config.services),
        );
        let (server, network) = (server?, Arc::new(network?));
        let namespace = network.namespace().clone();
        let mut pods = vec![config.pods];
        pods.extend(&config.peers);
        let addresses = Addresses {
            services: config.services,
            node: node_address,
            pods,
        };
        let (rules, node_listener) = tokio::join!(
            ServiceRules::load(namespace.clone(), addresses),
            namespace.listen(network.socket_address(NODE_API_PORT)),
        );
        let node_listener = node_listener.map_err(doing("listen for pods"))?;
        let host_listener = listen_near(config.api_port)?;
        let host_address = host_listener.local_addr().map_err(doing("listen"))?;
        let zone = Arc::new(ArcSwap::from_pointee(Zone::default()));
        let dns_at = network.socket_address(NODE_DNS_PORT);
        let dns = DnsServer::start(&namespace, dns_at, Arc::clone(&zone)).await;
        let dns = dns.map_err(doing("start the DNS server"))?;
        let egress = Egress::start(&namespace, network.socket_address(EGRESS_PORT)).await;
        let egress = egress.map_err(doing("start the relay out of the cluster"))?;

        let client = server.client("malla-local");
        server.attach_dial(Arc::new(ClusterDial::new(
            namespace.clone(),
            client.clone(),
        )));
        let system = system::System {
            client: &client,
            config: &config,
            node_address,
            dns: settings.dns,
        };
        system.ensure().await.map_err(ClusterError::Api)?;

        let writer = server.client("malla-events");
        let (events, events_task) = Recorder::start(writer, config.node.name.clone());
        let mut feeds = Feeds::new();
        let images = Arc::new(Images::new(config.images.clone()));
        let spawner = Spawner::of(inside).map_err(doing("reach the sandbox's init"))?;
        let node = Node::start(
            crate::node::NodeParts {
                client: server.client("kubelet"),
                events: events.clone(),
                spawner,
                network: Arc::clone(&network),
                pool: AddressPool::new(config.pods),
                images,
                settings,
            },
            &mut feeds,
        );
        server.attach_node(Arc::new(node.streams()));
        let controllers = Controllers::start(
            &server,
            &events,
            controller_settings(&config, &server),
            &mut feeds,
        );
        let outlets = Outlets {
            rules: rules?,
            zone,
            domain: config.domain.clone(),
            node: node_address,
            namespace,
        };
        let mut tasks = vec![services::start(client.clone(), events, outlets, &mut feeds)];
        tasks.extend(feeds.start(&client));
        tasks.push(events_task);

        let (stop_serving, stopped) = oneshot::channel();
        let serving = serve(server.clone(), vec![host_listener, node_listener], stopped);
        Ok(Self {
            url: format!("https://{host_address}"),
            name: config.name,
            pods: config.pods,
            server,
            node,
            network,
            directory: config.directory,
            stop_serving: Some(stop_serving),
            serving: AbortOnDropHandle::new(tokio::spawn(serving)),
            controllers,
            tasks,
            _dns: dns,
            _egress: egress,
        })
    }

    /// An in-process client that writes as `manager`.
    pub fn client(&self, manager: &str) -> Client {
        self.server.client(manager)
    }

    /// Where the API server listens on the host, e.g. `https://127.0.0.1:6443`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A kubeconfig with all rights.
    pub fn kubeconfig(&self) -> Result<String, OpenError> {
        self.server.admin_kubeconfig(&self.name, &self.url)
    }

    /// The cluster's directory.
    pub fn directory(&self) -> &RunDirectory {
        &self.directory
    }

    /// Logs, commands and connections of the node's pods.
    pub fn node(&self) -> impl NodeRuntime {
        self.node.streams()
    }

    /// The node's network: connects to pods and Services from inside.
    pub fn network(&self) -> &NodeNetwork {
        &self.network
    }

    /// Joins the networks of two clusters of one sandbox: pods of both reach each other by their
    /// addresses. Their pod ranges must not overlap.
    pub async fn link(&self, other: &Self) -> Result<(), ClusterError> {
        Ok(self
            .network
            .link(self.pods, &other.network, other.pods)
            .await?)
    }

    /// Pids of all containers' commands as processes outside of the sandbox see them, by
    /// `namespace/pod/container`.
    pub fn pids(&self) -> BTreeMap<String, i32> {
        self.node.pids()
    }

    /// Ends the containers within `grace`, then the API server; removes a temporary directory.
    /// Objects stay as they are in a directory that is kept.
    pub async fn stop(mut self, grace: Duration) -> Result<(), ClusterError> {
        self.node.end_all(grace).await;
        drop(self.stop_serving.take());
        let _panicked = (&mut self.serving).await;
        for task in self.tasks {
            task.abort();
            let _aborted = task.await;
        }
        self.controllers.shut_down().await;
        self.node.shut_down().await;
        // The server must not hold what holds the server, or its store would stay open.
        self.server.attach_dial(Arc::new(HostDial));
        drop((self.node, self.server));
        wait_until_closed(&self.directory.store()).await;
        let directory = &self.directory;
        let memory = directory.path().join(MEMORY);
        if let Err(error) = umount2(&memory, MntFlags::MNT_DETACH) {
            tracing::debug!(%error, "the cluster's memory file system was already gone");
        }
        directory
            .remove()
            .map_err(doing("remove the cluster's directory"))
    }
}

/// Tasks that were told to end drop their handles of the store in their own time.
async fn wait_until_closed(store: &Path) {
    let deadline = tokio::time::Instant::now() + CLOSE_PATIENCE;
    while tokio::time::Instant::now() < deadline {
        let Ok(file) = fs::File::open(store) else {
            return;
        };
        if file.try_lock().is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Makes the directories the node works in.
fn directories(config: &ClusterConfig) -> Result<NodeSettings, ClusterError> {
    let failed = doing("make the cluster's directories");
    let base = config.directory.path();
    config.directory.sweep().map_err(&failed)?;
    let [disk, memory, scratch] = ["pods", MEMORY, "root"].map(|name| base.join(name));
    for path in [&disk, &memory, &scratch] {
        fs::create_dir(path).map_err(&failed)?;
    }
    // Secrets and tokens are never on disk, and vanish with the sandbox.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("tmpfs"),
        &memory,
        Some("tmpfs"),
        flags,
        Some("mode=0755"),
    )
    .map_err(|errno| failed(errno.into()))?;
    Ok(NodeSettings {
        node: config.node.name.clone(),
        dns: IpAddr::V4(dns_address(config.services)),
        domain: config.domain.clone(),
        scratch,
        hidden: base.to_path_buf(),
        disk,
        memory,
        binaries: config.binaries.clone(),
    })
}

fn dns_address(services: Ipv4Net) -> Ipv4Addr {
    services
        .hosts()
        .nth(DNS_INDEX)
        .unwrap_or(services.broadcast())
}

fn controller_settings(config: &ClusterConfig, server: &Server) -> Settings {
    Settings {
        node: config.node.name.clone(),
        zone: config.node.zone.clone(),
        ca_pem: server.ca_pem().to_owned(),
    }
}

/// Binds the wished port of the host's loopback, or the next free one. Port 0: any.
fn listen_near(wished: u16) -> Result<TcpListener, ClusterError> {
    let to = wished.saturating_add(PORT_TRIES);
    for port in wished..=to {
        match TcpListener::bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)) {
            Ok(listener) => {
                listener.set_nonblocking(true).map_err(doing("listen"))?;
                return Ok(listener);
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(doing("listen on 127.0.0.1")(error)),
        }
    }
    Err(ClusterError::NoPort { from: wished, to })
}

async fn serve(server: Server, listeners: Vec<TcpListener>, stopped: oneshot::Receiver<()>) {
    let stop = async {
        let _dropped = stopped.await;
    };
    if let Err(error) = server.serve(listeners, stop).await {
        tracing::error!(%error, "the API server ended");
    }
}
