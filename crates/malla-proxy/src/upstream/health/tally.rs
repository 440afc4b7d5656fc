//! Counts checks of one endpoint until they decide. No IO, no clock; the endpoint's [`Flags`] say what it is now.
use super::{Flag, Flags};

/// Results in a row.
#[derive(Debug, Default)]
pub(super) struct Tally {
    healthy: u32,
    unhealthy: u32,
}

/// What a result did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// Not enough of them yet.
    Pending,
    Done,
}

/// Why a check failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The answer says so: unhealthy at once.
    Answer,
    /// It answers for another service: likewise.
    WrongService,
    /// An answer that counts towards the threshold.
    Retriable,
    /// No answer.
    Network,
    /// None in time.
    Timeout,
    /// The endpoint wants no more requests at all.
    Immediate,
}

impl Tally {
    /// A check succeeded; `threshold` of them make an unhealthy endpoint healthy, and the very first one does.
    pub(super) fn success(&mut self, flags: &Flags, degraded: bool, threshold: u32) -> Change {
        self.unhealthy = 0;
        let mut change = Change::None;
        if flags.has(Flag::Failed) {
            self.healthy = self.healthy.saturating_add(1);
            if flags.has(Flag::Unseen) || self.healthy >= threshold {
                for flag in [Flag::Failed, Flag::TimedOut, Flag::Excluded] {
                    flags.set(flag, false);
                }
                change = Change::Done;
            } else {
                change = Change::Pending;
            }
        }
        if flags.set(Flag::Degraded, degraded) {
            change = Change::Done;
        }
        change
    }

    /// A check failed; `threshold` failures make a healthy endpoint unhealthy where one is not enough.
    pub(super) fn failure(&mut self, flags: &Flags, trouble: Trouble, threshold: u32) -> Change {
        self.healthy = 0;
        let mut change = Change::None;
        if !flags.has(Flag::Failed) {
            self.unhealthy = self.unhealthy.saturating_add(1);
            let counted = matches!(
                trouble,
                Trouble::Network | Trouble::Timeout | Trouble::Retriable
            );
            if counted && self.unhealthy < threshold {
                change = Change::Pending;
            } else {
                flags.set(Flag::Failed, true);
                change = Change::Done;
            }
        }
        if flags.has(Flag::Failed) {
            if trouble == Trouble::Timeout {
                flags.set(Flag::TimedOut, true);
            }
            if trouble == Trouble::Immediate && flags.set(Flag::Excluded, true) {
                change = Change::Done;
            }
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, Tally, Trouble};
    use crate::upstream::health::{Flag, Flags};

    /// One letter a check: `s`uccess, `d`egraded, `n`etwork failure, `r`etriable answer, `a`nswer that says no; the
    /// result is `+` healthy, `-` unhealthy.
    fn check(unhealthy: u32, healthy: u32, checks: &str, want: &str) {
        let flags = Flags::unchecked(false);
        let mut tally = Tally::default();
        let got: String = checks
            .chars()
            .map(|letter| {
                let trouble = match letter {
                    's' | 'd' => None,
                    'n' => Some(Trouble::Network),
                    'r' => Some(Trouble::Retriable),
                    _ => Some(Trouble::Answer),
                };
                match trouble {
                    None => tally.success(&flags, letter == 'd', healthy),
                    Some(trouble) => tally.failure(&flags, trouble, unhealthy),
                };
                flags.set(Flag::Unseen, false);
                if flags.has(Flag::Failed) { '-' } else { '+' }
            })
            .collect();
        assert_eq!(got, want, "{checks} with {unhealthy} and {healthy}");
    }

    #[test]
    fn thresholds_decide_as_in_envoy() {
        // The first success is enough whatever the threshold.
        check(3, 3, "s", "+");
        check(3, 3, "nsss", "---+");
        check(3, 2, "snnsnnnss", "++++++--+");
        // An answer that says no needs no threshold, a retriable one does.
        check(3, 1, "sas", "+-+");
        check(3, 1, "srrrs", "+++-+");
    }

    #[test]
    fn a_degraded_answer_is_a_change_of_its_own() {
        let flags = Flags::unchecked(false);
        let mut tally = Tally::default();
        assert_eq!(tally.success(&flags, true, 1), Change::Done);
        assert!(flags.has(Flag::Degraded) && !flags.has(Flag::Failed));
        assert_eq!(tally.success(&flags, true, 1), Change::None);
        assert_eq!(tally.success(&flags, false, 1), Change::Done);
        assert!(!flags.has(Flag::Degraded));
    }

    #[test]
    fn timeouts_and_immediate_failures_leave_a_mark_until_health_returns() {
        let flags = Flags::unchecked(false);
        let mut tally = Tally::default();
        tally.failure(&flags, Trouble::Timeout, 1);
        assert!(flags.has(Flag::TimedOut));
        tally.failure(&flags, Trouble::Immediate, 1);
        assert!(flags.has(Flag::Excluded));
        flags.set(Flag::Unseen, false);
        tally.success(&flags, false, 1);
        assert!(!flags.has(Flag::TimedOut) && !flags.has(Flag::Excluded));
    }
}
