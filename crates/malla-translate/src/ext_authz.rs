//! CUSTOM policies: an authorizer is asked about what they match.
//!
//! For each provider there are two filters: RBAC whose shadow rules note which policy matches, and `ext_authz`, which
//! asks where one is noted. A provider that cannot be asked is no reason to skip the question: then everything is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use malla_model::Host;
use malla_model::authorizer::{Authorizer, Http, Protocol};
use malla_model::policy::{AuthorizationPolicy, Glob, PolicyAction};
use malla_model::telemetry::ProviderKind;
use malla_xds_proto::core::{ApiVersion, GrpcService, HttpUri, http_uri};
use malla_xds_proto::envoy_type::HttpStatus;
use malla_xds_proto::hcm::HttpFilter;
use malla_xds_proto::http_filters::ext_authz::v3::ext_authz::Services;
use malla_xds_proto::http_filters::ext_authz::v3::{
    AuthorizationRequest, AuthorizationResponse, BufferSettings, ExtAuthz, HttpService,
};
use malla_xds_proto::listener::Filter;
use malla_xds_proto::matcher::metadata_matcher::{PathSegment, path_segment};
use malla_xds_proto::matcher::string_matcher::MatchPattern;
use malla_xds_proto::matcher::{
    ListStringMatcher, MetadataMatcher, StringMatcher, ValueMatcher, value_matcher,
};
use malla_xds_proto::network_filters::ext_authz::v3::ExtAuthz as NetworkExtAuthz;
use malla_xds_proto::wkt;

use crate::listener::{http_filter, network_filter};
use crate::providers;
use crate::rbac::{self, Filters, Layer, glob};
use crate::view::View;

const HTTP_FILTER: &str = "envoy.filters.http.ext_authz";
const NETWORK_FILTER: &str = "envoy.filters.network.ext_authz";
/// Prefix of the network filter's statistics.
const NETWORK_STATS: &str = "tcp.";
/// Before what the RBAC filter notes.
const NOTE: &str = "istio_ext_authz_";
/// Behind it, where the note is which policy matches.
const NOTED: &str = "shadow_effective_policy_id";

pub(crate) fn http_filters(view: &View<'_>) -> Vec<HttpFilter> {
    let Ok(asked) = asked(view) else {
        return vec![rbac::http_filter_of(rbac::deny_everything())];
    };
    let each = asked.iter().flat_map(|asked| {
        [
            rbac::http_filter_of(asked.rules(view, Layer::Http)),
            http_filter(HTTP_FILTER, &asked.http_question()),
        ]
    });
    each.collect()
}

/// Of connections only authorizers by gRPC can be asked; as in Istio, the others are only asked about requests.
pub(crate) fn network_filters(view: &View<'_>) -> Vec<Filter> {
    let Ok(asked) = asked(view) else {
        return vec![rbac::network_filter_of(rbac::deny_everything())];
    };
    let by_grpc = asked
        .iter()
        .filter(|asked| asked.authorizer.protocol == Protocol::Grpc);
    let each = by_grpc.flat_map(|asked| {
        let question = NetworkExtAuthz {
            stat_prefix: NETWORK_STATS.into(),
            grpc_service: Some(asked.by_grpc()),
            failure_mode_allow: asked.authorizer.fail_open,
            transport_api_version: ApiVersion::V3.into(),
            include_peer_certificate: true,
            filter_enabled_metadata: Some(asked.noted(rbac::NETWORK_FILTER)),
            ..NetworkExtAuthz::default()
        };
        [
            rbac::network_filter_of(asked.rules(view, Layer::Tcp)),
            network_filter(NETWORK_FILTER, &question),
        ]
    });
    each.collect()
}

/// A provider, and the policies that name it.
struct Asked<'a> {
    authorizer: &'a Authorizer,
    cluster: String,
    host: Host,
    policies: Vec<&'a Arc<AuthorizationPolicy>>,
    /// Before its notes.
    prefix: String,
}

/// Some provider cannot be asked.
struct Nobody;

/// By provider. Notes of several are kept apart by the providers' names.
fn asked<'a>(view: &View<'a>) -> Result<Vec<Asked<'a>>, Nobody> {
    let mut by_provider: BTreeMap<&str, Vec<&Arc<AuthorizationPolicy>>> = BTreeMap::new();
    for policy in rbac::in_force(view) {
        if let PolicyAction::Custom { provider } = &policy.action
            && !policy.dry_run
        {
            by_provider.entry(provider).or_default().push(policy);
        }
    }
    let alone = by_provider.len() == 1;
    let providers = by_provider.into_iter();
    providers
        .map(|(name, policies)| {
            let authorizer = authorizer(view, name).ok_or(Nobody)?;
            let (cluster, host) = providers::cluster(view, &authorizer.target).ok_or(Nobody)?;
            let prefix = if alone {
                NOTE.to_owned()
            } else {
                format!("{NOTE}{name}_")
            };
            Ok(Asked {
                authorizer,
                cluster,
                host,
                policies,
                prefix,
            })
        })
        .collect()
}

fn authorizer<'a>(view: &View<'a>, name: &str) -> Option<&'a Authorizer> {
    let mut providers = view.mesh.settings.telemetry.providers.iter();
    match &providers.find(|provider| &*provider.name == name)?.kind {
        ProviderKind::Authorizer(authorizer) => Some(authorizer),
        _ => None,
    }
}

impl Asked<'_> {
    fn rules(&self, view: &View<'_>, layer: Layer) -> Filters {
        rbac::shadow(view, &self.policies, self.prefix.clone(), layer)
    }

    /// Matches where the RBAC filter before has noted a policy.
    fn noted(&self, by: &str) -> MetadataMatcher {
        let pattern = MatchPattern::Prefix(rbac::ASKS.into());
        MetadataMatcher {
            filter: by.to_owned(),
            path: vec![PathSegment {
                segment: Some(path_segment::Segment::Key(format!(
                    "{}{NOTED}",
                    self.prefix
                ))),
            }],
            value: Some(ValueMatcher {
                match_pattern: Some(value_matcher::MatchPattern::StringMatch(StringMatcher {
                    match_pattern: Some(pattern),
                    ..StringMatcher::default()
                })),
            }),
            ..MetadataMatcher::default()
        }
    }

    fn http_question(&self) -> ExtAuthz {
        let authorizer = self.authorizer;
        let status = authorizer.status_on_error;
        let question = ExtAuthz {
            transport_api_version: ApiVersion::V3.into(),
            failure_mode_allow: authorizer.fail_open,
            status_on_error: status.map(|code| HttpStatus { code: code.into() }),
            with_request_body: authorizer.body.map(|body| BufferSettings {
                max_request_bytes: body.max,
                allow_partial_message: body.partial,
                pack_as_bytes: body.bytes,
            }),
            clear_route_cache: authorizer.clear_route_cache,
            include_peer_certificate: true,
            filter_enabled_metadata: Some(self.noted(rbac::HTTP_FILTER)),
            ..ExtAuthz::default()
        };
        match &authorizer.protocol {
            Protocol::Grpc => ExtAuthz {
                services: Some(Services::GrpcService(self.by_grpc())),
                ..question
            },
            Protocol::Http(http) => ExtAuthz {
                services: Some(Services::HttpService(self.by_http(http))),
                allowed_headers: names(&http.shown),
                ..question
            },
        }
    }

    fn by_grpc(&self) -> GrpcService {
        GrpcService {
            timeout: Some(wkt::duration(self.authorizer.timeout)),
            ..providers::grpc(self.cluster.clone(), &self.host)
        }
    }

    fn by_http(&self, http: &Http) -> HttpService {
        let added = http.added.iter();
        let request = AuthorizationRequest {
            headers_to_add: added
                .map(|(name, value)| providers::header(name, value))
                .collect(),
            ..AuthorizationRequest::default()
        };
        let response = AuthorizationResponse {
            allowed_upstream_headers: names(&http.to_upstream),
            allowed_client_headers: names(&http.to_client_on_deny),
            allowed_client_headers_on_success: names(&http.to_client_on_allow),
            ..AuthorizationResponse::default()
        };
        HttpService {
            server_uri: Some(HttpUri {
                // Only its host counts: the path is the request's.
                uri: format!("http://{}", self.host),
                http_upstream_type: Some(http_uri::HttpUpstreamType::Cluster(self.cluster.clone())),
                timeout: Some(wkt::duration(self.authorizer.timeout)),
            }),
            path_prefix: http.path_prefix.to_string(),
            authorization_request: (request != AuthorizationRequest::default()).then_some(request),
            authorization_response: (response != AuthorizationResponse::default())
                .then_some(response),
            ..HttpService::default()
        }
    }
}

/// `None` where none are named.
fn names(written: &[Arc<str>]) -> Option<ListStringMatcher> {
    let patterns = written
        .iter()
        .map(|name| glob(&Glob::parse(name), "", true));
    (!written.is_empty()).then(|| ListStringMatcher {
        patterns: patterns.collect(),
    })
}
