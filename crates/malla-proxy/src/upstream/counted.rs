//! Counts the bytes of an upstream connection (`upstream_cx_rx_bytes_total`, `upstream_cx_tx_bytes_total`).
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::telemetry::odometer::Odometer;
use crate::telemetry::stats::ClusterStats;
use crate::transport::Io;

/// An [`Io`] whose bytes are counted.
#[derive(Debug)]
pub(super) struct Counted {
    io: Io,
    stats: Arc<ClusterStats>,
    odometer: Arc<Odometer>,
}

impl Counted {
    pub(super) fn new(io: Io, stats: Arc<ClusterStats>, odometer: Arc<Odometer>) -> Self {
        Self {
            io,
            stats,
            odometer,
        }
    }

    fn sent(&self, result: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(count)) = result {
            self.stats.upstream_cx_tx_bytes_total.add(*count as u64);
            self.odometer.went(*count as u64);
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.io).poll_read(cx, buffer);
        let count = buffer.filled().len() - before;
        if count > 0 {
            this.stats.upstream_cx_rx_bytes_total.add(count as u64);
            this.odometer.came(count as u64);
        }
        result
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.sent(&result);
        result
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        this.sent(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
