//! EnvoyFilters: what users change of the configuration they are given.
//!
//! Patches are applied to finished messages, before those are packed. They are ordered by priority, then those of the
//! root namespace, then by age. One that matches nothing changes nothing; one whose message does not fit (two types of
//! configuration cannot be merged) leaves what it would have changed as it was.

mod cluster;
mod listener;
mod route;

use malla_model::id::selects;
use malla_model::patch::{ApplyTo, Context, EnvoyFilter, Operation, Patch};
use malla_xds_proto::Any;
use malla_xds_proto::core::{TransportSocket, transport_socket};
use malla_xds_proto::hcm::{HttpFilter, http_filter};
use malla_xds_proto::listener::{Filter, ListenerFilter, filter, listener_filter};
use malla_xds_proto::merge::{self, Lists};
use prost::{Message, Name};

use crate::node::{NodeKind, NodeView};
use crate::view::View;

pub(crate) use cluster::{clusters, more_clusters};
pub(crate) use listener::{listeners, more_listeners};
pub(crate) use route::routes;

/// The patches for one node, in order.
#[derive(Debug)]
pub(crate) struct Patches<'a>(Vec<&'a Patch>);

impl<'a> Patches<'a> {
    pub(crate) fn new(view: &View<'a>) -> Self {
        let (mesh, node) = (view.mesh, view.node);
        let root = &*mesh.settings.root_namespace;
        let mut filters: Vec<&EnvoyFilter> = mesh
            .envoy_filters
            .iter()
            .map(|filter| &**filter)
            .filter(|filter| {
                let namespace = filter.meta.namespace();
                (namespace == root || namespace == &*node.namespace)
                    && (filter.selector.iter()).all(|selector| selects(selector, &node.labels))
            })
            .collect();
        // Stable: the mesh has them oldest first.
        filters.sort_by_key(|filter| (filter.priority, filter.meta.namespace() != root));
        let patches = filters.iter().flat_map(|filter| &filter.patches);
        Self(patches.filter(|patch| fits(patch, node)).collect())
    }

    /// Those for one kind of object in one context.
    fn of(&self, apply_to: ApplyTo, context: Context) -> impl Iterator<Item = &'a Patch> {
        self.0.iter().copied().filter(move |patch| {
            patch.apply_to == apply_to
                && (patch.context == Context::Any || patch.context == context)
        })
    }

    /// What is added in a context. One for any context is added once, to what goes out.
    fn added<M: Message + Default>(
        &self,
        apply_to: ApplyTo,
        context: Context,
    ) -> impl Iterator<Item = M> {
        let here = self.of(apply_to, context).filter(move |patch| {
            patch.operation == Operation::Add
                && (patch.context != Context::Any || context != Context::SidecarInbound)
        });
        here.filter_map(value)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The context of what a node calls.
pub(crate) const fn outbound(node: &NodeView) -> Context {
    match node.kind {
        NodeKind::Sidecar => Context::SidecarOutbound,
        NodeKind::Router => Context::Gateway,
    }
}

fn fits(patch: &Patch, node: &NodeView) -> bool {
    let version = patch.proxy.version.as_ref().is_none_or(|pattern| {
        let found = regex::Regex::new(pattern.as_str());
        !node.version.is_empty() && found.is_ok_and(|regex| regex.is_match(&node.version))
    });
    let mut metadata = patch.proxy.metadata.iter();
    version && metadata.all(|(key, value)| node.metadata.get(key) == Some(value))
}

/// The patch's message. It was encoded from one of that type, so it decodes.
fn value<M: Message + Default>(patch: &Patch) -> Option<M> {
    M::decode(&*patch.value).ok()
}

/// Merges the patch's message into `target`, if the operation merges.
fn merge_into<M: Message + Name + Default>(patch: &Patch, target: &mut M) {
    if patch.operation.merges()
        && let Some(value) = value::<M>(patch)
    {
        merge_value(patch, &value, target);
    }
}

/// Merges `value`, which is the patch's, into `target`.
fn merge_value<M: Message + Name + Default>(patch: &Patch, value: &M, target: &mut M) {
    let lists = match patch.operation {
        Operation::MergeAndReplaceList => Lists::Replace,
        _ => Lists::Append,
    };
    if let Err(error) = merge::merge(target, value, lists) {
        tracing::debug!(%error, "a patch of an EnvoyFilter does not merge");
    }
}

/// Adds, replaces or removes items of a list. `is` finds the item that the patch names, if it names one: without,
/// BEFORE is the start of the list, AFTER the end, and nothing is replaced or removed.
fn edit<T: Message + Default>(patch: &Patch, list: &mut Vec<T>, is: Option<&dyn Fn(&T) -> bool>) {
    if patch.operation == Operation::Remove {
        if let Some(is) = is {
            list.retain(|item| !is(item));
        }
        return;
    }
    let Some(value) = value::<T>(patch) else {
        return;
    };
    let found = is.map(|is| list.iter().position(is));
    match (patch.operation, found) {
        (Operation::Add, _) | (Operation::InsertAfter, None) => list.push(value),
        (Operation::InsertFirst, _) | (Operation::InsertBefore, None) => list.insert(0, value),
        (Operation::InsertBefore, Some(Some(at))) => list.insert(at, value),
        (Operation::InsertAfter, Some(Some(at))) => list.insert(at + 1, value),
        (Operation::Replace, Some(Some(at))) => {
            if let Some(item) = list.get_mut(at) {
                *item = value;
            }
        }
        _ => {}
    }
}

/// What has a name and a configuration of a type of its own.
trait Named {
    fn name_mut(&mut self) -> &mut String;
    fn config(&self) -> Option<&Any>;
    fn config_mut(&mut self) -> Option<&mut Any>;
}

macro_rules! named {
    ($($message:ty: $config:path),+ $(,)?) => {$(
        impl Named for $message {
            fn name_mut(&mut self) -> &mut String {
                &mut self.name
            }

            fn config(&self) -> Option<&Any> {
                match &self.config_type {
                    Some($config(config)) => Some(config),
                    _ => None,
                }
            }

            fn config_mut(&mut self) -> Option<&mut Any> {
                match &mut self.config_type {
                    Some($config(config)) => Some(config),
                    _ => None,
                }
            }
        }
    )+};
}

named! {
    ListenerFilter: listener_filter::ConfigType::TypedConfig,
    Filter: filter::ConfigType::TypedConfig,
    HttpFilter: http_filter::ConfigType::TypedConfig,
    TransportSocket: transport_socket::ConfigType::TypedConfig,
}

/// Merges the patch's configuration into that of `target`, and gives it the patch's name. Lists always grow there, so the
/// other way of merging is none.
fn merge_named<M: Named + Message + Default>(patch: &Patch, target: &mut M) {
    let new = (patch.operation == Operation::Merge).then(|| value::<M>(patch));
    if let Some(mut new) = new.flatten()
        && merge_config(target, &new)
    {
        let name = std::mem::take(new.name_mut());
        if !name.is_empty() {
            *target.name_mut() = name;
        }
    }
}

/// Merges the configuration of `new` into that of `target`; `false` where that has none.
fn merge_config<M: Named>(target: &mut M, new: &M) -> bool {
    let Some(there) = target.config_mut() else {
        return false;
    };
    if let Some(new) = new.config() {
        match merge::merge_any(there, new) {
            Ok(merged) => *there = merged,
            Err(error) => tracing::debug!(%error, "a patch of an EnvoyFilter does not merge"),
        }
    }
    true
}

/// Merges two sockets of one name; `false` where they are not of one name.
fn merge_socket(target: &mut TransportSocket, patch: &TransportSocket) -> bool {
    let same = target.name == patch.name;
    if same {
        merge_config(target, patch);
    }
    same
}
