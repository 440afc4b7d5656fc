//! One HTTP route of a VirtualService.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use malla_model::matching::{ClaimMatch, HttpMatch, Pattern, StringMatch};
use malla_model::route::{
    AbortStatus, Cors, Fault, HeaderEdit, HeaderOps, HttpAction, HttpRoute, Mirror, PerMillion,
    Redirect, RedirectPath, RedirectPort, Retries, Rewrite, WeightedDestination,
};

use super::Context;
use super::authorization::claim_path;
use super::meta::{port, text, texts};
use super::virtual_service::{alternatives, collect, destination, scope, weight};
use crate::istio::common::{Percent, StringMatch as RawMatch};
use crate::istio::http_action as action;
use crate::istio::http_match::HttpMatchRequest;
use crate::istio::virtual_service as raw;

pub(super) fn route(
    written: &raw::HttpRoute,
    path: &str,
    cx: &mut Context<'_>,
) -> Option<HttpRoute> {
    let matches = alternatives(&written.matches, &format!("{path}.match"), cx, http_match)?;
    let Some(action) = http_action(written, path, cx) else {
        cx.note(
            path,
            "has no route, redirect, directResponse or delegate that can act, so it is left out",
        );
        return None;
    };
    Some(HttpRoute {
        name: text(&written.name).unwrap_or_default(),
        matches,
        action,
        rewrite: written
            .rewrite
            .as_ref()
            .map(|rewrite| self::rewrite(rewrite, path, cx)),
        timeout: written.timeout.map(|timeout| timeout.0),
        retries: written.retries.as_ref().map(retries),
        fault: written
            .fault
            .as_ref()
            .map(|fault| self::fault(fault, path, cx)),
        mirrors: mirrors(written, path, cx),
        cors: written
            .cors_policy
            .as_ref()
            .map(|cors| self::cors(cors, path, cx)),
        headers: header_ops(written.headers.as_ref()),
        missing_backend: None,
    })
}

fn http_action(written: &raw::HttpRoute, path: &str, cx: &mut Context<'_>) -> Option<HttpAction> {
    if let Some(redirect) = &written.redirect {
        return self::redirect(redirect, path, cx).map(HttpAction::Redirect);
    }
    if let Some(direct) = &written.direct_response {
        return direct_response(direct, path, cx);
    }
    if let Some(delegate) = &written.delegate {
        return Some(HttpAction::Delegate {
            namespace: text(&delegate.namespace).unwrap_or_else(|| cx.namespace.into()),
            name: text(&delegate.name)?,
        });
    }
    let alone = written.route.len() == 1;
    let destinations = collect(
        &written.route,
        &format!("{path}.route"),
        cx,
        |item, path, cx| {
            Some(WeightedDestination {
                destination: destination(&item.destination, &format!("{path}.destination"), cx)?,
                weight: weight(item.weight, alone),
                headers: header_ops(item.headers.as_ref()),
            })
        },
    );
    (!destinations.is_empty()).then_some(HttpAction::Forward(destinations))
}

/// Header names that Istio has always ignored in `headers`: they are fields of the match.
const PSEUDO_HEADERS: [&str; 4] = ["uri", "scheme", "method", "authority"];

fn http_match(written: &HttpMatchRequest, path: &str, cx: &mut Context<'_>) -> Option<HttpMatch> {
    let field = |value: &Option<RawMatch>, name: &str, cx: &mut Context<'_>| match value {
        None => Some(None),
        Some(value) if *value == RawMatch::default() => Some(None),
        Some(value) => string_match(value, &format!("{path}.{name}"), cx).map(Some),
    };
    let mut claims = Vec::new();
    let wanted = headers(
        &written.headers,
        &format!("{path}.headers"),
        false,
        &mut claims,
        cx,
    )?;
    let unwanted = headers(
        &written.without_headers,
        &format!("{path}.withoutHeaders"),
        true,
        &mut claims,
        cx,
    )?;
    Some(HttpMatch {
        name: text(&written.name).unwrap_or_default(),
        uri: field(&written.uri, "uri", cx)?,
        ignore_uri_case: written.ignore_uri_case,
        scheme: field(&written.scheme, "scheme", cx)?,
        method: field(&written.method, "method", cx)?,
        authority: field(&written.authority, "authority", cx)?,
        headers: wanted,
        without_headers: unwanted,
        claims,
        query_params: written
            .query_params
            .iter()
            .map(|(name, value)| {
                let matcher = string_match(value, &format!("{path}.queryParams.{name}"), cx)?;
                Some((Arc::from(name.as_str()), matcher))
            })
            .collect::<Option<_>>()?,
        stat_prefix: text(&written.stat_prefix).unwrap_or_default(),
        scope: scope(
            written.port,
            &written.source_labels,
            &written.source_namespace,
            &written.gateways,
            path,
            cx,
        )?,
    })
}

/// Headers, and claims that are written among them.
fn headers(
    written: &BTreeMap<String, RawMatch>,
    path: &str,
    invert: bool,
    claims: &mut Vec<ClaimMatch>,
    cx: &mut Context<'_>,
) -> Option<BTreeMap<Arc<str>, StringMatch>> {
    let mut lowered = BTreeMap::new();
    for (name, value) in written {
        let at = format!("{path}.{name}");
        if PSEUDO_HEADERS.contains(&name.as_str()) {
            cx.note(
                at,
                "not a header name; use the field of that name beside `headers`",
            );
            continue;
        }
        if name.starts_with('@') {
            let Some(path) = routed_claim(name) else {
                cx.note(
                    at,
                    "names no claim, as @request.auth.claims[group] does, so this never matches",
                );
                return None;
            };
            let value = string_match(value, &at, cx)?;
            claims.push(ClaimMatch {
                path,
                value,
                invert,
            });
            continue;
        }
        let matcher = string_match(value, &at, cx)?;
        lowered.insert(name.to_ascii_lowercase().into(), matcher);
    }
    Some(lowered)
}

/// The claim that a header of a match names: `@request.auth.claims.a.b` or `@request.auth.claims[a][b]`.
pub(crate) fn routed_claim(name: &str) -> Option<Vec<Arc<str>>> {
    let rest = name.strip_prefix("@request.auth.claims")?;
    match rest.strip_prefix('.') {
        Some(path) => {
            let path = path.split('.');
            path.map(|part| (!part.is_empty()).then(|| part.into()))
                .collect()
        }
        None => claim_path(rest),
    }
}

/// `None` where the match can never hold because its expression does not compile.
fn string_match(written: &RawMatch, path: &str, cx: &mut Context<'_>) -> Option<StringMatch> {
    match (&written.exact, &written.prefix, &written.regex) {
        (Some(exact), _, _) => Some(StringMatch::Exact(exact.as_str().into())),
        (None, Some(prefix), _) => Some(StringMatch::Prefix(prefix.as_str().into())),
        (None, None, Some(regex)) if regex == "*" => Some(StringMatch::Present),
        (None, None, Some(regex)) => match Pattern::new(regex) {
            Ok(pattern) => Some(StringMatch::Regex(pattern)),
            Err(_) => {
                cx.note(
                    format!("{path}.regex"),
                    "not a regular expression, so this never matches",
                );
                None
            }
        },
        (None, None, None) => Some(StringMatch::Present),
    }
}

fn redirect(written: &action::HttpRedirect, path: &str, cx: &mut Context<'_>) -> Option<Redirect> {
    let code = written
        .redirect_code
        .filter(|code| *code != 0)
        .unwrap_or(301);
    let Some(code) = u16::try_from(code)
        .ok()
        .filter(|code| matches!(code, 301 | 302 | 303 | 307 | 308))
    else {
        cx.note(
            format!("{path}.redirect.redirectCode"),
            "not one of 301, 302, 303, 307, 308",
        );
        return None;
    };
    let derived = match written.derive_port {
        Some(action::RedirectPortSelection::FromProtocolDefault) => {
            Some(RedirectPort::ProtocolDefault)
        }
        Some(action::RedirectPortSelection::FromRequestPort) => Some(RedirectPort::RequestPort),
        None => None,
    };
    let prefix = text(&written.prefix_rewrite).map(RedirectPath::Prefix);
    Some(Redirect {
        code,
        path: text(&written.uri).map(RedirectPath::Full).or(prefix),
        authority: text(&written.authority),
        scheme: text(&written.scheme),
        port: written
            .port
            .and_then(port)
            .map(RedirectPort::Number)
            .or(derived),
    })
}

fn direct_response(
    written: &action::HttpDirectResponse,
    path: &str,
    cx: &mut Context<'_>,
) -> Option<HttpAction> {
    let Some(status) = u16::try_from(written.status)
        .ok()
        .filter(|status| (200..600).contains(status))
    else {
        cx.note(
            format!("{path}.directResponse.status"),
            "not a status code (200-599)",
        );
        return None;
    };
    let body = match &written.body {
        None => Vec::new(),
        Some(body) => match (&body.string, &body.bytes) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(encoded)) => STANDARD.decode(encoded).unwrap_or_else(|_| {
                cx.note(
                    format!("{path}.directResponse.body.bytes"),
                    "not base64, so the body is empty",
                );
                Vec::new()
            }),
            (None, None) => Vec::new(),
        },
    };
    Some(HttpAction::Direct { status, body })
}

fn rewrite(written: &action::HttpRewrite, path: &str, cx: &mut Context<'_>) -> Rewrite {
    let regex = written.uri_regex_rewrite.as_ref().and_then(|regex| {
        let pattern = Pattern::new(regex.pattern.as_deref().unwrap_or_default());
        if pattern.is_err() {
            cx.note(
                format!("{path}.rewrite.uriRegexRewrite.match"),
                "not a regular expression, so the path stays as it is",
            );
        }
        Some((pattern.ok()?, text(&regex.rewrite).unwrap_or_default()))
    });
    Rewrite {
        uri: text(&written.uri),
        authority: text(&written.authority),
        regex,
    }
}

pub(super) fn retries(written: &action::HttpRetry) -> Retries {
    let conditions = written.retry_on.as_deref().unwrap_or_default();
    Retries {
        attempts: u32::try_from(written.attempts).unwrap_or(0),
        per_try_timeout: written.per_try_timeout.map(|timeout| timeout.0),
        retry_on: conditions
            .split(',')
            .map(str::trim)
            .filter(|condition| !condition.is_empty())
            .map(Arc::from)
            .collect(),
        remote_localities: written.retry_remote_localities.unwrap_or(false),
        ignore_previous_hosts: written.retry_ignore_previous_hosts,
        backoff: written.backoff.map(|backoff| backoff.0),
    }
}

/// A share that is not given is none: Istio injects nothing without a percentage.
fn share(percentage: Option<&Percent>, old: Option<i32>) -> PerMillion {
    match (percentage, old) {
        (Some(percent), _) => PerMillion::from_percent(percent.value),
        (None, Some(percent)) => PerMillion::from_percent(f64::from(percent)),
        (None, None) => PerMillion::NONE,
    }
}

fn fault(written: &action::HttpFaultInjection, path: &str, cx: &mut Context<'_>) -> Fault {
    let delay = written.delay.as_ref().and_then(|delay| {
        Some((
            delay.fixed_delay?.0,
            share(delay.percentage.as_ref(), delay.percent),
        ))
    });
    let abort = written.abort.as_ref().and_then(|abort| {
        let status = abort_status(abort);
        if status.is_none() {
            cx.note(
                format!("{path}.fault.abort"),
                "names no HTTP (200-599) or gRPC status, so nothing is aborted",
            );
        }
        Some((status?, share(abort.percentage.as_ref(), None)))
    });
    Fault { delay, abort }
}

fn abort_status(written: &action::FaultAbort) -> Option<AbortStatus> {
    if let Some(status) = written.http_status {
        let status = u16::try_from(status)
            .ok()
            .filter(|status| (200..600).contains(status))?;
        return Some(AbortStatus::Http(status));
    }
    let text = written.grpc_status.as_deref()?;
    grpc_code(text).map(AbortStatus::Grpc)
}

/// gRPC's status codes, in order of their numbers.
const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The number of a gRPC status that is given by name or number.
pub(crate) fn grpc_code(text: &str) -> Option<u32> {
    let by_name = GRPC_CODES.iter().position(|name| *name == text);
    by_name
        .and_then(|at| u32::try_from(at).ok())
        .or_else(|| text.parse().ok())
        .filter(|code| (*code as usize) < GRPC_CODES.len())
}

fn mirrors(written: &raw::HttpRoute, path: &str, cx: &mut Context<'_>) -> Vec<Mirror> {
    let all = |percentage: Option<&Percent>| {
        percentage.map_or(PerMillion::ALL, |percent| {
            PerMillion::from_percent(percent.value)
        })
    };
    let old = written.mirror_percent.or(written.mirror_percent_snake);
    let single_share = match (&written.mirror_percentage, old) {
        (None, Some(percent)) => PerMillion::from_percent(f64::from(percent)),
        (percentage, _) => all(percentage.as_ref()),
    };
    let single = written.mirror.as_ref().and_then(|mirror| {
        Some(Mirror {
            destination: destination(mirror, &format!("{path}.mirror"), cx)?,
            share: single_share,
        })
    });
    let several = collect(
        &written.mirrors,
        &format!("{path}.mirrors"),
        cx,
        |mirror, path, cx| {
            Some(Mirror {
                destination: destination(&mirror.destination, &format!("{path}.destination"), cx)?,
                share: all(mirror.percentage.as_ref()),
            })
        },
    );
    single
        .into_iter()
        .chain(several)
        .filter(|mirror| mirror.share != PerMillion::NONE)
        .collect()
}

fn cors(written: &action::CorsPolicy, path: &str, cx: &mut Context<'_>) -> Cors {
    let new = collect(
        &written.allow_origins,
        &format!("{path}.corsPolicy.allowOrigins"),
        cx,
        |origin, path, cx| {
            string_match(origin, path, cx).filter(|matcher| *matcher != StringMatch::Present)
        },
    );
    let old = written
        .allow_origin
        .iter()
        .map(|origin| match origin.as_str() {
            "*" => StringMatch::Present,
            exact => StringMatch::Exact(exact.into()),
        });
    Cors {
        allow_origins: old.chain(new).collect(),
        allow_methods: texts(&written.allow_methods),
        allow_headers: texts(&written.allow_headers),
        expose_headers: texts(&written.expose_headers),
        max_age: written.max_age.map(|age| age.0),
        allow_credentials: written.allow_credentials,
        ignore_unmatched_preflights: written.unmatched_preflights
            == Some(action::UnmatchedPreflights::Ignore),
    }
}

fn header_ops(written: Option<&action::Headers>) -> HeaderOps {
    let edit = |operations: Option<&action::HeaderOperations>| {
        let pairs = |map: &BTreeMap<String, String>| {
            map.iter()
                .map(|(name, value)| (Arc::from(name.as_str()), Arc::from(value.as_str())))
                .collect()
        };
        operations.map_or_else(HeaderEdit::default, |operations| HeaderEdit {
            set: pairs(&operations.set),
            add: pairs(&operations.add),
            remove: texts(&operations.remove),
        })
    };
    written.map_or_else(HeaderOps::default, |headers| HeaderOps {
        request: edit(headers.request.as_ref()),
        response: edit(headers.response.as_ref()),
    })
}
