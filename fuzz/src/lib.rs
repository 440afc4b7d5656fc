//! Fuzz targets as plain functions: bytes in, a panic where something that always holds does not.
//!
//! `fuzz_targets/NAME.rs` hands libFuzzer's bytes to one of them; `tests/replay.rs` replays the kept inputs through the same
//! functions. [`ALL`] is the list of both.
//!
//! Invariant: a target depends on its bytes alone, never on time, randomness, files or the network, so a failure can be replayed.

#![recursion_limit = "256"]

pub mod cluster;
pub mod filters;
pub mod identity;
mod input;
pub mod istio;
pub mod kubernetes;
pub mod protocol;
pub mod proxy;
mod samples;
pub mod server;
pub mod telemetry;
mod values;
pub mod xds;

/// Every target by its name: that of its file in `fuzz_targets` and of its folder in `corpus`.
pub const ALL: &[(&str, fn(&[u8]))] = &[
    ("admission_review", cluster::admission_review),
    ("agent_settings", cluster::agent_settings),
    ("api_body", server::body),
    ("api_protobuf", server::protobuf),
    ("api_request", server::request),
    ("api_spdy", server::spdy),
    ("api_token", server::token),
    ("api_webhook_answer", server::webhook_answer),
    ("api_websocket", server::websocket),
    ("bootstrap_config", proxy::bootstrap_config),
    ("cel", kubernetes::cel),
    ("certificates", identity::certificates),
    ("crd", kubernetes::crd),
    ("csr", identity::csr),
    ("dns", cluster::dns),
    ("dns_answers", filters::dns_answers),
    ("durations", istio::durations),
    ("envoy_proto", xds::envoy_proto),
    ("envoy_yaml", xds::envoy_yaml),
    ("exposition", telemetry::exposition),
    ("framing", proxy::framing),
    ("grpc_web", filters::grpc_web),
    ("headers", proxy::headers),
    ("istio_object", istio::object),
    ("istio_yaml", istio::yaml),
    ("k8s_object", kubernetes::object),
    ("k8s_patch", kubernetes::patch),
    ("log_format", proxy::log_format),
    ("log_line", telemetry::log_line),
    ("mesh_config", istio::mesh_config),
    ("metric_files", telemetry::metric_files),
    ("names", identity::names),
    ("node_texts", cluster::node_texts),
    ("path", proxy::path),
    ("peer_metadata", proxy::peer_metadata),
    ("promql", telemetry::promql),
    ("queries", filters::queries),
    ("selectors", kubernetes::selectors),
    ("service_answers", filters::service_answers),
    ("sniff", proxy::sniff),
    ("spans", telemetry::spans),
    ("tokens", filters::tokens),
    ("trace_contexts", filters::trace_contexts),
    ("xds_client", protocol::client),
    ("xds_node", xds::node),
    ("xds_resource", proxy::xds_resource),
    ("xds_server", protocol::server),
];
