//! HTTPRoute's rules as routes of the model.

mod filters;

use std::sync::Arc;
use std::time::Duration;

use malla_model::matching::{HttpMatch, Pattern, StringMatch};
use malla_model::route::{HttpAction, HttpRoute, Retries, WeightedDestination};

use super::super::types::{self, HttpRouteSpec, HttpRule, NameMatch};
use super::listeners::Why;
use super::{Object, Objects, Surroundings, backends};
use crate::duration;

const KIND: &str = "HTTPRoute";
/// What is tried again besides the codes that a rule names (Istio's for the Gateway API).
const RETRY_ON: [&str; 4] = [
    "connect-failure",
    "refused-stream",
    "unavailable",
    "cancelled",
];

/// One match of one rule.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) route: Arc<HttpRoute>,
    /// See [`super::attach::Order`].
    pub(super) specificity: (u8, usize, bool, usize, usize),
    /// Its rule, and its place in there.
    pub(super) at: (usize, usize),
}

/// What a route says, and what is wrong with it.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub(super) routes: Vec<Rule>,
    /// A part that is not supported: the rule is left out.
    pub(super) refused: Option<Why>,
    pub(super) unresolved: Option<Why>,
}

/// The route of one rule in the making.
struct Context<'a> {
    namespace: &'a str,
    objects: &'a Objects,
    around: &'a Surroundings<'a>,
    unresolved: &'a mut Option<Why>,
}

/// Lowers all rules of a route.
pub(super) fn rules(
    route: &Object<HttpRouteSpec>,
    objects: &Objects,
    around: &Surroundings<'_>,
) -> Rules {
    let mut out = Rules::default();
    for (at, rule) in route.spec.rules.iter().enumerate() {
        let mut cx = Context {
            namespace: route.namespace(),
            objects,
            around,
            unresolved: &mut out.unresolved,
        };
        let lowered = lower_rule(rule, &mut cx).and_then(|lowered| {
            let any = [types::HttpMatch::default()];
            let matches = if rule.matches.is_empty() {
                &any[..]
            } else {
                &rule.matches
            };
            let matches = matches.iter().enumerate();
            matches
                .map(|(nth, of)| {
                    let lowered = HttpRoute {
                        name: format!("{}.{}.{at}.{nth}", route.namespace(), route.name()).into(),
                        matches: vec![http_match(of)?],
                        ..lowered.clone()
                    };
                    Ok(Rule {
                        route: Arc::new(lowered),
                        specificity: specificity(of),
                        at: (at, nth),
                    })
                })
                .collect::<Result<Vec<Rule>, Why>>()
        });
        match lowered {
            Ok(routes) => out.routes.extend(routes),
            Err((reason, message)) => {
                out.refused
                    .get_or_insert((reason, format!("rules[{at}]: {message}")));
            }
        }
    }
    out
}

fn lower_rule(rule: &HttpRule, cx: &mut Context<'_>) -> Result<HttpRoute, Why> {
    if rule.session_persistence.is_some() {
        return Err(unsupported("sessionPersistence is not supported"));
    }
    let mut route = HttpRoute {
        missing_backend: Some(500),
        ..HttpRoute::default()
    };
    filters::apply(&rule.filters, &mut route, cx)?;
    times(rule, &mut route)?;
    if !matches!(route.action, HttpAction::Forward(_)) {
        return Ok(route);
    }
    let mut to = Vec::new();
    for backend in &rule.backend_refs {
        let resolved = backends::resolve(
            &backend.backend(),
            KIND,
            cx.namespace,
            cx.objects,
            cx.around,
        );
        let destination = resolved.unwrap_or_else(|why| {
            cx.unresolved.get_or_insert(why);
            backends::nobody()
        });
        to.push(WeightedDestination {
            destination,
            weight: backend.weight.unwrap_or(1),
            headers: filters::of_backend(&backend.filters)?,
        });
    }
    to.retain(|to| to.weight > 0);
    route.action = if to.is_empty() {
        HttpAction::Direct {
            status: 500,
            body: Vec::new(),
        }
    } else {
        HttpAction::Forward(to)
    };
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
    // Of several of one name only the first counts.
    for header in of.headers.iter().rev() {
        out.headers
            .insert(header.name.to_ascii_lowercase().into(), text_match(header)?);
    }
    for parameter in of.query_params.iter().rev() {
        out.query_params
            .insert(parameter.name.as_str().into(), text_match(parameter)?);
    }
    Ok(out)
}

fn text_match(of: &NameMatch) -> Result<StringMatch, Why> {
    match of.kind.as_deref().unwrap_or("Exact") {
        "Exact" => Ok(StringMatch::Exact(of.value.as_str().into())),
        "RegularExpression" => Ok(StringMatch::Regex(pattern(&of.value)?)),
        other => Err(unsupported(&format!(
            "match type {other:?} is not supported"
        ))),
    }
}

fn pattern(text: &str) -> Result<Pattern, Why> {
    Pattern::new(text)
        .map_err(|error| unsupported(&format!("{text:?} is no regular expression: {error}")))
}

fn specificity(of: &types::HttpMatch) -> (u8, usize, bool, usize, usize) {
    let path = of.path.clone().unwrap_or_default();
    let rank = match path.kind.as_deref() {
        Some("Exact") => 3,
        Some("RegularExpression") => 1,
        _ => 2,
    };
    let length = path.value.as_deref().unwrap_or("/").len();
    (
        rank,
        length,
        of.method.is_some(),
        of.headers.len(),
        of.query_params.len(),
    )
}

fn unsupported(message: &str) -> Why {
    ("UnsupportedValue", message.to_owned())
}
