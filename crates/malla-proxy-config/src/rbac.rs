//! Role-based access control rules; `malla-proxy`'s `policy` evaluates them.

use ipnet::IpNet;

use crate::address::cidr;
use crate::checked::{Cx, Invalid, refuse};
use crate::expression::Expression;
use crate::matcher::StringMatcher;
use crate::metadata_matcher::{FilterStateMatcher, MetadataMatcher};
use crate::pb::{matcher, rbac as pb};
use crate::request::HeaderMatcher;
use crate::uri_template::UriTemplate;

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
    /// What must hold besides.
    pub condition: Option<Expression>,
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
    /// Metadata of the request or of its route.
    Metadata(SourcedMetadata),
    /// The path without query.
    UriTemplate(UriTemplate),
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
    /// Metadata of the request or of its route.
    Metadata(SourcedMetadata),
    /// What filters have noted.
    FilterState(FilterStateMatcher),
}

/// `SourcedMetadata`.
#[derive(Debug, Clone, PartialEq)]
pub struct SourcedMetadata {
    /// On which value.
    pub matcher: MetadataMatcher,
    /// Of the route, else what filters have noted of the request.
    pub of_route: bool,
}

impl SourcedMetadata {
    fn dynamic(wire: matcher::MetadataMatcher, cx: &mut Cx) -> Result<Self, Invalid> {
        let matcher = cx.field("metadata", |cx| MetadataMatcher::parse(wire, cx))?;
        Ok(Self {
            matcher,
            of_route: false,
        })
    }

    fn parse(wire: pb::SourcedMetadata, cx: &mut Cx) -> Result<Self, Invalid> {
        cx.field("sourced_metadata", |cx| {
            let pb::SourcedMetadata {
                metadata_matcher,
                metadata_source,
            } = wire;
            let matcher = cx.required("metadata_matcher", metadata_matcher)?;
            Ok(Self {
                matcher: cx.field("metadata_matcher", |cx| MetadataMatcher::parse(matcher, cx))?,
                of_route: match cx.enumeration("metadata_source", metadata_source)? {
                    pb::MetadataSource::Dynamic => false,
                    pb::MetadataSource::Route => true,
                },
            })
        })
    }
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
        refuse!(cx; checked_condition, cel_config);
        let condition = condition.map(|tree| {
            Expression::condition(&tree).map_err(|reason| cx.invalid("condition", reason))
        });
        Ok(Self {
            condition: condition.transpose()?,
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
            Rule::Metadata(wire) => Self::Metadata(SourcedMetadata::dynamic(wire, cx)?),
            Rule::SourcedMetadata(wire) => Self::Metadata(SourcedMetadata::parse(wire, cx)?),
            Rule::Matcher(_) => return Err(cx.invalid("matcher", "not supported by this proxy")),
            Rule::UriTemplate(wire) => {
                Self::UriTemplate(cx.field("uri_template", |cx| UriTemplate::parse(&wire, cx))?)
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
            Identifier::Metadata(wire) => Self::Metadata(SourcedMetadata::dynamic(wire, cx)?),
            Identifier::SourcedMetadata(wire) => Self::Metadata(SourcedMetadata::parse(wire, cx)?),
            Identifier::FilterState(wire) => Self::FilterState(
                cx.field("filter_state", |cx| FilterStateMatcher::parse(wire, cx))?,
            ),
            Identifier::Custom(_) => {
                return Err(cx.invalid("custom", "not supported by this proxy"));
            }
        })
    }
}
