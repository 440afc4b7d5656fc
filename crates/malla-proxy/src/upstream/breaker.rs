//! Circuit breakers: how much of each resource a cluster may use at once, over all workers.
//!
//! Invariant: what a [`Permit`] counts is given back exactly once, on every path, by its drop. Envoy reference:
//! `config.cluster.v3.CircuitBreakers`; per routing priority, limits compared as "in use < maximum".
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Envoy's defaults, where a threshold is not given.
pub const DEFAULT_MAXIMUM: u32 = 1024;
pub const DEFAULT_MAX_RETRIES: u32 = 3;

/// The maxima of one routing priority.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    pub connections: u32,
    pub pending_requests: u32,
    pub requests: u32,
    pub retries: u32,
    /// Replaces `retries`.
    pub retry_budget: Option<RetryBudget>,
}

/// Retries allowed as a share of what is active, but at least `minimum`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// Percent of active and pending requests.
    pub percent: f64,
    pub minimum: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: DEFAULT_MAXIMUM,
            pending_requests: DEFAULT_MAXIMUM,
            requests: DEFAULT_MAXIMUM,
            retries: DEFAULT_MAX_RETRIES,
            retry_budget: None,
        }
    }
}

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
        Self { used: AtomicU32::new(0), maximum, overflow: AtomicU64::new(0) }
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
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            connections: Resource::new(limits.connections),
            pending_requests: Resource::new(limits.pending_requests),
            requests: Resource::new(limits.requests),
            retries: Resource::new(limits.retries),
            budget: limits.retry_budget,
        })
    }

    /// Takes one of `kind`, or counts an overflow.
    pub fn acquire(self: &Arc<Self>, kind: Kind) -> Option<Permit> {
        let maximum = match (kind, self.budget) {
            (Kind::Retry, Some(budget)) => self.budgeted(budget),
            _ => self.resource(kind).maximum,
        };
        self.resource(kind).try_take(maximum).then(|| Permit { of: Arc::clone(self), kind })
    }

    /// Takes one of `kind` over the limit: a host without any connection always gets one, or its queue would never move.
    pub fn force(self: &Arc<Self>, kind: Kind) -> Permit {
        self.resource(kind).used.fetch_add(1, Ordering::Relaxed);
        Permit { of: Arc::clone(self), kind }
    }

    pub fn resource(&self, kind: Kind) -> &Resource {
        match kind {
            Kind::Connection => &self.connections,
            Kind::Pending => &self.pending_requests,
            Kind::Request => &self.requests,
            Kind::Retry => &self.retries,
        }
    }

    fn budgeted(&self, budget: RetryBudget) -> u32 {
        let active = f64::from(self.requests.used()) + f64::from(self.pending_requests.used());
        ((active * budget.percent / 100.0) as u32).max(budget.minimum)
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
        self.of.resource(self.kind).used.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{Breakers, Kind, Limits, RetryBudget};

    #[test]
    fn permits_stop_at_the_limit_and_come_back() {
        let breakers = Breakers::new(Limits { connections: 2, ..Limits::default() });
        let first = breakers.acquire(Kind::Connection);
        let second = breakers.acquire(Kind::Connection);
        assert!(first.is_some() && second.is_some());
        assert!(breakers.acquire(Kind::Connection).is_none());
        assert_eq!(breakers.connections.overflow(), 1);
        drop(first);
        assert!(breakers.acquire(Kind::Connection).is_some());
        assert_eq!(breakers.connections.used(), 1, "the temporary permit is back");
    }

    #[test]
    fn a_zero_limit_admits_nothing() {
        let breakers = Breakers::new(Limits { requests: 0, ..Limits::default() });
        assert!(breakers.acquire(Kind::Request).is_none());
        assert_eq!(breakers.requests.used(), 0);
    }

    #[test]
    fn a_retry_budget_follows_the_load() {
        let budget = Some(RetryBudget { percent: 20.0, minimum: 1 });
        let breakers = Breakers::new(Limits { retry_budget: budget, retries: 0, ..Limits::default() });
        let first = breakers.acquire(Kind::Retry);
        assert!(first.is_some() && breakers.acquire(Kind::Retry).is_none());
        let _active: Vec<_> = (0..10).map(|_| breakers.acquire(Kind::Request)).collect();
        assert!(breakers.acquire(Kind::Retry).is_some());
    }
}
