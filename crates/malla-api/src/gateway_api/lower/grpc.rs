//! GRPCRoute's rules as routes of the model: a call's path is `/package.Service/Method`.

use malla_model::matching::{HttpMatch, StringMatch};
use malla_model::route::HttpRoute;

use super::super::types::{GrpcMatch, GrpcMethodMatch, GrpcRouteSpec, GrpcRule};
use super::listeners::Why;
use super::rules::{self, Context, Rules, Specificity, unsupported};
use super::{Object, filters};

/// A status of HTTP that clients are told as UNAVAILABLE, as the Gateway API asks for backends that
/// do not exist.
const UNAVAILABLE: u16 = 503;

/// Lowers all rules of a route.
pub(super) fn lower(route: &Object<GrpcRouteSpec>, cx: Context<'_>) -> Rules {
    rules::each(route, &route.spec.rules, cx, |rule, cx| {
        let matches = rules::matches(&rule.matches, |of| Ok((call_match(of)?, specificity(of))))?;
        Ok((lower_rule(rule, cx)?, matches))
    })
}

fn lower_rule(rule: &GrpcRule, cx: &mut Context<'_>) -> Result<HttpRoute, Why> {
    if rule.session_persistence.is_some() {
        return Err(unsupported("sessionPersistence is not supported"));
    }
    let mut route = HttpRoute::default();
    filters::apply(&rule.filters, &mut route, cx)?;
    route.action = rules::forward(&rule.backend_refs, UNAVAILABLE, cx)?;
    Ok(route)
}

fn call_match(of: &GrpcMatch) -> Result<HttpMatch, Why> {
    let mut out = HttpMatch {
        uri: Some(path(&of.method.clone().unwrap_or_default())?),
        ..HttpMatch::default()
    };
    rules::add_headers(&of.headers, &mut out)?;
    Ok(out)
}

fn path(of: &GrpcMethodMatch) -> Result<StringMatch, Why> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (service, method) = (given(&of.service), given(&of.method));
    match of.kind.as_deref().unwrap_or("Exact") {
        "Exact" => Ok(match (service, method) {
            (None, None) => StringMatch::Prefix("/".into()),
            (Some(service), None) => StringMatch::Prefix(format!("/{service}/").into()),
            (Some(service), Some(method)) => {
                StringMatch::Exact(format!("/{service}/{method}").into())
            }
            // A name has no character that an expression reads otherwise.
            (None, Some(method)) => {
                StringMatch::Regex(rules::pattern(&format!("/[^/]+/{method}"))?)
            }
        }),
        "RegularExpression" => {
            let part = |text: Option<String>| {
                text.map_or("[^/]+".to_owned(), |text| format!("(?:{text})"))
            };
            let text = format!("/{}/{}", part(service), part(method));
            Ok(StringMatch::Regex(rules::pattern(&text)?))
        }
        other => Err(unsupported(&format!(
            "method type {other:?} is not supported"
        ))),
    }
}

/// The Gateway API's criteria: characters of the service, of the method, headers.
fn specificity(of: &GrpcMatch) -> Specificity {
    let length = |text: Option<&String>| text.map_or(0, String::len);
    let method = of.method.as_ref();
    [
        length(method.and_then(|of| of.service.as_ref())),
        length(method.and_then(|of| of.method.as_ref())),
        of.headers.len(),
        0,
        0,
    ]
}
