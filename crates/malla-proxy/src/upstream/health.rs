//! Active health checks: one checker per process and cluster, one session per endpoint, on the control side's runtime.
//!
//! Invariants: workers only read [`Flags`]; what decides ([`tally::Tally`]) belongs to the endpoint's one session; a
//! session ends with its endpoint, and all of them with the cluster. Semantics are Envoy's `HealthCheckerImplBase`.
mod probe;
mod tally;

#[cfg(fuzzing)]
pub use self::probe::is_serving;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use malla_proxy_config::address::Address;
use malla_proxy_config::cluster::HealthCheck;
use malla_runtime::task::AbortOnDrop;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use self::probe::{Finding, Prober};
use self::tally::{Change, Tally, Trouble};
use super::cluster::SharedCluster;
use super::host::{Host, HostState};
use crate::balance::Rng64;
use crate::live::Live;

/// An endpoint says with this header that it is not to be used any more.
pub const IMMEDIATE_FAIL: &str = "x-envoy-immediate-health-check-fail";

/// What active health checks say of one endpoint. Shared by the workers.
#[derive(Debug, Default)]
pub struct Flags(AtomicU8);

/// One of the [`Flags`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Flag {
    /// Not healthy.
    Failed = 1,
    /// Healthy, but to be used after others.
    Degraded = 2,
    /// Not checked yet, and not counted until then (`ignore_new_hosts_until_first_hc`).
    Pending = 4,
    /// The last failure was a timeout.
    TimedOut = 8,
    /// It said itself that it fails.
    Excluded = 16,
    /// Gone from the load assignment, kept while healthy.
    Leaving = 32,
    /// No check is over yet.
    Unseen = 64,
}

impl Flags {
    /// Those of an endpoint that has yet to be checked.
    pub fn unchecked(pending: bool) -> Self {
        let pending = if pending { Flag::Pending as u8 } else { 0 };
        Self(AtomicU8::new(
            Flag::Failed as u8 | Flag::Unseen as u8 | pending,
        ))
    }

    /// Whether it is set.
    pub fn has(&self, flag: Flag) -> bool {
        self.0.load(Ordering::Relaxed) & flag as u8 != 0
    }

    /// Sets or clears it; true if that changed anything.
    pub fn set(&self, flag: Flag, on: bool) -> bool {
        let before = if on {
            self.0.fetch_or(flag as u8, Ordering::AcqRel)
        } else {
            self.0.fetch_and(!(flag as u8), Ordering::AcqRel)
        };
        (before & flag as u8 != 0) != on
    }
}

/// The health checks of one cluster.
#[derive(Debug)]
pub struct HealthState {
    pub stats: Stats,
    /// Wakes the checker when the set of hosts changed.
    pub(super) hosts_changed: Arc<Notify>,
    /// True once every endpoint there was has been checked.
    pub(super) first_round: watch::Sender<bool>,
}

impl Default for HealthState {
    fn default() -> Self {
        Self {
            stats: Stats::default(),
            hosts_changed: Arc::default(),
            first_round: watch::Sender::new(false),
        }
    }
}

/// `cluster.<name>.health_check.*`.
#[derive(Debug, Default)]
pub struct Stats {
    pub attempt: AtomicU64,
    pub success: AtomicU64,
    pub failure: AtomicU64,
    pub passive_failure: AtomicU64,
    pub network_failure: AtomicU64,
    pub verify_cluster: AtomicU64,
}

impl Stats {
    /// The counters by name.
    pub fn all(&self) -> [(&'static str, u64); 6] {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("attempt", load(&self.attempt)),
            ("success", load(&self.success)),
            ("failure", load(&self.failure)),
            ("passive_failure", load(&self.passive_failure)),
            ("network_failure", load(&self.network_failure)),
            ("verify_cluster", load(&self.verify_cluster)),
        ]
    }
}

/// Counts one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Checks the endpoints of a cluster for as long as it lives.
pub(super) fn follow(
    control: &Handle,
    cluster: Weak<SharedCluster>,
    live: Live,
) -> AbortOnDrop<()> {
    let handle = control.clone();
    let mut changes = live.changes();
    AbortOnDrop::adopt(control.spawn(async move {
        let mut sessions: HashMap<Address, Session> = HashMap::new();
        loop {
            let hosts_changed = {
                let Some(shared) = cluster.upgrade() else {
                    return;
                };
                let Some(health) = &shared.health else { return };
                keep_sessions(&mut sessions, &shared, &handle, &live);
                note_first_round(&shared);
                Arc::clone(&health.hosts_changed)
            };
            tokio::select! {
                () = hosts_changed.notified() => {}
                Ok(()) = changes.changed() => {}
            }
        }
    }))
}

/// A running session, and the state it writes to.
struct Session {
    state: Arc<HostState>,
    _task: AbortOnDrop<()>,
}

fn keep_sessions(
    sessions: &mut HashMap<Address, Session>,
    shared: &Arc<SharedCluster>,
    control: &Handle,
    live: &Live,
) {
    let Some(check) = &shared.config.health_check else {
        return;
    };
    let hosts = shared.hosts().clone();
    let wanted: HashMap<&Address, &Arc<Host>> = hosts
        .hosts
        .iter()
        .filter(|host| is_checked(host))
        .map(|host| (&host.endpoint.address, host))
        .collect();
    sessions.retain(|address, session| {
        wanted
            .get(address)
            .is_some_and(|host| Arc::ptr_eq(&host.state, &session.state))
    });
    for (address, host) in wanted {
        if sessions.contains_key(address) {
            continue;
        }
        let prober = Prober::new(shared, host, check.clone(), live.clone(), control.clone());
        let work = run(
            Arc::downgrade(shared),
            Arc::clone(host),
            check.clone(),
            prober,
        );
        let session = Session {
            state: Arc::clone(&host.state),
            _task: AbortOnDrop::adopt(control.spawn(work)),
        };
        sessions.insert(address.clone(), session);
    }
}

/// Whether the endpoint is checked at all.
pub(super) fn is_checked(host: &Host) -> bool {
    !host
        .endpoint
        .check
        .as_ref()
        .is_some_and(|check| check.disabled)
}

/// Lets requests stop waiting once every endpoint has been checked.
fn note_first_round(shared: &SharedCluster) {
    let Some(health) = &shared.health else { return };
    let hosts = shared.hosts();
    if hosts
        .hosts
        .iter()
        .all(|host| !host.state.flags.has(Flag::Unseen))
    {
        health
            .first_round
            .send_if_modified(|done| !std::mem::replace(done, true));
    }
}

/// Checks one endpoint again and again.
async fn run(
    cluster: Weak<SharedCluster>,
    host: Arc<Host>,
    check: HealthCheck,
    mut prober: Prober,
) {
    let mut tally = Tally::default();
    let mut rng = Rng64::seeded(rand::random());
    let mut wait = check.intervals.initial_jitter.mul_f64(rng.unit());
    loop {
        tokio::time::sleep(wait).await;
        {
            let Some(shared) = cluster.upgrade() else {
                return;
            };
            let Some(health) = &shared.health else { return };
            count(&health.stats.attempt);
        }
        let finding = match tokio::time::timeout(check.timeout, prober.probe()).await {
            Ok(finding) => finding,
            Err(_) => {
                prober.give_up();
                Finding::Bad(Trouble::Timeout, "timeout".into())
            }
        };
        let Some(shared) = cluster.upgrade() else {
            return;
        };
        let (healthy, change) = settle(&shared, &host, &check, &mut tally, finding);
        let base = check
            .intervals
            .after(healthy, change == Change::Pending, shared.had_traffic());
        wait = check.intervals.jittered(base, [rng.unit(), rng.unit()]);
    }
}

/// Draws the consequences of one check: flags, counters, log, balancing.
fn settle(
    shared: &SharedCluster,
    host: &Host,
    check: &HealthCheck,
    tally: &mut Tally,
    finding: Finding,
) -> (bool, Change) {
    let flags = &host.state.flags;
    let Some(health) = &shared.health else {
        return (true, Change::None);
    };
    let (cluster, address) = (&shared.config.name, &host.endpoint.address);
    let first = flags.has(Flag::Unseen);
    let (healthy, change) = match finding {
        Finding::Good { degraded } => {
            let change = tally.success(flags, degraded, check.healthy_threshold);
            count(&health.stats.success);
            if change == Change::Done {
                tracing::info!(%cluster, host = %address, first, degraded, "health check: host is healthy");
            } else if check.log_successes {
                tracing::info!(%cluster, host = %address, "health check succeeded");
            }
            shared.pardon(host);
            (true, change)
        }
        Finding::Bad(trouble, reason) => {
            let change = tally.failure(flags, trouble, check.unhealthy_threshold);
            count(&health.stats.failure);
            if matches!(trouble, Trouble::Network | Trouble::Timeout) {
                count(&health.stats.network_failure);
            }
            if trouble == Trouble::WrongService {
                count(&health.stats.verify_cluster);
            }
            if change == Change::Done || first {
                tracing::info!(%cluster, host = %address, first, reason, "health check: host is unhealthy");
            } else if check.log_failures {
                tracing::info!(%cluster, host = %address, reason, "health check failed");
            }
            (false, change)
        }
    };
    let was_pending = flags.set(Flag::Pending, false);
    let was_unseen = flags.set(Flag::Unseen, false);
    if change == Change::Done || was_pending {
        shared.health_changed(host);
    }
    if was_unseen {
        note_first_round(shared);
    }
    (healthy, change)
}
