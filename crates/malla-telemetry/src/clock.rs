//! What time it is, and whether to believe it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The wall clock, as a value: Unix milliseconds.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::new(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            since.map_or(0, |since| {
                i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
            })
        })
    }

    /// Any other.
    pub fn new(now: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Unix milliseconds.
    #[must_use]
    pub fn now(&self) -> i64 {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

/// Decides when data may be deleted by age: only after the wall clock has kept step with the
/// monotonic one for a while. A clock that jumps a year ahead must not empty the store.
#[derive(Debug)]
pub struct Trust {
    anchor: Option<(Instant, i64)>,
}

/// How far the clocks may differ.
const TOLERANCE: i64 = 60_000;
/// How long they must have agreed.
const PROBATION: Duration = Duration::from_secs(600);

impl Trust {
    #[must_use]
    pub fn new() -> Self {
        Self { anchor: None }
    }

    /// The wall time, if it can be trusted.
    pub fn check(&mut self, monotonic: Instant, wall: i64) -> Option<i64> {
        let (since, at) = *self.anchor.get_or_insert((monotonic, wall));
        let passed = monotonic.saturating_duration_since(since);
        let expected = at.saturating_add(i64::try_from(passed.as_millis()).unwrap_or(i64::MAX));
        if wall.abs_diff(expected) > TOLERANCE.unsigned_abs() {
            self.anchor = Some((monotonic, wall));
            return None;
        }
        if passed > PROBATION * 6 {
            // Slow drift is no jump: follow it, without a new probation.
            let trusted_since = monotonic.checked_sub(PROBATION).unwrap_or(since);
            let back = i64::try_from(PROBATION.as_millis()).unwrap_or(0);
            self.anchor = Some((trusted_since, wall.saturating_sub(back)));
        }
        (passed >= PROBATION).then_some(wall)
    }
}

impl Default for Trust {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_is_not_trusted_until_it_has_lasted() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut trust = Trust::new();
        assert_eq!(trust.check(start, 0), None);
        assert_eq!(trust.check(after(700), 700_000), Some(700_000));
        let year = 31_536_000_000;
        assert_eq!(trust.check(after(710), year), None);
        assert_eq!(trust.check(after(720), year + 10_000), None);
        assert_eq!(trust.check(after(730), 730_000), None);
        assert_eq!(trust.check(after(1_400), 1_400_000), Some(1_400_000));
    }

    #[test]
    fn drift_is_followed() {
        let start = Instant::now();
        let mut trust = Trust::new();
        // A tenth of a percent fast, for a month.
        for minute in 0..43_200_u64 {
            let wall = i64::try_from(minute).unwrap() * 60_060;
            let trusted = trust.check(start + Duration::from_secs(minute * 60), wall);
            assert_eq!(trusted.is_some(), minute >= 10, "minute {minute}");
        }
    }
}
