//! Circuit breakers: how much of each resource a cluster may use at once, over all workers.
//!
//! Invariant: what a [`Permit`] counts is given back exactly once, on every path, by its drop. Envoy reference:
//! `config.cluster.v3.CircuitBreakers`; per routing priority, limits compared as "in use < maximum".
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use malla_proxy_config::cluster::{RetryBudget, Thresholds};

/// One counted resource.
#[derive(Debug)]
pub struct Resource {
    used: AtomicU32,
    maximum: u32,
    /// Times it was refused (`…_overflow` in Envoy's statistics).
    overflow: AtomicU64,
}

impl Resource {
    fn new(maximum: u32) -> Self {
        Self {
            used: AtomicU32::new(0),
            maximum,
            overflow: AtomicU64::new(0),
        }
    }

    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    pub fn maximum(&self) -> u32 {
        self.maximum
    }

    pub fn overflow(&self) -> u64 {
        self.overflow.load(Ordering::Relaxed)
    }

    fn try_take(&self, maximum: u32) -> bool {
        // Optimistic: one add in the good case. The short excess while it is taken back only refuses, never admits.
        if self.used.fetch_add(1, Ordering::Relaxed) < maximum {
            return true;
        }
        self.used.fetch_sub(1, Ordering::Relaxed);
        self.overflow.fetch_add(1, Ordering::Relaxed);
        false
    }
}

/// The breakers of one cluster and priority.
#[derive(Debug)]
pub struct Breakers {
    pub connections: Resource,
    pub pending_requests: Resource,
    pub requests: Resource,
    pub retries: Resource,
    budget: Option<RetryBudget>,
    track_remaining: bool,
}

/// Which resource a permit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Connection,
    Pending,
    Request,
    Retry,
}

impl Breakers {
    pub fn new(limits: &Thresholds) -> Arc<Self> {
        Arc::new(Self {
            connections: Resource::new(limits.max_connections),
            pending_requests: Resource::new(limits.max_pending_requests),
            requests: Resource::new(limits.max_requests),
            retries: Resource::new(limits.max_retries),
            budget: limits.retry_budget,
            track_remaining: limits.track_remaining,
        })
    }

    /// Takes one of `kind`, or counts an overflow.
    pub fn acquire(self: &Arc<Self>, kind: Kind) -> Option<Permit> {
        self.resource(kind)
            .try_take(self.maximum(kind))
            .then(|| Permit {
                of: Arc::clone(self),
                kind,
            })
    }

    /// Takes one of `kind` over the limit: a host without any connection always gets one, or its queue would never move.
    pub fn force(self: &Arc<Self>, kind: Kind) -> Permit {
        self.resource(kind).used.fetch_add(1, Ordering::Relaxed);
        Permit {
            of: Arc::clone(self),
            kind,
        }
    }

    pub fn resource(&self, kind: Kind) -> &Resource {
        match kind {
            Kind::Connection => &self.connections,
            Kind::Pending => &self.pending_requests,
            Kind::Request => &self.requests,
            Kind::Retry => &self.retries,
        }
    }

    /// Whether `remaining_*` gauges are wanted.
    pub fn tracks_remaining(&self) -> bool {
        self.track_remaining
    }

    /// How many more of `kind` there may be now.
    pub fn remaining(&self, kind: Kind) -> u64 {
        u64::from(
            self.maximum(kind)
                .saturating_sub(self.resource(kind).used()),
        )
    }

    fn maximum(&self, kind: Kind) -> u32 {
        match (kind, self.budget) {
            (Kind::Retry, Some(budget)) => self.budgeted(budget),
            _ => self.resource(kind).maximum,
        }
    }

    fn budgeted(&self, budget: RetryBudget) -> u32 {
        let active = f64::from(self.requests.used()) + f64::from(self.pending_requests.used());
        ((active * budget.percent / 100.0) as u32).max(budget.min_concurrency)
    }
}

/// One unit in use.
#[derive(Debug)]
pub struct Permit {
    of: Arc<Breakers>,
    kind: Kind,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.of
            .resource(self.kind)
            .used
            .fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use malla_proxy_config::cluster::{RetryBudget, Thresholds};

    use super::{Breakers, Kind};

    #[test]
    fn permits_stop_at_the_limit_and_come_back() {
        let breakers = Breakers::new(&Thresholds {
            max_connections: 2,
            ..Thresholds::default()
        });
        let first = breakers.acquire(Kind::Connection);
        let second = breakers.acquire(Kind::Connection);
        assert!(first.is_some() && second.is_some());
        assert!(breakers.acquire(Kind::Connection).is_none());
        assert_eq!(breakers.connections.overflow(), 1);
        drop(first);
        assert!(breakers.acquire(Kind::Connection).is_some());
        assert_eq!(
            breakers.connections.used(),
            1,
            "the temporary permit is back"
        );
    }

    #[test]
    fn a_zero_limit_admits_nothing() {
        let breakers = Breakers::new(&Thresholds {
            max_requests: 0,
            ..Thresholds::default()
        });
        assert!(breakers.acquire(Kind::Request).is_none());
        assert_eq!(breakers.requests.used(), 0);
    }

    #[test]
    fn a_retry_budget_follows_the_load() {
        let retry_budget = Some(RetryBudget {
            percent: 20.0,
            min_concurrency: 1,
        });
        let breakers = Breakers::new(&Thresholds {
            retry_budget,
            max_retries: 0,
            ..Thresholds::default()
        });
        let first = breakers.acquire(Kind::Retry);
        assert!(first.is_some() && breakers.acquire(Kind::Retry).is_none());
        let _active: Vec<_> = (0..10).map(|_| breakers.acquire(Kind::Request)).collect();
        assert!(breakers.acquire(Kind::Retry).is_some());
    }
}
