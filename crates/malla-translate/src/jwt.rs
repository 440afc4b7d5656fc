//! RequestAuthentications as Envoy's JWT filter.
//!
//! A request without a token passes, without an identity; one with a bad token does not. Which requests need a token is
//! an AuthorizationPolicy's to say.

mod keys;

use std::collections::HashMap;

use malla_model::token::{JwtRule, SPACE_DELIMITED};
use malla_xds_proto::hcm::HttpFilter;
use malla_xds_proto::http_filters::jwt_authn::v3::jwt_provider::NormalizePayload;
use malla_xds_proto::http_filters::jwt_authn::v3::jwt_requirement::RequiresType;
use malla_xds_proto::http_filters::jwt_authn::v3::requirement_rule::RequirementType;
use malla_xds_proto::http_filters::jwt_authn::v3::{
    JwtAuthentication, JwtClaimToHeader, JwtHeader, JwtProvider, JwtRequirement,
    JwtRequirementAndList, JwtRequirementOrList, RequirementRule,
};
use malla_xds_proto::matcher::metadata_matcher::{PathSegment, path_segment};
use malla_xds_proto::matcher::value_matcher::MatchPattern;
use malla_xds_proto::matcher::{
    ListMatcher, MetadataMatcher, OrMatcher, StringMatcher, ValueMatcher, list_matcher,
};
use malla_xds_proto::pb::google::protobuf::Empty;

use crate::listener::http_filter;
use crate::node::NodeKind;
use crate::route::everything;
use crate::view::View;

pub(crate) use keys::{missing_server, outside as outside_key_servers, services as key_services};

const FILTER: &str = "envoy.filters.http.jwt_authn";
/// Where the filter leaves a token's claims, within its dynamic metadata.
const PAYLOAD: &str = "payload";

/// `None` where no RequestAuthentication is in force.
pub(crate) fn filter(view: &View<'_>) -> Option<HttpFilter> {
    let rules = rules(view);
    if rules.is_empty() {
        return None;
    }
    let names: Vec<String> = (0..rules.len()).map(|at| format!("origins-{at}")).collect();
    let providers: HashMap<String, JwtProvider> = names
        .iter()
        .cloned()
        .zip(rules.iter().map(|rule| provider(view, rule)))
        .collect();
    let rule = RequirementRule {
        r#match: Some(everything()),
        requirement_type: Some(RequirementType::Requires(requirement(&names))),
    };
    Some(http_filter(
        FILTER,
        &JwtAuthentication {
            providers,
            rules: vec![rule],
            bypass_cors_preflight: true,
            ..JwtAuthentication::default()
        },
    ))
}

/// Rules of all RequestAuthentications in force for the node, by issuer, as Istio orders them.
fn rules<'a>(view: &View<'a>) -> Vec<&'a JwtRule> {
    let policies = view.mesh.request_authentications.iter();
    let mut rules: Vec<&JwtRule> = policies
        .filter(|policy| view.is_for_node(&policy.meta, policy.selector.as_ref()))
        .flat_map(|policy| &policy.rules)
        .collect();
    rules.sort_by(|a, b| a.issuer.cmp(&b.issuer));
    rules
}

/// A token that is there must be good. Of several issuers' one good token is enough, because each looks at the tokens
/// of all others where they share a place.
fn requirement(providers: &[String]) -> JwtRequirement {
    let by = |name: &String| require(RequiresType::ProviderName(name.clone()));
    let any = |requirements| {
        let list = JwtRequirementOrList { requirements };
        require(RequiresType::RequiresAny(list))
    };
    let or_missing = |name: &String| {
        let missing = require(RequiresType::AllowMissing(Empty::default()));
        any(vec![by(name), missing])
    };
    if let [only] = providers {
        return or_missing(only);
    }
    let all = JwtRequirementAndList {
        requirements: providers.iter().map(or_missing).collect(),
    };
    let mut requirements: Vec<JwtRequirement> = providers.iter().map(by).collect();
    requirements.push(require(RequiresType::RequiresAll(all)));
    any(requirements)
}

fn require(kind: RequiresType) -> JwtRequirement {
    JwtRequirement {
        requires_type: Some(kind),
    }
}

fn provider(view: &View<'_>, rule: &JwtRule) -> JwtProvider {
    let texts = |list: &[std::sync::Arc<str>]| list.iter().map(ToString::to_string).collect();
    let places = &rule.locations;
    JwtProvider {
        issuer: rule.issuer.to_string(),
        audiences: texts(&rule.audiences),
        forward: rule.forward,
        from_headers: places
            .headers
            .iter()
            .map(|(name, prefix)| JwtHeader {
                name: name.to_string(),
                value_prefix: prefix.to_string(),
            })
            .collect(),
        from_params: texts(&places.params),
        from_cookies: texts(&places.cookies),
        forward_payload_header: rule
            .payload_header
            .as_deref()
            .unwrap_or_default()
            .to_owned(),
        payload_in_metadata: PAYLOAD.into(),
        normalize_payload_in_metadata: Some(NormalizePayload {
            space_delimited_claims: space_delimited(rule),
        }),
        claim_to_headers: rule
            .claim_headers
            .iter()
            .map(|(header, claim)| JwtClaimToHeader {
                header_name: header.to_string(),
                claim_name: claim.to_string(),
                ..JwtClaimToHeader::default()
            })
            .collect(),
        // Routes of gateways may ask for claims, which are only known now.
        clear_route_cache: view.node.kind == NodeKind::Router,
        jwks_source_specifier: Some(keys::source(view, &rule.keys)),
        ..JwtProvider::default()
    }
}

fn space_delimited(rule: &JwtRule) -> Vec<String> {
    let mut claims: Vec<String> = SPACE_DELIMITED.map(str::to_owned).to_vec();
    for claim in &rule.space_delimited {
        if !claims.iter().any(|known| **known == **claim) {
            claims.push(claim.to_string());
        }
    }
    claims
}

/// Matches a claim of a checked token: a text, or a list that holds it.
pub(crate) fn claim<'p>(
    path: impl IntoIterator<Item = &'p str>,
    value: StringMatcher,
) -> MetadataMatcher {
    let pattern = |pattern| ValueMatcher {
        match_pattern: Some(pattern),
    };
    let text = pattern(MatchPattern::StringMatch(value));
    let list = pattern(MatchPattern::ListMatch(Box::new(ListMatcher {
        match_pattern: Some(list_matcher::MatchPattern::OneOf(Box::new(text.clone()))),
    })));
    MetadataMatcher {
        filter: FILTER.into(),
        path: std::iter::once(PAYLOAD)
            .chain(path)
            .map(|key| PathSegment {
                segment: Some(path_segment::Segment::Key(key.to_owned())),
            })
            .collect(),
        value: Some(pattern(MatchPattern::OrMatch(OrMatcher {
            value_matchers: vec![text, list],
        }))),
        ..MetadataMatcher::default()
    }
}
