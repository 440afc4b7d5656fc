//! The loop: one task per target, spread over the interval, at most a few fetching at once.
//!
//! Invariant: a target that hangs, floods or lies costs its own slot, its timeout and
//! `max_body` bytes; nobody else's.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use malla_runtime::task::AbortOnDrop;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::clock::Clock;
use crate::metrics::MetricStore;
use crate::scrape::metadata::Metadata;
use crate::scrape::target::{Fetch, Target, TargetState};

/// How targets are scraped.
#[derive(Debug, Clone)]
pub struct ScrapeConfig {
    pub interval: Duration,
    /// Never longer than the interval.
    pub timeout: Duration,
    /// Bytes of one exposition; a longer one fails.
    pub max_body: usize,
    /// Samples of one exposition; more fail.
    pub max_samples: usize,
    /// Targets fetched from at the same time.
    pub at_once: usize,
}

impl Default for ScrapeConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(15),
            timeout: Duration::from_secs(10),
            max_body: 64 << 20,
            max_samples: 100_000,
            at_once: 64,
        }
    }
}

/// The scraper's own numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScrapeStats {
    pub targets: u64,
    pub up: u64,
    pub scrapes: u64,
    pub failed: u64,
    pub samples: u64,
}

/// How a target's last scrape went.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetHealth {
    pub target: Target,
    /// Unix milliseconds; `None` before the first scrape.
    pub last: Option<i64>,
    pub seconds: f64,
    pub error: Option<String>,
}

type Http = Client<HttpConnector, Empty<Bytes>>;

/// What all scrape tasks share.
#[derive(Debug)]
pub struct Scraper {
    config: ScrapeConfig,
    store: Arc<MetricStore>,
    clock: Clock,
    metadata: Metadata,
    slots: Semaphore,
    health: RwLock<BTreeMap<Target, TargetHealth>>,
    scrapes: AtomicU64,
    failed: AtomicU64,
    samples: AtomicU64,
}

impl Scraper {
    #[must_use]
    pub fn new(config: ScrapeConfig, store: Arc<MetricStore>, clock: Clock) -> Self {
        Self {
            slots: Semaphore::new(config.at_once.max(1)),
            config,
            store,
            clock,
            metadata: Metadata::default(),
            health: RwLock::default(),
            scrapes: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            samples: AtomicU64::new(0),
        }
    }

    #[must_use]
    pub fn stats(&self) -> ScrapeStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let health = self.health.read().unwrap_or_else(PoisonError::into_inner);
        let up = |h: &&TargetHealth| h.last.is_some() && h.error.is_none();
        ScrapeStats {
            targets: health.len() as u64,
            up: health.values().filter(up).count() as u64,
            scrapes: load(&self.scrapes),
            failed: load(&self.failed),
            samples: load(&self.samples),
        }
    }

    /// What the targets say of their metrics.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Every target and how its last scrape went.
    #[must_use]
    pub fn targets(&self) -> Vec<TargetHealth> {
        let health = self.health.read().unwrap_or_else(PoisonError::into_inner);
        health.values().cloned().collect()
    }

    /// Follows the list of targets until its sender is gone or the task is dropped.
    pub async fn run(self: Arc<Self>, mut list: watch::Receiver<Vec<Target>>) {
        let connector = HttpConnector::new();
        let client: Http = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(1)
            .build(connector);
        let mut running: BTreeMap<Target, Running> = BTreeMap::new();
        loop {
            let wanted: BTreeSet<Target> = list.borrow_and_update().iter().cloned().collect();
            let gone: Vec<Target> = running
                .keys()
                .filter(|target| !wanted.contains(*target))
                .cloned()
                .collect();
            for target in gone {
                if let Some(task) = running.remove(&target) {
                    self.end(&target, &task).await;
                }
            }
            for target in wanted {
                if let Entry::Vacant(place) = running.entry(target) {
                    let task = self.begin(place.key(), client.clone());
                    place.insert(task);
                }
            }
            if list.changed().await.is_err() {
                return;
            }
        }
    }

    fn begin(self: &Arc<Self>, target: &Target, client: Http) -> Running {
        let state = TargetState::new(target, self.config.max_samples);
        let state = Arc::new(Mutex::new(Some(state)));
        self.note(target, None, 0.0, None);
        let span = tracing::info_span!("scrape", url = %target.url);
        let work = self.clone().follow(target.clone(), state.clone(), client);
        Running {
            state,
            _task: AbortOnDrop::spawn(span, work),
        }
    }

    /// Marks the series of a target that is gone.
    async fn end(&self, target: &Target, running: &Running) {
        let taken = running.state.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = { taken }.take();
        if let Some(mut state) = taken {
            let now = self.clock.now();
            let (store, mut rows) = (self.store.clone(), state.end(now));
            tokio::task::spawn_blocking(move || store.append(now, &mut rows))
                .await
                .ok();
        }
        let mut health = self.health.write().unwrap_or_else(PoisonError::into_inner);
        health.remove(target);
    }

    async fn follow(self: Arc<Self>, target: Target, state: SharedState, client: Http) {
        let every = self.config.interval;
        let mut ticks = interval_at(Instant::now() + spread(&target, every), every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut nominal = None;
        loop {
            ticks.tick().await;
            let Ok(_slot) = self.slots.acquire().await else {
                return;
            };
            let at = aligned(&mut nominal, self.clock.now(), every);
            let begun = Instant::now();
            let limit = self.config.timeout.min(every);
            let body = match timeout(limit, fetch(&client, &target.url, &self.config)).await {
                Ok(result) => result,
                Err(_) => Err(format!("no answer within {limit:?}")),
            };
            let seconds = begun.elapsed().as_secs_f64();
            let worker = (self.clone(), state.clone());
            let took = tokio::task::spawn_blocking(move || {
                let (scraper, state) = worker;
                scraper.store(&state, at, seconds, &body)
            });
            match took.await {
                Ok(Some(error)) => self.note(&target, Some(at), seconds, error),
                // Ended meanwhile, or the process is going down.
                _ => return,
            }
        }
    }

    /// `None` when the target has been ended.
    fn store(
        &self,
        state: &SharedState,
        at: i64,
        seconds: f64,
        body: &Result<Bytes, String>,
    ) -> Option<Option<String>> {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = state.as_mut()?;
        let body = match body {
            Ok(bytes) => std::str::from_utf8(bytes).map_err(|_| "the body is not UTF-8"),
            Err(reason) => Err(reason.as_str()),
        };
        let mut scraped = state.take(Fetch { at, seconds, body }, &self.metadata);
        self.store.append(self.clock.now(), &mut scraped.rows);
        state.remember(&scraped);
        self.scrapes.fetch_add(1, Ordering::Relaxed);
        self.samples
            .fetch_add(scraped.rows.len() as u64, Ordering::Relaxed);
        if let Some(error) = &scraped.error {
            self.failed.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%error, "a scrape failed");
        }
        Some(scraped.error)
    }

    fn note(&self, target: &Target, last: Option<i64>, seconds: f64, error: Option<String>) {
        let mut health = self.health.write().unwrap_or_else(PoisonError::into_inner);
        let note = TargetHealth {
            target: target.clone(),
            last,
            seconds,
            error,
        };
        health.insert(target.clone(), note);
    }
}

type SharedState = Arc<Mutex<Option<TargetState>>>;

struct Running {
    state: SharedState,
    _task: AbortOnDrop<()>,
}

/// When in the interval a target has its turn: always the same for the same target.
fn spread(target: &Target, every: Duration) -> Duration {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&target.url);
    every.mul_f64((hash % 1000) as f64 / 1000.0)
}

/// The time the samples get: the nominal one while the real one is within 1 % of it, which makes
/// equal steps and so small chunks (as Prometheus does).
fn aligned(nominal: &mut Option<i64>, now: i64, every: Duration) -> i64 {
    let step = i64::try_from(every.as_millis()).unwrap_or(i64::MAX).max(1);
    let tolerance = (step / 100).max(2);
    let at = match *nominal {
        Some(last) => {
            let rounds = (now.saturating_sub(last) + step / 2) / step;
            let expected = last.saturating_add(rounds.max(1).saturating_mul(step));
            match now.abs_diff(expected) <= tolerance.unsigned_abs() {
                true => expected,
                false => now,
            }
        }
        None => now,
    };
    *nominal = Some(at);
    at
}

async fn fetch(client: &Http, url: &str, config: &ScrapeConfig) -> Result<Bytes, String> {
    let request = Request::get(url)
        .header(header::ACCEPT, "text/plain;version=0.0.4;q=1,*/*;q=0.1")
        .header(header::USER_AGENT, "malla-telemetry")
        .header(
            "x-prometheus-scrape-timeout-seconds",
            config.timeout.as_secs_f64().to_string(),
        )
        .body(Empty::new())
        .map_err(|error| format!("{url}: {error}"))?;
    let response = client
        .request(request)
        .await
        .map_err(|error| chain(&error))?;
    if response.status() != StatusCode::OK {
        return Err(format!("the target answered {}", response.status()));
    }
    let body = Limited::new(response.into_body(), config.max_body);
    match body.collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(format!(
            "the body (at most {} bytes): {error}",
            config.max_body
        )),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
