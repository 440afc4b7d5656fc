//! Istio's standard metrics of stock Envoys, which lack the filter (`istio.stats`) that counts them,
//! from the entries of their access logs.
//!
//! Proxies that count themselves, Malla's and Istio's own build of Envoy, are left out: what they
//! say is scraped. What an entry does not tell (messages of gRPC streams, connections of bytes that
//! are still open, the caller's view of principals) cannot be derived; `docs/differences.md` says so.
//!
//! Invariant: bounded. Label sets beyond [`MOST_SETS`] are not counted, and how often that happened
//! is.

mod observe;
mod own;
mod series;
mod workloads;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use malla_xds_proto::core::Node;
use malla_xds_proto::pb::envoy::data::accesslog::v3::{HttpAccessLogEntry, TcpAccessLogEntry};

use crate::metrics::Row;
use own::Own;
use series::NodeSeries;
pub use workloads::{ServicePort, Workload, Workloads};

/// Label sets counted at once, of all proxies; one of HTTP is 67 series.
const MOST_SETS: usize = 4000;
/// How long the series of a proxy stay that sends nothing and has no stream open.
const FORGOTTEN: Duration = Duration::from_secs(300);

/// Counts for all proxies that do not count themselves.
#[derive(Debug)]
pub struct Deriver {
    workloads: Arc<Workloads>,
    /// By namespace and pod.
    nodes: Mutex<BTreeMap<(String, String), Known>>,
    sets: Arc<AtomicUsize>,
    refused: AtomicU64,
}

#[derive(Debug)]
struct Known {
    series: Arc<NodeSeries>,
    /// When nobody held it first; `None` while a stream is open.
    left: Option<Instant>,
}

/// One proxy's counting; it lasts at least as long as the proxy's stream.
#[derive(Debug, Clone)]
pub(crate) struct Counting {
    own: Arc<Own>,
    series: Arc<NodeSeries>,
}

impl Deriver {
    pub(crate) fn new(workloads: Arc<Workloads>) -> Self {
        Self {
            workloads,
            nodes: Mutex::default(),
            sets: Arc::default(),
            refused: AtomicU64::new(0),
        }
    }

    /// Counts for a proxy; `None` for one that counts itself.
    pub(crate) fn begin(&self, node: &Node) -> Option<Counting> {
        let own = Own::of(node)?;
        let key = (own.workload.namespace.clone(), own.pod.clone());
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let known = nodes.entry(key).or_insert_with(|| Known {
            series: Arc::new(NodeSeries::new(own.target_labels())),
            left: None,
        });
        known.left = None;
        Some(Counting {
            series: known.series.clone(),
            own: Arc::new(own),
        })
    }

    pub(crate) fn http(&self, counting: &Counting, entry: &HttpAccessLogEntry) {
        let observed = observe::http(&counting.own, entry, &self.workloads);
        self.count(counting, observed);
    }

    pub(crate) fn tcp(&self, counting: &Counting, entry: &TcpAccessLogEntry) {
        let observed = observe::tcp(&counting.own, entry, &self.workloads);
        self.count(counting, observed);
    }

    fn count(&self, counting: &Counting, observed: Option<observe::Observed>) {
        let room = || self.sets.fetch_add(1, Ordering::Relaxed) < MOST_SETS;
        if let Some(observed) = observed
            && !counting.series.count(observed, room)
        {
            self.sets.fetch_sub(1, Ordering::Relaxed);
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn workloads(&self) -> &Workloads {
        &self.workloads
    }

    /// Entries not counted because there are too many label sets.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Everything as of `at` (Unix milliseconds), for `store`; ends the series of proxies that have gone.
    pub(crate) fn report(&self, at: i64, mut store: impl FnMut(&mut Vec<Row>)) {
        for (series, gone) in self.living(Instant::now()) {
            series.report(at, gone, &mut store);
            if gone {
                self.sets.fetch_sub(series.sets(), Ordering::Relaxed);
            }
        }
    }

    /// All series, and whether they end now.
    fn living(&self, now: Instant) -> Vec<(Arc<NodeSeries>, bool)> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Vec::with_capacity(nodes.len());
        nodes.retain(|_, known| {
            let held = Arc::strong_count(&known.series) > 1;
            known.left = if held { None } else { known.left.or(Some(now)) };
            let left = known.left;
            let gone = left.is_some_and(|left| now.duration_since(left) > FORGOTTEN);
            all.push((known.series.clone(), gone));
            !gone
        });
        all
    }
}

#[cfg(test)]
mod tests;
