//! Asks another service whether a request may go on (`envoy.filters.http.ext_authz`).
//!
//! Invariants: no answer is a no, unless the configuration says otherwise; what is shown of a body is bounded; what the
//! service asks to change is checked before it is done.

mod answer;
pub(crate) mod ask;

#[cfg(fuzzing)]
pub use self::answer::decided;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use malla_proxy_config::http_filter::{
    AuthzBody, AuthzHttp, AuthzOverride, AuthzService, ExtAuthz, FilterOverride,
};
use malla_proxy_config::metadata::{Object, Value};
use tokio::time::Instant;

use self::answer::{AddAction, Changes, Decision, Denial};
use super::Note;
use crate::http::client_body::ReadAhead;
use crate::http::error::{ProxyError, Verdict};
use crate::http::exchange::Exchange;
use crate::http::serve::route_again;
use crate::telemetry::codes::Origin;
use crate::telemetry::flags::Flag;
use crate::telemetry::stats::ExtAuthzStats;
use crate::upstream::{ClusterHandle, Upstreams};

/// Where metadata of answers goes.
const NAMESPACE: &str = "envoy.filters.http.ext_authz";
pub(crate) const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";
const FAILURE_ALLOWED: HeaderName = HeaderName::from_static("x-envoy-auth-failure-mode-allowed");
/// Bytes of a refused request's body that are read if they are there, so that its connection can go on.
const ARRIVED: u64 = 64 << 10;
/// No answer of the service is longer, bytes.
const MAX_ANSWER: usize = 4 << 20;

/// What an answer asks the client's response to be given.
#[derive(Debug)]
pub(crate) struct ResponseEdits(Vec<(HeaderName, HeaderValue, AddAction)>);

/// Asks, and does what the answer says.
pub(super) async fn authorise<U: Upstreams>(
    x: &mut Exchange<U>,
    index: usize,
    config: &ExtAuthz,
    stats: &ExtAuthzStats,
    level: Option<&FilterOverride>,
) -> Result<(), ProxyError> {
    if x.selected.is_none() {
        return Ok(()); // There is nothing to protect.
    }
    let route = match level {
        Some(FilterOverride::ExtAuthz(route)) => Some(&**route),
        _ => None,
    };
    let noted = config.enabled_metadata.as_ref().is_none_or(|matcher| {
        let state = x.observer.record().state.as_ref();
        matcher.is_match(state.map(|state| &state.metadata))
    });
    if !noted || !config.enabled.hit(x.cx.worker.random()) {
        stats.disabled.inc();
        return match config.deny_at_disable {
            true => Err(no_answer(config)),
            false => Ok(()),
        };
    }
    let body = route.and_then(|route| route.body).unwrap_or(config.body);
    let shown = read_body(x, body).await?;
    let service = route.and_then(|route| route.service.as_ref());
    let started = Instant::now();
    let decision = ask(x, config, service.unwrap_or(&config.service), route, shown).await;
    act(x, index, config, stats, decision, started)
}

/// What is shown of the body, and whether that is all.
async fn read_body<U: Upstreams>(
    x: &mut Exchange<U>,
    config: Option<AuthzBody>,
) -> Result<Option<(Bytes, bool, AuthzBody)>, ProxyError> {
    let Some(config) = config.filter(|_| !x.is_upgrade()) else {
        return Ok(None);
    };
    let Some(body) = &mut x.body else {
        return Ok(None);
    };
    let max = u64::from(config.max);
    let read = match config.partial {
        true => body.read_part(max).await,
        false => body.read_ahead(max).await,
    };
    let read = read.map_err(|_| ProxyError::of_body(&x.flow))?;
    if read == ReadAhead::More && !config.partial {
        x.cx.manager.stats.downstream_rq_too_large.inc();
        return Err(ProxyError::BodyTooLarge);
    }
    let shown = body.ahead(config.max as usize);
    let partial = read == ReadAhead::More;
    Ok(Some((shown, partial, config)))
}

async fn ask<U: Upstreams>(
    x: &Exchange<U>,
    config: &ExtAuthz,
    service: &AuthzService,
    route: Option<&AuthzOverride>,
    body: Option<(Bytes, bool, AuthzBody)>,
) -> Decision {
    let caller = x.cx.worker.caller();
    match service {
        AuthzService::Grpc(service) => {
            let request = ask::grpc(x, config, route, body);
            let asked = caller.unary(service, METHOD, &[], &request, MAX_ANSWER);
            match asked.await {
                Ok(response) => answer::of_grpc(response),
                Err(error) => {
                    tracing::debug!(%error, "the authorization service gives no answer");
                    Decision::Unknown
                }
            }
        }
        AuthzService::Http(service) => {
            let mut left = service.retries;
            loop {
                let decision = ask_http(x, config, service, body.clone()).await;
                if decision != Decision::Unknown || left == 0 {
                    return decision;
                }
                left -= 1;
            }
        }
    }
}

async fn ask_http<U: Upstreams>(
    x: &Exchange<U>,
    config: &ExtAuthz,
    service: &AuthzHttp,
    body: Option<(Bytes, bool, AuthzBody)>,
) -> Decision {
    let Some(request) = ask::http(x, config, service, body) else {
        return Decision::Unknown;
    };
    let (cluster, timeout) = (&service.service.cluster, service.service.timeout);
    let asked =
        x.cx.worker
            .caller()
            .http(cluster, request, timeout, MAX_ANSWER);
    match asked.await {
        Ok(response) => answer::of_http(response, service),
        Err(error) => {
            tracing::debug!(%error, "the authorization service gives no answer");
            Decision::Unknown
        }
    }
}

/// Does what a decision asks for.
fn act<U: Upstreams>(
    x: &mut Exchange<U>,
    index: usize,
    config: &ExtAuthz,
    stats: &ExtAuthzStats,
    decision: Decision,
    started: Instant,
) -> Result<(), ProxyError> {
    let of_cluster = x.handle.as_ref().map(|handle| {
        let prefix = format!("cluster.{}.ext_authz", handle.config().stat_name);
        x.cx.worker.stats().ext_authz(&prefix)
    });
    let count = |pick: fn(&ExtAuthzStats)| {
        pick(stats);
        of_cluster.as_deref().into_iter().for_each(pick);
    };
    match decision {
        Decision::Allowed(changes) => {
            let mut metadata = changes.metadata.clone();
            if !metadata.is_empty() {
                let millis = started.elapsed().as_millis() as f64;
                metadata.insert("ext_authz_duration".into(), Value::Number(millis));
            }
            note(x, config, stats, metadata);
            if config.validate_mutations && changes.invalid {
                stats.invalid.inc();
                return Err(invalid());
            }
            count(|stats| stats.ok.inc());
            allow(x, index, config, *changes);
            Ok(())
        }
        Decision::Denied(denial) => {
            note(x, config, stats, denial.metadata.clone());
            if config.validate_mutations && denial.invalid {
                stats.invalid.inc();
                return Err(invalid());
            }
            count(|stats| stats.denied.inc());
            if config.charge
                && let Some(handle) = &x.handle
            {
                handle
                    .stats()
                    .codes
                    .answered(denial.status, &Origin::default());
            }
            if let Some(body) = &mut x.body {
                body.read_arrived(ARRIVED);
            }
            Err(deny(config, *denial))
        }
        Decision::Unknown => {
            count(|stats| stats.error.inc());
            if !config.allow_failure {
                return Err(no_answer(config));
            }
            count(|stats| stats.failure_mode_allowed.inc());
            if config.mark_failure {
                let headers = &mut x.head.headers;
                headers.append(FAILURE_ALLOWED, HeaderValue::from_static("true"));
            }
            Ok(())
        }
    }
}

fn note<U: Upstreams>(
    x: &mut Exchange<U>,
    config: &ExtAuthz,
    stats: &ExtAuthzStats,
    metadata: Object,
) {
    if metadata.is_empty() {
        return;
    }
    match config.takes_metadata {
        true => x.state_mut().merge(NAMESPACE, metadata),
        false => stats.ignored_dynamic_metadata.inc(),
    }
}

/// Changes the request as a yes asks for.
fn allow<U: Upstreams>(x: &mut Exchange<U>, index: usize, config: &ExtAuthz, changes: Changes) {
    let anew = config.clear_route_cache && changes.changes_request();
    for change in changes.request {
        change.apply(x);
    }
    for name in changes.remove {
        x.head.headers.remove(name);
    }
    if let Some(path) =
        answer::edited_query(x.view().path, &changes.query_set, &changes.query_remove)
    {
        x.set_path(path);
    }
    if !changes.response.is_empty() {
        x.notes
            .push((index, Note::ExtAuthz(ResponseEdits(changes.response))));
    }
    if anew {
        route_again(x);
    }
}

/// Changes the client's answer as the yes asked for.
pub(super) fn respond(edits: &ResponseEdits, headers: &mut HeaderMap) {
    for (name, value, action) in &edits.0 {
        match action {
            AddAction::Add => {
                headers.append(name, value.clone());
            }
            AddAction::Set => {
                headers.insert(name, value.clone());
            }
            AddAction::AddIfAbsent => {
                headers.entry(name).or_insert_with(|| value.clone());
            }
            AddAction::OverwriteIfExists => {
                if headers.contains_key(name) {
                    headers.insert(name, value.clone());
                }
            }
        }
    }
}

fn deny(config: &ExtAuthz, denial: Denial) -> ProxyError {
    let mut body = denial.body;
    if let Some(max) = config.max_denied_body {
        body.truncate(max);
    }
    let mut verdict =
        Verdict::new(denial.status, "ext_authz_denied").flag(Flag::UnauthorizedExternalService);
    verdict.body = body;
    verdict.headers = denial.headers;
    ProxyError::Filter(Box::new(verdict))
}

fn no_answer(config: &ExtAuthz) -> ProxyError {
    let verdict = Verdict::new(config.status_on_error, "ext_authz_error")
        .flag(Flag::UnauthorizedExternalService);
    ProxyError::Filter(Box::new(verdict))
}

fn invalid() -> ProxyError {
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    let verdict = Verdict::new(status, "ext_authz_invalid").flag(Flag::UnauthorizedExternalService);
    ProxyError::Filter(Box::new(verdict))
}

/// Counters of a filter of a manager whose statistics begin with `stat_prefix`.
pub(super) fn stats(
    config: &ExtAuthz,
    stat_prefix: &str,
    stats: &crate::telemetry::stats::WorkerStats,
) -> Arc<ExtAuthzStats> {
    let prefix = format!("http.{stat_prefix}.ext_authz.{}", config.stat_prefix);
    stats.ext_authz(prefix.trim_end_matches('.'))
}
