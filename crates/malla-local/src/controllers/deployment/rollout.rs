//! How many replicas each ReplicaSet of a Deployment should have next.
//!
//! Pure arithmetic, after kube-controller-manager's `deployment/rolling.go` and
//! `deployment_util.go`. Invariants (a property test holds them): never more than desired + surge
//! pods asked for by a rollout's step, never fewer than desired − unavailable ready ones taken
//! away, and repeated steps end with only the new set.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::LARGEST;

/// One ReplicaSet, as the arithmetic sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Set {
    /// `spec.replicas`.
    pub(super) replicas: i32,
    /// `status.availableReplicas`.
    pub(super) available: i32,
}

/// The bounds of a rollout, in pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) desired: i32,
    pub(super) surge: i32,
    pub(super) unavailable: i32,
}

impl Limits {
    /// Reads `maxSurge` and `maxUnavailable` (default 25 % each): surge is rounded up,
    /// unavailability down, and if both come out as 0, one pod may be unavailable.
    pub(super) fn resolve(
        desired: i32,
        surge: Option<&IntOrString>,
        unavailable: Option<&IntOrString>,
    ) -> Self {
        let quarter = IntOrString::String("25%".to_owned());
        let surge = pods_of(surge.unwrap_or(&quarter), desired, true);
        let unavailable = pods_of(unavailable.unwrap_or(&quarter), desired, false);
        Self {
            desired,
            surge,
            unavailable: if surge == 0 && unavailable == 0 {
                1
            } else {
                unavailable
            },
        }
    }

    /// Most pods there may be.
    pub(super) fn most(&self) -> i32 {
        self.desired.saturating_add(self.surge)
    }
}

fn pods_of(value: &IntOrString, desired: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).clamp(0, LARGEST),
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let share = i64::from(desired).saturating_mul(percent.max(0));
            let rounded = if round_up {
                share.saturating_add(99) / 100
            } else {
                share / 100
            };
            i32::try_from(rounded).unwrap_or(LARGEST).min(LARGEST)
        }
    }
}

/// One step of a rolling update: replicas for the new set, and for each old one (oldest first).
pub(super) fn rolling_step(limits: Limits, new: Set, old: &[Set]) -> (i32, Vec<i32>) {
    let scaled_new = Set {
        replicas: scale_up_new(limits, new, old),
        ..new
    };
    (scaled_new.replicas, scale_down_old(limits, scaled_new, old))
}

fn scale_up_new(limits: Limits, new: Set, old: &[Set]) -> i32 {
    if new.replicas >= limits.desired {
        return limits.desired;
    }
    let room = limits.most() - total(new, old);
    new.replicas + room.clamp(0, limits.desired - new.replicas)
}

fn scale_down_old(limits: Limits, new: Set, old: &[Set]) -> Vec<i32> {
    let mut after: Vec<i32> = old.iter().map(|set| set.replicas).collect();
    let least_available = limits.desired - limits.unavailable;
    let new_not_available = (new.replicas - new.available).max(0);
    let mut may_go = total(new, old) - least_available - new_not_available;
    // Pods that serve nobody go first.
    for (replicas, set) in after.iter_mut().zip(old) {
        let broken = (set.replicas - set.available).clamp(0, may_go.max(0));
        *replicas -= broken;
        may_go -= broken;
    }
    let available: i32 = old
        .iter()
        .zip(&after)
        .map(|(set, replicas)| set.available.min(*replicas))
        .sum::<i32>()
        + new.available;
    let mut spare = (available - least_available).min(may_go).max(0);
    for replicas in &mut after {
        let gone = spare.min(*replicas);
        *replicas -= gone;
        spare -= gone;
    }
    after
}

/// Spreads a changed number of replicas over the sets of an unfinished rollout in proportion to
/// their sizes. `sets` are replicas; the answer has the same order.
pub(super) fn proportional(limits: Limits, sets: &[i32]) -> Vec<i32> {
    let now: i32 = sets.iter().sum();
    let allowed = if limits.desired > 0 { limits.most() } else { 0 };
    let mut change = allowed - now;
    let mut after = sets.to_vec();
    if now == 0 || change == 0 {
        return after;
    }
    // Larger sets take rounding errors with the least effect, so they come first.
    let mut order: Vec<usize> = (0..sets.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(sets.get(*index).copied()));
    for index in &order {
        let Some(replicas) = after.get_mut(*index) else {
            continue;
        };
        let share = f64::from(*replicas) * f64::from(allowed) / f64::from(now);
        let wanted = share.round() as i32 - *replicas;
        let part = if change > 0 {
            wanted.clamp(0, change)
        } else {
            wanted.clamp(change, 0)
        };
        *replicas += part;
        change -= part;
    }
    if let Some(largest) = order.first().and_then(|index| after.get_mut(*index)) {
        *largest = (*largest + change).max(0);
    }
    after
}

fn total(new: Set, old: &[Set]) -> i32 {
    new.replicas + old.iter().map(|set| set.replicas).sum::<i32>()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    use proptest::prelude::*;

    use super::{Limits, Set, proportional, rolling_step};

    fn limits(desired: i32, surge: i32, unavailable: i32) -> Limits {
        Limits::resolve(
            desired,
            Some(&IntOrString::Int(surge)),
            Some(&IntOrString::Int(unavailable)),
        )
    }

    #[test]
    fn percentages_round_as_kubernetes_documents() {
        let default = Limits::resolve(3, None, None);
        assert_eq!((default.surge, default.unavailable), (1, 0));
        let one = Limits::resolve(1, None, None);
        assert_eq!((one.surge, one.unavailable), (1, 0));
        let stuck = limits(4, 0, 0);
        assert_eq!((stuck.surge, stuck.unavailable), (0, 1));
    }

    #[test]
    fn one_replica_is_replaced_only_once_the_new_one_serves() {
        let limits = Limits::resolve(1, None, None);
        let old = [Set {
            replicas: 1,
            available: 1,
        }];
        let fresh = Set {
            replicas: 0,
            available: 0,
        };
        assert_eq!(rolling_step(limits, fresh, &old), (1, vec![1]));
        let started = Set {
            replicas: 1,
            available: 0,
        };
        assert_eq!(rolling_step(limits, started, &old), (1, vec![1]));
        let serving = Set {
            replicas: 1,
            available: 1,
        };
        assert_eq!(rolling_step(limits, serving, &old), (1, vec![0]));
    }

    #[test]
    fn broken_old_pods_go_at_once() {
        let old = [
            Set {
                replicas: 2,
                available: 0,
            },
            Set {
                replicas: 3,
                available: 3,
            },
        ];
        let new = Set {
            replicas: 0,
            available: 0,
        };
        let (up, down) = rolling_step(limits(3, 1, 0), new, &old);
        assert_eq!((up, down), (0, vec![0, 3]));
    }

    #[test]
    fn a_changed_size_is_spread_by_proportion() {
        let grown = proportional(limits(20, 0, 5), &[5, 5]);
        assert_eq!(grown, [10, 10]);
        let none = proportional(limits(0, 1, 0), &[3, 2]);
        assert_eq!(none, [0, 0]);
    }

    proptest! {
        /// A world in which asked-for pods become available at random eventually has the new set only.
        #[test]
        fn every_rollout_ends_and_keeps_its_promises(
            desired in 0..8_i32,
            surge in 0..4_i32,
            unavailable in 0..4_i32,
            olds in prop::collection::vec(0..5_i32, 0..4),
            luck in prop::collection::vec(any::<bool>(), 64),
        ) {
            let limits = limits(desired, surge, unavailable);
            let mut new = Set { replicas: 0, available: 0 };
            let mut old: Vec<Set> =
                olds.iter().map(|n| Set { replicas: *n, available: *n }).collect();
            let mut luck = luck.into_iter().cycle();
            let begun = old.iter().map(|set| set.replicas).sum::<i32>();
            for _ in 0..200 {
                let available = new.available + old.iter().map(|s| s.available).sum::<i32>();
                let (up, down) = rolling_step(limits, new, &old);
                new.replicas = up;
                for (set, replicas) in old.iter_mut().zip(down) {
                    prop_assert!(replicas <= set.replicas);
                    set.replicas = replicas;
                    set.available = set.available.min(replicas);
                }
                let all = new.replicas + old.iter().map(|s| s.replicas).sum::<i32>();
                prop_assert!(all <= limits.most().max(begun));
                let after = new.available + old.iter().map(|s| s.available).sum::<i32>();
                prop_assert!(after >= available.min(desired - limits.unavailable));
                if new.available < new.replicas && luck.next() == Some(true) {
                    new.available += 1;
                }
            }
            prop_assert_eq!(new.replicas, desired);
            prop_assert_eq!(old.iter().map(|set| set.replicas).sum::<i32>(), 0);
        }
    }
}
