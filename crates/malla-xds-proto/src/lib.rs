//! The messages proxies and control planes exchange: Envoy's (from the `envoy-types` package) and
//! the few of Istio's that it lacks, with names short enough to read.
//!
//! Reading order: [`type_url`] names resources, [`any`] packs messages, [`wkt`] builds the little
//! wrapper types, [`typed_struct`], [`nds`], [`ca`], [`istio_filters`] and [`malla`] are hand-written messages, [`json`]
//! reads and prints all of it as Envoy's JSON and YAML, and [`merge`] merges messages of any type.
//!
//! Invariant: what [`any::pack`] and [`any::encode`] return depends on the message alone. (Plain
//! prost writes map entries in the order of a randomly seeded hash table; `canonical` sorts them.)

pub mod any;
pub mod ca;
mod canonical;
pub mod istio_filters;
pub mod json;
pub mod malla;
pub mod merge;
pub mod nds;
pub mod type_url;
pub mod typed_struct;
pub mod wkt;

pub use envoy_types::pb;

pub use pb::envoy::admin::v3 as admin;
pub use pb::envoy::config::accesslog::v3 as accesslog;
pub use pb::envoy::config::bootstrap::v3 as bootstrap;
pub use pb::envoy::config::cluster::v3 as cluster;
pub use pb::envoy::config::core::v3 as core;
pub use pb::envoy::config::endpoint::v3 as endpoint;
pub use pb::envoy::config::listener::v3 as listener;
pub use pb::envoy::config::rbac::v3 as rbac;
pub use pb::envoy::config::route::v3 as route;
pub use pb::envoy::extensions::access_loggers::file::v3 as file_access_log;
pub use pb::envoy::extensions::filters::http as http_filters;
pub use pb::envoy::extensions::filters::listener as listener_filters;
pub use pb::envoy::extensions::filters::network as network_filters;
pub use pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
pub use pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
pub use pb::envoy::extensions::transport_sockets::tls::v3 as tls;
pub use pb::envoy::extensions::upstreams::http::v3 as upstream_http;
pub use pb::envoy::service::discovery::v3 as discovery;
pub use pb::envoy::service::status::v3 as client_status;
pub use pb::envoy::r#type::matcher::v3 as matcher;
pub use pb::envoy::r#type::v3 as envoy_type;
pub use pb::google::protobuf::Any;
pub use pb::google::rpc::Status as RpcStatus;
