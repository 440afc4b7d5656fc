//! An rtnetlink socket of one namespace: the handful of requests the node makes.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::{Handle, LinkUnspec, new_connection};
use tokio_util::task::AbortOnDropHandle;

use super::LinkError;
use crate::net::namespace::Namespace;

/// Index of `lo` in every namespace.
pub(super) const LOOPBACK: u32 = 1;

/// The socket, driven on the caller's runtime.
#[derive(Debug)]
pub(super) struct Netlink {
    handle: Handle,
    _driver: AbortOnDropHandle<()>,
}

impl Netlink {
    pub(super) async fn open(namespace: &Namespace) -> Result<Self, LinkError> {
        let runtime = tokio::runtime::Handle::current();
        let (connection, handle, _) = namespace
            .run(move || {
                let _registers_here = runtime.enter();
                new_connection()
            })
            .await?;
        Ok(Self {
            handle,
            _driver: AbortOnDropHandle::new(tokio::spawn(connection)),
        })
    }

    pub(super) async fn add_link(&self, link: LinkMessage) -> Result<(), LinkError> {
        let added = self.handle.link().add(link).execute().await;
        added.map_err(failed("add a veth pair"))
    }

    pub(super) async fn delete_link(&self, index: u32) -> Result<(), LinkError> {
        let deleted = self.handle.link().del(index).execute().await;
        deleted.map_err(failed("delete a veth pair"))
    }

    pub(super) async fn up(&self, index: u32) -> Result<(), LinkError> {
        let link = LinkUnspec::new_with_index(index).up().build();
        let set = self.handle.link().set(link).execute().await;
        set.map_err(failed("bring an interface up"))
    }

    pub(super) async fn add_address(&self, index: u32, address: Ipv4Addr) -> Result<(), LinkError> {
        let request = self.handle.address().add(index, IpAddr::V4(address), 32);
        request.execute().await.map_err(failed("add an address"))
    }

    pub(super) async fn add_neighbour(
        &self,
        index: u32,
        address: Ipv4Addr,
        mac: [u8; 6],
    ) -> Result<(), LinkError> {
        let request = self
            .handle
            .neighbours()
            .add(index, IpAddr::V4(address))
            .link_layer_address(&mac)
            .state(NeighbourState::Permanent);
        request.execute().await.map_err(failed("add a neighbour"))
    }

    pub(super) async fn add_route(
        &self,
        doing: &'static str,
        route: RouteMessage,
    ) -> Result<(), LinkError> {
        let added = self.handle.route().add(route).execute().await;
        added.map_err(failed(doing))
    }

    pub(super) async fn index_of(&self, name: &str) -> Result<u32, LinkError> {
        let request = self.handle.link().get().match_name(name.to_owned());
        let found = request.execute().try_next().await;
        let link = found.map_err(failed("find an interface"))?;
        let named = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfName(found) if found == name);
        link.filter(|link| link.attributes.iter().any(named))
            .map(|link| link.header.index)
            .ok_or_else(|| LinkError::NoInterface(name.to_owned()))
    }
}

fn failed(doing: &'static str) -> impl Fn(rtnetlink::Error) -> LinkError {
    move |source| LinkError::Netlink { doing, source }
}
