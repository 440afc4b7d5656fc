//! Access logs: received, stored, searched, followed.

pub(crate) mod als;
pub mod line;
pub mod query;
pub(crate) mod store;
pub mod text;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::records::{Intake, IntakeStats, weight};
pub use line::{LogLine, Origin};
pub use query::{BadQuery, LogFilter, LogPage, LogQuery};

/// Lines a follower may be behind before it misses some.
pub(crate) const TAIL: usize = 2048;

/// Where lines go in. Never waits: what does not fit is dropped and counted.
#[derive(Debug)]
pub(crate) struct LogIntake {
    intake: Intake<LogLine>,
    tail: broadcast::Sender<Arc<LogLine>>,
    missed: Arc<AtomicU64>,
}

impl LogIntake {
    pub(crate) fn new(intake: Intake<LogLine>, tail: broadcast::Sender<Arc<LogLine>>) -> Self {
        Self {
            intake,
            tail,
            missed: Arc::default(),
        }
    }

    pub(crate) fn take(&self, lines: Vec<LogLine>) -> bool {
        let bytes = lines.iter().map(|line| weight(line.size())).sum();
        self.intake.offer(lines, bytes).is_ok()
    }

    pub(crate) fn stats(&self) -> IntakeStats {
        self.intake.stats()
    }

    /// Lines that slow followers did not see.
    pub(crate) fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    pub(crate) fn follow(&self, filter: LogFilter) -> LogTail {
        LogTail {
            lines: self.tail.subscribe(),
            filter,
            missed: self.missed.clone(),
        }
    }
}

/// New lines as they are written.
#[derive(Debug)]
pub struct LogTail {
    lines: broadcast::Receiver<Arc<LogLine>>,
    filter: LogFilter,
    missed: Arc<AtomicU64>,
}

/// What a follower sees.
#[derive(Debug, Clone, PartialEq)]
pub enum TailEvent {
    Line(Arc<LogLine>),
    /// The follower was too slow for so many lines.
    Missed(u64),
}

impl LogTail {
    /// The next fitting line; `None` when the store is closed.
    pub async fn next(&mut self) -> Option<TailEvent> {
        loop {
            match self.lines.recv().await {
                Ok(line) if store::accepts(&self.filter, &line) => {
                    return Some(TailEvent::Line(line));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(count)) => {
                    self.missed.fetch_add(count, Ordering::Relaxed);
                    return Some(TailEvent::Missed(count));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}
