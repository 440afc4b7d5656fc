//! Short names for the generated modules, as the rest of the crate uses them.

pub(crate) use malla_xds_proto::pb::envoy::config::common::mutation_rules::v3 as mutation_rules;
pub(crate) use malla_xds_proto::pb::envoy::config::metrics::v3 as metrics;
pub(crate) use malla_xds_proto::pb::envoy::config::ratelimit::v3 as ratelimit;
pub(crate) use malla_xds_proto::pb::envoy::config::trace::v3 as trace;
pub(crate) use malla_xds_proto::pb::envoy::extensions;
pub(crate) use malla_xds_proto::pb::envoy::r#type::metadata::v3 as metadata_type;
pub(crate) use malla_xds_proto::pb::envoy::r#type::tracing::v3 as envoy_tracing;
pub(crate) use malla_xds_proto::pb::google::api::expr::v1alpha1 as expr;
pub(crate) use malla_xds_proto::pb::google::protobuf as google;
pub(crate) use malla_xds_proto::pb::opentelemetry::proto::common::v1 as otel;
pub(crate) use malla_xds_proto::pb::xds::core::v3 as xds_core;
pub(crate) use malla_xds_proto::{
    Any, accesslog, bootstrap, cluster, core, endpoint, envoy_type as types, hcm, listener,
    matcher, rbac, route, tls,
};
