//! GatewayClass and Gateway.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::shared::LabelSelector;
use crate::schema::{limit, list_map, required, rule};

/// Who takes care of the Gateways of a class.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("controllerName"))]
pub struct GatewayClassSpec {
    /// The controller, such as istio.io/gateway-controller.
    pub controller_name: String,
    /// What the class is for.
    pub description: Option<String>,
    /// Settings of the class.
    pub parameters_ref: Option<ParametersRef>,
}

/// Names an object with settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("group kind name"))]
pub struct ParametersRef {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Namespace, for a class.
    pub namespace: Option<String>,
}

/// A gateway: ports, and who may attach routes to them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("gatewayClassName listeners"))]
pub struct GatewaySpec {
    /// The GatewayClass.
    pub gateway_class_name: String,
    /// Ports to open.
    #[schemars(transform = list_map("name"))]
    #[schemars(transform = limit("maxItems", 64))]
    #[schemars(transform = limit("minItems", 1))]
    pub listeners: Vec<Listener>,
    /// Addresses wanted: a Hostname names the Service of pods that are there already.
    pub addresses: Vec<GatewayAddress>,
    /// For the objects that are made for the gateway.
    pub infrastructure: Option<Infrastructure>,
    /// TLS for all listeners.
    pub tls: Option<GatewayTls>,
    /// Which ListenerSets may add listeners; absent is none.
    pub allowed_listeners: Option<AllowedListeners>,
}

impl GatewaySpec {
    /// The IP addresses that it asks for.
    pub fn wanted_ips(&self) -> impl Iterator<Item = &str> {
        let of_ips = |address: &&GatewayAddress| {
            let kind = address.kind.as_deref();
            kind.is_none_or(|kind| kind == "IPAddress")
        };
        let ips = self.addresses.iter().filter(of_ips);
        ips.filter_map(|address| address.value.as_deref())
    }
}

/// Which ListenerSets may add listeners to a gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct AllowedListeners {
    /// From where; absent is nowhere.
    pub namespaces: Option<RouteNamespaces>,
}

/// Listeners that are added to a gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("parentRef listeners"))]
pub struct ListenerSetSpec {
    /// The Gateway.
    pub parent_ref: ParentGatewayRef,
    /// Ports to open, or names to serve on those that are open.
    #[schemars(transform = list_map("name"))]
    #[schemars(transform = limit("maxItems", 64))]
    #[schemars(transform = limit("minItems", 1))]
    pub listeners: Vec<Listener>,
}

/// Names a Gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("name"))]
#[schemars(transform = rule("(!has(self.group) || self.group == 'gateway.networking.k8s.io') && (!has(self.kind) || self.kind == 'Gateway')", "the parent must be a Gateway"))]
pub struct ParentGatewayRef {
    /// API group; absent is the Gateway API's.
    pub group: Option<String>,
    /// Kind; absent is Gateway.
    pub kind: Option<String>,
    /// Namespace; absent is the set's own.
    pub namespace: Option<String>,
    /// Name of the Gateway.
    pub name: String,
}

/// An address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayAddress {
    /// IPAddress (if absent), Hostname or NamedAddress.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The address.
    pub value: Option<String>,
}

/// Labels, annotations and settings of what is made for a gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Infrastructure {
    /// Labels of the objects.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the objects.
    pub annotations: BTreeMap<String, String>,
    /// Further settings.
    pub parameters_ref: Option<ParametersRef>,
}

/// One port, and the names served on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("name port protocol"))]
pub struct Listener {
    /// Name of the listener, for `sectionName`.
    pub name: String,
    /// The name that is served, `*.` may stand before it; absent is any.
    pub hostname: Option<String>,
    /// The port.
    #[schemars(transform = limit("minimum", 1))]
    pub port: u16,
    /// HTTP, HTTPS, TLS or TCP.
    pub protocol: String,
    /// Encryption.
    pub tls: Option<ListenerTls>,
    /// Which routes may attach.
    pub allowed_routes: Option<AllowedRoutes>,
}

/// Encryption of a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ListenerTls {
    /// Terminate (if absent) or Passthrough.
    pub mode: Option<String>,
    /// Secrets with the certificates.
    pub certificate_refs: Vec<CertificateRef>,
    /// Options of implementations.
    pub options: BTreeMap<String, String>,
}

/// Names a Secret or ConfigMap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("name"))]
pub struct CertificateRef {
    /// API group; absent is Kubernetes' core.
    pub group: Option<String>,
    /// Kind; absent is Secret.
    pub kind: Option<String>,
    /// Name.
    pub name: String,
    /// Namespace; absent is the Gateway's own.
    pub namespace: Option<String>,
}

/// TLS for all listeners.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayTls {
    /// Of clients.
    pub frontend: Option<FrontendTls>,
}

/// How clients' certificates are checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct FrontendTls {
    /// On every port.
    #[serde(rename = "default")]
    pub default: Option<FrontendValidation>,
}

/// Whether and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct FrontendValidation {
    /// What certificates are checked against.
    pub validation: Option<ClientValidation>,
}

/// What clients' certificates are checked against.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientValidation {
    /// Trust anchors.
    pub ca_certificate_refs: Vec<CertificateRef>,
    /// AllowValidOnly (if absent) or AllowInsecureFallback.
    pub mode: Option<String>,
}

/// Which routes may attach to a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct AllowedRoutes {
    /// From where; absent is the Gateway's own namespace.
    pub namespaces: Option<RouteNamespaces>,
    /// Of which kinds; none is all that the protocol can carry.
    pub kinds: Vec<RouteGroupKind>,
}

/// Namespaces of routes or of ListenerSets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteNamespaces {
    /// All, Same (if absent, for routes), Selector or None (if absent, for ListenerSets).
    pub from: Option<String>,
    /// Labels of namespaces, for Selector.
    pub selector: Option<LabelSelector>,
}

/// A kind of route.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("kind"))]
pub struct RouteGroupKind {
    /// API group; absent is the Gateway API's.
    pub group: Option<String>,
    /// The kind.
    pub kind: String,
}
