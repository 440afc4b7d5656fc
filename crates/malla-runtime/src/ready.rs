//! Readiness: named gates that must all be open.
//!
//! A subsystem asks for a [`Gate`] while the process is being put together and opens it when it
//! can serve. The probe's answer names what is missing, because "not ready" alone helps nobody.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// All gates of one process (or of one proxy, where a process holds several); cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness {
    gates: Arc<watch::Sender<BTreeMap<Arc<str>, bool>>>,
}

/// One subsystem's gate. It starts closed, and stays as it is when dropped.
#[derive(Debug, Clone)]
pub struct Gate {
    name: Arc<str>,
    gates: Arc<watch::Sender<BTreeMap<Arc<str>, bool>>>,
}

/// What a readiness probe is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status: 200 or 503.
    pub status: u16,
    /// `ready`, or the gates that are still closed.
    pub body: String,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    #[must_use]
    pub fn new() -> Self {
        Self {
            gates: Arc::new(watch::Sender::new(BTreeMap::new())),
        }
    }

    /// Adds a closed gate. Asking twice for a name gives two handles of one gate, closed again.
    #[must_use]
    pub fn gate(&self, name: &str) -> Gate {
        let gate = Gate {
            name: name.into(),
            gates: self.gates.clone(),
        };
        gate.set(false);
        gate
    }

    /// The names of the closed gates, sorted.
    #[must_use]
    pub fn missing(&self) -> Vec<Arc<str>> {
        missing(&self.gates.borrow())
    }

    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.gates.borrow().values().all(|open| *open)
    }

    /// Waits until every gate is open; cancel-safe.
    pub async fn ready(&self) {
        let mut changes = self.gates.subscribe();
        // The sender lives in `self`, so this can only end by becoming ready.
        let _ = changes
            .wait_for(|gates| gates.values().all(|open| *open))
            .await;
    }

    /// The answer for `/healthz/ready`.
    #[must_use]
    pub fn answer(&self) -> Answer {
        let missing = self.missing();
        if missing.is_empty() {
            return Answer {
                status: 200,
                body: "ready\n".to_owned(),
            };
        }
        Answer {
            status: 503,
            body: format!("not ready, waiting for: {}\n", missing.join(", ")),
        }
    }
}

impl Gate {
    pub fn open(&self) {
        self.set(true);
    }

    /// A gate may close again, for example while draining.
    pub fn close(&self) {
        self.set(false);
    }

    fn set(&self, open: bool) {
        self.gates.send_if_modified(|gates| {
            let before = gates.insert(self.name.clone(), open);
            before != Some(open)
        });
    }
}

fn missing(gates: &BTreeMap<Arc<str>, bool>) -> Vec<Arc<str>> {
    gates
        .iter()
        .filter(|(_, open)| !**open)
        .map(|(name, _)| name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_answer_names_what_is_missing() {
        let readiness = Readiness::new();
        assert_eq!(readiness.answer().status, 200);
        let workers = readiness.gate("workers");
        let config = readiness.gate("config");
        assert_eq!(readiness.answer().status, 503);
        assert_eq!(
            readiness.answer().body,
            "not ready, waiting for: config, workers\n"
        );
        config.open();
        workers.open();
        readiness.ready().await;
        assert_eq!(readiness.answer().body, "ready\n");
        workers.close();
        assert_eq!(readiness.missing(), ["workers".into()]);
    }
}
