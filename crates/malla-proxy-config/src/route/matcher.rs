//! Which requests a route takes.

use http::{HeaderMap, Method, header};

use crate::checked::{Cx, Invalid, refuse};
use crate::matcher::{Fraction, FullRegex};
use crate::metadata_matcher::StateMatcher;
use crate::pb::route as pb;
use crate::request::{CookieMatcher, HeaderMatcher, QueryMatcher, RequestView};
use crate::uri_template::UriTemplate;

/// `RouteMatch`.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteMatch {
    /// On the path without query.
    pub path: PathMatch,
    /// ASCII case counts (not for regular expressions, which say so themselves).
    pub case_sensitive: bool,
    /// Share of requests; `None` is all.
    pub fraction: Option<Fraction>,
    /// All must fit.
    pub headers: Vec<HeaderMatcher>,
    /// All must fit.
    pub query: Vec<QueryMatcher>,
    /// All must fit.
    pub cookies: Vec<CookieMatcher>,
    /// Only gRPC requests.
    pub grpc: bool,
    /// On what filters have noted: all must fit.
    pub noted: Vec<StateMatcher>,
}

/// On the path.
#[derive(Debug, Clone, PartialEq)]
pub enum PathMatch {
    /// Begins with it, byte by byte.
    Prefix(String),
    /// Is it.
    Exact(String),
    /// The whole path matches.
    Regex(FullRegex),
    /// Is it, or begins with it and a slash.
    SeparatedPrefix(String),
    /// Any CONNECT request.
    Connect,
    /// `/a/{name}/**`.
    Template(UriTemplate),
}

impl RouteMatch {
    pub(crate) fn parse(wire: pb::RouteMatch, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::route_match::PathSpecifier;
        let pb::RouteMatch {
            case_sensitive,
            runtime_fraction,
            headers,
            query_parameters,
            cookies,
            grpc,
            tls_context,
            dynamic_metadata,
            filter_state,
            path_specifier,
        } = wire;
        refuse!(cx; tls_context);
        let path = match cx.required("path_specifier", path_specifier)? {
            PathSpecifier::Prefix(prefix) => PathMatch::Prefix(prefix),
            PathSpecifier::Path(path) => PathMatch::Exact(path),
            PathSpecifier::SafeRegex(regex) => {
                PathMatch::Regex(cx.field("safe_regex", |cx| FullRegex::parse(&regex, cx))?)
            }
            PathSpecifier::ConnectMatcher(_) => PathMatch::Connect,
            PathSpecifier::PathSeparatedPrefix(prefix) => {
                if !prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains(['?', '#'])
                {
                    return Err(cx.invalid(
                        "path_separated_prefix",
                        "must begin with / and not end with it",
                    ));
                }
                PathMatch::SeparatedPrefix(prefix)
            }
            PathSpecifier::PathMatchPolicy(extension) => PathMatch::Template(
                cx.field("path_match_policy", |cx| UriTemplate::parse(&extension, cx))?,
            ),
        };
        let fraction = match runtime_fraction {
            None => None,
            Some(share) => {
                Some(cx.field("runtime_fraction", |cx| Fraction::parse_runtime(share, cx))?)
            }
        };
        Ok(Self {
            path,
            case_sensitive: case_sensitive.is_none_or(|value| value.value),
            fraction,
            headers: cx.each("headers", headers, HeaderMatcher::parse)?,
            query: cx.each("query_parameters", query_parameters, QueryMatcher::parse)?,
            cookies: cx.each("cookies", cookies, CookieMatcher::parse)?,
            grpc: grpc.is_some(),
            noted: StateMatcher::parse_all(dynamic_metadata, filter_state, cx)?,
        })
    }

    /// True if the request fits.
    pub fn is_match(&self, request: &RequestView<'_>, random: u64) -> bool {
        self.path_matches(request) && self.rest_matches(request, random)
    }

    /// True if the path fits.
    pub(super) fn path_matches(&self, request: &RequestView<'_>) -> bool {
        if request.path.is_empty() {
            // A CONNECT without :path fits nothing but a CONNECT matcher.
            return self.path == PathMatch::Connect && request.method == Method::CONNECT;
        }
        let path = request.path_only().as_bytes();
        let same = |a: &[u8], b: &[u8]| {
            if self.case_sensitive {
                a == b
            } else {
                a.eq_ignore_ascii_case(b)
            }
        };
        let begins = |prefix: &str| {
            path.get(..prefix.len())
                .is_some_and(|head| same(head, prefix.as_bytes()))
        };
        match &self.path {
            PathMatch::Prefix(prefix) => begins(prefix),
            PathMatch::Exact(exact) => same(path, exact.as_bytes()),
            PathMatch::Regex(regex) => regex.is_match(request.path_only()),
            PathMatch::SeparatedPrefix(prefix) => {
                begins(prefix) && matches!(path.get(prefix.len()), None | Some(b'/'))
            }
            PathMatch::Template(template) => template.is_match(request.path_only()),
            PathMatch::Connect => request.method == Method::CONNECT,
        }
    }

    /// True if everything but the path fits.
    pub(super) fn rest_matches(&self, request: &RequestView<'_>, random: u64) -> bool {
        self.fraction.is_none_or(|fraction| fraction.hit(random))
            && (!self.grpc || is_grpc(request.headers))
            && self.headers.iter().all(|matcher| matcher.is_match(request))
            && self.query.iter().all(|matcher| matcher.is_match(request))
            && self.cookies.iter().all(|matcher| matcher.is_match(request))
            && self
                .noted
                .iter()
                .all(|matcher| matcher.is_match(request.state))
    }
}

/// `content-type` is `application/grpc` or `application/grpc+…`.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}
