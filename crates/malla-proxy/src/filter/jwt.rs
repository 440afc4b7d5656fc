//! Asks requests for tokens (`envoy.filters.http.jwt_authn`).
//!
//! Invariants: headers that only a verified token may set are taken off every request, and again before a requirement
//! looks for tokens; every token that is found must be good, unless failures are allowed; a claim that is no header value sets none.

mod claims;
mod extract;
mod verify;

use std::borrow::Cow;
use std::rc::Rc;

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use malla_proxy_config::http_filter::{FilterOverride, JwtAuthn, JwtOverride, Requirement};

use crate::http::error::{ProxyError, Verdict};
use crate::http::exchange::Exchange;
use crate::jwt::provider::JwtFilter;
use crate::jwt::status::Status;
use crate::upstream::Upstreams;

/// Where payloads and failures are noted.
const NAMESPACE: &str = "envoy.filters.http.jwt_authn";
/// Envoy cuts the address it answers with.
const MAX_URI: usize = 256;

/// Asks for what the first fitting rule requires.
pub(super) async fn authenticate<U: Upstreams>(
    x: &mut Exchange<U>,
    filter: &Rc<JwtFilter>,
    level: Option<&FilterOverride>,
) -> Result<(), ProxyError> {
    let config = &filter.config;
    if config.bypass_preflight && is_preflight(x) {
        filter.stats.cors_preflight_bypassed.inc();
        filter.stats.allowed.inc();
        return Ok(());
    }
    let all: Vec<usize> = (0..config.providers.len()).collect();
    sanitise(x, config, &all);
    let requirement = match level {
        Some(FilterOverride::Jwt(JwtOverride::Off)) => None,
        Some(FilterOverride::Jwt(JwtOverride::Named(name))) => match config.named.get(name) {
            Some(requirement) => requirement.as_ref(),
            None => return Err(unknown_name(filter, name)),
        },
        _ => required(x, config),
    };
    let Some(requirement) = requirement else {
        filter.stats.allowed.inc();
        return Ok(());
    };
    let uri = original_uri(x);
    match verify::check(x, filter, requirement).await {
        Ok(()) => {
            filter.stats.allowed.inc();
            Ok(())
        }
        Err(status) => {
            filter.stats.denied.inc();
            Err(denied(status, &uri, config.strip_failure))
        }
    }
}

/// Headers that only a verified token may set.
fn sanitise<U: Upstreams>(x: &mut Exchange<U>, config: &JwtAuthn, providers: &[usize]) {
    let providers = providers
        .iter()
        .filter_map(|index| config.providers.get(*index));
    for provider in providers {
        if let Some(name) = &provider.payload_header {
            x.head.headers.remove(name);
        }
        for (name, _) in &provider.claim_headers {
            x.head.headers.remove(name);
        }
    }
}

/// What the first fitting rule requires, or what filter state says.
fn required<'c, U: Upstreams>(x: &Exchange<U>, config: &'c JwtAuthn) -> Option<&'c Requirement> {
    let view = x.view();
    let mut rules = config.rules.iter();
    if let Some(rule) = rules.find(|rule| rule.matches.is_match(&view, x.random)) {
        return rule.requires.as_ref();
    }
    let (name, by_value) = config.by_state.as_ref()?;
    let value = view.state?.objects.get(name.as_str())?;
    by_value.get(&**value)
}

fn is_preflight<U: Upstreams>(x: &Exchange<U>) -> bool {
    let said = |name: HeaderName| {
        let value = x.head.headers.get(name);
        value.is_some_and(|value| !value.is_empty())
    };
    x.head.method == Method::OPTIONS
        && said(header::ORIGIN)
        && said(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The address the client asked for, for the challenge of an answer.
fn original_uri<U: Upstreams>(x: &Exchange<U>) -> String {
    let view = x.view();
    if view.path.is_empty() {
        return String::new();
    }
    let end = (0..=view.path.len().min(MAX_URI))
        .rev()
        .find(|end| view.path.is_char_boundary(*end));
    let path = view.path.get(..end.unwrap_or(0)).unwrap_or_default();
    format!("{}://{}{path}", view.scheme, view.authority())
}

fn details(text: &str) -> Cow<'static, str> {
    format!("jwt_authn_access_denied{{{}}}", text.replace(' ', "_")).into()
}

fn unknown_name(filter: &JwtFilter, name: &str) -> ProxyError {
    filter.stats.denied.inc();
    let names: Vec<&str> = filter.config.named.keys().map(String::as_str).collect();
    let reason = format!(
        "Wrong requirement_name: {name}. It should be one of [{}]",
        names.join(",")
    );
    let mut verdict = Verdict::new(StatusCode::FORBIDDEN, details(&reason));
    verdict.body = format!("Failed JWT authentication: {reason}").into();
    ProxyError::Filter(Box::new(verdict))
}

fn denied(status: Status, uri: &str, strip: bool) -> ProxyError {
    let code = match status {
        Status::AudienceNotAllowed => StatusCode::FORBIDDEN,
        _ => StatusCode::UNAUTHORIZED,
    };
    let mut verdict = Verdict::new(code, details(status.text()));
    if !strip {
        let challenge = match status {
            Status::Missed => format!("Bearer realm=\"{uri}\""),
            _ => format!("Bearer realm=\"{uri}\", error=\"invalid_token\""),
        };
        verdict.body = status.text().into();
        if let Ok(challenge) = HeaderValue::from_str(&challenge) {
            verdict.headers.push((header::WWW_AUTHENTICATE, challenge));
        }
    }
    ProxyError::Filter(Box::new(verdict))
}
