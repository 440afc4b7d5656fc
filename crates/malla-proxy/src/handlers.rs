//! What takes over where a filter chain says so: HTTP, network policy and logs, wired to the workers.
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use malla_proxy_config::http_manager::HttpManager;
use malla_proxy_config::listener::Listener;
use malla_runtime::drain::DrainWatch;

use crate::connection::Connection;
use crate::tcp::serve::TcpRecord;
use crate::transport::Io;
use crate::worker::{Handlers, LocalFuture, MakeHandlers, Shared, Worker};

/// The handlers of a proxy.
pub fn standard(_shared: &Shared) -> MakeHandlers {
    Arc::new(|_, _| Box::new(Standard))
}

#[derive(Debug)]
struct Standard;

impl Handlers for Standard {
    fn http<'a>(
        &'a self,
        _worker: &'a Worker,
        _io: Io,
        _connection: Rc<Connection>,
        _manager: Arc<HttpManager>,
        _drain: DrainWatch,
    ) -> LocalFuture<'a, ()> {
        Box::pin(async {})
    }

    fn authorise<'a>(&'a self, _connection: &'a Connection) -> LocalFuture<'a, bool> {
        Box::pin(std::future::ready(true))
    }

    fn log_tcp(&self, _record: &TcpRecord<'_>) {}

    fn unmatched(&self, _listener: &Listener, _local: SocketAddr, _remote: SocketAddr) {}
}
