//! Evaluates RBAC rules.
//!
//! Invariant: a connection without a request (TCP) has no headers and no path.

use std::net::SocketAddr;

use malla_proxy_config::matcher::StringMatcher;
use malla_proxy_config::rbac::{Action, Permission, Policy, Principal, Rbac};
use malla_proxy_config::request::{HeaderMatcher, RequestView};

use crate::connection::Connection;

/// Who and what is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The connection.
    pub connection: &'a Connection,
    /// The request, in HTTP.
    pub request: Option<&'a RequestView<'a>>,
    /// The client, `x-forwarded-for` taken into account.
    pub remote: SocketAddr,
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

fn matches(policy: &Policy, subject: &Subject<'_>) -> bool {
    policy
        .permissions
        .iter()
        .any(|permission| permits(permission, subject))
        && policy
            .principals
            .iter()
            .any(|principal| is(principal, subject))
}

fn permits(permission: &Permission, subject: &Subject<'_>) -> bool {
    let local = subject.connection.local;
    match permission {
        Permission::Any => true,
        Permission::And(all) => all.iter().all(|permission| permits(permission, subject)),
        Permission::Or(any) => any.iter().any(|permission| permits(permission, subject)),
        Permission::Not(permission) => !permits(permission, subject),
        Permission::Header(matcher) => header_matches(matcher, subject),
        Permission::UrlPath(matcher) => path_matches(matcher, subject),
        Permission::DestinationIp(range) => range.contains(&local.ip()),
        Permission::DestinationPort(port) => u32::from(local.port()) == *port,
        Permission::DestinationPortRange(start, end) => {
            (*start..*end).contains(&i64::from(local.port()))
        }
        Permission::ServerName(matcher) => matcher.is_match(
            subject
                .connection
                .server_name
                .as_deref()
                .unwrap_or_default(),
        ),
    }
}

fn is(principal: &Principal, subject: &Subject<'_>) -> bool {
    match principal {
        Principal::Any => true,
        Principal::And(all) => all.iter().all(|principal| is(principal, subject)),
        Principal::Or(any) => any.iter().any(|principal| is(principal, subject)),
        Principal::Not(principal) => !is(principal, subject),
        Principal::Authenticated(name) => is_authenticated(name.as_ref(), subject.connection),
        Principal::SourceIp(range) => range.contains(&subject.connection.remote.ip()),
        Principal::DirectRemoteIp(range) => range.contains(&subject.connection.direct_remote.ip()),
        Principal::RemoteIp(range) => range.contains(&subject.remote.ip()),
        Principal::Header(matcher) => header_matches(matcher, subject),
        Principal::UrlPath(matcher) => path_matches(matcher, subject),
    }
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
