//! The listener's own log: a line for each connection, once it has ended.
//!
//! Invariant: a connection that a chain has taken is logged once, however it ends; bytes are counted only for listeners
//! that have such a log.
use std::rc::Rc;
use std::sync::Arc;

use super::active::Active;
use crate::connection::Connection;
use crate::telemetry::odometer::Odometer;
use crate::transport::Io;
use crate::worker::Worker;

/// Writes the line of a connection when it is dropped.
pub(super) struct ConnectionLog<'a> {
    worker: &'a Worker,
    connection: Rc<Connection>,
    odometer: Arc<Odometer>,
}

impl<'a> ConnectionLog<'a> {
    /// Begins to count, if the listener has a log; the connection goes on with the stream that comes back.
    pub(super) fn begin(
        worker: &'a Worker,
        listener: &Active,
        connection: &Rc<Connection>,
        io: Io,
    ) -> (Io, Option<Self>) {
        if listener.config.access_logs.is_empty() {
            return (io, None);
        }
        let odometer = Arc::<Odometer>::default();
        let io = Io::Counted(Box::new(io), Arc::clone(&odometer));
        let log = Self {
            worker,
            connection: Rc::clone(connection),
            odometer,
        };
        (io, Some(log))
    }
}

impl Drop for ConnectionLog<'_> {
    fn drop(&mut self) {
        let handlers = self.worker.handlers();
        handlers.ended(self.worker, &self.connection, &self.odometer, None);
    }
}
