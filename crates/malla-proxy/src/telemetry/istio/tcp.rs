//! Connections of bytes: counted when they are known, now and then while they are open, and when they end.

use std::cell::Cell;
use std::sync::Arc;

use malla_proxy_config::istio_stats::Metric;

use super::{Facts, MeshMetrics, Series};

/// One connection's share of a series.
#[derive(Debug)]
pub struct TcpMeter {
    series: Arc<Series>,
    sent: Cell<u64>,
    received: Cell<u64>,
}

impl MeshMetrics {
    /// Counts a connection that has begun.
    pub fn open(&self, facts: &Facts<'_>) -> TcpMeter {
        let series = self.with(facts, Arc::clone);
        series.counter(Metric::TcpOpened).inc();
        TcpMeter {
            series,
            sent: Cell::new(0),
            received: Cell::new(0),
        }
    }
}

impl TcpMeter {
    /// Counts what the connection has come to: bytes to the client and from it.
    pub fn flush(&self, sent: u64, received: u64) {
        let more = sent.saturating_sub(self.sent.replace(sent));
        self.series.counter(Metric::TcpSent).add(more);
        let more = received.saturating_sub(self.received.replace(received));
        self.series.counter(Metric::TcpReceived).add(more);
    }

    /// Counts its end.
    pub fn close(self, sent: u64, received: u64) {
        self.flush(sent, received);
        self.series.counter(Metric::TcpClosed).inc();
    }
}
