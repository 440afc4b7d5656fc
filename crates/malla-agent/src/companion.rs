//! What Malla's own proxy needs beside it: it speaks xDS and holds certificates in process, so there
//! is no relay and no secret service, only identity, the way to the control plane, and the ports
//! that the platform asks.
//!
//! Bind, then run: [`Companion::bind`] opens the ports and starts asking for a certificate; hand
//! [`Companion::node`], [`Companion::transport`], [`Companion::bootstrap`] and the identity to the
//! proxy; [`Companion::serve`] answers once the proxy is there to be asked.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::Method;
use malla_identity::source::CertSource;
use malla_runtime::metrics::Registry;
use malla_runtime::ready::Readiness;
use malla_runtime::socket::{ListenOptions, SocketError, listen};
use malla_runtime::task::AbortOnDrop;
use malla_xds::transport::Transport;
use malla_xds::transport::grpc::GrpcTransport;
use malla_xds_proto::bootstrap::{Admin, Bootstrap};
use malla_xds_proto::core::address::Address as Kind;
use malla_xds_proto::core::socket_address::PortSpecifier;
use malla_xds_proto::core::{Address, Node, SocketAddress};
use rustls::crypto::CryptoProvider;
use tokio::net::TcpListener;
use tracing::Span;

use crate::http::{Call, successful};
use crate::identity::Identity;
use crate::istiod::Istiod;
use crate::node::malla_node;
use crate::run::certificate_gate;
use crate::settings::Settings;
use crate::status::{self, Proxy, Status};

/// Everything beside Malla's own proxy. Dropping it closes the ports and ends the rotation.
#[derive(Debug)]
pub struct Companion {
    settings: Settings,
    identity: Identity,
    istiod: Istiod,
    provider: Arc<CryptoProvider>,
    registry: Registry,
    listeners: Vec<TcpListener>,
    status: Option<Arc<Status>>,
    tasks: Vec<AbortOnDrop<()>>,
}

impl Companion {
    /// Opens the ports and starts asking for a certificate. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn bind(settings: Settings, provider: Arc<CryptoProvider>) -> Result<Self, SocketError> {
        let ports = settings.ports;
        let wildcard = if settings.address.is_ipv6() {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        let options = ListenOptions {
            dual_stack: true,
            ..ListenOptions::default()
        };
        let open = |port: u16| listen(SocketAddr::new(wildcard, port), options);
        let listeners = vec![open(ports.agent)?, open(ports.ready)?, open(ports.stats)?];
        let identity = Identity::start(&settings, provider.clone());
        let istiod = Istiod::new(&settings, identity.source.clone(), provider.clone());
        Ok(Self {
            settings,
            identity,
            istiod,
            provider,
            registry: Registry::new(),
            listeners,
            status: None,
            tasks: Vec::new(),
        })
    }

    /// The workload's certificate and whom it trusts: the secrets `default` and `ROOTCA`.
    #[must_use]
    pub fn source(&self) -> CertSource {
        self.identity.source.clone()
    }

    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The way to the control plane.
    #[must_use]
    pub fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(GrpcTransport::new(Arc::new(self.istiod.clone())))
    }

    /// What the control plane is told about this proxy; `version` is the program's.
    #[must_use]
    pub fn node(&self, version: &str) -> Node {
        malla_node(&self.settings, version)
    }

    /// What the proxy starts with: its admin port on the loopback, and nothing else.
    #[must_use]
    pub fn bootstrap(&self, version: &str) -> Bootstrap {
        let address = SocketAddress {
            address: Ipv4Addr::LOCALHOST.to_string(),
            port_specifier: Some(PortSpecifier::PortValue(self.settings.ports.admin.into())),
            ..SocketAddress::default()
        };
        Bootstrap {
            node: Some(self.node(version)),
            admin: Some(Admin {
                address: Some(Address {
                    address: Some(Kind::SocketAddress(address)),
                }),
                ..Admin::default()
            }),
            ..Bootstrap::default()
        }
    }

    /// The agent's own metrics, part of what is scraped.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Answers on the agent's, the readiness and the metrics port. `proxy` is the proxy's own
    /// readiness; its metrics are asked for on its admin port.
    pub fn serve(&mut self, proxy: Readiness) {
        let own = Readiness::new();
        let asked = InProcess {
            readiness: proxy,
            admin: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.settings.ports.admin),
        };
        let status = Status::new(
            &self.settings,
            Arc::new(asked),
            own.clone(),
            self.registry.clone(),
            self.provider.clone(),
        );
        self.tasks.push(certificate_gate(&self.identity, &own));
        for listener in self.listeners.drain(..) {
            let answering = status::serve(listener, status.clone());
            self.tasks
                .push(AbortOnDrop::spawn(Span::current(), answering));
        }
        self.status = Some(status);
    }

    /// Completes when someone asked for the end (`/quitquitquit`).
    pub async fn quit(&self) {
        match &self.status {
            Some(status) => status.quit().await,
            None => std::future::pending().await,
        }
    }
}

/// A proxy in the same process.
struct InProcess {
    readiness: Readiness,
    admin: SocketAddr,
}

impl Proxy for InProcess {
    fn ready(&self) -> BoxFuture<'_, Result<(), String>> {
        let missing = self.readiness.missing().join(", ");
        let ready = if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("waiting for {missing}"))
        };
        Box::pin(std::future::ready(ready))
    }

    fn metrics(&self) -> BoxFuture<'_, Result<String, String>> {
        Box::pin(async {
            let answer = Call::new(self.admin, Method::GET, "/stats/prometheus")
                .send()
                .await?;
            Ok(String::from_utf8_lossy(&successful(answer)?).into_owned())
        })
    }
}
