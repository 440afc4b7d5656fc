//! Decides when a host that keeps failing is put out of balancing, and when it may come back.
//!
//! [`Monitor`] is one host's tally: atomics, written by every worker as results come in. It only *triggers*; the decision
//! (how many hosts may be out at once, for how long) is taken by the cluster's one [`Detector`], a state machine that does
//! no IO and is told the time. Rules and defaults are Envoy's outlier detection (`config.cluster.v3.OutlierDetection`).
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use malla_proxy_config::cluster::OutlierDetection;
use tokio::time::Instant;

use crate::balance::Rng64;

/// How one attempt at a host ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response with this status (a gRPC status counts as the HTTP status it maps to).
    Status(u16),
    /// The connection stands; a later outcome follows.
    Connected,
    /// The connection stands and nothing more will be reported (TCP).
    ConnectedFinal,
    ConnectFailed,
    /// Not connected in time.
    ConnectTimedOut,
    /// No answer in time.
    TimedOut,
    /// The host broke the connection or the stream off.
    Reset,
}

/// Why a host is to be ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Consecutive5xx,
    ConsecutiveGatewayFailure,
    ConsecutiveLocalOriginFailure,
    SuccessRate,
    LocalOriginSuccessRate,
    FailurePercentage,
    FailurePercentageLocalOrigin,
}

impl Cause {
    /// In the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Consecutive5xx,
        Self::ConsecutiveGatewayFailure,
        Self::ConsecutiveLocalOriginFailure,
        Self::SuccessRate,
        Self::LocalOriginSuccessRate,
        Self::FailurePercentage,
        Self::FailurePercentageLocalOrigin,
    ];

    /// The name in Envoy's statistics and ejection log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGatewayFailure => "consecutive_gateway_failure",
            Self::ConsecutiveLocalOriginFailure => "consecutive_local_origin_failure",
            Self::SuccessRate => "success_rate",
            Self::LocalOriginSuccessRate => "local_origin_success_rate",
            Self::FailurePercentage => "failure_percentage",
            Self::FailurePercentageLocalOrigin => "local_origin_failure_percentage",
        }
    }
}

/// One host's tally. Shared by the workers; every method is a handful of atomic operations.
#[derive(Debug, Default)]
pub struct Monitor {
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    consecutive_local: AtomicU32,
    external: Rate,
    local: Rate,
    ejected: AtomicBool,
}

/// Requests and successes since the last interval.
#[derive(Debug)]
struct Rate {
    total: AtomicU32,
    success: AtomicU32,
    /// Of the last interval, in percent; -1 when too few requests came.
    percent: AtomicI32,
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            total: AtomicU32::new(0),
            success: AtomicU32::new(0),
            percent: AtomicI32::new(-1),
        }
    }
}

impl Rate {
    fn record(&self, success: bool) {
        self.total.fetch_add(1, Ordering::Relaxed);
        if success {
            self.success.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ends an interval: `(success percent, requests)`, if there were any.
    fn close(&self) -> Option<(f64, u32)> {
        let total = self.total.swap(0, Ordering::Relaxed);
        let success = self.success.swap(0, Ordering::Relaxed);
        (total > 0).then(|| (100.0 * f64::from(success) / f64::from(total), total))
    }
}

impl Monitor {
    /// Whether outlier detection keeps this host out of balancing.
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }

    /// Success rate of the last interval in percent, as `/clusters` prints it; -1 when unknown.
    pub fn success_rate(&self) -> i32 {
        self.external.percent.load(Ordering::Relaxed)
    }

    /// See [`Self::success_rate`], for connect failures and timeouts.
    pub fn local_origin_success_rate(&self) -> i32 {
        self.local.percent.load(Ordering::Relaxed)
    }

    /// Counts an outcome. A cause is returned exactly when its threshold is reached: hand it to [`Detector::triggered`].
    pub fn record(&self, outcome: Outcome, settings: &OutlierDetection) -> Option<Cause> {
        let local_failure = matches!(
            outcome,
            Outcome::ConnectFailed | Outcome::ConnectTimedOut | Outcome::TimedOut | Outcome::Reset
        );
        if settings.split_local_origin_errors && local_failure {
            return self.record_local(false, settings);
        }
        match outcome {
            Outcome::Status(status) => self.record_status(status, settings),
            Outcome::Connected | Outcome::ConnectedFinal if settings.split_local_origin_errors => {
                self.record_local(true, settings)
            }
            Outcome::Connected => None,
            Outcome::ConnectedFinal => self.record_status(200, settings),
            // Without the split, what happened on our side is counted as the status the client gets for it.
            Outcome::ConnectFailed => self.record_status(503, settings),
            Outcome::ConnectTimedOut | Outcome::TimedOut => self.record_status(504, settings),
            Outcome::Reset => self.record_status(503, settings),
        }
    }

    fn record_status(&self, status: u16, settings: &OutlierDetection) -> Option<Cause> {
        let failed = (500..600).contains(&status);
        self.external.record(!failed);
        if !failed {
            // The common case: no store where there is nothing to clear, so workers do not fight for the line.
            clear(&self.consecutive_5xx);
            clear(&self.consecutive_gateway);
            return None;
        }
        let mut cause = None;
        if matches!(status, 502..=504) {
            if reached(
                &self.consecutive_gateway,
                settings.consecutive_gateway_failure.threshold,
            ) {
                cause = Some(Cause::ConsecutiveGatewayFailure);
            }
        } else {
            clear(&self.consecutive_gateway);
        }
        if reached(&self.consecutive_5xx, settings.consecutive_5xx.threshold) {
            // Where both are reached at once the one that is enforced decides.
            let enforced =
                cause.is_some() && settings.consecutive_gateway_failure.enforcing_percent > 0;
            cause = if enforced {
                cause
            } else {
                Some(Cause::Consecutive5xx)
            };
        }
        cause
    }

    fn record_local(&self, success: bool, settings: &OutlierDetection) -> Option<Cause> {
        self.local.record(success);
        if success {
            clear(&self.consecutive_local);
            return None;
        }
        reached(
            &self.consecutive_local,
            settings.consecutive_local_origin_failure.threshold,
        )
        .then_some(Cause::ConsecutiveLocalOriginFailure)
    }

    fn reset(&self, cause: Cause) {
        match cause {
            Cause::Consecutive5xx => clear(&self.consecutive_5xx),
            Cause::ConsecutiveGatewayFailure => clear(&self.consecutive_gateway),
            Cause::ConsecutiveLocalOriginFailure => clear(&self.consecutive_local),
            _ => {}
        }
    }
}

fn clear(counter: &AtomicU32) {
    if counter.load(Ordering::Relaxed) != 0 {
        counter.store(0, Ordering::Relaxed);
    }
}

fn reached(counter: &AtomicU32, threshold: u32) -> bool {
    counter.fetch_add(1, Ordering::Relaxed).saturating_add(1) == threshold
}

/// Counters of a cluster's outlier detection, named as Envoy's.
#[derive(Debug, Default)]
pub struct Stats {
    pub ejections_active: AtomicU64,
    pub ejections_enforced_total: AtomicU64,
    pub ejections_overflow: AtomicU64,
    /// Envoy's older count: those by 5xx and success rate that the limits allowed, enforced or not.
    pub ejections_total: AtomicU64,
    /// How often a threshold was reached, also where limits forbade more: by 5xx in a row, by success rate.
    pub ejections_consecutive_5xx: AtomicU64,
    pub ejections_success_rate: AtomicU64,
    /// By cause, in the order of [`Cause`].
    pub detected: [AtomicU64; 7],
    pub enforced: [AtomicU64; 7],
}

/// One host as the detector knows it.
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    ejected_at: Option<Instant>,
    /// Multiplies the base ejection time; shrinks with every interval the host stays well.
    backoff: u32,
    /// Added to the sentence of the ejection under way.
    jitter: Duration,
}

/// A cluster's ejection state. `K` names a host (its address).
#[derive(Debug)]
pub struct Detector<K> {
    settings: OutlierDetection,
    hosts: Vec<(K, Record)>,
    rng: Rng64,
}

impl<K: PartialEq + Clone> Detector<K> {
    pub fn new(settings: OutlierDetection, seed: u64) -> Self {
        Self {
            settings,
            hosts: Vec::new(),
            rng: Rng64::seeded(seed),
        }
    }

    /// The cluster's hosts are now these; state of hosts that stay is kept.
    pub fn set_hosts(&mut self, keys: impl Iterator<Item = K>, stats: &Stats) {
        let old = std::mem::take(&mut self.hosts);
        self.hosts = keys
            .map(|key| {
                let known = old.iter().find(|(other, _)| *other == key);
                let record = known.map(|(_, record)| *record).unwrap_or_default();
                (key, record)
            })
            .collect();
        stats
            .ejections_active
            .store(self.active() as u64, Ordering::Relaxed);
    }

    /// A monitor reached a threshold. Returns whether the host is now ejected; the caller then rebuilds balancers.
    pub fn triggered(
        &mut self,
        now: Instant,
        key: &K,
        monitor: &Monitor,
        cause: Cause,
        stats: &Stats,
    ) -> bool {
        if monitor.is_ejected() || !self.hosts.iter().any(|(known, _)| known == key) {
            return false;
        }
        // Reset first: a host without interleaved successes must be able to trigger again.
        monitor.reset(cause);
        if cause == Cause::Consecutive5xx {
            stats
                .ejections_consecutive_5xx
                .fetch_add(1, Ordering::Relaxed);
        }
        stats.detected[cause as usize].fetch_add(1, Ordering::Relaxed);
        self.eject(now, key, monitor, cause, stats)
    }

    /// An active health check found the host healthy: it may come back at once.
    pub fn pardon(&mut self, key: &K, monitor: &Monitor, stats: &Stats) {
        if let Some((_, record)) = self.hosts.iter_mut().find(|(known, _)| known == key) {
            record.ejected_at = None;
        }
        monitor.ejected.store(false, Ordering::Relaxed);
        for cause in Cause::ALL {
            monitor.reset(cause);
        }
        stats
            .ejections_active
            .store(self.active() as u64, Ordering::Relaxed);
    }

    /// The interval timer: lets hosts back in and judges success rates. Returns whether anybody's state changed.
    pub fn interval<'m>(
        &mut self,
        now: Instant,
        monitor_of: impl Fn(&K) -> Option<&'m Monitor>,
        stats: &Stats,
    ) -> bool {
        let mut changed = false;
        for (key, record) in &mut self.hosts {
            let Some(monitor) = monitor_of(key) else {
                continue;
            };
            match record.ejected_at {
                None => record.backoff = record.backoff.saturating_sub(1),
                Some(since) => {
                    let longest = self
                        .settings
                        .max_ejection_time
                        .max(self.settings.base_ejection_time);
                    let sentence = self
                        .settings
                        .base_ejection_time
                        .saturating_mul(record.backoff);
                    if now.saturating_duration_since(since) >= sentence.min(longest) + record.jitter
                    {
                        record.ejected_at = None;
                        monitor.ejected.store(false, Ordering::Relaxed);
                        clear(&monitor.consecutive_5xx);
                        clear(&monitor.consecutive_gateway);
                        clear(&monitor.consecutive_local);
                        changed = true;
                    }
                }
            }
        }
        for local in [false, true] {
            changed |= self.judge_rates(now, &monitor_of, local, stats);
        }
        stats
            .ejections_active
            .store(self.active() as u64, Ordering::Relaxed);
        changed
    }

    pub fn settings(&self) -> &OutlierDetection {
        &self.settings
    }

    fn active(&self) -> usize {
        self.hosts
            .iter()
            .filter(|(_, record)| record.ejected_at.is_some())
            .count()
    }

    fn eject(
        &mut self,
        now: Instant,
        key: &K,
        monitor: &Monitor,
        cause: Cause,
        stats: &Stats,
    ) -> bool {
        let active = self.active();
        // Counted over all priorities, as in Envoy.
        let percent = 100.0 * (active + 1) as f64 / self.hosts.len().max(1) as f64;
        let first = self.settings.always_eject_one && active == 0;
        if percent > f64::from(self.settings.max_ejection_percent) && !first {
            stats.ejections_overflow.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        if matches!(cause, Cause::Consecutive5xx | Cause::SuccessRate) {
            stats.ejections_total.fetch_add(1, Ordering::Relaxed);
        }
        if self.rng.below(100) as u32 >= self.enforcing(cause) {
            return false;
        }
        let base = self.settings.base_ejection_time;
        let longest = self.settings.max_ejection_time.max(base);
        let Some((_, record)) = self.hosts.iter_mut().find(|(known, _)| known == key) else {
            return false;
        };
        record.ejected_at = Some(now);
        record.jitter = self.settings.max_ejection_jitter.mul_f64(self.rng.unit());
        if base.saturating_mul(record.backoff) < longest.saturating_add(base) {
            record.backoff += 1;
        }
        monitor.ejected.store(true, Ordering::Relaxed);
        stats
            .ejections_enforced_total
            .fetch_add(1, Ordering::Relaxed);
        stats.enforced[cause as usize].fetch_add(1, Ordering::Relaxed);
        stats
            .ejections_active
            .store(active as u64 + 1, Ordering::Relaxed);
        true
    }

    fn enforcing(&self, cause: Cause) -> u32 {
        let settings = &self.settings;
        match cause {
            Cause::Consecutive5xx => settings.consecutive_5xx.enforcing_percent,
            Cause::ConsecutiveGatewayFailure => {
                settings.consecutive_gateway_failure.enforcing_percent
            }
            Cause::ConsecutiveLocalOriginFailure => {
                settings.consecutive_local_origin_failure.enforcing_percent
            }
            Cause::SuccessRate => settings.success_rate.enforcing_percent,
            Cause::LocalOriginSuccessRate => settings.success_rate.enforcing_local_percent,
            Cause::FailurePercentage => settings.failure_percentage.enforcing_percent,
            Cause::FailurePercentageLocalOrigin => {
                settings.failure_percentage.enforcing_local_percent
            }
        }
    }

    /// Ejects hosts whose success rate is far below the mean, or whose failure share is over the threshold.
    fn judge_rates<'m>(
        &mut self,
        now: Instant,
        monitor_of: &impl Fn(&K) -> Option<&'m Monitor>,
        local: bool,
        stats: &Stats,
    ) -> bool {
        let mut judged: Vec<(K, &Monitor, f64, u32)> = Vec::new();
        for (key, record) in &self.hosts {
            let Some(monitor) = monitor_of(key) else {
                continue;
            };
            let rate = if local {
                &monitor.local
            } else {
                &monitor.external
            };
            let closed = rate.close();
            rate.percent.store(
                closed.map_or(-1, |(percent, _)| percent as i32),
                Ordering::Relaxed,
            );
            if let (Some((percent, volume)), None) = (closed, record.ejected_at) {
                judged.push((key.clone(), monitor, percent, volume));
            }
        }
        let (rates, failures) = (self.settings.success_rate, self.settings.failure_percentage);
        let known = self.hosts.len();
        let mut verdicts: Vec<(K, &Monitor, Cause)> = Vec::new();
        let voting: Vec<_> = judged
            .iter()
            .filter(|(.., volume)| *volume >= rates.request_volume)
            .collect();
        if known >= rates.minimum_hosts as usize
            && !voting.is_empty()
            && voting.len() >= rates.minimum_hosts as usize
        {
            let mean = voting.iter().map(|v| v.2).sum::<f64>() / voting.len() as f64;
            let variance =
                voting.iter().map(|v| (v.2 - mean).powi(2)).sum::<f64>() / voting.len() as f64;
            let threshold = mean - f64::from(rates.stdev_factor) / 1000.0 * variance.sqrt();
            let cause = if local {
                Cause::LocalOriginSuccessRate
            } else {
                Cause::SuccessRate
            };
            verdicts.extend(
                voting
                    .iter()
                    .filter(|v| v.2 < threshold)
                    .map(|v| (v.0.clone(), v.1, cause)),
            );
        }
        let voting: Vec<_> = judged
            .iter()
            .filter(|(.., volume)| *volume >= failures.request_volume)
            .collect();
        if !voting.is_empty() && voting.len() >= failures.minimum_hosts as usize {
            let cause = if local {
                Cause::FailurePercentageLocalOrigin
            } else {
                Cause::FailurePercentage
            };
            let over = |percent: f64| 100.0 - percent >= f64::from(failures.threshold);
            verdicts.extend(
                voting
                    .iter()
                    .filter(|v| over(v.2))
                    .map(|v| (v.0.clone(), v.1, cause)),
            );
        }
        let mut changed = false;
        for (key, monitor, cause) in verdicts {
            if cause == Cause::SuccessRate {
                stats.ejections_success_rate.fetch_add(1, Ordering::Relaxed);
            }
            stats.detected[cause as usize].fetch_add(1, Ordering::Relaxed);
            changed |= !monitor.is_ejected() && self.eject(now, &key, monitor, cause, stats);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use malla_proxy_config::cluster::{Enforced, FailurePercentage, OutlierDetection, SuccessRate};

    use super::{Cause, Detector, Duration, Instant, Monitor, Outcome, Stats};

    /// What `outlier_detection: {}` means in Envoy.
    fn defaults() -> OutlierDetection {
        let five = |enforcing_percent| Enforced {
            threshold: 5,
            enforcing_percent,
        };
        OutlierDetection {
            consecutive_5xx: five(100),
            consecutive_gateway_failure: five(0),
            consecutive_local_origin_failure: five(100),
            split_local_origin_errors: false,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_jitter: Duration::ZERO,
            max_ejection_percent: 10,
            always_eject_one: false,
            uneject_on_check: true,
            success_rate: SuccessRate {
                enforcing_percent: 100,
                enforcing_local_percent: 100,
                minimum_hosts: 5,
                request_volume: 100,
                stdev_factor: 1900,
            },
            failure_percentage: FailurePercentage {
                threshold: 85,
                enforcing_percent: 0,
                enforcing_local_percent: 0,
                minimum_hosts: 5,
                request_volume: 50,
            },
        }
    }

    struct Bench {
        detector: Detector<usize>,
        monitors: Vec<Monitor>,
        stats: Stats,
        now: Instant,
    }

    impl Bench {
        fn new(hosts: usize, settings: OutlierDetection) -> Self {
            let stats = Stats::default();
            let mut detector = Detector::new(settings, 1);
            detector.set_hosts(0..hosts, &stats);
            let monitors = (0..hosts).map(|_| Monitor::default()).collect();
            Self {
                detector,
                monitors,
                stats,
                now: Instant::now(),
            }
        }

        fn report(&mut self, host: usize, outcome: Outcome, times: usize) -> Vec<Cause> {
            let mut causes = Vec::new();
            for _ in 0..times {
                let settings = *self.detector.settings();
                if let Some(cause) = self.monitors[host].record(outcome, &settings) {
                    causes.push(cause);
                    self.detector.triggered(
                        self.now,
                        &host,
                        &self.monitors[host],
                        cause,
                        &self.stats,
                    );
                }
            }
            causes
        }

        fn pass(&mut self, time: Duration) {
            let end = self.now + time;
            while self.now < end {
                self.now += self.detector.settings().interval;
                let monitors = &self.monitors;
                self.detector
                    .interval(self.now, |&host| monitors.get(host), &self.stats);
            }
        }

        fn ejected(&self) -> Vec<usize> {
            (0..self.monitors.len())
                .filter(|&host| self.monitors[host].is_ejected())
                .collect()
        }
    }

    fn half() -> OutlierDetection {
        OutlierDetection {
            max_ejection_percent: 50,
            ..defaults()
        }
    }

    #[test]
    fn five_failures_in_a_row_eject() {
        let mut bench = Bench::new(4, half());
        bench.report(1, Outcome::Status(500), 4);
        bench.report(1, Outcome::Status(200), 1);
        bench.report(1, Outcome::Status(500), 4);
        assert_eq!(
            bench.ejected(),
            [] as [usize; 0],
            "a success starts the count again"
        );
        bench.report(1, Outcome::Status(503), 1);
        assert_eq!(bench.ejected(), [1]);
    }

    #[test]
    fn no_more_hosts_than_allowed_are_out() {
        let mut bench = Bench::new(4, half());
        for host in 0..4 {
            bench.report(host, Outcome::Reset, 5);
        }
        assert_eq!(bench.ejected(), [0, 1]);
        assert_eq!(
            bench
                .stats
                .ejections_overflow
                .load(super::Ordering::Relaxed),
            2
        );
        let mut few = Bench::new(4, defaults());
        few.report(0, Outcome::Status(500), 5);
        assert_eq!(
            few.ejected(),
            [] as [usize; 0],
            "10 % of four hosts is none"
        );
        let mut one = Bench::new(
            4,
            OutlierDetection {
                always_eject_one: true,
                ..defaults()
            },
        );
        one.report(0, Outcome::Status(500), 5);
        one.report(1, Outcome::Status(500), 5);
        assert_eq!(one.ejected(), [0]);
    }

    #[test]
    fn each_ejection_lasts_longer_until_the_host_behaves() {
        let mut bench = Bench::new(4, half());
        let base = Duration::from_secs(30);
        for round in 1..=3u32 {
            bench.report(0, Outcome::Status(500), 5);
            assert_eq!(bench.ejected(), [0]);
            bench.pass(base * round - Duration::from_secs(10));
            assert_eq!(bench.ejected(), [0], "still out in round {round}");
            bench.pass(Duration::from_secs(10));
            assert_eq!(
                bench.ejected(),
                [] as [usize; 0],
                "back after round {round}"
            );
        }
        bench.pass(Duration::from_secs(30));
        bench.report(0, Outcome::Status(500), 5);
        bench.pass(base);
        assert_eq!(
            bench.ejected(),
            [] as [usize; 0],
            "three good intervals take three steps back"
        );
    }

    #[test]
    fn gateway_errors_have_their_own_count() {
        let mut settings = half();
        settings.consecutive_5xx.enforcing_percent = 0;
        settings.consecutive_gateway_failure.enforcing_percent = 100;
        settings.consecutive_gateway_failure.threshold = 3;
        let mut bench = Bench::new(4, settings);
        bench.report(0, Outcome::Status(502), 2);
        bench.report(0, Outcome::Status(500), 1);
        bench.report(0, Outcome::Status(504), 2);
        assert_eq!(bench.ejected(), [] as [usize; 0]);
        bench.report(0, Outcome::Status(503), 1);
        assert_eq!(bench.ejected(), [0]);
    }

    #[test]
    fn local_failures_can_be_counted_apart() {
        let mut bench = Bench::new(
            4,
            OutlierDetection {
                split_local_origin_errors: true,
                ..half()
            },
        );
        bench.report(0, Outcome::ConnectFailed, 4);
        bench.report(0, Outcome::Status(500), 4);
        assert_eq!(bench.ejected(), [] as [usize; 0]);
        assert_eq!(
            bench.report(0, Outcome::TimedOut, 1),
            [Cause::ConsecutiveLocalOriginFailure]
        );
        assert_eq!(bench.ejected(), [0]);
        let mut joined = Bench::new(4, half());
        assert_eq!(
            joined.report(0, Outcome::ConnectFailed, 5),
            [Cause::Consecutive5xx]
        );
    }

    #[test]
    fn a_host_far_below_the_mean_is_ejected() {
        let mut bench = Bench::new(6, half());
        for host in 0..6 {
            for request in 0..200 {
                let fails = host == 5 && request % 2 == 0;
                bench.report(host, Outcome::Status(if fails { 500 } else { 200 }), 1);
            }
        }
        bench.pass(Duration::from_secs(10));
        assert_eq!(bench.ejected(), [5]);
        assert_eq!(bench.monitors[5].success_rate(), 50);
    }

    #[test]
    fn hosts_that_leave_are_forgotten() {
        let mut bench = Bench::new(4, half());
        bench.report(0, Outcome::Status(500), 5);
        bench.detector.set_hosts(1..4, &bench.stats);
        assert_eq!(
            bench.stats.ejections_active.load(super::Ordering::Relaxed),
            0
        );
        bench.detector.set_hosts(0..4, &bench.stats);
        assert!(!bench.detector.triggered(
            bench.now,
            &9,
            &Monitor::default(),
            Cause::SuccessRate,
            &bench.stats
        ));
    }
}
