//! Patches of listeners, their filter chains, and the filters in them.

use malla_model::patch::{ApplyTo, Context, ListenerPlace, Operation, Patch, Place};
use malla_xds_proto::any;
use malla_xds_proto::core::address::Address;
use malla_xds_proto::core::socket_address::PortSpecifier;
use malla_xds_proto::core::{SocketAddress, TrafficDirection};
use malla_xds_proto::hcm::{HttpConnectionManager, HttpFilter};
use malla_xds_proto::listener::{Filter, FilterChain, Listener, ListenerFilter, filter};

use super::{Patches, edit, merge_into, merge_named, merge_socket, merge_value, outbound, value};
use crate::names::{VIRTUAL_INBOUND, VIRTUAL_OUTBOUND};
use crate::view::View;

const CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// Merges into and removes listeners, and all that is in them.
pub(crate) fn listeners(view: &View<'_>, listeners: Vec<Listener>) -> Vec<Listener> {
    let patches = view.patches();
    if patches.is_empty() {
        return listeners;
    }
    let mut kept = Vec::with_capacity(listeners.len());
    for mut listener in listeners {
        let context = context(view, &listener);
        if whole(patches, context, &mut listener) {
            listener_filters(patches, context, &mut listener);
            chains(patches, context, &mut listener);
            kept.push(listener);
        }
    }
    kept
}

/// The listeners that patches add in a context.
pub(crate) fn more_listeners(view: &View<'_>, context: Context) -> Vec<Listener> {
    let added = view.patches().added(ApplyTo::Listener, context);
    added.collect()
}

fn context(view: &View<'_>, listener: &Listener) -> Context {
    match (outbound(view.node), listener.traffic_direction()) {
        (Context::SidecarOutbound, TrafficDirection::Inbound) => Context::SidecarInbound,
        (context, _) => context,
    }
}

/// Merges into the listener; `false` when it is removed.
fn whole(patches: &Patches<'_>, context: Context, listener: &mut Listener) -> bool {
    for patch in patches.of(ApplyTo::Listener, context) {
        if !is_listener(patch, listener) {
            continue;
        }
        if patch.operation == Operation::Remove {
            return false;
        }
        merge_into(patch, listener);
    }
    true
}

fn listener_filters(patches: &Patches<'_>, context: Context, listener: &mut Listener) {
    for patch in patches.of(ApplyTo::ListenerFilter, context) {
        if !is_listener(patch, listener) {
            continue;
        }
        let name = place(patch).and_then(|place| place.listener_filter.clone());
        let is = |filter: &ListenerFilter| name.as_deref() == Some(&*filter.name);
        if patch.operation != Operation::Merge {
            let is: Option<&dyn Fn(&ListenerFilter) -> bool> = name.is_some().then_some(&is);
            edit(patch, &mut listener.listener_filters, is);
            continue;
        }
        let named = listener.listener_filters.iter_mut().filter(|it| is(it));
        named.for_each(|filter| merge_named(patch, filter));
    }
}

fn chains(patches: &Patches<'_>, context: Context, listener: &mut Listener) {
    let mut chains = std::mem::take(&mut listener.filter_chains);
    chains.retain_mut(|chain| patched_chain(patches, context, listener, chain));
    listener.filter_chains = chains;
    if let Some(mut default) = listener.default_filter_chain.take()
        && patched_chain(patches, context, listener, &mut default)
    {
        listener.default_filter_chain = Some(default);
    }
    for patch in patches.of(ApplyTo::FilterChain, context) {
        if patch.operation == Operation::Add && is_listener(patch, listener) {
            listener.filter_chains.extend(value::<FilterChain>(patch));
        }
    }
}

/// Patches a chain; `false` when it is removed.
fn patched_chain(
    patches: &Patches<'_>,
    context: Context,
    listener: &Listener,
    chain: &mut FilterChain,
) -> bool {
    for patch in patches.of(ApplyTo::FilterChain, context) {
        if !is_listener(patch, listener) || !is_chain(patch, listener, chain) {
            continue;
        }
        if patch.operation == Operation::Remove {
            return false;
        }
        let Some(value) = value::<FilterChain>(patch).filter(|_| patch.operation.merges()) else {
            continue;
        };
        let merged = match (&mut chain.transport_socket, &value.transport_socket) {
            (Some(there), Some(new)) => merge_socket(there, new),
            _ => false,
        };
        if !merged {
            merge_value(patch, &value, chain);
        }
    }
    let here = |apply_to| -> Vec<&Patch> {
        let all = patches.of(apply_to, context);
        all.filter(|patch| is_listener(patch, listener) && is_chain(patch, listener, chain))
            .collect()
    };
    let (network, http) = (here(ApplyTo::NetworkFilter), here(ApplyTo::HttpFilter));
    network_filters(&network, chain);
    for filter in &mut chain.filters {
        for patch in &network {
            if is_network(patch, filter) {
                merge_named(patch, filter);
            }
        }
        if filter.name == CONNECTION_MANAGER && !http.is_empty() {
            http_filters(&http, filter);
        }
    }
    true
}

fn network_filters(patches: &[&Patch], chain: &mut FilterChain) {
    for patch in patches {
        let name = place(patch).and_then(|place| place.filter.clone());
        let is = |filter: &Filter| name.as_deref() == Some(&*filter.name);
        let is: Option<&dyn Fn(&Filter) -> bool> = name.is_some().then_some(&is);
        edit(patch, &mut chain.filters, is);
    }
}

fn http_filters(patches: &[&Patch], filter: &mut Filter) {
    let Some(filter::ConfigType::TypedConfig(packed)) = &mut filter.config_type else {
        return;
    };
    let Ok(mut manager) = any::unpack::<HttpConnectionManager>(packed) else {
        return;
    };
    let name = &filter.name;
    let mut here = patches.to_vec();
    here.retain(|patch| place(patch).is_none_or(|it| (it.filter.iter()).all(|of| **of == **name)));
    for patch in &here {
        let sub = http_filter_name(patch);
        let is = |filter: &HttpFilter| sub == Some(&*filter.name);
        let is: Option<&dyn Fn(&HttpFilter) -> bool> = sub.is_some().then_some(&is);
        edit(patch, &mut manager.http_filters, is);
    }
    for filter in &mut manager.http_filters {
        for patch in &here {
            if http_filter_name(patch).is_none_or(|name| name == filter.name) {
                merge_named(patch, filter);
            }
        }
    }
    *packed = any::pack(&manager);
}

fn place(patch: &Patch) -> Option<&ListenerPlace> {
    match &patch.place {
        Place::Listener(place) => Some(place),
        Place::Anywhere | Place::Routes(_) | Place::Cluster(_) => None,
    }
}

/// The HTTP filter that a patch names, inside of a network filter that it names too.
fn http_filter_name(patch: &Patch) -> Option<&str> {
    let place = place(patch)?;
    place.filter.as_ref().and(place.http_filter.as_deref())
}

fn is_network(patch: &Patch, filter: &Filter) -> bool {
    place(patch).is_none_or(|place| place.filter.iter().all(|name| **name == *filter.name))
}

fn is_virtual(listener: &Listener) -> bool {
    matches!(&*listener.name, VIRTUAL_INBOUND | VIRTUAL_OUTBOUND)
}

fn is_listener(patch: &Patch, listener: &Listener) -> bool {
    let Some(place) = place(patch) else {
        return true;
    };
    if place
        .name
        .as_ref()
        .is_some_and(|name| **name != *listener.name)
    {
        return false;
    }
    // Ports of the virtual listeners are in their chains.
    if patch.apply_to != ApplyTo::Listener && is_virtual(listener) {
        return true;
    }
    place.port.is_none_or(|port| {
        let address = listener.address.as_ref().and_then(|it| it.address.as_ref());
        matches!(
            address,
            Some(Address::SocketAddress(SocketAddress {
                port_specifier: Some(PortSpecifier::PortValue(own)),
                ..
            })) if *own == u32::from(port)
        )
    })
}

fn is_chain(patch: &Patch, listener: &Listener, chain: &FilterChain) -> bool {
    let Some(place) = place(patch) else {
        return true;
    };
    let of = chain.filter_chain_match.clone().unwrap_or_default();
    let to_port = |port: u16| {
        of.destination_port
            .is_some_and(|it| it.value == u32::from(port))
    };
    if is_virtual(listener) && !place.port.is_none_or(to_port) {
        return false;
    }
    let want = &place.chain;
    let equal = |want: &Option<std::sync::Arc<str>>, found: &str| {
        want.as_ref().is_none_or(|want| **want == *found)
    };
    let socket = chain.transport_socket.as_ref();
    equal(&want.name, &chain.name)
        && (want.sni.iter()).all(|sni| of.server_names.iter().any(|name| **name == **sni))
        && equal(&want.transport_protocol, &of.transport_protocol)
        && equal(&want.transport_socket, socket.map_or("", |it| &it.name))
        && (want.application_protocols.iter())
            .all(|want| of.application_protocols.iter().any(|it| **it == **want))
        && want.destination_port.is_none_or(to_port)
}
