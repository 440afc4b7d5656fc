//! The Kubernetes Gateway API (v1.6, standard channel): its kinds, their CRDs, and what they mean.
//!
//! [`lower`] turns the objects of a whole cluster into the model's gateways and routes, and into the
//! status that each of them gets: routes attach to listeners, and grants allow what crosses namespaces,
//! so unlike Istio's kinds these only mean something together.

pub mod crd;
pub mod kind;
pub mod lower;
pub mod types;

pub use kind::GatewayKind;

/// The API group.
pub const GROUP: &str = "gateway.networking.k8s.io";
/// Whose GatewayClasses are ours: Istio's name, so that existing classes work.
pub const CONTROLLER: &str = "istio.io/gateway-controller";
/// The class that is there without anybody making it.
pub const CLASS: &str = "istio";
/// On pods, Deployments and Services of a Gateway: its name.
pub const NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-name";
/// On the same: the class's name.
pub const CLASS_LABEL: &str = "gateway.networking.k8s.io/gateway-class-name";
