//! Istio's kinds, as users write them.
//!
//! Every struct mirrors one Istio message in protobuf's JSON form: camelCase names, absent means
//! unset, enums by name. The doc comments are the CRDs' descriptions, so they speak to users.
//! Nothing is resolved or defaulted here; that is [`crate::lower`]'s work.

pub mod authorization_policy;
pub mod common;
pub mod destination_rule;
pub mod envoy_filter;
pub mod gateway;
pub mod http_action;
pub mod http_match;
pub mod peer_authentication;
pub mod proxy_config;
pub mod request_authentication;
pub mod service_entry;
pub mod sidecar;
pub mod telemetry;
pub mod traffic_policy;
pub mod virtual_service;
pub mod wasm_plugin;
pub mod workload_entry;
pub mod workload_group;

pub use authorization_policy::AuthorizationPolicySpec;
pub use destination_rule::DestinationRuleSpec;
pub use envoy_filter::EnvoyFilterSpec;
pub use gateway::GatewaySpec;
pub use peer_authentication::PeerAuthenticationSpec;
pub use proxy_config::ProxyConfigSpec;
pub use request_authentication::RequestAuthenticationSpec;
pub use service_entry::ServiceEntrySpec;
pub use sidecar::SidecarSpec;
pub use telemetry::TelemetrySpec;
pub use virtual_service::VirtualServiceSpec;
pub use wasm_plugin::WasmPluginSpec;
pub use workload_entry::WorkloadEntrySpec;
pub use workload_group::WorkloadGroupSpec;
