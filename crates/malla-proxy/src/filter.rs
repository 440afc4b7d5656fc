//! HTTP filters: one file for each; here is the chain.
//!
//! A filter that may stop, change or hold up a request has an arm in [`run`], which goes through the chain in its
//! configured order; one that changes answers has an arm in [`respond`], which goes through it in reverse, for answers
//! of upstreams and of this proxy alike. What a filter learns of a request for its answer is a [`Note`]; what it learns
//! for others goes into the exchange's `StreamState` (dynamic metadata, filter state).
//!
//! Seats for filters: `x.state_mut()` (metadata), `x.body.read_ahead` and `adapt` (request bodies), `x.adapt` (answers'
//! bodies), `x.cx.worker.caller()` (side calls), `route_again` (route cache), `ProxyError::Filter` (an own answer).

pub(crate) mod chain;
pub mod cors;
mod descriptors;
pub(crate) mod ext_authz;
pub mod fault;
mod grpc_stats;
pub(crate) mod grpc_web;
pub(crate) mod header_mutation;
mod health_check;
mod jwt;
mod local_rate_limit;
pub(crate) mod query;
pub(crate) mod rate_limit;
mod rbac;

use std::rc::Rc;
use std::sync::Arc;

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use malla_proxy_config::http_filter::{
    CorsPolicy, FilterOverride, HttpFilter, HttpFilterKind, SetFilterState,
};
use tokio::time::Instant;

use crate::http::client_body::ReadAhead;
use crate::http::error::{ProxyError, Verdict};
use crate::http::exchange::Exchange;
use crate::http::response::BodyOf;
use crate::http::selected::Selected;
use crate::http::serve::route_again;
use crate::http::state::HttpWorker;
use crate::jwt::provider::JwtFilter;
use crate::policy::token_bucket::TokenBucket;
use crate::telemetry::access_log;
use crate::telemetry::flags::Flag;
use crate::telemetry::stats::ExtAuthzStats;
use crate::upstream::{SendError, Upstreams};

/// What a filter keeps of a request for its answer.
#[derive(Debug)]
pub(crate) enum Note {
    /// The origin this is a CORS request from, and the policy that allows it.
    Cors(HeaderValue, Arc<CorsPolicy>),
    /// What another service wants the answer to say.
    ExtAuthz(ext_authz::ResponseEdits),
    /// The bucket that decided on it.
    Tokens(Arc<TokenBucket>),
    /// Headers for its answer.
    Headers(HeaderMap),
    /// It is a health check.
    HealthCheck,
    /// It is a call of gRPC-Web; its answer is to be base64.
    GrpcWeb {
        /// Or not.
        text: bool,
    },
    /// The body of its answer has been read, and told in headers.
    BodyTold,
}

/// What a filter keeps from request to request in one worker, at its place in the chain.
#[derive(Debug, Clone)]
pub(crate) enum Runtime {
    /// Nothing.
    None,
    /// Keys and tokens.
    Jwt(Rc<JwtFilter>),
    /// Counters of questions.
    ExtAuthz(Arc<ExtAuthzStats>),
}

impl Runtime {
    /// Starts a filter of a manager whose statistics begin with `stat_prefix`.
    pub(crate) fn start<U: Upstreams>(
        filter: &HttpFilter,
        stat_prefix: &str,
        worker: &HttpWorker<U>,
    ) -> Self {
        match &filter.kind {
            HttpFilterKind::Jwt(config) => {
                let prefix = format!("http.{stat_prefix}.jwt_authn.{}", config.stat_prefix);
                let stats = worker.stats().jwt(prefix.trim_end_matches('.'));
                let env = &worker.process.environment.env;
                Self::Jwt(JwtFilter::new(config, stats, worker.caller(), env))
            }
            HttpFilterKind::ExtAuthz(config) => {
                Self::ExtAuthz(ext_authz::stats(config, stat_prefix, worker.stats()))
            }
            _ => Self::None,
        }
    }
}

/// Runs the filters; the first that has an answer ends the request. What waits is boxed: every request would carry the room
/// for the largest of them.
pub(crate) async fn run<U: Upstreams>(x: &mut Exchange<U>) -> Result<(), ProxyError> {
    let chain = Rc::clone(&x.chain);
    for (index, filter) in chain.filters.iter().enumerate() {
        // Anew for each filter: one before may have led the request elsewhere.
        let selected = x.selected.clone();
        let level = match level(filter, selected.as_deref()) {
            Level::Off => continue,
            Level::On(level) => level,
        };
        match (&filter.kind, level) {
            (HttpFilterKind::Fault(_), Some(FilterOverride::Fault(config))) => {
                fault::inject(x, config).await?
            }
            (HttpFilterKind::Fault(config), _) => fault::inject(x, config).await?,
            (HttpFilterKind::Cors, Some(FilterOverride::Cors(policy))) => {
                cors::check_origin(x, index, policy)?
            }
            (HttpFilterKind::Cors, _) => {}
            (HttpFilterKind::Rbac(_), Some(FilterOverride::Rbac(config))) => {
                rbac::check_access(x, config)?
            }
            (HttpFilterKind::Rbac(config), _) => rbac::check_access(x, config)?,
            (HttpFilterKind::Jwt(_), level) => {
                if let Some(Runtime::Jwt(filter)) = chain.runtimes.get(index) {
                    Box::pin(jwt::authenticate(x, filter, level)).await?
                }
            }
            (HttpFilterKind::ExtAuthz(config), level) => {
                if let Some(Runtime::ExtAuthz(stats)) = chain.runtimes.get(index) {
                    Box::pin(ext_authz::authorise(x, index, config, stats, level)).await?
                }
            }
            (HttpFilterKind::LocalRateLimit(_), Some(FilterOverride::LocalRateLimit(config))) => {
                local_rate_limit::check(x, index, config)?
            }
            (HttpFilterKind::LocalRateLimit(config), _) => {
                local_rate_limit::check(x, index, config)?
            }
            (HttpFilterKind::RateLimit(config), level) => {
                let route = match level {
                    Some(FilterOverride::RateLimit(route)) => Some(&**route),
                    _ => None,
                };
                Box::pin(rate_limit::check(x, index, config, route)).await?
            }
            (HttpFilterKind::HeaderMutation(config), _) => {
                header_mutation::request(x, config, selected.as_deref(), &filter.name)
            }
            (HttpFilterKind::HealthCheck(config), _) => {
                Box::pin(health_check::check(x, index, config)).await?
            }
            (HttpFilterKind::Buffer(_), Some(FilterOverride::Buffer(limit))) => {
                Box::pin(buffer(x, *limit)).await?
            }
            (HttpFilterKind::Buffer(limit), _) => Box::pin(buffer(x, *limit)).await?,
            (HttpFilterKind::GrpcStats(config), _) => grpc_stats::begin(x, config),
            (HttpFilterKind::SetFilterState(_), Some(FilterOverride::SetFilterState(config))) => {
                note(x, config)
            }
            (HttpFilterKind::SetFilterState(config), _) => note(x, config),
            (HttpFilterKind::GrpcWeb, _) => grpc_web::request(x, index)?,
            (HttpFilterKind::Discovered(_), _) => return Err(not_there()),
            // They look on, or act elsewhere: the manager knows them.
            (
                HttpFilterKind::Router(_)
                | HttpFilterKind::IstioAlpn
                | HttpFilterKind::IstioStats(_)
                | HttpFilterKind::PeerMetadata(_),
                _,
            ) => {}
        }
    }
    Ok(())
}

/// Runs the filters that change answers, the last first.
pub(crate) fn respond<U: Upstreams>(x: &mut Exchange<U>, headers: &mut HeaderMap) {
    if x.notes.is_empty() && !x.chain.edits_answers {
        return;
    }
    let chain = Rc::clone(&x.chain);
    for (index, filter) in chain.filters.iter().enumerate().rev() {
        let selected = x.selected.clone();
        let Level::On(_) = level(filter, selected.as_deref()) else {
            continue;
        };
        match (&filter.kind, x.note(index)) {
            (HttpFilterKind::Cors, Some(Note::Cors(origin, policy))) => {
                cors::answer(headers, origin, policy);
            }
            (_, Some(Note::Tokens(bucket))) => local_rate_limit::tell(headers, bucket),
            (_, Some(Note::Headers(more))) => {
                for (name, value) in more {
                    headers.append(name.clone(), value.clone());
                }
            }
            (_, Some(Note::GrpcWeb { text })) => {
                let text = *text;
                grpc_web::respond(x, text, headers);
            }
            (_, Some(Note::ExtAuthz(edits))) => ext_authz::respond(edits, headers),
            (HttpFilterKind::HeaderMutation(config), _) => {
                header_mutation::response(x, config, selected.as_deref(), &filter.name, headers);
            }
            (HttpFilterKind::HealthCheck(config), _) => {
                health_check::respond(x, index, config, headers);
            }
            _ => {}
        }
    }
}

/// Lets filters read an answer's body that must know it before its head goes.
pub(crate) async fn read_answer<U: Upstreams>(
    x: &mut Exchange<U>,
    response: &mut Response<BodyOf<U>>,
    deadline: Option<Instant>,
) -> Result<(), ProxyError> {
    if x.notes.is_empty() {
        return Ok(());
    }
    let read = Box::pin(grpc_web::read_answer(x, response, deadline)).await;
    read.map_err(|error| ProxyError::Upstream {
        error: SendError::Reset(error),
        retried: false,
    })
}

/// True if a filter says in the headers what the body of an answer of our own says.
pub(crate) fn tells_body<U: Upstreams>(
    x: &Exchange<U>,
    status: StatusCode,
    headers: &mut HeaderMap,
    body: &[u8],
) -> bool {
    !x.notes.is_empty() && grpc_web::own_answer(x, status, headers, body)
}

/// True if a filter may change answers to requests it has noted nothing of.
pub(crate) fn edits_answers(filters: &[HttpFilter]) -> bool {
    filters.iter().any(|filter| match filter.kind {
        HttpFilterKind::HeaderMutation(_) | HttpFilterKind::HealthCheck(_) => true,
        HttpFilterKind::Router(_)
        | HttpFilterKind::Fault(_)
        | HttpFilterKind::Cors
        | HttpFilterKind::Rbac(_)
        | HttpFilterKind::Jwt(_)
        | HttpFilterKind::ExtAuthz(_)
        | HttpFilterKind::LocalRateLimit(_)
        | HttpFilterKind::RateLimit(_)
        | HttpFilterKind::Buffer(_)
        | HttpFilterKind::GrpcStats(_)
        | HttpFilterKind::SetFilterState(_)
        | HttpFilterKind::GrpcWeb
        | HttpFilterKind::IstioAlpn
        | HttpFilterKind::IstioStats(_)
        | HttpFilterKind::PeerMetadata(_)
        | HttpFilterKind::Discovered(_) => false,
    })
}

/// Makes notes about a request (`set_filter_state`).
fn note<U: Upstreams>(x: &mut Exchange<U>, config: &SetFilterState) {
    for note in &config.notes {
        if let Some(text) = access_log::note_text(note, &x.source()) {
            x.state_mut().objects.insert(Arc::clone(&note.key), text);
        }
    }
    if config.clear_route_cache {
        route_again(x);
    }
}

/// A filter that should have come by name has not: nobody may pass it by.
fn not_there() -> ProxyError {
    let verdict = Verdict::new(StatusCode::INTERNAL_SERVER_ERROR, "");
    ProxyError::Filter(Box::new(verdict.flag(Flag::NoFilterConfigFound)))
}

/// Waits for the whole request, of at most so many bytes.
async fn buffer<U: Upstreams>(x: &mut Exchange<U>, limit: u64) -> Result<(), ProxyError> {
    if x.is_upgrade() {
        return Ok(()); // It has no end to wait for.
    }
    let Some(body) = x.body.as_mut() else {
        return Ok(());
    };
    match body.read_ahead(limit).await {
        Ok(ReadAhead::Whole) => {
            let length = body.bytes_ahead();
            let headers = &mut x.head.headers;
            headers.entry(CONTENT_LENGTH).or_insert(length.into());
            Ok(())
        }
        Ok(ReadAhead::More) => Err(ProxyError::BodyTooLarge),
        Err(_) => Err(ProxyError::of_body(&x.flow)),
    }
}

/// Headers as an answer of ours has them.
fn flat(headers: HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let mut out = Vec::with_capacity(headers.len());
    let mut last = None;
    for (name, value) in headers {
        last = name.or(last);
        out.extend(last.clone().map(|name| (name, value)));
    }
    out
}

/// True if what filters add to answers reads the request's headers.
pub(crate) fn reads_request(filters: &[HttpFilter], selected: Option<&Selected>) -> bool {
    filters.iter().any(|filter| match &filter.kind {
        HttpFilterKind::HeaderMutation(config) => {
            header_mutation::reads_request(config, selected, &filter.name)
        }
        _ => false,
    })
}

/// Whether a filter acts on a request, and what routing says about it.
enum Level<'s> {
    Off,
    On(Option<&'s FilterOverride>),
}

fn level<'s>(filter: &HttpFilter, selected: Option<&'s Selected>) -> Level<'s> {
    let level = selected.and_then(|selected| selected.per_filter(&filter.name));
    match level {
        Some(FilterOverride::Disabled) => Level::Off,
        None if filter.disabled => Level::Off,
        level => Level::On(level),
    }
}
