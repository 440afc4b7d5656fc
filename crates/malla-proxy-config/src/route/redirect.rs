//! Routes that answer themselves: redirects and direct responses.

use bytes::Bytes;
use http::StatusCode;

use super::action::{PathRewrite, matched_length};
use super::matcher::RouteMatch;
use crate::checked::{Cx, Invalid};
use crate::format::Layout;
use crate::http_filter::status_code;
use crate::http_manager::local_reply::inline;
use crate::matcher::RegexReplace;
use crate::pb::route as pb;

/// `RedirectAction`.
#[derive(Debug, Clone, PartialEq)]
pub struct Redirect {
    /// Host; `None` keeps it.
    pub host: Option<String>,
    /// Port; `None` keeps it.
    pub port: Option<u16>,
    /// Scheme; `None` keeps it.
    pub scheme: Option<String>,
    /// Path.
    pub path: RedirectPath,
    /// Status.
    pub status: StatusCode,
    /// Drop the query.
    pub strip_query: bool,
}

/// Path of a redirect.
#[derive(Debug, Clone, PartialEq)]
pub enum RedirectPath {
    /// As it is.
    Keep,
    /// This, with its own query if it has one.
    Literal(String),
    /// As in a forwarding route.
    Rewrite(PathRewrite),
}

/// `DirectResponseAction`.
#[derive(Debug, Clone, PartialEq)]
pub struct DirectResponse {
    /// Status.
    pub status: StatusCode,
    /// Body; may be empty.
    pub body: Bytes,
    /// How it is laid out.
    pub layout: Option<Box<Layout>>,
}

impl Redirect {
    pub(super) fn parse(
        wire: pb::RedirectAction,
        matches: &RouteMatch,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        use pb::redirect_action::{
            PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
        };
        let pb::RedirectAction {
            host_redirect,
            port_redirect,
            response_code,
            strip_query,
            scheme_rewrite_specifier,
            path_rewrite_specifier,
        } = wire;
        let path = match path_rewrite_specifier {
            None => RedirectPath::Keep,
            Some(PathRewriteSpecifier::PathRedirect(path)) if path.is_empty() => RedirectPath::Keep,
            Some(PathRewriteSpecifier::PathRedirect(path)) => RedirectPath::Literal(path),
            Some(PathRewriteSpecifier::PrefixRewrite(by)) => {
                RedirectPath::Rewrite(PathRewrite::Prefix {
                    matched: matched_length(matches),
                    by,
                })
            }
            Some(PathRewriteSpecifier::RegexRewrite(regex)) => RedirectPath::Rewrite(
                PathRewrite::Regex(cx.field("regex_rewrite", |cx| RegexReplace::parse(regex, cx))?),
            ),
            Some(PathRewriteSpecifier::PathRewrite(_)) => {
                return Err(cx.invalid("path_rewrite", "not supported by this proxy"));
            }
        };
        Ok(Self {
            host: (!host_redirect.is_empty()).then_some(host_redirect),
            port: match port_redirect {
                0 => None,
                port => Some(cx.port("port_redirect", port)?),
            },
            scheme: match scheme_rewrite_specifier {
                Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
                Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) if !scheme.is_empty() => {
                    Some(scheme)
                }
                None
                | Some(
                    SchemeRewriteSpecifier::HttpsRedirect(_)
                    | SchemeRewriteSpecifier::SchemeRedirect(_),
                ) => None,
            },
            path,
            status: match cx.enumeration("response_code", response_code)? {
                RedirectResponseCode::MovedPermanently => StatusCode::MOVED_PERMANENTLY,
                RedirectResponseCode::Found => StatusCode::FOUND,
                RedirectResponseCode::SeeOther => StatusCode::SEE_OTHER,
                RedirectResponseCode::TemporaryRedirect => StatusCode::TEMPORARY_REDIRECT,
                RedirectResponseCode::PermanentRedirect => StatusCode::PERMANENT_REDIRECT,
            },
            strip_query,
        })
    }
}

impl DirectResponse {
    pub(super) fn parse(
        wire: pb::DirectResponseAction,
        max_body: usize,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        let pb::DirectResponseAction {
            status,
            body,
            body_format,
        } = wire;
        let body = match body {
            None => Bytes::new(),
            Some(source) => inline("body", source, cx)?,
        };
        if body.len() > max_body {
            return Err(cx.invalid(
                "body",
                format!("has {} bytes, more than {max_body}", body.len()),
            ));
        }
        Ok(Self {
            status: status_code("status", status, cx)?,
            body,
            layout: match body_format {
                None => None,
                Some(format) => Some(Box::new(
                    cx.field("body_format", |cx| Layout::parse(format, cx))?,
                )),
            },
        })
    }
}
