//! What is known of a pod's containers, for whoever waits for it.
//!
//! Invariant: only the container's own supervisor and its probes write its record.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::process::ExitStatus;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) exit: ExitStatus,
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) started: Option<Timestamp>,
    pub(super) finished: Timestamp,
    pub(super) id: String,
}

/// What a container is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Waiting {
        reason: &'static str,
        message: String,
    },
    Running {
        since: Timestamp,
        id: String,
    },
    Ended(Ended),
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) state: State,
    pub(super) last: Option<Ended>,
    pub(super) restarts: i32,
    /// The startup probe succeeded, or there is none.
    pub(super) started: bool,
    /// The readiness probe succeeds, or there is none.
    pub(super) ready: bool,
    /// It will not be started again.
    pub(super) settled: bool,
}

impl Record {
    fn new(reason: &'static str, restarts: i32) -> Self {
        Self {
            state: State::Waiting {
                reason,
                message: String::new(),
            },
            last: None,
            restarts,
            started: false,
            ready: false,
            settled: false,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Ended for good with exit code 0.
    pub(super) fn succeeded(&self) -> bool {
        let good = |ended: &Ended| ended.exit.code() == 0;
        self.settled && matches!(&self.state, State::Ended(ended) if good(ended))
    }
}

/// Records by container name.
#[derive(Debug)]
pub(super) struct Board(watch::Sender<BTreeMap<String, Record>>);

impl Board {
    /// All containers waiting for `reason`, with the restarts counted so far.
    pub(super) fn new<'a>(containers: impl Iterator<Item = (&'a str, &'static str, i32)>) -> Self {
        let records = containers
            .map(|(name, reason, restarts)| (name.to_owned(), Record::new(reason, restarts)));
        Self(watch::Sender::new(records.collect()))
    }

    /// Changes a record; watchers wake only if it differs.
    pub(super) fn change(&self, name: &str, change: impl FnOnce(&mut Record)) {
        self.0.send_if_modified(|records| {
            let Some(record) = records.get_mut(name) else {
                return false;
            };
            let before = record.clone();
            change(record);
            *record != before
        });
    }

    pub(super) fn get(&self, name: &str) -> Option<Record> {
        self.0.borrow().get(name).cloned()
    }

    pub(super) fn all(&self) -> BTreeMap<String, Record> {
        self.0.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<BTreeMap<String, Record>> {
        self.0.subscribe()
    }

    /// Waits until a container is as wanted.
    pub(super) async fn wait_for(&self, name: &str, wanted: impl Fn(&Record) -> bool) {
        let mut watch = self.0.subscribe();
        let met = |records: &BTreeMap<String, Record>| records.get(name).is_some_and(&wanted);
        // The sender lives in self, so this only ends when met.
        let _met = watch.wait_for(met).await;
    }
}
