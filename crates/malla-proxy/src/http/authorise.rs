//! Phase 3: the filters that may stop a request, in configured order, then the route's own answers.

use std::rc::Rc;
use std::sync::Arc;

use http::header;
use malla_proxy_config::http_filter::{
    CorsPolicy, Fault, FilterOverride, HttpFilterKind, HttpRbac,
};
use malla_proxy_config::route::action::Target;

use super::error::ProxyError;
use super::exchange::Exchange;
use super::rewrite::answer_of_route;
use super::selected::Selected;
use super::state::Manager;
use crate::filter::{cors, fault};
use crate::policy::rbac::{self, Subject};
use crate::telemetry::flags::Flag;
use crate::upstream::Upstreams;

/// Runs the filters; the first that has an answer ends the request.
pub(super) async fn authorise<U: Upstreams>(x: &mut Exchange<U>) -> Result<(), ProxyError> {
    let manager = Rc::clone(&x.cx.manager);
    let selected = x.selected.clone();
    for filter in &manager.config.filters {
        let level = selected
            .as_ref()
            .and_then(|selected| selected.per_filter(&filter.name));
        if matches!(level, Some(FilterOverride::Disabled)) || (filter.disabled && level.is_none()) {
            continue;
        }
        match (&filter.kind, level) {
            (HttpFilterKind::Fault(_), Some(FilterOverride::Fault(config))) => {
                inject(x, config).await?
            }
            (HttpFilterKind::Fault(config), _) => inject(x, config).await?,
            (HttpFilterKind::Cors, Some(FilterOverride::Cors(policy))) => check_origin(x, policy)?,
            (HttpFilterKind::Cors, _) => {}
            (HttpFilterKind::Rbac(_), Some(FilterOverride::Rbac(config))) => {
                check_access(x, config)?
            }
            (HttpFilterKind::Rbac(config), _) => check_access(x, config)?,
            // They look on, or act elsewhere: the manager knows them.
            (
                HttpFilterKind::GrpcStats
                | HttpFilterKind::Router(_)
                | HttpFilterKind::IstioAlpn
                | HttpFilterKind::IstioStats(_)
                | HttpFilterKind::PeerMetadata(_),
                _,
            ) => {}
        }
    }
    match &selected {
        None => {
            x.cx.manager.stats.no_route.inc();
            Err(ProxyError::NoRoute)
        }
        Some(selected) => answer_of_route(x, selected),
    }
}

async fn inject<U: Upstreams>(x: &mut Exchange<U>, config: &Fault) -> Result<(), ProxyError> {
    if config.delay.is_none() && config.abort.is_none() {
        return Ok(());
    }
    let cluster = x
        .selected
        .as_deref()
        .and_then(Selected::forward)
        .and_then(|forward| match &forward.target {
            Target::Cluster(name) => Some(&**name),
            Target::Header(_) | Target::Weighted(_) => None,
        });
    if !fault::applies(config, &x.view(), cluster) {
        return Ok(());
    }
    let manager = Rc::clone(&x.cx.manager);
    let (delay_draw, abort_draw) = (x.cx.worker.random(), x.cx.worker.random());
    let delay = fault::delay(config, &x.head.headers, delay_draw);
    let abort = fault::abort(config, &x.head.headers, abort_draw);
    if delay.is_none() && abort.is_none() {
        return Ok(());
    }
    let Some(_active) = ActiveFault::start(&manager, config.max_active) else {
        manager.stats.fault_faults_overflow.inc();
        return Ok(());
    };
    if let Some(delay) = delay {
        manager.stats.fault_delays_injected.inc();
        x.record().flags.set(Flag::DelayInjected);
        tokio::time::sleep(delay).await;
    }
    match abort {
        None => Ok(()),
        Some((status, grpc)) => {
            manager.stats.fault_aborts_injected.inc();
            Err(ProxyError::FaultAbort { status, grpc })
        }
    }
}

/// Counts one fault under way; freed by its drop.
struct ActiveFault(Rc<Manager>);

impl ActiveFault {
    fn start(manager: &Rc<Manager>, max: Option<u64>) -> Option<Self> {
        let active = manager.active_faults.get();
        if max.is_some_and(|max| active >= max) {
            return None;
        }
        manager.active_faults.set(active + 1);
        manager.stats.fault_active_faults.inc();
        Some(Self(Rc::clone(manager)))
    }
}

impl Drop for ActiveFault {
    fn drop(&mut self) {
        self.0
            .active_faults
            .set(self.0.active_faults.get().saturating_sub(1));
        self.0.stats.fault_active_faults.dec();
    }
}

fn check_origin<U: Upstreams>(
    x: &mut Exchange<U>,
    policy: &Arc<CorsPolicy>,
) -> Result<(), ProxyError> {
    if !policy.enabled.hit(x.cx.worker.random()) {
        return Ok(());
    }
    let stats = &x.cx.manager.stats;
    match cors::check(&x.head.method, &x.head.headers, policy) {
        cors::Outcome::Pass => {
            if x.head.headers.contains_key(header::ORIGIN) {
                stats.cors_origin_invalid.inc();
            }
            Ok(())
        }
        cors::Outcome::Allowed(origin) => {
            stats.cors_origin_valid.inc();
            x.cors = Some((origin, Arc::clone(policy)));
            Ok(())
        }
        cors::Outcome::Preflight(headers) => {
            if headers.is_empty() {
                stats.cors_origin_invalid.inc()
            } else {
                stats.cors_origin_valid.inc()
            }
            Err(ProxyError::Preflight { headers })
        }
    }
}

fn check_access<U: Upstreams>(x: &mut Exchange<U>, config: &HttpRbac) -> Result<(), ProxyError> {
    let view = x.view();
    let subject = Subject {
        connection: &x.cx.connection,
        request: Some(&view),
        remote: x.observer.record().remote,
    };
    if let Some(rules) = &config.shadow {
        let decision = rbac::decide(rules, &subject);
        let stats = x.cx.manager.rbac_stats(&config.shadow_prefix);
        if decision.allowed {
            stats.shadow_allowed.inc();
        } else {
            stats.shadow_denied.inc();
        }
        tracing::debug!(
            prefix = &*config.shadow_prefix,
            allowed = decision.allowed,
            policy = decision.policy,
            "shadow rules decided"
        );
    }
    let Some(rules) = &config.rules else {
        return Ok(());
    };
    let decision = rbac::decide(rules, &subject);
    let stats = x.cx.manager.rbac_stats(&config.stat_prefix);
    if decision.allowed {
        stats.allowed.inc();
        return Ok(());
    }
    stats.denied.inc();
    Err(ProxyError::Denied {
        policy: decision.policy.map(Arc::from),
    })
}
