//! A request's life: normalise → select_route → authorise → rewrite_request → send → rewrite_response → observe.

use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method, Request, Response};
use hyper::body::Incoming;
use malla_proxy_config::overload::{ActionKind, Timer};
use malla_proxy_config::route::action::Target;
use tokio::time::Instant;

use super::answer::{answer, rewrite_response};
use super::body::Flow;
use super::connection::Context;
use super::error::{ProxyError, Timeout};
use super::exchange::Exchange;
use super::hash::cluster_name;
use super::normalise::normalise;
use super::response::ResponseBody;
use super::rewrite::answer_of_route;
use super::selected::Selected;
use super::send::send;
use super::{peers, redirect, timeouts, trace};
use crate::filter;
use crate::upstream::{ClusterHandle, Upstreams};

const ORIGINAL_URL: HeaderName = HeaderName::from_static("x-envoy-original-url");

/// Handles one request; the record is written when the answer's body has gone.
pub(super) async fn serve<U: Upstreams>(
    cx: Rc<Context<U>>,
    request: Request<Incoming>,
) -> Response<ResponseBody<U>> {
    let mut x = Exchange::begin(cx, request);
    let flow = Rc::clone(&x.flow);
    let watch = Watch::of(&x);
    let overloaded =
        x.cx.worker
            .process
            .pressure
            .acts(ActionKind::StopAcceptingRequests);
    if overloaded {
        x.cx.manager.stats.downstream_rq_overload_close.inc();
        return answer(x, ProxyError::Overloaded);
    }
    let outcome = tokio::select! {
        biased; // An answer that is there beats a timeout of the same moment.
        outcome = run(&mut x) => outcome,
        timeout = watch.passed(&flow) => Err(ProxyError::Timeout(timeout)),
    };
    if let Err(ProxyError::Timeout(timeout)) = &outcome {
        timeout.count(&x.cx.manager.stats);
    }
    match outcome {
        Ok(response) => response,
        Err(error) => answer(x, error),
    }
}

/// The phases.
async fn run<U: Upstreams>(x: &mut Exchange<U>) -> Result<Response<ResponseBody<U>>, ProxyError> {
    loop {
        normalise(x)?;
        if let Some(url) = x.original_url.take() {
            // Not the client's, which has been taken away.
            x.head.headers.insert(ORIGINAL_URL, url);
        }
        peers::receive(x);
        select_route(x)?;
        filter::run(x).await?;
        answer_of_route(x)?;
        let mut sent = send(x).await?; // Rewrites the request, then balances, tries and retries.
        if !redirect::follows(x, &sent.response, &sent.stats) {
            filter::read_answer(x, &mut sent.response, sent.deadline).await?;
            return Ok(rewrite_response(x, sent));
        }
    }
}

/// Phase 2: virtual host, route, weighted cluster; upgrades must be allowed there.
fn select_route<U: Upstreams>(x: &mut Exchange<U>) -> Result<(), ProxyError> {
    find_route(x);
    trace::begin(x);
    if x.selected.is_none() && x.head.method == Method::CONNECT {
        x.closes = true;
        return Err(ProxyError::NoRoute);
    }
    if let Some(upgrade) = &x.upgrade {
        let forward = x.selected.as_deref().and_then(Selected::forward);
        if !upgrade.is_allowed(&x.cx.manager.config, forward) {
            x.cx.manager.stats.downstream_rq_ws_on_non_ws_route.inc();
            return Err(ProxyError::UpgradeRefused);
        }
    }
    Ok(())
}

/// Finds the route, and what hangs on it.
fn find_route<U: Upstreams>(x: &mut Exchange<U>) {
    let begun = x.cx.manager.needs.route_time.then(Instant::now);
    let routes = x.cx.manager.routes(&x.snapshot);
    let selected = routes.and_then(|routes| Selected::find(routes, &x.view(), x.random));
    let record = x.observer.record_mut();
    record.route_searches += 1;
    if let Some(begun) = begun {
        *record.route_time.get_or_insert_default() += begun.elapsed();
    }
    x.selected = selected.map(Rc::new);
    if !x.internal
        && let Some(selected) = &x.selected
    {
        for name in &selected.config().internal_only {
            x.head.headers.remove(name);
        }
    }
    find_cluster(x);
    x.observer.record_mut().selected = x.selected.clone();
    limit_stream(x);
}

/// Routes a request again after a filter has changed it (`clear_route_cache`).
pub(crate) fn route_again<U: Upstreams>(x: &mut Exchange<U>) {
    find_route(x);
}

/// The route's own limits take the place of the manager's.
fn limit_stream<U: Upstreams>(x: &mut Exchange<U>) {
    let Some(forward) = x.selected.as_deref().and_then(Selected::forward) else {
        return;
    };
    if let Some(idle) = forward.idle_timeout {
        x.flow.idle.set(reduced(&x.cx, idle));
    }
    let of_manager = x.cx.manager.config.common.max_stream_duration;
    let headers = &mut x.head.headers;
    if let Some(limit) = timeouts::of_stream(forward, headers, x.grpc, of_manager) {
        let start = x.observer.record().start;
        x.flow.until.set(limit.map(|limit| start + limit));
    }
}

/// The time without a byte that a stream that begins now is given.
fn reduced<U: Upstreams>(cx: &Context<U>, idle: Option<Duration>) -> Option<Duration> {
    let pressure = &cx.worker.process.pressure;
    idle.map(|idle| pressure.reduced(Timer::StreamIdle, idle))
}

/// The cluster the route leads to; filters and logs know it even if the request never gets there.
pub(super) fn find_cluster<U: Upstreams>(x: &mut Exchange<U>) {
    let Some(selected) = &x.selected else { return };
    let by_header = |name| cluster_name(&x.view(), name).map(Arc::from);
    let name: Option<Arc<str>> = match selected.forward().map(|forward| &forward.target) {
        None => None,
        Some(Target::Cluster(name)) => Some(Arc::clone(name)),
        Some(Target::Header(name)) => by_header(name),
        Some(Target::Weighted(_)) => match selected.weighted().map(|cluster| &cluster.cluster) {
            Some(Ok(name)) => Some(Arc::clone(name)),
            Some(Err(header)) => by_header(header),
            None => None,
        },
    };
    x.handle = name.and_then(|name| x.cx.worker.upstreams.cluster(&x.snapshot, &name));
    let config = x.handle.as_ref().map(|handle| Arc::clone(handle.config()));
    let record = x.record();
    record.cluster = config;
}

/// The limits of a request that are not the route's.
struct Watch {
    start: Instant,
    request: Option<Duration>,
}

impl Watch {
    fn of<U: Upstreams>(x: &Exchange<U>) -> Self {
        let config = &x.cx.manager.config;
        let start = x.observer.record().start;
        x.flow.idle.set(reduced(&x.cx, config.timeouts.stream_idle));
        x.flow
            .until
            .set(config.common.max_stream_duration.map(|limit| start + limit));
        Self {
            start,
            request: config.timeouts.request,
        }
    }

    /// Waits until a limit has passed.
    async fn passed(self, flow: &Flow) -> Timeout {
        loop {
            let last = flow.last.get().unwrap_or(self.start);
            let unfinished = flow.progress.request_end.get().is_none();
            let idle = flow
                .idle
                .get()
                .map(|limit| (last + limit, Timeout::Idle { client: unfinished }));
            let request = self.request.filter(|_| unfinished);
            let request = request.map(|limit| (self.start + limit, Timeout::Request));
            let until = flow.until.get();
            let until = until.map(|at| (at, Timeout::Stream { client: unfinished }));
            let next = [request, until, idle]
                .into_iter()
                .flatten()
                .min_by_key(|(at, _)| *at);
            match next {
                None => return pending().await,
                Some((at, timeout)) if Instant::now() >= at => return timeout,
                Some((at, _)) => tokio::time::sleep_until(at).await,
            }
        }
    }
}
