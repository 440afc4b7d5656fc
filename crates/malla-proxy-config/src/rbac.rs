//! Role-based access control rules; `malla-proxy`'s `policy` evaluates them.

use ipnet::IpNet;

use crate::address::cidr;
use crate::checked::{Cx, Invalid, refuse};
use crate::matcher::StringMatcher;
use crate::pb::{matcher, rbac as pb};
use crate::request::HeaderMatcher;

/// Rules may nest, but not for ever.
const MAX_DEPTH: u32 = 32;

/// `envoy.config.rbac.v3.RBAC`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rbac {
    /// What a match means.
    pub action: Action,
    /// Sorted by name: the first that matches is the effective one.
    pub policies: Vec<Policy>,
}

/// What a match means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Allowed if any policy matches.
    Allow,
    /// Denied if any policy matches.
    Deny,
    /// Always allowed; a match only marks the request.
    Log,
}

/// Matches if any permission and any principal match.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Name.
    pub name: String,
    /// What is asked for.
    pub permissions: Vec<Permission>,
    /// Who asks.
    pub principals: Vec<Principal>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Permission {
    /// Anything.
    Any,
    /// All of them.
    And(Vec<Permission>),
    /// Any of them.
    Or(Vec<Permission>),
    /// Not it.
    Not(Box<Permission>),
    /// A request header.
    Header(HeaderMatcher),
    /// The path without query.
    UrlPath(StringMatcher),
    /// The connection's local address.
    DestinationIp(IpNet),
    /// The connection's local port.
    DestinationPort(u32),
    /// `start <= port < end`.
    DestinationPortRange(i64, i64),
    /// SNI.
    ServerName(StringMatcher),
}

/// Who asks.
#[derive(Debug, Clone, PartialEq)]
pub enum Principal {
    /// Anyone.
    Any,
    /// All of them.
    And(Vec<Principal>),
    /// Any of them.
    Or(Vec<Principal>),
    /// Not it.
    Not(Box<Principal>),
    /// A validated client certificate with such a URI SAN, DNS SAN or subject; without a matcher any TLS connection.
    Authenticated(Option<StringMatcher>),
    /// The remote address of the connection (after PROXY protocol).
    SourceIp(IpNet),
    /// The peer of the socket.
    DirectRemoteIp(IpNet),
    /// The client, `x-forwarded-for` taken into account.
    RemoteIp(IpNet),
    /// A request header.
    Header(HeaderMatcher),
    /// The path without query.
    UrlPath(StringMatcher),
}

impl Rbac {
    pub(crate) fn parse_optional(
        field: &str,
        wire: Option<pb::Rbac>,
        cx: &mut Cx,
    ) -> Result<Option<Self>, Invalid> {
        wire.map(|wire| cx.field(field, |cx| Self::parse(wire, cx)))
            .transpose()
    }

    fn parse(wire: pb::Rbac, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::Rbac {
            action,
            policies,
            audit_logging_options,
        } = wire;
        refuse!(cx; audit_logging_options);
        let action = match cx.enumeration("action", action)? {
            pb::rbac::Action::Allow => Action::Allow,
            pb::rbac::Action::Deny => Action::Deny,
            pb::rbac::Action::Log => Action::Log,
        };
        let mut policies: Vec<_> = policies.into_iter().collect();
        policies.sort_by(|(left, _), (right, _)| left.cmp(right));
        let policies = policies.into_iter().map(|(name, policy)| {
            cx.field(&format!("policies[{name}]"), |cx| {
                Policy::parse(name.clone(), policy, cx)
            })
        });
        Ok(Self {
            action,
            policies: policies.collect::<Result<_, _>>()?,
        })
    }
}

impl Policy {
    fn parse(name: String, wire: pb::Policy, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::Policy {
            permissions,
            principals,
            condition,
            checked_condition,
            cel_config,
        } = wire;
        refuse!(cx; condition, checked_condition, cel_config);
        Ok(Self {
            name,
            permissions: cx.each("permissions", permissions, |wire, cx| {
                Permission::parse(wire, MAX_DEPTH, cx)
            })?,
            principals: cx.each("principals", principals, |wire, cx| {
                Principal::parse(wire, MAX_DEPTH, cx)
            })?,
        })
    }
}

fn path(wire: matcher::PathMatcher, cx: &mut Cx) -> Result<StringMatcher, Invalid> {
    let matcher::path_matcher::Rule::Path(path) = cx.required("url_path.path", wire.rule)?;
    cx.field("url_path.path", |cx| StringMatcher::parse(path, cx))
}

impl Permission {
    fn parse(wire: pb::Permission, depth: u32, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::permission::Rule;
        let Some(depth) = depth.checked_sub(1) else {
            return Err(cx.invalid("", "nested too deeply"));
        };
        let all = |field: &str, set: pb::permission::Set, cx: &mut Cx| {
            cx.field(field, |cx| {
                cx.each("rules", set.rules, |rule, cx| Self::parse(rule, depth, cx))
            })
        };
        Ok(match cx.required("rule", wire.rule)? {
            Rule::Any(true) => Self::Any,
            Rule::Any(false) => return Err(cx.invalid("any", "must be true")),
            Rule::AndRules(set) => Self::And(all("and_rules", set, cx)?),
            Rule::OrRules(set) => Self::Or(all("or_rules", set, cx)?),
            Rule::NotRule(rule) => Self::Not(Box::new(
                cx.field("not_rule", |cx| Self::parse(*rule, depth, cx))?,
            )),
            Rule::Header(header) => {
                Self::Header(cx.field("header", |cx| HeaderMatcher::parse(header, cx))?)
            }
            Rule::UrlPath(wire) => Self::UrlPath(path(wire, cx)?),
            Rule::DestinationIp(range) => {
                Self::DestinationIp(cx.field("destination_ip", |cx| cidr(range, cx))?)
            }
            Rule::DestinationPort(port) => Self::DestinationPort(port),
            Rule::DestinationPortRange(range) => {
                Self::DestinationPortRange(range.start.into(), range.end.into())
            }
            Rule::RequestedServerName(name) => Self::ServerName(
                cx.field("requested_server_name", |cx| StringMatcher::parse(name, cx))?,
            ),
            Rule::Metadata(_) => return Err(cx.invalid("metadata", "not supported by this proxy")),
            Rule::SourcedMetadata(_) => {
                return Err(cx.invalid("sourced_metadata", "not supported by this proxy"));
            }
            Rule::Matcher(_) => return Err(cx.invalid("matcher", "not supported by this proxy")),
            Rule::UriTemplate(_) => {
                return Err(cx.invalid("uri_template", "not supported by this proxy"));
            }
        })
    }
}

impl Principal {
    fn parse(wire: pb::Principal, depth: u32, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::principal::Identifier;
        let Some(depth) = depth.checked_sub(1) else {
            return Err(cx.invalid("", "nested too deeply"));
        };
        let all = |field: &str, set: pb::principal::Set, cx: &mut Cx| {
            cx.field(field, |cx| {
                cx.each("ids", set.ids, |id, cx| Self::parse(id, depth, cx))
            })
        };
        Ok(match cx.required("identifier", wire.identifier)? {
            Identifier::Any(true) => Self::Any,
            Identifier::Any(false) => return Err(cx.invalid("any", "must be true")),
            Identifier::AndIds(set) => Self::And(all("and_ids", set, cx)?),
            Identifier::OrIds(set) => Self::Or(all("or_ids", set, cx)?),
            Identifier::NotId(id) => Self::Not(Box::new(
                cx.field("not_id", |cx| Self::parse(*id, depth, cx))?,
            )),
            Identifier::Authenticated(pb::principal::Authenticated { principal_name }) => {
                let name = principal_name.map(|name| {
                    cx.field("authenticated.principal_name", |cx| {
                        StringMatcher::parse(name, cx)
                    })
                });
                Self::Authenticated(name.transpose()?)
            }
            Identifier::SourceIp(range) => {
                Self::SourceIp(cx.field("source_ip", |cx| cidr(range, cx))?)
            }
            Identifier::DirectRemoteIp(range) => {
                Self::DirectRemoteIp(cx.field("direct_remote_ip", |cx| cidr(range, cx))?)
            }
            Identifier::RemoteIp(range) => {
                Self::RemoteIp(cx.field("remote_ip", |cx| cidr(range, cx))?)
            }
            Identifier::Header(header) => {
                Self::Header(cx.field("header", |cx| HeaderMatcher::parse(header, cx))?)
            }
            Identifier::UrlPath(wire) => Self::UrlPath(path(wire, cx)?),
            Identifier::Metadata(_) => {
                return Err(cx.invalid("metadata", "not supported by this proxy"));
            }
            Identifier::SourcedMetadata(_) => {
                return Err(cx.invalid("sourced_metadata", "not supported by this proxy"));
            }
            Identifier::FilterState(_) => {
                return Err(cx.invalid("filter_state", "not supported by this proxy"));
            }
            Identifier::Custom(_) => {
                return Err(cx.invalid("custom", "not supported by this proxy"));
            }
        })
    }
}
