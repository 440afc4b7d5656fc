//! How the collector is: what `/api/malla/v1/telemetry/status` answers.

use std::sync::Arc;

use serde::Serialize;

use super::{Closed, CollectorConfig};
use crate::Telemetry;
use crate::records::{Family, IntakeStats};

/// Whether telemetry is collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Opening,
    Open,
    Failed,
    /// This process collects nothing.
    Off,
}

/// The whole answer. Counters begin with the process.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub state: Phase,
    /// Why it is not open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// Seconds between two scrapes of a target.
    pub scrape_interval: f64,
    pub targets: u64,
    pub targets_up: u64,
    /// Open streams of access logs.
    pub log_streams: u64,
    pub series: u64,
    pub metrics: Stored,
    pub spans: Stored,
    pub logs: Stored,
}

/// One signal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stored {
    /// On disk, and in memory for metrics that are not in a block yet.
    pub bytes: u64,
    /// Samples, spans or lines taken.
    pub received: u64,
    /// Not taken: a full queue, a limit, a time that cannot be.
    pub dropped: u64,
    /// Lost because the disk took none.
    pub failed: u64,
    /// Kept in memory only, because the disk takes none: gone with the process.
    pub unsafe_in_memory: u64,
    /// Wait for the disk.
    pub queued_bytes: u64,
}

impl Status {
    /// Of a process that collects nothing.
    #[must_use]
    pub fn off() -> Self {
        Self {
            state: Phase::Off,
            reason: Some("this console collects no telemetry".to_owned()),
            fix: Some("start it with --data DIR".to_owned()),
            scrape_interval: 0.0,
            targets: 0,
            targets_up: 0,
            log_streams: 0,
            series: 0,
            metrics: Stored::default(),
            spans: Stored::default(),
            logs: Stored::default(),
        }
    }

    pub(super) fn of(telemetry: &Result<Arc<Telemetry>, Closed>, config: &CollectorConfig) -> Self {
        let scrape_interval = config.telemetry.scrape.interval.as_secs_f64();
        let telemetry = match telemetry {
            Ok(telemetry) => telemetry,
            Err(closed) => {
                return Self {
                    state: match closed {
                        Closed::Opening => Phase::Opening,
                        Closed::Failed(_) => Phase::Failed,
                    },
                    reason: Some(closed.to_string()),
                    fix: Some(closed.fix().to_owned()),
                    scrape_interval,
                    ..Self::off()
                };
            }
        };
        let store = telemetry.engine().store().stats();
        let scraped = telemetry.scraper().stats();
        let (spans, logs) = telemetry.taken();
        Self {
            state: Phase::Open,
            reason: None,
            fix: None,
            scrape_interval,
            targets: scraped.targets,
            targets_up: scraped.up,
            log_streams: telemetry.log_streams(),
            series: store.series,
            metrics: Stored {
                bytes: store.head_bytes + store.wal_bytes + store.block_bytes,
                received: store.appended,
                dropped: store.out_of_order
                    + store.too_old
                    + store.too_new
                    + store.over_limit
                    + store.clock_dropped,
                failed: store.lost,
                unsafe_in_memory: store.unwritten,
                queued_bytes: 0,
            },
            spans: stored(&spans, telemetry.bytes_of(Family::Spans)),
            logs: stored(&logs, telemetry.bytes_of(Family::Logs)),
        }
    }
}

fn stored(taken: &IntakeStats, bytes: u64) -> Stored {
    Stored {
        bytes,
        received: taken.accepted,
        dropped: taken.dropped,
        failed: taken.failed,
        unsafe_in_memory: 0,
        queued_bytes: taken.queued_bytes,
    }
}

impl Closed {
    /// What helps against it.
    #[must_use]
    pub fn fix(&self) -> &'static str {
        match self {
            Self::Opening => "wait a moment",
            Self::Failed(_) => {
                "make room on the disk and see that the folder of --data is writable and used by one console only; \
                 it is tried again every five seconds. A damaged store can be moved away: a new one is made"
            }
        }
    }
}
