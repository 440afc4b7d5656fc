//! gRPC calls that may take long: their messages are counted now and then while they go.
//!
//! Invariant: every message is counted once; what the regular look has not seen, the end of the call adds.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use malla_proxy_config::istio_stats::Metric;
use tokio::time::Instant;

use super::grpc::Messages;
use super::{Facts, MeshMetrics, Series};
use crate::telemetry::record::Progress;

/// How often calls are looked at: no configuration can ask for more.
const TICK: Duration = Duration::from_secs(1);

/// One call's share of a series.
#[derive(Debug)]
pub struct LiveCall {
    series: Arc<Series>,
    progress: Rc<Progress>,
    /// Messages of the answer.
    pub answered: Cell<Messages>,
    /// What has been counted of both sides.
    counted: Cell<(u64, u64)>,
    every: Option<Duration>,
    due: Cell<Instant>,
}

impl MeshMetrics {
    /// Counts the messages of a call from now on; `progress` has those of its client.
    pub fn call(&self, facts: &Facts<'_>, progress: &Rc<Progress>) -> Rc<LiveCall> {
        let call = Rc::new(LiveCall {
            series: self.with(facts, Arc::clone),
            progress: Rc::clone(progress),
            answered: Cell::default(),
            counted: Cell::default(),
            every: facts.config.reporting,
            due: Cell::new(Instant::now() + facts.config.reporting.unwrap_or_default()),
        });
        if call.every.is_some() {
            self.live.borrow_mut().push(Rc::downgrade(&call));
            self.calls.notify_one();
        }
        call
    }

    /// Counts what calls under way have come to, again and again; never ends.
    pub async fn watch_calls(&self) -> std::convert::Infallible {
        loop {
            if self.live.borrow().is_empty() {
                self.calls.notified().await;
            }
            tokio::time::sleep(TICK).await;
            self.count_calls(Instant::now());
        }
    }

    pub(super) fn count_calls(&self, now: Instant) {
        let mut live = self.live.borrow_mut();
        live.retain(|call| {
            let Some(call) = Weak::upgrade(call) else {
                return false;
            };
            if call.due.get() <= now {
                call.due.set(now + call.every.unwrap_or_default());
                call.count();
            }
            true
        });
    }
}

impl LiveCall {
    fn count(&self) {
        let now = (
            self.progress.messages.get().count,
            self.answered.get().count,
        );
        let before = self.counted.replace(now);
        let (asked, answered) = (now.0 - before.0, now.1 - before.1);
        self.series.counter(Metric::RequestMessages).add(asked);
        self.series.counter(Metric::ResponseMessages).add(answered);
    }
}

impl Drop for LiveCall {
    fn drop(&mut self) {
        self.count();
    }
}
