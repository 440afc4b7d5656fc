//! Interfaces, addresses, routes and neighbours of the node and its pods.

mod netlink;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use ipnet::Ipv4Net;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use self::netlink::{LOOPBACK, Netlink};
use super::namespace::{Namespace, NamespaceThread};

/// Where pods send everything; answered by a permanent neighbour entry only.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Hardware address of the node's end of every pair. Each pair is a link of its own, so they may
/// be equal.
const NODE_MAC: [u8; 6] = [0x0a, 0x58, 0xa9, 0xfe, 0x01, 0x01];
/// Interface of a pod.
const POD_INTERFACE: &str = "eth0";

/// What could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("network namespace: {0}")]
    Namespace(#[from] io::Error),
    #[error("netlink: {doing}: {source}")]
    Netlink {
        doing: &'static str,
        source: rtnetlink::Error,
    },
    #[error("interface {0} did not appear")]
    NoInterface(String),
}

/// The node's namespace with its address.
#[derive(Debug)]
pub struct NodeNetwork {
    thread: NamespaceThread,
    namespace: Namespace,
    netlink: Netlink,
    address: Ipv4Addr,
}

/// A pod's namespace, joined to the node's.
#[derive(Debug)]
pub struct PodNetwork {
    pub namespace: Namespace,
    pub address: Ipv4Addr,
    node_end: u32,
}

impl NodeNetwork {
    /// Makes the node's namespace. `address` becomes the node's own; packets of the node itself to
    /// `services` find a route, so that the rules can redirect them.
    pub async fn create(address: Ipv4Addr, services: Ipv4Net) -> Result<Self, LinkError> {
        let thread = NamespaceThread::start()?;
        let namespace = thread
            .create(|| {
                std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
                std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
            })
            .await?;
        let netlink = Netlink::open(&namespace).await?;
        netlink.up(LOOPBACK).await?;
        netlink.add_address(LOOPBACK, address).await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(services.network(), services.prefix_len())
            .output_interface(LOOPBACK)
            .pref_source(address)
            .scope(RouteScope::Link)
            .build();
        netlink.add_route("route the service range", route).await?;
        Ok(Self {
            thread,
            namespace,
            netlink,
            address,
        })
    }

    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The node's own address (`status.hostIP`).
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The node's address with a port.
    pub fn socket_address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address), port)
    }

    /// Makes a pod's namespace with address `address` and joins it.
    pub async fn add_pod(&self, address: Ipv4Addr) -> Result<PodNetwork, LinkError> {
        let namespace = self.thread.create(prepare_pod).await?;
        let node_end = self.join(&namespace, address).await?;
        let network = PodNetwork {
            namespace,
            address,
            node_end,
        };
        if let Err(error) = configure_pod(&network).await {
            self.remove_pod(&network).await;
            return Err(error);
        }
        Ok(network)
    }

    /// Takes the pod's link away; its namespace goes with its last process and handle.
    pub async fn remove_pod(&self, pod: &PodNetwork) {
        if let Err(error) = self.netlink.delete_link(pod.node_end).await {
            tracing::debug!(%error, address = %pod.address, "the link of a pod was already gone");
        }
    }

    /// Joins this node's namespace with another's, so that the pods of both reach each other by
    /// their addresses (Services stay each node's own).
    pub async fn link(
        &self,
        own_pods: Ipv4Net,
        other: &Self,
        other_pods: Ipv4Net,
    ) -> Result<(), LinkError> {
        let name = interface_name(other.address);
        let peer_name = interface_name(self.address);
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(&peer_name)
            .address(pod_mac(other.address).to_vec())
            .setns_by_fd(other.namespace.fd().as_raw_fd())
            .build();
        let link = LinkVeth::new(&name, &peer_name)
            .address(pod_mac(self.address).to_vec())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .up()
            .build();
        self.netlink.add_link(link).await?;
        self.route_to(&name, other.address, other_pods).await?;
        other
            .netlink
            .up(other.netlink.index_of(&peer_name).await?)
            .await?;
        other.route_to(&peer_name, self.address, own_pods).await
    }

    async fn route_to(&self, name: &str, node: Ipv4Addr, pods: Ipv4Net) -> Result<(), LinkError> {
        let index = self.netlink.index_of(name).await?;
        self.netlink
            .add_neighbour(index, node, pod_mac(node))
            .await?;
        let direct = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(node, 32)
            .output_interface(index)
            .pref_source(self.address)
            .scope(RouteScope::Link)
            .build();
        self.netlink
            .add_route("route the other node", direct)
            .await?;
        let through = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(pods.network(), pods.prefix_len())
            .gateway(node)
            .output_interface(index)
            .pref_source(self.address)
            .build();
        self.netlink
            .add_route("route the other node's pods", through)
            .await
    }

    async fn join(&self, pod: &Namespace, address: Ipv4Addr) -> Result<u32, LinkError> {
        let name = interface_name(address);
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(POD_INTERFACE)
            .address(pod_mac(address).to_vec())
            .setns_by_fd(pod.fd().as_raw_fd())
            .build();
        let link = LinkVeth::new(&name, POD_INTERFACE)
            .address(NODE_MAC.to_vec())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .up()
            .build();
        self.netlink.add_link(link).await?;
        let index = self.netlink.index_of(&name).await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, 32)
            .output_interface(index)
            .scope(RouteScope::Link)
            .build();
        self.netlink.add_route("route a pod", route).await?;
        let mac = pod_mac(address);
        self.netlink.add_neighbour(index, address, mac).await?;
        Ok(index)
    }
}

/// Switches of a pod's namespace: any user may bind low ports and ping, as in usual runtimes.
fn prepare_pod() -> io::Result<()> {
    std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")?;
    // A user namespace maps only so many groups; the widest range that works is taken.
    let range = "/proc/sys/net/ipv4/ping_group_range";
    std::fs::write(range, "0 2147483647").or_else(|_| std::fs::write(range, "0 65535"))?;
    // Without an IPv6 network, link-local addresses would only make noise.
    let ipv6 = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
    match std::fs::write(ipv6, "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn configure_pod(pod: &PodNetwork) -> Result<(), LinkError> {
    let netlink = Netlink::open(&pod.namespace).await?;
    netlink.up(LOOPBACK).await?;
    let eth0 = netlink.index_of(POD_INTERFACE).await?;
    netlink.add_address(eth0, pod.address).await?;
    netlink.up(eth0).await?;
    netlink.add_neighbour(eth0, GATEWAY, NODE_MAC).await?;
    let gateway = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(GATEWAY, 32)
        .output_interface(eth0)
        .scope(RouteScope::Link)
        .build();
    netlink.add_route("route the gateway", gateway).await?;
    let default = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(GATEWAY)
        .output_interface(eth0)
        .build();
    netlink.add_route("add the default route", default).await
}

/// Locally administered, from the address, as the usual CNI plugins make it.
fn pod_mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

fn interface_name(address: Ipv4Addr) -> String {
    format!("veth{:08x}", u32::from(address))
}
