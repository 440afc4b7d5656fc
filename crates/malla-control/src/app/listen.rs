//! The control plane's ports: bound before anything runs, served until the drain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use malla_identity::ca_server::CaServer;
use malla_identity::source::CertSource;
use malla_identity::tls::grpc::{AcceptLimits, incoming};
use malla_identity::tls::server::{ClientAuth, ServerOptions as TlsOptions, server_config};
use malla_runtime::drain::DrainWatch;
use malla_runtime::ready::Readiness;
use malla_xds::server::{AdsServer, ServerOptions};
use malla_xds::transport::grpc;
use malla_xds_proto::ca::IstioCertificateServiceServer;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Server;
use tracing::{error, info_span};

use super::http::{self, Facts};
use super::{ControlConfig, ControlError};
use crate::index::World;
use crate::nodes::{Nodes, Source};
use crate::tokens::Authenticator;
use crate::webhook::{self, Reviewer};

/// Bounds of the xDS ports. Whoever has not proved an identity is held to the smaller ones, so that
/// a crowd of them costs megabytes and no proxy its place.
const ACCEPT: AcceptLimits = AcceptLimits {
    handshake: Duration::from_secs(10),
    connections: 16_384,
    unproven_per_peer: 128,
    idle: Some(Duration::from_secs(30)),
};

/// Streams of one connection; a proxy has one or two.
const STREAMS: u32 = 32;

/// What a connection may send without being read.
const WINDOW: u32 = 256 << 10;

/// Listeners that are bound and not served yet.
#[derive(Debug)]
pub(super) struct Bound {
    plain_xds: TcpListener,
    xds: TcpListener,
    webhooks: TcpListener,
    monitoring: TcpListener,
    debug: TcpListener,
}

/// What the ports lead to.
pub(super) struct Parts {
    pub(super) own: CertSource,
    pub(super) ca: CaServer<Authenticator>,
    pub(super) nodes: Arc<Nodes>,
    pub(super) reviewer: Arc<Reviewer>,
    pub(super) readiness: Readiness,
    pub(super) world: watch::Receiver<Option<World>>,
    /// What every response is signed with.
    pub(super) identifier: String,
}

pub(super) fn bind(config: &ControlConfig) -> Result<Bound, ControlError> {
    let listen = |port: u16| {
        let address = SocketAddr::new(config.bind, port);
        let failed = |source| ControlError::Bind { address, source };
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        TcpListener::from_std(listener).map_err(failed)
    };
    Ok(Bound {
        plain_xds: listen(config.ports.plain_xds)?,
        xds: listen(config.ports.xds)?,
        webhooks: listen(config.ports.webhooks)?,
        monitoring: listen(config.ports.monitoring)?,
        debug: listen(config.ports.debug)?,
    })
}

pub(super) async fn serve(
    bound: Bound,
    parts: Parts,
    provider: &Arc<CryptoProvider>,
    drain: DrainWatch,
) -> Result<(), ControlError> {
    let tls = |auth: ClientAuth, alpn: &[&[u8]]| -> Result<Arc<ServerConfig>, ControlError> {
        Ok(Arc::new(server_config(
            &parts.own,
            TlsOptions::new(auth, alpn),
            provider,
        )?))
    };
    // Proxies have no certificate before they have been given one here.
    let xds_tls = tls(ClientAuth::Optional, &[b"h2"])?;
    let webhook_tls = tls(ClientAuth::None, &[b"h2", b"http/1.1"])?;
    let ads = AdsServer::new(
        Source(Arc::clone(&parts.nodes)),
        ServerOptions {
            identifier: parts.identifier,
            ..ServerOptions::new(drain.clone())
        },
    );
    let ca = IstioCertificateServiceServer::new(parts.ca);
    let routes = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .add_service(grpc::service(ads.clone()))
        .add_service(ca);

    let facts = Arc::new(Facts {
        readiness: parts.readiness,
        nodes: parts.nodes,
        world: parts.world,
        ads,
    });
    let mut serving = JoinSet::new();
    for (listener, tls) in [(bound.plain_xds, None), (bound.xds, Some(xds_tls))] {
        let (routes, drain) = (routes.clone(), drain.clone());
        let connections = incoming(listener, tls, ACCEPT);
        serving.spawn(async move {
            let ended = routes
                .serve_with_incoming_shutdown(connections, async move { drain.draining().await })
                .await;
            if let Err(error) = ended {
                error!(%error, "the xDS server ended");
            }
        });
    }
    serving.spawn(webhook::serve(
        bound.webhooks,
        webhook_tls,
        parts.reviewer,
        drain.clone(),
    ));
    for (name, listener) in [("monitoring", bound.monitoring), ("debug", bound.debug)] {
        let _entered = info_span!("http", name).entered();
        serving.spawn(http::serve(listener, Arc::clone(&facts), drain.clone()));
    }
    while serving.join_next().await.is_some() {}
    Ok(())
}
