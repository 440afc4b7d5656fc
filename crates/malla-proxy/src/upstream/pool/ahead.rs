//! Connections opened ahead of need (`preconnect_policy`), by Envoy's rule.
//!
//! Invariant: no more than three are begun at a time, and none at a host that is not healthy.
use std::rc::Rc;

use super::Pool;
use crate::balance::Availability;

/// Connections begun at a time, Envoy's limit.
pub(in crate::upstream) const AT_A_TIME: usize = 3;

/// Streams that there are, that wait, and that could begin at once or when connections under way are there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::upstream) struct Load {
    pending: usize,
    active: usize,
    capacity: usize,
}

impl Load {
    /// True if `ratio` times the streams, `anticipated` ones among them, are more than there is room for.
    pub(in crate::upstream) fn exceeds(self, ratio: f64, anticipated: usize) -> bool {
        let wanted = self.pending + self.active + anticipated;
        wanted as f64 * ratio > self.capacity.saturating_add(self.active) as f64
    }

    pub(in crate::upstream) fn and(self, other: Self) -> Self {
        Self {
            pending: self.pending + other.pending,
            active: self.active + other.active,
            capacity: self.capacity.saturating_add(other.capacity),
        }
    }
}

impl Pool {
    pub(in crate::upstream) fn load(&self) -> Load {
        let inner = self.inner.borrow();
        let shared: usize = inner.shared.iter().map(|conn| conn.streams()).sum();
        let room = inner.shared.iter().map(|conn| conn.room());
        let under_way = inner.connecting.saturating_mul(self.streams(&inner));
        // What is open, neither idle nor shared, serves one request.
        let busy = inner
            .open
            .saturating_sub(inner.idle.len() + inner.shared.len());
        Load {
            pending: inner
                .waiting
                .iter()
                .filter(|waiting| !waiting.is_closed())
                .count(),
            active: busy + shared,
            capacity: room
                .fold(inner.idle.len(), usize::saturating_add)
                .saturating_add(under_way),
        }
    }

    /// Opens what the requests of this host will want next.
    pub(super) fn open_ahead(self: &Rc<Self>, high_priority: bool) {
        let Some(policy) = self.around.shared.config.preconnect else {
            return;
        };
        for _ in 0..AT_A_TIME {
            let wanted = self.is_healthy() && self.load().exceeds(policy.per_upstream, 0);
            if !wanted || !self.open_another(high_priority) {
                return;
            }
        }
    }

    /// Opens one connection for a request that is expected here; true if it was wanted and may be.
    pub(in crate::upstream) fn expect_another(
        self: &Rc<Self>,
        ratio: f64,
        high_priority: bool,
    ) -> bool {
        self.is_healthy() && self.load().exceeds(ratio, 1) && self.open_another(high_priority)
    }

    fn is_healthy(&self) -> bool {
        self.host.availability() == Availability::Healthy
    }
}

#[cfg(test)]
mod tests {
    use super::Load;

    #[test]
    fn there_is_room_for_the_ratio_and_no_more() {
        let check = |pending, active, capacity, ratio, anticipated, want| {
            let load = Load {
                pending,
                active,
                capacity,
            };
            assert_eq!(
                load.exceeds(ratio, anticipated),
                want,
                "{load:?} {ratio} {anticipated}"
            );
        };
        check(1, 0, 0, 1.0, 0, true);
        check(1, 0, 1, 1.0, 0, false);
        check(1, 0, 1, 1.5, 0, true);
        check(0, 1, 1, 2.0, 0, false);
        check(0, 1, 0, 2.0, 0, true);
        check(0, 0, 0, 1.0, 0, false);
        check(0, 0, 0, 1.1, 1, true);
        check(0, 1, usize::MAX, 3.0, 1, false);
    }
}
