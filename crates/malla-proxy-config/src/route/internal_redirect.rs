//! Redirects that the proxy follows itself.

use http::{HeaderName, StatusCode};
use smallvec::SmallVec;

use crate::checked::{Cx, Invalid, type_name};
use crate::http_filter::status_code;
use crate::pb::extensions::internal_redirect as ext;
use crate::pb::{google, route as pb};

/// `InternalRedirectPolicy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InternalRedirect {
    /// At most so many for a request.
    pub max: u32,
    /// Which statuses are followed.
    pub codes: SmallVec<[StatusCode; 4]>,
    /// Between `http` and `https`, too.
    pub cross_scheme: bool,
    /// Only from `https` to `http` of the same listener's scheme, or the other way, where that is no loss of safety.
    pub safe_cross_scheme: bool,
    /// Only to a route the request has not been to (`previous_routes`).
    pub new_routes_only: bool,
    /// Only to routes of these names (`allow_listed_routes`).
    pub routes: Option<Vec<String>>,
    /// Headers of the redirect that the next request gets.
    pub copied: Vec<HeaderName>,
}

impl InternalRedirect {
    /// In either spelling; the policy has the last word.
    pub(super) fn parse_any(
        policy: Option<pb::InternalRedirectPolicy>,
        action: i32,
        max: Option<google::UInt32Value>,
        cx: &mut Cx,
    ) -> Result<Option<Self>, Invalid> {
        match policy {
            Some(policy) => cx
                .field("internal_redirect_policy", |cx| Self::parse(policy, cx))
                .map(Some),
            None => Self::parse_legacy(action, max, cx),
        }
    }

    fn parse(wire: pb::InternalRedirectPolicy, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::InternalRedirectPolicy {
            max_internal_redirects,
            redirect_response_codes,
            predicates,
            allow_cross_scheme_redirect,
            response_headers_to_copy,
        } = wire;
        let listed: Vec<StatusCode> = cx.each(
            "redirect_response_codes",
            redirect_response_codes,
            |code, cx| status_code("", code, cx),
        )?;
        // Envoy knows no other redirects, and leaves the rest out.
        let known = |code: &StatusCode| matches!(code.as_u16(), 301 | 302 | 303 | 307 | 308);
        let mut codes: SmallVec<[StatusCode; 4]> = listed.into_iter().filter(known).collect();
        if codes.is_empty() {
            codes.push(StatusCode::FOUND);
        }
        let mut out = Self {
            max: max_internal_redirects.map_or(1, |max| max.value),
            codes,
            cross_scheme: allow_cross_scheme_redirect,
            safe_cross_scheme: false,
            new_routes_only: false,
            routes: None,
            copied: cx.each(
                "response_headers_to_copy",
                response_headers_to_copy,
                |name, cx| {
                    name.parse()
                        .map_err(|_| cx.invalid("", format!("`{name}` is not a header name")))
                },
            )?,
        };
        for (index, predicate) in predicates.into_iter().enumerate() {
            let field = format!("predicates[{index}].typed_config");
            let any = cx.required(&field, predicate.typed_config)?;
            out.set_predicate(&field, &any, cx)?;
        }
        Ok(out)
    }

    fn set_predicate(&mut self, field: &str, any: &google::Any, cx: &Cx) -> Result<(), Invalid> {
        let kind = type_name(any);
        match kind.strip_prefix("envoy.extensions.internal_redirect.") {
            Some("previous_routes.v3.PreviousRoutesConfig") => self.new_routes_only = true,
            Some("safe_cross_scheme.v3.SafeCrossSchemeConfig") => self.safe_cross_scheme = true,
            Some("allow_listed_routes.v3.AllowListedRoutesConfig") => {
                let ext::allow_listed_routes::v3::AllowListedRoutesConfig {
                    allowed_route_names,
                } = cx.unpack(field, any)?;
                self.routes = Some(allowed_route_names);
            }
            _ => {
                return Err(cx.invalid(field, format!("{kind} is not supported by this proxy")));
            }
        }
        Ok(())
    }

    /// `internal_redirect_action`, the old spelling.
    fn parse_legacy(
        action: i32,
        max: Option<google::UInt32Value>,
        cx: &mut Cx,
    ) -> Result<Option<Self>, Invalid> {
        use pb::route_action::InternalRedirectAction;
        match cx.enumeration("internal_redirect_action", action)? {
            InternalRedirectAction::PassThroughInternalRedirect => Ok(None),
            InternalRedirectAction::HandleInternalRedirect => {
                let policy = pb::InternalRedirectPolicy {
                    max_internal_redirects: max,
                    ..pb::InternalRedirectPolicy::default()
                };
                Self::parse(policy, cx).map(Some)
            }
        }
    }
}
