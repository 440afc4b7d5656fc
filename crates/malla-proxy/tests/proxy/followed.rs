//! A control plane changes the configuration while connections run.
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use malla_proxy::app::{Ads, ConfigSource, Options, Proxy, ProxyHandle};
use malla_xds::client::ClientConfig;
use malla_xds::server::stream::Event;
use malla_xds::server::{AdsServer, Hello, NodeHandle, ResourceSource};
use malla_xds::transport::memory::MemoryTransport;
use malla_xds::{NodeResources, ResourceSet};
use malla_xds_proto::json::from_yaml;
use malla_xds_proto::type_url::{CLUSTER, ENDPOINTS, LISTENER};
use malla_xds_proto::{any, cluster as pb_cluster, core, endpoint, listener as pb_listener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tonic::Status;

use super::support::{LIMIT, Running, echo, free_port, options, round_trip, tcp_proxy};

/// Gives every node the same resources, and remembers what was refused.
#[derive(Clone)]
pub struct Plane {
    resources: Arc<watch::Sender<Arc<dyn NodeResources>>>,
    set: Arc<Mutex<ResourceSet>>,
    events: Arc<Mutex<Vec<String>>>,
}

impl Plane {
    pub fn new() -> Self {
        let set = ResourceSet::default();
        let first: Arc<dyn NodeResources> = Arc::new(set.clone());
        Self {
            resources: Arc::new(watch::Sender::new(first)),
            set: Arc::new(Mutex::new(set)),
            events: Arc::default(),
        }
    }

    pub fn change(&self, change: impl FnOnce(&mut ResourceSet)) {
        let mut set = self.set.lock().unwrap();
        change(&mut set);
        self.resources.send_replace(Arc::new(set.clone()));
    }

    pub fn put_listener(&self, name: &str, address: SocketAddr, chains: &[(&str, &str)]) {
        let chains: Vec<String> = chains
            .iter()
            .map(|(matches, cluster)| {
                format!(
                    "{{ filter_chain_match: {matches}, filters: [ {} ] }}",
                    tcp_proxy(cluster, "")
                )
            })
            .collect();
        let yaml = format!(
            "{{ name: {name}, address: {{ socket_address: {{ address: {}, port_value: {} }} }}, filter_chains: [ {} ] }}",
            address.ip(),
            address.port(),
            chains.join(", ")
        );
        let listener: pb_listener::Listener = from_yaml(&yaml).unwrap();
        self.change(|set| set.put(LISTENER, name, any::encode(&listener)));
    }

    pub fn put_cluster(&self, name: &str) {
        let yaml = format!(
            "{{ name: {name}, type: EDS, connect_timeout: 1s, eds_cluster_config: {{ eds_config: {{ ads: {{}} }} }} }}"
        );
        let cluster: pb_cluster::Cluster = from_yaml(&yaml).unwrap();
        self.change(|set| set.put(CLUSTER, name, any::encode(&cluster)));
    }

    pub fn put_endpoint(&self, name: &str, address: SocketAddr) {
        let yaml = format!(
            "{{ cluster_name: {name}, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }} }} ] }} ] }}",
            address.ip(),
            address.port()
        );
        let assignment: endpoint::ClusterLoadAssignment = from_yaml(&yaml).unwrap();
        self.change(|set| set.put(ENDPOINTS, name, any::encode(&assignment)));
    }

    /// How often a client has acknowledged (`Acked`) or refused (`Nacked`) something of a type.
    pub fn count(&self, event: &str, type_url: &str) -> usize {
        let events = self.events.lock().unwrap();
        let fits = |one: &&String| one.starts_with(event) && one.contains(type_url);
        events.iter().filter(fits).count()
    }

    /// Waits until it has done so more than `before` times.
    pub async fn until_more(&self, event: &str, type_url: &str, before: usize) {
        until(&format!("{event} of {type_url}"), || {
            self.count(event, type_url) > before
        })
        .await;
    }

    pub async fn until_refused(&self, text: &str) {
        until(&format!("a refusal with `{text}`"), || {
            self.events
                .lock()
                .unwrap()
                .iter()
                .any(|event| event.contains(text))
        })
        .await;
    }
}

impl ResourceSource for Plane {
    fn connect(&self, _hello: Hello) -> BoxFuture<'_, Result<Box<dyn NodeHandle>, Status>> {
        let handle: Box<dyn NodeHandle> = Box::new(self.clone());
        Box::pin(std::future::ready(Ok(handle)))
    }
}

impl NodeHandle for Plane {
    fn resources(&self) -> watch::Receiver<Arc<dyn NodeResources>> {
        self.resources.subscribe()
    }

    fn event(&self, event: &Event) {
        self.events.lock().unwrap().push(format!("{event:?}"));
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn follow(plane: &Plane, drain_time: Duration) -> (Running, ProxyHandle) {
    let ads = Ads {
        bootstrap: malla_xds_proto::bootstrap::Bootstrap::default(),
        client: ClientConfig::new(core::Node {
            id: "test".into(),
            ..core::Node::default()
        }),
        transport: Arc::new(MemoryTransport::new(
            AdsServer::new(
                plane.clone(),
                malla_xds::server::ServerOptions::new(malla_runtime::drain::DrainWatch::never()),
            ),
            tonic::Extensions::default(),
        )),
        identity: None,
    };
    let options = Options {
        drain_time,
        ..options()
    };
    let bound = Proxy::bind(ConfigSource::Ads(Box::new(ads)), options)
        .await
        .unwrap();
    let handle = bound.handle();
    (Running::run(bound), handle)
}

async fn listening(handle: &ProxyHandle, name: &str) -> SocketAddr {
    until("the listener", || handle.addr(name).is_some()).await;
    handle.addr(name).unwrap()
}

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test]
async fn clusters_endpoints_and_listeners_come_over_ads() {
    let plane = Plane::new();
    let (proxy, handle) = follow(&plane, LIMIT).await;
    plane.put_cluster("app");
    plane.put_endpoint("app", echo("one ").await);
    plane.put_listener("in", anywhere(), &[("{}", "app")]);
    timeout(LIMIT, handle.readiness().ready()).await.unwrap();
    assert_eq!(proxy.admin("/ready").await, "LIVE\n");
    let address = listening(&handle, "in").await;
    until_answer(address, "one x").await;
    plane.put_endpoint("app", echo("two ").await);
    until_answer(address, "two x").await;
    let dump = proxy
        .admin("/config_dump?resource=dynamic_active_clusters")
        .await;
    assert!(dump.contains("\"name\": \"app\""), "{dump}");
    proxy.until_stat("listener_manager.listener_added: 1").await;
    plane.change(|set| set.remove(LISTENER, "in"));
    until("the listener to go", || handle.addr("in").is_none()).await;
    proxy
        .until_stat("listener_manager.listener_removed: 1")
        .await;
    proxy.stop().await;
}

async fn until_answer(address: SocketAddr, want: &str) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let answer = round_trip(address, "x").await;
        if answer == want {
            return;
        }
        assert!(Instant::now() < deadline, "{answer:?} instead of {want:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn connections_of_unchanged_chains_outlive_an_update() {
    let plane = Plane::new();
    let (proxy, handle) = follow(&plane, Duration::ZERO).await;
    for cluster in ["kept", "changed"] {
        plane.put_cluster(cluster);
        plane.put_endpoint(cluster, echo(cluster).await);
    }
    let local = "{ source_prefix_ranges: [ { address_prefix: 127.0.0.1, prefix_len: 32 } ] }";
    let other = "{ source_prefix_ranges: [ { address_prefix: 127.0.0.2, prefix_len: 32 } ] }";
    plane.put_listener("in", anywhere(), &[(local, "kept"), (other, "changed")]);
    let address = listening(&handle, "in").await;
    until_answer(address, "keptx").await;
    let mut kept = TcpStream::connect(address).await.unwrap();
    let mut greeting = [0; 4];
    timeout(LIMIT, kept.read_exact(&mut greeting))
        .await
        .unwrap()
        .unwrap();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut changed = socket.connect(address).await.unwrap();
    let mut greeting = [0; 7];
    timeout(LIMIT, changed.read_exact(&mut greeting))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&greeting, b"changed");

    // The second chain now goes elsewhere: its connections have no time left, the first chain's are not touched.
    plane.put_listener("in", anywhere(), &[(local, "kept"), (other, "kept")]);
    let mut rest = Vec::new();
    let _ = timeout(LIMIT, changed.read_to_end(&mut rest))
        .await
        .expect("the changed chain's connection ends");
    kept.write_all(b"still").await.unwrap();
    let mut echoed = [0; 5];
    timeout(LIMIT, kept.read_exact(&mut echoed))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((&echoed, handle.addr("in")), (b"still", Some(address)));
    proxy.stop().await;
}

/// As when a certificate is late and the control plane has more to say meanwhile.
#[tokio::test]
async fn a_listener_may_change_while_it_waits() {
    let plane = Plane::new();
    plane.put_cluster("app"); // Nothing is known of its endpoints.
    let address = free_port();
    plane.put_listener("in", address, &[("{}", "other")]);
    let (proxy, _) = follow(&plane, LIMIT).await;
    plane.until_more("Acked", LISTENER, 0).await;
    for cluster in ["another", "app"] {
        let before = plane.count("Acked", LISTENER);
        plane.put_listener("in", address, &[("{}", cluster)]);
        plane.until_more("Acked", LISTENER, before).await;
    }
    assert_eq!(plane.count("Nacked", LISTENER), 0);
    plane.put_endpoint("app", echo("app ").await);
    until_answer(address, "app x").await;
    proxy.stop().await;
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_and_the_old_serves_on() {
    let plane = Plane::new();
    let (proxy, handle) = follow(&plane, LIMIT).await;
    plane.put_cluster("app");
    plane.put_endpoint("app", echo("app ").await);
    plane.put_listener("in", anywhere(), &[("{}", "app")]);
    let address = listening(&handle, "in").await;
    until_answer(address, "app x").await;
    let taken = std::net::TcpListener::bind(free_port()).unwrap();
    plane.put_listener("other", taken.local_addr().unwrap(), &[("{}", "app")]);
    plane
        .until_refused(&format!("cannot listen on {}", taken.local_addr().unwrap()))
        .await;
    plane.put_listener("in", anywhere(), &[("{}", "app"), ("{}", "app")]);
    plane.until_refused("filter_chains[1]").await;
    until_answer(address, "app x").await;
    let dump = proxy.admin("/config_dump").await;
    assert!(dump.contains("error_state"), "{dump}");
    proxy.stop().await;
}
