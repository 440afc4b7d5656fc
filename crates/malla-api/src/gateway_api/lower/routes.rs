//! Routes of all kinds, as far as attaching them goes.

use std::sync::Arc;

use malla_model::Meta;
use serde_json::Value;

use super::super::GatewayKind;
use super::super::types::ParentRef;
use super::rules::{Context, Rules};
use super::{Object, Objects, Surroundings, grpc, http};
use crate::lower::meta::meta;

/// A route and what it says.
#[derive(Debug)]
pub(super) struct Route<'a> {
    pub(super) kind: GatewayKind,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) generation: i64,
    /// See [`Object::age`].
    pub(super) age: (i64, String),
    pub(super) origin: Arc<Meta>,
    pub(super) parents: &'a [ParentRef],
    /// None is every name.
    pub(super) hostnames: &'a [String],
    pub(super) rules: Rules,
    /// The status that stands.
    pub(super) status: &'a Value,
}

/// All routes, in the order in which they have what two of them want: oldest first.
pub(super) fn of<'a>(objects: &'a Objects, around: &Surroundings<'_>) -> Vec<Route<'a>> {
    let mut routes = Vec::new();
    for route in objects.http_routes.values() {
        let cx = context(GatewayKind::HttpRoute, route, objects, around);
        let (parents, hostnames) = (&route.spec.parent_refs, &route.spec.hostnames);
        let rules = http::lower(route, cx);
        let kind = GatewayKind::HttpRoute;
        routes.push(Route::new(kind, route, parents, hostnames, rules));
    }
    for route in objects.grpc_routes.values() {
        let cx = context(GatewayKind::GrpcRoute, route, objects, around);
        let (parents, hostnames) = (&route.spec.parent_refs, &route.spec.hostnames);
        let rules = grpc::lower(route, cx);
        let kind = GatewayKind::GrpcRoute;
        routes.push(Route::new(kind, route, parents, hostnames, rules));
    }
    routes.sort_by(|a, b| a.age.cmp(&b.age));
    routes
}

fn context<'a, T>(
    kind: GatewayKind,
    route: &'a Object<T>,
    objects: &'a Objects,
    around: &'a Surroundings<'a>,
) -> Context<'a> {
    Context {
        kind,
        namespace: route.namespace(),
        objects,
        around,
        unresolved: None,
    }
}

impl<'a> Route<'a> {
    fn new<T>(
        kind: GatewayKind,
        object: &'a Object<T>,
        parents: &'a [ParentRef],
        hostnames: &'a [String],
        rules: Rules,
    ) -> Self {
        Self {
            kind,
            namespace: object.namespace(),
            name: object.name(),
            generation: object.generation(),
            age: object.age(),
            origin: Arc::new(meta(kind.name(), &object.metadata)),
            parents,
            hostnames,
            rules,
            status: &object.status,
        }
    }

    /// `namespace/name`.
    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}
