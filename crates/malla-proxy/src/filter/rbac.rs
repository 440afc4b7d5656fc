//! Access control of requests.

use std::sync::Arc;

use malla_proxy_config::http_filter::HttpRbac;
use malla_proxy_config::metadata::{Object, Value};
use malla_proxy_config::rbac::Action;

use crate::http::error::ProxyError;
use crate::http::exchange::Exchange;
use crate::policy::rbac::{self, Subject, describe};
use crate::upstream::Upstreams;

/// Where the filter notes what it decided.
const NAMESPACE: &str = "envoy.filters.http.rbac";
/// Where a `LOG` action says whether the request is to be logged.
const COMMON: &str = "envoy.common";

/// Refuses what the rules deny; decisions, of shadow rules too, are noted in dynamic metadata.
pub(super) fn check_access<U: Upstreams>(
    x: &mut Exchange<U>,
    config: &HttpRbac,
) -> Result<(), ProxyError> {
    let view = x.view();
    let subject = Subject {
        connection: &x.cx.connection,
        request: Some(&view),
        route: x
            .selected
            .as_ref()
            .map(|selected| &selected.route().metadata),
        remote: &x.observer.record().remote,
        protocol: x.observer.record().protocol,
    };
    let shadow = config
        .shadow
        .as_ref()
        .map(|rules| rbac::decide(rules, &subject));
    let enforced = config
        .rules
        .as_ref()
        .map(|rules| (rules.action, rbac::decide(rules, &subject)));
    let mut note = Object::new();
    if let Some(decision) = shadow {
        let stats = x.cx.manager.rbac_stats(&config.shadow_prefix);
        if decision.allowed {
            stats.shadow_allowed.inc();
        } else {
            stats.shadow_denied.inc();
        }
        describe(&config.shadow_prefix, "shadow", &decision, &mut note);
    }
    if let Some((_, decision)) = &enforced {
        describe(&config.stat_prefix, "enforced", decision, &mut note);
    }
    if !note.is_empty() {
        x.state_mut().merge(NAMESPACE, note);
    }
    let Some((action, decision)) = enforced else {
        return Ok(());
    };
    let stats = x.cx.manager.rbac_stats(&config.stat_prefix);
    if action == Action::Log {
        let hint = Value::Bool(decision.policy.is_some());
        let note = Object::from([("access_log_hint".to_owned(), hint)]);
        x.state_mut().merge(COMMON, note);
    }
    if decision.allowed {
        stats.allowed.inc();
        return Ok(());
    }
    stats.denied.inc();
    Err(ProxyError::Denied {
        policy: decision.policy.map(Arc::from),
    })
}
