//! Evaluates RBAC rules.
//!
//! Invariant: a connection without a request (TCP) has no headers and no path.

use ipnet::IpNet;
use malla_proxy_config::matcher::StringMatcher;
use malla_proxy_config::metadata::{Metadata, Object, Value};
use malla_proxy_config::rbac::{Action, Permission, Policy, Principal, Rbac, SourcedMetadata};
use malla_proxy_config::request::{HeaderMatcher, RequestView};

use super::attributes;
use crate::connection::{Connection, End};

/// Who and what is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The connection.
    pub connection: &'a Connection,
    /// The request, in HTTP.
    pub request: Option<&'a RequestView<'a>>,
    /// What the route says of itself.
    pub route: Option<&'a Metadata>,
    /// The client, `x-forwarded-for` taken into account.
    pub remote: &'a End,
    /// The protocol of the request.
    pub protocol: Option<http::Version>,
}

/// A decision, and the policy behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'a> {
    /// May go on.
    pub allowed: bool,
    /// The first policy that matched.
    pub policy: Option<&'a str>,
}

/// Decides by `rules`.
pub fn decide<'r>(rules: &'r Rbac, subject: &Subject<'_>) -> Decision<'r> {
    let policy = rules
        .policies
        .iter()
        .find(|policy| matches(policy, subject))
        .map(|policy| policy.name.as_str());
    let allowed = match rules.action {
        Action::Allow => policy.is_some(),
        Action::Deny => policy.is_none(),
        Action::Log => true,
    };
    Decision { allowed, policy }
}

/// What a decision was, and which policy made it.
pub fn describe(prefix: &str, kind: &str, decision: &Decision<'_>, note: &mut Object) {
    if let Some(policy) = decision.policy {
        let key = format!("{prefix}{kind}_effective_policy_id");
        note.insert(key, Value::String(policy.to_owned()));
    }
    let result = if decision.allowed {
        "allowed"
    } else {
        "denied"
    };
    let key = format!("{prefix}{kind}_engine_result");
    note.insert(key, Value::String(result.to_owned()));
}

fn matches(policy: &Policy, subject: &Subject<'_>) -> bool {
    policy
        .permissions
        .iter()
        .any(|permission| permits(permission, subject))
        && policy
            .principals
            .iter()
            .any(|principal| is(principal, subject))
        && policy
            .condition
            .as_ref()
            .is_none_or(|condition| attributes::holds(condition, subject))
}

fn permits(permission: &Permission, subject: &Subject<'_>) -> bool {
    let local = &subject.connection.local;
    match permission {
        Permission::Any => true,
        Permission::And(all) => all.iter().all(|permission| permits(permission, subject)),
        Permission::Or(any) => any.iter().any(|permission| permits(permission, subject)),
        Permission::Not(permission) => !permits(permission, subject),
        Permission::Header(matcher) => header_matches(matcher, subject),
        Permission::UrlPath(matcher) => path_matches(matcher, subject),
        Permission::DestinationIp(range) => is_within(range, local),
        Permission::DestinationPort(port) => {
            local.port().is_some_and(|own| u32::from(own) == *port)
        }
        Permission::DestinationPortRange(start, end) => {
            let port = local.port().map(i64::from);
            port.is_some_and(|port| (*start..*end).contains(&port))
        }
        Permission::ServerName(matcher) => matcher.is_match(
            subject
                .connection
                .server_name
                .as_deref()
                .unwrap_or_default(),
        ),
        Permission::Metadata(metadata) => metadata_matches(metadata, subject),
        Permission::UriTemplate(template) => subject
            .request
            .is_some_and(|request| template.is_match(request.path_only())),
    }
}

fn is(principal: &Principal, subject: &Subject<'_>) -> bool {
    match principal {
        Principal::Any => true,
        Principal::And(all) => all.iter().all(|principal| is(principal, subject)),
        Principal::Or(any) => any.iter().any(|principal| is(principal, subject)),
        Principal::Not(principal) => !is(principal, subject),
        Principal::Authenticated(name) => is_authenticated(name.as_ref(), subject.connection),
        Principal::SourceIp(range) => is_within(range, &subject.connection.remote),
        Principal::DirectRemoteIp(range) => is_within(range, &subject.connection.direct_remote),
        Principal::RemoteIp(range) => is_within(range, subject.remote),
        Principal::Header(matcher) => header_matches(matcher, subject),
        Principal::UrlPath(matcher) => path_matches(matcher, subject),
        Principal::Metadata(metadata) => metadata_matches(metadata, subject),
        Principal::FilterState(matcher) => {
            matcher.is_match(subject.request.and_then(|request| request.state))
        }
    }
}

/// A Unix socket is in no range.
fn is_within(range: &IpNet, end: &End) -> bool {
    end.ip().is_some_and(|ip| range.contains(&ip))
}

fn metadata_matches(metadata: &SourcedMetadata, subject: &Subject<'_>) -> bool {
    let tree = if metadata.of_route {
        subject.route
    } else {
        let state = subject.request.and_then(|request| request.state);
        state.map(|state| &state.metadata)
    };
    metadata.matcher.is_match(tree)
}

/// Without a request every header is missing.
fn header_matches(matcher: &HeaderMatcher, subject: &Subject<'_>) -> bool {
    subject.request.map_or_else(
        || matcher.matches_text(None),
        |request| matcher.is_match(request),
    )
}

fn path_matches(matcher: &StringMatcher, subject: &Subject<'_>) -> bool {
    subject
        .request
        .is_some_and(|request| !request.path.is_empty() && matcher.is_match(request.path_only()))
}

/// Any URI SAN, DNS SAN or the subject of a certificate that was checked; without a name anyone who may speak TLS here.
fn is_authenticated(name: Option<&StringMatcher>, connection: &Connection) -> bool {
    let Some(tls) = &connection.tls else {
        return false;
    };
    let Some(name) = name else { return true };
    let Some(peer) = tls.peer.as_ref().filter(|_| tls.peer_validated) else {
        return false;
    };
    let mut sans = peer.uri_sans.iter().chain(&peer.dns_sans);
    sans.any(|san| name.is_match(san)) || name.is_match(&peer.subject)
}
