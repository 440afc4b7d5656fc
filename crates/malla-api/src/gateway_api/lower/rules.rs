//! What the rules of routes become, and what those for requests share, whichever kind they are of.

use std::sync::Arc;

use malla_model::matching::{HttpMatch, Pattern, StringMatch};
use malla_model::route::{HttpAction, HttpRoute, WeightedDestination};

use super::super::GatewayKind;
use super::super::types::{HttpBackendRef, NameMatch};
use super::listeners::Why;
use super::{Object, Objects, Surroundings, backends, filters};

/// How closely a match describes requests, by the Gateway API's criteria of its kind of route, the
/// first of them first. Larger is closer.
pub(super) type Specificity = [usize; 5];

/// One match of one rule.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) route: Arc<HttpRoute>,
    pub(super) specificity: Specificity,
    /// Its rule, and its place in there.
    pub(super) at: (usize, usize),
}

/// What a route says, and what is wrong with it.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Of requests; none in a route of connections.
    pub(super) routes: Vec<Rule>,
    /// Where a route of connections sends them.
    pub(super) connections: Vec<WeightedDestination>,
    /// A part that is not supported: the rule is left out.
    pub(super) refused: Option<Why>,
    pub(super) unresolved: Option<Why>,
}

/// The route of one rule in the making.
pub(super) struct Context<'a> {
    pub(super) kind: GatewayKind,
    pub(super) namespace: &'a str,
    pub(super) objects: &'a Objects,
    pub(super) around: &'a Surroundings<'a>,
    /// What it refers to and is not there.
    pub(super) unresolved: Option<Why>,
}

/// What one rule becomes, and its matches; never none of them.
pub(super) type Lowered = (HttpRoute, Vec<(HttpMatch, Specificity)>);

/// Lowers all rules of a route, each as `lower` does.
pub(super) fn each<T, R>(
    route: &Object<T>,
    rules: &[R],
    mut cx: Context<'_>,
    lower: impl Fn(&R, &mut Context<'_>) -> Result<Lowered, Why>,
) -> Rules {
    let mut out = Rules::default();
    for (at, rule) in rules.iter().enumerate() {
        let (lowered, matches) = match lower(rule, &mut cx) {
            Ok(lowered) => lowered,
            Err((reason, message)) => {
                out.refused
                    .get_or_insert((reason, format!("rules[{at}]: {message}")));
                continue;
            }
        };
        for (nth, (of, specificity)) in matches.into_iter().enumerate() {
            let route = HttpRoute {
                name: format!("{}.{}.{at}.{nth}", route.namespace(), route.name()).into(),
                matches: vec![of],
                ..lowered.clone()
            };
            out.routes.push(Rule {
                route: Arc::new(route),
                specificity,
                at: (at, nth),
            });
        }
    }
    out.unresolved = cx.unresolved;
    out
}

/// Lowers the matches of a rule; without any, everything matches.
pub(super) fn matches<M: Default>(
    written: &[M],
    lower: impl Fn(&M) -> Result<(HttpMatch, Specificity), Why>,
) -> Result<Vec<(HttpMatch, Specificity)>, Why> {
    if written.is_empty() {
        return Ok(vec![lower(&M::default())?]);
    }
    written.iter().map(lower).collect()
}

/// Forwards to the backends by their weights; where there are none, `status` is the answer.
pub(super) fn forward(
    backends: &[HttpBackendRef],
    status: u16,
    cx: &mut Context<'_>,
) -> Result<HttpAction, Why> {
    let mut to = Vec::new();
    for backend in backends {
        to.push(WeightedDestination {
            destination: backends::of(&backend.backend(), cx),
            weight: backend.weight.unwrap_or(1),
            headers: filters::of_backend(&backend.filters)?,
        });
    }
    to.retain(|to| to.weight > 0);
    Ok(if to.is_empty() {
        HttpAction::Direct {
            status,
            body: Vec::new(),
        }
    } else {
        HttpAction::Forward(to)
    })
}

/// Adds headers to a match. Of several of one name only the first counts.
pub(super) fn add_headers(headers: &[NameMatch], of: &mut HttpMatch) -> Result<(), Why> {
    for header in headers.iter().rev() {
        of.headers
            .insert(header.name.to_ascii_lowercase().into(), text_match(header)?);
    }
    Ok(())
}

pub(super) fn text_match(of: &NameMatch) -> Result<StringMatch, Why> {
    match of.kind.as_deref().unwrap_or("Exact") {
        "Exact" => Ok(StringMatch::Exact(of.value.as_str().into())),
        "RegularExpression" => Ok(StringMatch::Regex(pattern(&of.value)?)),
        other => Err(unsupported(&format!(
            "match type {other:?} is not supported"
        ))),
    }
}

pub(super) fn pattern(text: &str) -> Result<Pattern, Why> {
    Pattern::new(text)
        .map_err(|error| unsupported(&format!("{text:?} is no regular expression: {error}")))
}

pub(super) fn unsupported(message: &str) -> Why {
    ("UnsupportedValue", message.to_owned())
}
