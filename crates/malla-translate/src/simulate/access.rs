//! Envoy's RBAC: whether a call is denied, and by which policy.

use malla_xds_proto::matcher::path_matcher;
use malla_xds_proto::rbac::permission::Rule;
use malla_xds_proto::rbac::principal::Identifier;
use malla_xds_proto::rbac::rbac::Action;
use malla_xds_proto::rbac::{Permission, Principal, Rbac};

use serde_json::Value;

use super::{Call, claims, text};

/// `None` where the call may go on; else the policy that denies it, or none that would allow it.
pub(crate) fn denied(rules: &Rbac, seen: &Seen<'_>) -> Option<Option<String>> {
    let matching = matching(rules, seen);
    match Action::try_from(rules.action) {
        Ok(Action::Deny) => matching.first().map(|name| Some((*name).clone())),
        Ok(Action::Allow) if matching.is_empty() => Some(None),
        _ => None,
    }
}

/// The policies that match, in Envoy's order.
pub(crate) fn matching<'r>(rules: &'r Rbac, seen: &Seen<'_>) -> Vec<&'r String> {
    let policies = rules.policies.iter();
    let mut matching: Vec<&String> = policies
        .filter(|(_, policy)| {
            policy.permissions.iter().any(|p| seen.permits(p))
                && policy.principals.iter().any(|p| seen.is(p))
        })
        .map(|(name, _)| name)
        .collect();
    matching.sort();
    matching
}

/// What is known of a call.
pub(crate) struct Seen<'a> {
    call: &'a Call,
    /// The proxy has seen the client's certificate.
    authenticated: bool,
    /// Of a token that was checked.
    claims: Option<&'a Value>,
}

impl<'a> Seen<'a> {
    pub(crate) fn new(call: &'a Call, authenticated: bool, claims: Option<&'a Value>) -> Self {
        Self {
            call,
            authenticated,
            claims,
        }
    }

    fn permits(&self, permission: &Permission) -> bool {
        let request = self.call.request.as_ref();
        match &permission.rule {
            Some(Rule::AndRules(set)) => set.rules.iter().all(|rule| self.permits(rule)),
            Some(Rule::OrRules(set)) => set.rules.iter().any(|rule| self.permits(rule)),
            Some(Rule::NotRule(rule)) => !self.permits(rule),
            Some(Rule::Any(any)) => *any,
            Some(Rule::Header(matcher)) => request.is_some_and(|r| text::header(matcher, r)),
            Some(Rule::UrlPath(matcher)) => match (&matcher.rule, request) {
                (Some(path_matcher::Rule::Path(matcher)), Some(request)) => {
                    text::string(matcher, plain_path(&request.path))
                }
                _ => false,
            },
            Some(Rule::DestinationIp(range)) => text::within(range, self.call.to.ip()),
            Some(Rule::DestinationPort(port)) => *port == u32::from(self.call.to.port()),
            Some(Rule::RequestedServerName(matcher)) => {
                let name = self.call.tls.as_ref().map_or("", |hello| &hello.sni);
                text::string(matcher, name)
            }
            _ => false,
        }
    }

    fn is(&self, principal: &Principal) -> bool {
        let request = self.call.request.as_ref();
        match &principal.identifier {
            Some(Identifier::AndIds(set)) => set.ids.iter().all(|id| self.is(id)),
            Some(Identifier::OrIds(set)) => set.ids.iter().any(|id| self.is(id)),
            Some(Identifier::NotId(id)) => !self.is(id),
            Some(Identifier::Any(any)) => *any,
            Some(Identifier::Authenticated(who)) => {
                let peer = self.call.tls.as_ref().filter(|_| self.authenticated);
                match (
                    peer.and_then(|hello| hello.peer.as_ref()),
                    &who.principal_name,
                ) {
                    (Some(peer), Some(matcher)) => text::string(matcher, peer),
                    (peer, None) => peer.is_some(),
                    (None, Some(_)) => false,
                }
            }
            Some(Identifier::DirectRemoteIp(range) | Identifier::RemoteIp(range)) => {
                text::within(range, self.call.from)
            }
            Some(Identifier::Header(matcher)) => request.is_some_and(|r| text::header(matcher, r)),
            Some(Identifier::SourcedMetadata(sourced)) => sourced
                .metadata_matcher
                .as_ref()
                .is_some_and(|matcher| claims::fit(matcher, self.claims)),
            _ => false,
        }
    }
}

fn plain_path(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or_default()
}
