//! What consistent hashing is over.

use std::time::Duration;

use crate::checked::{Cx, Invalid};
use crate::format::Field;
use crate::matcher::RegexReplace;
use crate::pb::route as pb;

/// `HashPolicy`.
#[derive(Debug, Clone, PartialEq)]
pub struct HashPolicy {
    /// Enough if this one gave a hash.
    pub terminal: bool,
    /// Over what.
    pub over: HashOver,
}

/// Over what is hashed.
#[derive(Debug, Clone, PartialEq)]
pub enum HashOver {
    /// A header, maybe rewritten first.
    Header(Field, Option<RegexReplace>),
    /// A cookie.
    Cookie(HashCookie),
    /// The client's address.
    SourceIp,
    /// A query parameter.
    Query(String),
}

/// A cookie, made where it is missing if it has a lifetime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashCookie {
    /// Name.
    pub name: String,
    /// Lifetime of a made one (zero: the session); `None` makes none.
    pub ttl: Option<Duration>,
    /// Path of a made one.
    pub path: String,
    /// Further attributes of a made one.
    pub attributes: Vec<(String, String)>,
}

impl HashPolicy {
    pub(super) fn parse(wire: pb::route_action::HashPolicy, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::route_action::hash_policy::{Cookie, Header, PolicySpecifier};
        let over = match cx.required("policy_specifier", wire.policy_specifier)? {
            PolicySpecifier::Header(Header {
                header_name,
                regex_rewrite,
            }) => {
                let field = Field::parse(&header_name)
                    .map_err(|reason| cx.invalid("header.header_name", reason))?;
                let rewrite = match regex_rewrite {
                    None => None,
                    Some(regex) => {
                        Some(cx.field("header.regex_rewrite", |cx| RegexReplace::parse(regex, cx))?)
                    }
                };
                HashOver::Header(field, rewrite)
            }
            PolicySpecifier::Cookie(Cookie {
                name,
                ttl,
                path,
                attributes,
            }) => HashOver::Cookie(HashCookie {
                name,
                ttl: cx.duration("cookie.ttl", ttl)?,
                path,
                attributes: attributes
                    .into_iter()
                    .map(|attribute| (attribute.name, attribute.value))
                    .collect(),
            }),
            PolicySpecifier::ConnectionProperties(properties) if properties.source_ip => {
                HashOver::SourceIp
            }
            PolicySpecifier::ConnectionProperties(_) => {
                return Err(cx.invalid("connection_properties.source_ip", "must be true"));
            }
            PolicySpecifier::QueryParameter(query) => HashOver::Query(query.name),
            PolicySpecifier::FilterState(_) => {
                return Err(cx.invalid("filter_state", "not supported by this proxy"));
            }
        };
        Ok(Self {
            terminal: wire.terminal,
            over,
        })
    }
}
