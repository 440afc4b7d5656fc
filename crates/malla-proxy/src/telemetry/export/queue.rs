//! What waits to be sent: encoded records, one after another, up to a bound.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::telemetry::stats::{GrpcLogStats, OtelStats, ZipkinStats};

/// Where a queue counts.
#[derive(Debug)]
pub enum Counts {
    Otel(Arc<OtelStats>),
    Zipkin(Arc<ZipkinStats>),
    Log(Arc<GrpcLogStats>),
}

impl Counts {
    /// `n` records were taken by the collector.
    pub fn sent(&self, n: u64) {
        match self {
            Self::Otel(stats) => stats.spans_sent.add(n),
            Self::Zipkin(stats) => {
                stats.spans_sent.add(n);
                stats.reports_sent.inc();
            }
            Self::Log(stats) => stats.logs_written.add(n),
        }
    }

    /// `n` records are lost.
    pub fn dropped(&self, n: u64) {
        match self {
            Self::Otel(stats) => stats.spans_dropped.add(n),
            Self::Zipkin(stats) => stats.spans_dropped.add(n),
            Self::Log(stats) => stats.logs_dropped.add(n),
        }
    }

    /// A batch goes because of its age.
    pub fn timer(&self) {
        match self {
            Self::Otel(stats) => stats.timer_flushed.inc(),
            Self::Zipkin(stats) => stats.timer_flushed.inc(),
            Self::Log(_) => {}
        }
    }
}

/// When a batch is sent, and how much may wait.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes at which a batch goes at once.
    pub batch: usize,
    /// The longest a record waits for others.
    pub wait: Duration,
    /// Bytes kept at most.
    pub bytes: usize,
    /// Records kept at most.
    pub records: u64,
}

/// Encoded records of one worker for one collector.
#[derive(Debug)]
pub struct Queue {
    pending: RefCell<Vec<u8>>,
    records: Cell<u64>,
    pub limits: Limits,
    pub counts: Counts,
    /// There is a first record.
    filled: Notify,
    /// There is a batch.
    full: Notify,
}

/// Records on their way.
#[derive(Debug, Clone)]
pub struct Batch {
    pub bytes: Bytes,
    pub records: u64,
}

impl Queue {
    pub fn new(limits: Limits, counts: Counts) -> Self {
        Self {
            pending: RefCell::default(),
            records: Cell::new(0),
            limits,
            counts,
            filled: Notify::new(),
            full: Notify::new(),
        }
    }

    /// Lets `write` append one record, unless there are too many.
    pub fn add(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut pending = self.pending.borrow_mut();
        let records = self.records.get();
        if records >= self.limits.records || pending.len() >= self.limits.bytes {
            self.counts.dropped(1);
            return;
        }
        if records == 0 {
            pending.reserve(self.limits.batch.min(1 << 16));
            self.filled.notify_one();
        }
        write(&mut pending);
        self.records.set(records + 1);
        if pending.len() >= self.limits.batch {
            self.full.notify_one();
        }
    }

    /// Takes what waits; `None` if nothing does.
    pub fn take(&self) -> Option<Batch> {
        let records = self.records.replace(0);
        let bytes = std::mem::take(&mut *self.pending.borrow_mut());
        (records > 0).then(|| Batch {
            bytes: Bytes::from(bytes),
            records,
        })
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.records.get() == 0
    }

    /// Waits for a record.
    pub async fn filled(&self) {
        while self.is_empty() {
            self.filled.notified().await;
        }
    }

    /// Waits until a batch is there, or old enough, or `hurry` completes.
    pub async fn batch(&self, hurry: impl Future<Output = ()>) {
        let full = async {
            while self.pending.borrow().len() < self.limits.batch {
                self.full.notified().await;
            }
        };
        tokio::select! {
            biased; // What is there counts before the time it took.
            () = full => {}
            () = hurry => {}
            () = tokio::time::sleep(self.limits.wait) => self.counts.timer(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::{Counts, Limits, Queue};
    use crate::telemetry::stats::OtelStats;

    #[tokio::test]
    async fn a_full_queue_drops_and_counts() {
        let stats: Arc<OtelStats> = Arc::default();
        let limits = Limits {
            batch: 4,
            wait: Duration::from_secs(1),
            bytes: 100,
            records: 3,
        };
        let queue = Queue::new(limits, Counts::Otel(Arc::clone(&stats)));
        assert!(queue.take().is_none());
        for _ in 0..5 {
            queue.add(|out| out.extend_from_slice(b"ab"));
        }
        queue.filled().await;
        queue.batch(std::future::pending()).await;
        let batch = queue.take().unwrap();
        assert_eq!((&*batch.bytes, batch.records), (&b"ababab"[..], 3));
        assert_eq!(stats.spans_dropped.get(), 2);
        assert!(queue.is_empty());
    }
}
