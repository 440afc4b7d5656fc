//! HTTPRoute's rules as routes of the model.

use std::sync::Arc;
use std::time::Duration;

use malla_model::matching::{HttpMatch, StringMatch};
use malla_model::route::{HttpAction, HttpRoute, Retries};

use super::super::types::{self, HttpRouteSpec, HttpRule};
use super::listeners::Why;
use super::rules::{self, Context, Rules, Specificity, pattern, text_match, unsupported};
use super::{Object, filters};
use crate::duration;

/// What is answered for backends that do not exist, as the Gateway API asks for.
const BROKEN: u16 = 500;
/// What is tried again besides the codes that a rule names (Istio's for the Gateway API).
const RETRY_ON: [&str; 4] = [
    "connect-failure",
    "refused-stream",
    "unavailable",
    "cancelled",
];

/// Lowers all rules of a route.
pub(super) fn lower(route: &Object<HttpRouteSpec>, cx: Context<'_>) -> Rules {
    rules::each(route, &route.spec.rules, cx, |rule, cx| {
        let matches = rules::matches(&rule.matches, |of| Ok((http_match(of)?, specificity(of))))?;
        Ok((lower_rule(rule, cx)?, matches))
    })
}

fn lower_rule(rule: &HttpRule, cx: &mut Context<'_>) -> Result<HttpRoute, Why> {
    if rule.session_persistence.is_some() {
        return Err(unsupported("sessionPersistence is not supported"));
    }
    let mut route = HttpRoute {
        missing_backend: Some(BROKEN),
        ..HttpRoute::default()
    };
    filters::apply(&rule.filters, &mut route, cx)?;
    times(rule, &mut route)?;
    if matches!(route.action, HttpAction::Forward(_)) {
        route.action = rules::forward(&rule.backend_refs, BROKEN, cx)?;
    }
    Ok(route)
}

fn times(rule: &HttpRule, route: &mut HttpRoute) -> Result<(), Why> {
    let read = |text: &Option<String>, field: &str| match text {
        None => Ok(None),
        Some(text) => duration::parse(text)
            .map(Some)
            .map_err(|error| unsupported(&format!("{field}: {error}"))),
    };
    let timeouts = rule.timeouts.clone().unwrap_or_default();
    let request = read(&timeouts.request, "timeouts.request")?;
    let one_try = read(&timeouts.backend_request, "timeouts.backendRequest")?;
    // Zero is no limit, and so is what is absent.
    let limit = |time: Option<Duration>| time.filter(|time| !time.is_zero());
    route.timeout = limit(request);
    if let Some(retry) = &rule.retry {
        let on = RETRY_ON.iter().map(|on| Arc::from(*on));
        let codes = retry.codes.iter().map(|code| Arc::from(code.to_string()));
        let attempts = retry.attempts.unwrap_or(2);
        route.retries = Some(Retries {
            attempts,
            per_try_timeout: limit(one_try),
            retry_on: if attempts == 0 {
                Vec::new()
            } else {
                on.chain(codes).collect()
            },
            remote_localities: false,
            ignore_previous_hosts: None,
            backoff: read(&retry.backoff, "retry.backoff")?,
        });
    } else if let Some(time) = limit(one_try) {
        // Without further tries the one there is may take that long.
        route.timeout = Some(route.timeout.map_or(time, |whole| whole.min(time)));
    }
    Ok(())
}

fn http_match(of: &types::HttpMatch) -> Result<HttpMatch, Why> {
    let path = of.path.clone().unwrap_or_default();
    let value = path.value.as_deref().unwrap_or("/");
    let uri = match path.kind.as_deref().unwrap_or("PathPrefix") {
        "PathPrefix" => {
            let prefix = value.trim_end_matches('/');
            if prefix.is_empty() {
                StringMatch::Prefix("/".into())
            } else {
                StringMatch::PathSegments(prefix.into())
            }
        }
        "Exact" => StringMatch::Exact(value.into()),
        "RegularExpression" => StringMatch::Regex(pattern(value)?),
        other => {
            return Err(unsupported(&format!(
                "path type {other:?} is not supported"
            )));
        }
    };
    let mut out = HttpMatch {
        uri: Some(uri),
        method: of
            .method
            .as_deref()
            .map(|method| StringMatch::Exact(method.into())),
        ..HttpMatch::default()
    };
    rules::add_headers(&of.headers, &mut out)?;
    // Of several of one name only the first counts.
    for parameter in of.query_params.iter().rev() {
        out.query_params
            .insert(parameter.name.as_str().into(), text_match(parameter)?);
    }
    Ok(out)
}

/// The Gateway API's criteria: exact paths, then prefixes, then expressions; characters of the path;
/// a method; headers; parameters.
fn specificity(of: &types::HttpMatch) -> Specificity {
    let path = of.path.clone().unwrap_or_default();
    let rank = match path.kind.as_deref() {
        Some("Exact") => 3,
        Some("RegularExpression") => 1,
        _ => 2,
    };
    [
        rank,
        path.value.as_deref().unwrap_or("/").len(),
        usize::from(of.method.is_some()),
        of.headers.len(),
        of.query_params.len(),
    ]
}
