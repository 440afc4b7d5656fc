//! Who is asked about a call: RBAC's shadow rules note the policy that matches, `ext_authz` looks for the note.

use std::collections::BTreeMap;

use malla_xds_proto::core::grpc_service::TargetSpecifier;
use malla_xds_proto::core::http_uri::HttpUpstreamType;
use malla_xds_proto::core::{GrpcService, HttpUri};
use malla_xds_proto::http_filters::ext_authz::v3::ext_authz::Services;
use malla_xds_proto::matcher::MetadataMatcher;
use malla_xds_proto::matcher::metadata_matcher::path_segment::Segment;
use malla_xds_proto::matcher::value_matcher::MatchPattern;
use malla_xds_proto::rbac::Rbac;

use super::access::{Seen, matching};
use super::text;

/// Policies that matched, by the names of the notes.
#[derive(Debug, Default)]
pub(crate) struct Notes(BTreeMap<String, String>);

impl Notes {
    /// Notes the first of the shadow rules that matches.
    pub(crate) fn take(&mut self, shadow: Option<&Rbac>, prefix: &str, seen: &Seen<'_>) {
        let first = shadow.and_then(|rules| matching(rules, seen).into_iter().next());
        if let Some(policy) = first {
            let name = format!("{prefix}shadow_effective_policy_id");
            self.0.insert(name, policy.clone());
        }
    }

    /// Whether an authorizer with this condition is asked.
    pub(crate) fn fit(&self, condition: Option<&MetadataMatcher>) -> bool {
        let Some(of) = condition else { return true };
        let [segment] = &of.path[..] else {
            return false;
        };
        let Some(Segment::Key(name)) = &segment.segment else {
            return false;
        };
        let wanted = of
            .value
            .as_ref()
            .and_then(|value| value.match_pattern.as_ref());
        match (self.0.get(name), wanted) {
            (Some(policy), Some(MatchPattern::StringMatch(of))) => text::string(of, policy),
            _ => false,
        }
    }
}

/// The cluster of an authorizer.
pub(crate) fn cluster(services: Option<&Services>) -> Option<String> {
    match services? {
        Services::GrpcService(service) => grpc_cluster(service),
        Services::HttpService(service) => match service.server_uri.as_ref()? {
            HttpUri {
                http_upstream_type: Some(HttpUpstreamType::Cluster(cluster)),
                ..
            } => Some(cluster.clone()),
            _ => None,
        },
    }
}

/// The cluster of an authorizer that is asked by gRPC.
pub(crate) fn grpc_cluster(service: &GrpcService) -> Option<String> {
    match &service.target_specifier {
        Some(TargetSpecifier::EnvoyGrpc(grpc)) => Some(grpc.cluster_name.clone()),
        _ => None,
    }
}
