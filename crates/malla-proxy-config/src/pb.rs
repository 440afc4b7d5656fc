//! Short names for the generated modules, as the rest of the crate uses them.

pub(crate) use malla_xds_proto::pb::envoy::config::trace::v3 as trace;
pub(crate) use malla_xds_proto::pb::envoy::extensions;
pub(crate) use malla_xds_proto::pb::envoy::r#type::metadata::v3 as metadata_type;
pub(crate) use malla_xds_proto::pb::envoy::r#type::tracing::v3 as envoy_tracing;
pub(crate) use malla_xds_proto::pb::google::protobuf as google;
pub(crate) use malla_xds_proto::{
    Any, accesslog, bootstrap, cluster, core, endpoint, envoy_type as types, hcm, listener,
    matcher, rbac, route, tls,
};
