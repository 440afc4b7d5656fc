//! When to renew the certificate: a state machine that is told the time.
//!
//! A certificate is renewed when half of its life (± jitter, so that a mesh does not renew in step)
//! is over; failures are retried with back-off, and the old certificate stays in use until it
//! expires. Times are wall-clock times, because that is what certificates hold.

pub mod task;

use std::time::{Duration, SystemTime};

use malla_runtime::backoff::{Backoff, BackoffConfig};

/// When certificates are renewed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RotationConfig {
    /// Share of the life that is left when it is renewed (Istio's `SECRET_GRACE_PERIOD_RATIO`).
    pub grace_ratio: f64,
    /// Spread of that share, either way (Istio's `SECRET_GRACE_PERIOD_RATIO_JITTER`).
    pub jitter: f64,
    pub retry: BackoffConfig,
}

impl Default for RotationConfig {
    fn default() -> Self {
        Self {
            grace_ratio: 0.5,
            jitter: 0.01,
            retry: BackoffConfig {
                initial: Duration::from_millis(200),
                max: Duration::from_secs(60),
                ..BackoffConfig::default()
            },
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The authority answered with a certificate.
    Issued {
        not_before: SystemTime,
        not_after: SystemTime,
    },
    /// The authority refused or could not be reached.
    Failed,
    /// The certificate is of no use any more (the roots changed, the key leaked): renew now.
    Invalidated,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Ask for a certificate, then say how it went.
    Request,
}

/// Decides when to ask for a certificate.
#[derive(Debug)]
pub struct Rotator {
    config: RotationConfig,
    retry: Backoff,
    spread: Backoff,
    state: State,
    expires: Option<SystemTime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A request is due at this time.
    Waiting(SystemTime),
    /// A request has been handed out.
    Asking { again: bool },
}

impl Rotator {
    /// Starts without a certificate: the first request is due at once. The same seed gives the same
    /// jitter.
    #[must_use]
    pub fn new(config: RotationConfig, seed: u64) -> Self {
        // A back-off of one fixed second is a source of factors between 1 - jitter and 1 + jitter.
        let unit = BackoffConfig {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(1),
            factor: 1.0,
            jitter: config.jitter.clamp(0.0, 1.0),
        };
        Self {
            config,
            retry: Backoff::seeded(config.retry, seed),
            spread: Backoff::seeded(unit, seed.rotate_left(32)),
            state: State::Waiting(SystemTime::UNIX_EPOCH),
            expires: None,
        }
    }

    pub fn handle(&mut self, now: SystemTime, input: Input) {
        match input {
            Input::Issued {
                not_before,
                not_after,
            } => {
                self.retry.reset();
                self.expires = Some(not_after);
                let again = self.state == State::Asking { again: true };
                let due = if again {
                    now
                } else {
                    self.due(now, not_before, not_after)
                };
                self.state = State::Waiting(due);
            }
            Input::Failed => {
                self.state = State::Waiting(now + self.retry.next_delay());
            }
            Input::Invalidated => match self.state {
                State::Asking { .. } => self.state = State::Asking { again: true },
                State::Waiting(_) => self.state = State::Waiting(now),
            },
        }
    }

    /// What is due at `now`.
    pub fn poll_output(&mut self, now: SystemTime) -> Option<Output> {
        match self.state {
            State::Waiting(due) if due <= now => {
                self.state = State::Asking { again: false };
                Some(Output::Request)
            }
            _ => None,
        }
    }

    /// When to poll again; `None` while a request is under way.
    #[must_use]
    pub fn deadline(&self) -> Option<SystemTime> {
        match self.state {
            State::Waiting(due) => Some(due),
            State::Asking { .. } => None,
        }
    }

    /// When the certificate in use expires.
    #[must_use]
    pub fn expires(&self) -> Option<SystemTime> {
        self.expires
    }

    fn due(
        &mut self,
        now: SystemTime,
        not_before: SystemTime,
        not_after: SystemTime,
    ) -> SystemTime {
        let life = not_after.duration_since(not_before).unwrap_or_default();
        let ratio = self.config.grace_ratio * self.spread.next_delay().as_secs_f64();
        let grace = life.mul_f64(ratio.clamp(0.0, 1.0));
        let due = not_after.checked_sub(grace).unwrap_or(now);
        // A certificate that is already past its point (a clock jumped, or the authority grants
        // seconds) must not make us ask in a tight loop.
        due.max(now + self.config.retry.initial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert, proptest};

    const DAY: Duration = Duration::from_secs(86_400);

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + 1000 * DAY
    }

    fn issued(now: SystemTime) -> Input {
        Input::Issued {
            not_before: now,
            not_after: now + DAY,
        }
    }

    #[test]
    fn it_asks_at_once_then_at_half_life() {
        let mut rotator = Rotator::new(RotationConfig::default(), 7);
        let now = start();
        assert_eq!(rotator.poll_output(now), Some(Output::Request));
        assert_eq!(rotator.poll_output(now), None);
        assert_eq!(rotator.deadline(), None);
        rotator.handle(now, issued(now));
        assert_eq!(rotator.poll_output(now), None);
        let due = rotator.deadline().unwrap();
        let half = now + DAY / 2;
        assert!(due > half - DAY / 100 && due < half + DAY / 100, "{due:?}");
        assert_eq!(rotator.poll_output(due), Some(Output::Request));
    }

    #[test]
    fn failures_are_retried_ever_more_slowly_and_forgotten_after_success() {
        let mut rotator = Rotator::new(RotationConfig::default(), 7);
        let mut now = start();
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert_eq!(rotator.poll_output(now), Some(Output::Request));
            rotator.handle(now, Input::Failed);
            let due = rotator.deadline().unwrap();
            waits.push(due.duration_since(now).unwrap());
            now = due;
        }
        assert!(waits[0] < Duration::from_millis(300));
        assert!(waits[11] > Duration::from_secs(40));
        assert_eq!(rotator.poll_output(now), Some(Output::Request));
        rotator.handle(now, issued(now));
        now = rotator.deadline().unwrap();
        assert_eq!(rotator.poll_output(now), Some(Output::Request));
        rotator.handle(now, Input::Failed);
        assert!(rotator.deadline().unwrap() < now + Duration::from_millis(300));
    }

    #[test]
    fn invalidation_is_not_lost_while_asking() {
        let mut rotator = Rotator::new(RotationConfig::default(), 7);
        let now = start();
        assert_eq!(rotator.poll_output(now), Some(Output::Request));
        rotator.handle(now, Input::Invalidated);
        rotator.handle(now, issued(now));
        assert_eq!(rotator.poll_output(now), Some(Output::Request));
    }

    proptest! {
        #[test]
        fn it_never_spins_and_never_waits_past_expiry(
            seed in any::<u64>(),
            life in 0u64..200_000,
            skew in 0u64..200_000,
        ) {
            let mut rotator = Rotator::new(RotationConfig::default(), seed);
            let now = start();
            prop_assert!(rotator.poll_output(now).is_some());
            let not_before = now - Duration::from_secs(skew);
            let not_after = not_before + Duration::from_secs(life);
            rotator.handle(now, Input::Issued { not_before, not_after });
            let due = rotator.deadline().unwrap();
            prop_assert!(due > now);
            prop_assert!(due <= not_after.max(now + Duration::from_secs(1)));
        }
    }
}
