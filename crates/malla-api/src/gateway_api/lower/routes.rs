//! Routes of all kinds, as far as attaching them goes.

use std::sync::Arc;

use malla_model::Meta;
use serde_json::Value;

use super::super::GatewayKind;
use super::super::types::{GrpcRouteSpec, HttpRouteSpec, ParentRef, TcpRouteSpec, TlsRouteSpec};
use super::rules::{Context, Rules};
use super::{Object, Objects, Set, Surroundings, grpc, http, streams};
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

impl Route<'_> {
    /// `namespace/name`.
    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// All routes, in the order in which they have what two of them want: oldest first.
pub(super) fn of<'a>(objects: &'a Objects, around: &Surroundings<'_>) -> Vec<Route<'a>> {
    let mut routes = Vec::new();
    add(&objects.http_routes, objects, around, &mut routes);
    add(&objects.grpc_routes, objects, around, &mut routes);
    add(&objects.tls_routes, objects, around, &mut routes);
    add(&objects.tcp_routes, objects, around, &mut routes);
    routes.sort_by(|a, b| a.age.cmp(&b.age));
    routes
}

fn add<'a, T: RouteSpec>(
    set: &'a Set<T>,
    objects: &Objects,
    around: &Surroundings<'_>,
    routes: &mut Vec<Route<'a>>,
) {
    routes.extend(set.values().map(|object| {
        let cx = Context {
            kind: T::KIND,
            namespace: object.namespace(),
            objects,
            around,
            unresolved: None,
        };
        Route {
            kind: T::KIND,
            namespace: object.namespace(),
            name: object.name(),
            generation: object.generation(),
            age: object.age(),
            origin: Arc::new(meta(T::KIND.name(), &object.metadata)),
            parents: object.spec.parents(),
            hostnames: object.spec.hostnames(),
            rules: T::lower(object, cx),
            status: &object.status,
        }
    }));
}

/// What a kind of route has.
trait RouteSpec: Sized {
    const KIND: GatewayKind;

    fn parents(&self) -> &[ParentRef];

    fn hostnames(&self) -> &[String];

    fn lower(route: &Object<Self>, cx: Context<'_>) -> Rules;
}

impl RouteSpec for HttpRouteSpec {
    const KIND: GatewayKind = GatewayKind::HttpRoute;

    fn parents(&self) -> &[ParentRef] {
        &self.parent_refs
    }

    fn hostnames(&self) -> &[String] {
        &self.hostnames
    }

    fn lower(route: &Object<Self>, cx: Context<'_>) -> Rules {
        http::lower(route, cx)
    }
}

impl RouteSpec for GrpcRouteSpec {
    const KIND: GatewayKind = GatewayKind::GrpcRoute;

    fn parents(&self) -> &[ParentRef] {
        &self.parent_refs
    }

    fn hostnames(&self) -> &[String] {
        &self.hostnames
    }

    fn lower(route: &Object<Self>, cx: Context<'_>) -> Rules {
        grpc::lower(route, cx)
    }
}

impl RouteSpec for TlsRouteSpec {
    const KIND: GatewayKind = GatewayKind::TlsRoute;

    fn parents(&self) -> &[ParentRef] {
        &self.parent_refs
    }

    fn hostnames(&self) -> &[String] {
        &self.hostnames
    }

    fn lower(route: &Object<Self>, cx: Context<'_>) -> Rules {
        streams::lower(&route.spec.rules, cx)
    }
}

impl RouteSpec for TcpRouteSpec {
    const KIND: GatewayKind = GatewayKind::TcpRoute;

    fn parents(&self) -> &[ParentRef] {
        &self.parent_refs
    }

    fn hostnames(&self) -> &[String] {
        &[]
    }

    fn lower(route: &Object<Self>, cx: Context<'_>) -> Rules {
        streams::lower(&route.spec.rules, cx)
    }
}
