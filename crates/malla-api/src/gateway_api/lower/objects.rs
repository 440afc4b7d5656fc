//! The Gateway API's objects as they were read, each under its name.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::GatewayKind;
use super::super::types::{
    BackendTlsPolicySpec, GatewayClassSpec, GatewaySpec, GrpcRouteSpec, HttpRouteSpec,
    ListenerSetSpec, ReferenceGrantSpec, TcpRouteSpec, TlsRouteSpec,
};

/// Namespace and name.
pub type Name = (String, String);

/// All objects of one kind.
pub type Set<T> = BTreeMap<Name, Arc<Object<T>>>;

/// An object as it was read.
#[derive(Debug, Clone)]
pub struct Object<T> {
    pub metadata: ObjectMeta,
    pub spec: T,
    /// The status that stands.
    pub status: Value,
}

impl<T> Object<T> {
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    pub(super) fn generation(&self) -> i64 {
        self.metadata.generation.unwrap_or_default()
    }

    /// The Gateway API's order between equals: oldest first, then by namespace and name.
    pub(super) fn age(&self) -> (i64, String) {
        let created = self.metadata.creation_timestamp.as_ref();
        let created = created.map_or(0, |time| time.0.as_second());
        (created, format!("{}/{}", self.namespace(), self.name()))
    }
}

impl<T: PartialEq> Object<T> {
    /// Whether both say the same, statuses included: writers compare against them.
    fn says(&self, other: &Self) -> bool {
        let (own, others) = (&self.metadata, &other.metadata);
        own.uid == others.uid
            && own.generation == others.generation
            && own.labels == others.labels
            && own.annotations == others.annotations
            && self.spec == other.spec
            && self.status == other.status
    }
}

/// All objects of the Gateway API.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    pub classes: Set<GatewayClassSpec>,
    pub gateways: Set<GatewaySpec>,
    pub listener_sets: Set<ListenerSetSpec>,
    pub http_routes: Set<HttpRouteSpec>,
    pub grpc_routes: Set<GrpcRouteSpec>,
    pub tls_routes: Set<TlsRouteSpec>,
    pub tcp_routes: Set<TcpRouteSpec>,
    pub backend_tls_policies: Set<BackendTlsPolicySpec>,
    pub grants: Set<ReferenceGrantSpec>,
}

impl Objects {
    /// Whether there is nothing that acts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
            && self.gateways.is_empty()
            && self.http_routes.is_empty()
            && self.grpc_routes.is_empty()
            && self.tls_routes.is_empty()
            && self.tcp_routes.is_empty()
    }

    /// Takes an object in; whether anything is different now.
    ///
    /// # Errors
    /// When it does not have the form of its kind (the API server lets none such in). Then there is
    /// no object of that name any more.
    pub fn put(
        &mut self,
        kind: GatewayKind,
        metadata: &ObjectMeta,
        data: &Value,
    ) -> Result<bool, serde_json::Error> {
        self.of(kind).put(metadata, data)
    }

    /// Leaves an object out; whether it was there.
    pub fn remove(&mut self, kind: GatewayKind, name: &Name) -> bool {
        self.of(kind).leave_out(name)
    }

    /// Leaves out those of a kind that do not stay; whether there were any.
    pub fn retain(&mut self, kind: GatewayKind, stays: impl Fn(&Name) -> bool) -> bool {
        self.of(kind).keep(&stays)
    }

    fn of(&mut self, kind: GatewayKind) -> &mut dyn Kept {
        match kind {
            GatewayKind::GatewayClass => &mut self.classes,
            GatewayKind::Gateway => &mut self.gateways,
            GatewayKind::ListenerSet => &mut self.listener_sets,
            GatewayKind::HttpRoute => &mut self.http_routes,
            GatewayKind::GrpcRoute => &mut self.grpc_routes,
            GatewayKind::TlsRoute => &mut self.tls_routes,
            GatewayKind::TcpRoute => &mut self.tcp_routes,
            GatewayKind::BackendTlsPolicy => &mut self.backend_tls_policies,
            GatewayKind::ReferenceGrant => &mut self.grants,
        }
    }
}

/// The objects of a kind, whatever their specs.
trait Kept {
    fn put(&mut self, metadata: &ObjectMeta, data: &Value) -> Result<bool, serde_json::Error>;
    fn leave_out(&mut self, name: &Name) -> bool;
    fn keep(&mut self, stays: &dyn Fn(&Name) -> bool) -> bool;
}

impl<T: DeserializeOwned + PartialEq> Kept for Set<T> {
    fn put(&mut self, metadata: &ObjectMeta, data: &Value) -> Result<bool, serde_json::Error> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let name = (text(&metadata.namespace), text(&metadata.name));
        let spec = match T::deserialize(data.get("spec").unwrap_or(&Value::Null)) {
            Ok(spec) => spec,
            Err(error) => {
                self.remove(&name);
                return Err(error);
            }
        };
        let object = Object {
            metadata: metadata.clone(),
            spec,
            status: data.get("status").cloned().unwrap_or_default(),
        };
        if self.get(&name).is_some_and(|known| known.says(&object)) {
            return Ok(false);
        }
        self.insert(name, Arc::new(object));
        Ok(true)
    }

    fn leave_out(&mut self, name: &Name) -> bool {
        self.remove(name).is_some()
    }

    fn keep(&mut self, stays: &dyn Fn(&Name) -> bool) -> bool {
        let before = self.len();
        self.retain(|name, _| stays(name));
        self.len() < before
    }
}
