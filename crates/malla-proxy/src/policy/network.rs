//! The network filters of a chain, before the first byte of a connection goes on.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use malla_proxy_config::filter_chain::limits::NetworkRateLimit;
use malla_proxy_config::filter_chain::{NetworkFilter, NetworkRbac};
use malla_proxy_config::format::Format;
use malla_proxy_config::http_filter::{StateNote, TCP_CLUSTER};
use malla_proxy_config::metadata::Object;
use malla_proxy_config::rate_limit::DescriptorEntry;
use malla_proxy_config::stream_state::StreamState;
use smallvec::SmallVec;

use super::authz;
use super::connections::{self, LimitSlot, SharedBuckets};
use super::limiter::Descriptor;
use super::rbac::{Subject, decide, describe};
use super::rls;
use crate::call::Caller;
use crate::connection::Connection;
use crate::telemetry::access_log::{self, Environment};
use crate::telemetry::record::Record;
use crate::telemetry::stats::{NetworkLimitStats, WorkerStats};
use crate::upstream::Upstreams;

/// Where RBAC notes what its shadow rules decided.
const RBAC_NAMESPACE: &str = "envoy.filters.network.rbac";

/// A connection's fate under the chain's network filters.
#[derive(Debug)]
pub enum Verdict {
    /// It goes on.
    Allowed(Admission),
    /// It is closed.
    Denied(Denial),
}

/// What holds while a connection that was let in is open.
#[derive(Debug, Default)]
pub struct Admission {
    /// Its places under limits.
    slots: SmallVec<[LimitSlot; 1]>,
    /// A TCP proxy passes it on to this cluster, whatever it is configured with.
    pub cluster: Option<Arc<str>>,
    /// What has been noted of it.
    pub notes: Option<Arc<StreamState>>,
}

/// Why and how a connection is closed.
#[derive(Debug)]
pub struct Denial {
    /// Wait before closing.
    pub delay: Option<Duration>,
    /// For the log.
    pub reason: String,
    /// What it is counted by until it is closed.
    _admission: Admission,
}

/// What filters need beside the connection.
#[derive(Debug)]
pub struct Around<'a, U> {
    pub buckets: &'a SharedBuckets,
    pub stats: &'a WorkerStats,
    pub environment: &'a Environment,
    pub caller: &'a Caller<U>,
}

/// Runs the filters of the connection's chain in order.
pub async fn admit<U: Upstreams>(connection: &Connection, around: Around<'_, U>) -> Verdict {
    let stats = around.stats;
    let mut admission = Admission::default();
    // What filters note for those behind them.
    let mut noted = StreamState::default();
    let chain = Arc::clone(&connection.chain);
    let mut known: Option<Connection> = None;
    for filter in &chain.filters {
        let connection = known.as_ref().unwrap_or(connection);
        let denied = match filter {
            NetworkFilter::Rbac(config) => check_access(config, connection, stats, &mut noted),
            NetworkFilter::ConnectionRate(config) => {
                let allowed = connections::has_token(config, around.buckets, stats);
                (!allowed).then(|| (None, "connections come too fast".to_owned()))
            }
            NetworkFilter::ConnectionLimit(config) => {
                let counted = connections::count(config, stats);
                let within = counted.as_ref().is_none_or(|(_, within)| *within);
                admission.slots.extend(counted.map(|(slot, _)| slot));
                (!within).then(|| (config.delay, "there are too many connections".to_owned()))
            }
            NetworkFilter::ExtAuthz(config) if !authz::concerns(config, &noted) => None,
            NetworkFilter::ExtAuthz(config) => {
                let allowed = authz::allows(config, connection, around.caller, stats).await;
                (!allowed).then(|| (None, "the authorization service denies it".to_owned()))
            }
            NetworkFilter::SniCluster => {
                if let Some(name) = &connection.server_name {
                    admission.cluster = Some(Arc::clone(name));
                }
                None
            }
            NetworkFilter::SetFilterState(notes) => {
                note(notes, connection, around.environment, &mut noted);
                let cluster = noted.objects.get(TCP_CLUSTER).cloned();
                admission.cluster = cluster.or(admission.cluster.take());
                let state = Arc::new(noted.clone());
                admission.notes = Some(Arc::clone(&state));
                known = Some(Connection {
                    state: Some(state),
                    ..connection.clone()
                });
                None
            }
            NetworkFilter::RateLimit(config) => ask(config, connection, &around)
                .await
                .map(|reason| (None, reason)),
            NetworkFilter::IstioStats(_) | NetworkFilter::MetadataExchange(_) => None,
        };
        if let Some((delay, reason)) = denied {
            return Verdict::Denied(Denial {
                delay,
                reason,
                _admission: admission,
            });
        }
    }
    Verdict::Allowed(admission)
}

/// Makes notes about the connection.
fn note(
    notes: &[StateNote],
    connection: &Connection,
    environment: &Environment,
    noted: &mut StreamState,
) {
    let (now, wall) = (connection.accepted, connection.accepted_at);
    let mut record = Record::begin(Rc::new(connection.clone()), None, now, wall);
    for note in notes {
        record.state = Some(Box::new(noted.clone()));
        let text = access_log::note_text(note, &access_log::source(&record, environment));
        if let Some(text) = text {
            noted.objects.insert(Arc::clone(&note.key), text);
        }
    }
}

/// Asks a rate limit service; gives the reason where the connection is refused.
async fn ask<U: Upstreams>(
    config: &NetworkRateLimit,
    connection: &Connection,
    around: &Around<'_, U>,
) -> Option<String> {
    let stats = around.stats.network_limit(&config.stat_prefix);
    let (now, wall) = (connection.accepted, connection.accepted_at);
    let record = Record::begin(Rc::new(connection.clone()), None, now, wall);
    let source = access_log::source(&record, around.environment);
    let described = |entries: &Vec<(String, Format)>| Descriptor {
        entries: entries
            .iter()
            .map(|(key, format)| {
                let mut value = Vec::new();
                access_log::write_text(format, &source, b"-", &mut value);
                DescriptorEntry {
                    key: key.clone(),
                    value: String::from_utf8_lossy(&value).into_owned(),
                }
            })
            .collect(),
        ..Descriptor::default()
    };
    let descriptors: Vec<Descriptor> = config.descriptors.iter().map(described).collect();
    stats.total.inc();
    let active = Active::begin(&stats);
    let answer = rls::ask(around.caller, &config.service, &config.domain, &descriptors).await;
    drop(active);
    match answer {
        Ok(answer) if rls::is_over(&answer) => {
            stats.over_limit.inc();
            stats.cx_closed.inc();
            Some("a rate limit service says that there are too many".to_owned())
        }
        Ok(_) => {
            stats.ok.inc();
            None
        }
        Err(error) => {
            stats.error.inc();
            if config.failure_mode_deny {
                stats.cx_closed.inc();
                return Some(format!("a rate limit service did not answer: {error}"));
            }
            stats.failure_mode_allowed.inc();
            None
        }
    }
}

/// A question under way; its drop ends it, also where the client has gone.
struct Active<'s>(&'s NetworkLimitStats);

impl<'s> Active<'s> {
    fn begin(stats: &'s NetworkLimitStats) -> Self {
        stats.active.inc();
        Self(stats)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.active.dec();
    }
}

/// Why it is denied, and how long it is kept waiting.
fn check_access(
    rbac: &NetworkRbac,
    connection: &Connection,
    stats: &WorkerStats,
    noted: &mut StreamState,
) -> Option<(Option<Duration>, String)> {
    let subject = Subject {
        connection,
        request: None,
        route: None,
        remote: &connection.remote,
        protocol: None,
    };
    let stats = stats.rbac(&format!("{}rbac", dotted(&rbac.stat_prefix)));
    if let Some(rules) = &rbac.shadow {
        let decision = decide(rules, &subject);
        if decision.allowed {
            stats.shadow_allowed.inc()
        } else {
            stats.shadow_denied.inc()
        }
        let mut note = Object::new();
        describe(&rbac.shadow_prefix, "shadow", &decision, &mut note);
        noted.merge(RBAC_NAMESPACE, note);
        tracing::debug!(
            allowed = decision.allowed,
            policy = decision.policy,
            "shadow rules decided"
        );
    }
    let decision = decide(rbac.rules.as_ref()?, &subject);
    if decision.allowed {
        stats.allowed.inc();
        return None;
    }
    stats.denied.inc();
    let policy = decision.policy.unwrap_or("none");
    Some((rbac.delay_deny, format!("policy {policy} denies it")))
}

/// A prefix with the dot that Envoy puts behind it, if it is not there.
pub(crate) fn dotted(prefix: &str) -> String {
    if prefix.is_empty() || prefix.ends_with('.') {
        prefix.to_owned()
    } else {
        format!("{prefix}.")
    }
}
