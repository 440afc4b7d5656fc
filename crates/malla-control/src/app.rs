//! The control plane as a process: binds its ports, wires its parts, runs until told to stop.
//!
//! The parts start in an order in which each finds what it needs: the certificate authority, then
//! the watches, and only after the first whole world the ports by which proxies come in.

mod build;
mod http;
mod listen;
mod own;
mod trust;
mod world;
mod writers;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use malla_identity::authority::Lifetimes;
use malla_identity::ca_server::{CaServer, RateLimit};
use malla_model::MeshSettings;
use malla_runtime::drain::DrainWatch;
use malla_runtime::ready::Readiness;
use malla_runtime::task::AbortOnDrop;
use rustls::crypto::CryptoProvider;
use tokio::sync::{mpsc, watch};
use tracing::{info, info_span};

use build::BuildInfo;
use own::OwnCertificate;

use crate::index::World;
use crate::inject::InjectSettings;
use crate::nodes::Nodes;
use crate::secrets::{self, Asked};
use crate::source::{Scope, watch_all};
use crate::tokens::Authenticator;
use crate::webhook::Reviewer;
use crate::write::authority::load_or_create;

/// Name of the ConfigMap with the MeshConfig.
const MESH_CONFIG: &str = "istio";

/// What `malla control` is told.
#[derive(Debug, Clone)]
pub struct ControlConfig {
    /// The namespace it runs in; also the mesh's root namespace.
    pub namespace: String,
    /// Its own pod's name, for elections.
    pub pod: String,
    pub cluster_id: String,
    /// Image of injected proxies.
    pub image: String,
    /// Arguments of injected proxies after `proxy sidecar`.
    pub proxy_args: Vec<String>,
    pub revisions: Vec<String>,
    pub bind: IpAddr,
    pub ports: Ports,
}

/// istiod's ports.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// xDS and certificates in plain text; callers show a token.
    pub plain_xds: u16,
    /// The same over TLS.
    pub xds: u16,
    pub webhooks: u16,
    pub monitoring: u16,
    /// `/ready` and `/debug`.
    pub debug: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            plain_xds: 15010,
            xds: 15012,
            webhooks: 15017,
            monitoring: 15014,
            debug: 8080,
        }
    }
}

/// Why the control plane could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("listen on {address}")]
    Bind {
        address: std::net::SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Authority(#[from] crate::write::authority::Error),
    #[error("make the control plane's own certificate")]
    Certificate(#[source] malla_identity::authority::AuthorityError),
    #[error("read the mesh's root certificates")]
    Roots(#[source] malla_identity::pem::MaterialError),
    #[error("set up TLS")]
    Tls(#[from] rustls::Error),
}

/// Runs until the drain starts.
///
/// # Errors
/// When it cannot start; once it runs, what breaks is retried and reported.
pub async fn run(
    config: ControlConfig,
    client: kube::Client,
    provider: Arc<CryptoProvider>,
    drain: DrainWatch,
) -> Result<(), ControlError> {
    let bound = listen::bind(&config)?;
    let readiness = Readiness::new();
    let listed = readiness.gate("the cluster's objects");
    let served = readiness.gate("the webhooks");
    let trust_domain = trust::domain(&client, &config.namespace, MESH_CONFIG).await;
    let authority = Arc::new(
        load_or_create(
            &client,
            &config.namespace,
            trust_domain.as_str(),
            SystemTime::now(),
        )
        .await?,
    );
    let own = OwnCertificate::new(&config, &authority, &trust_domain, &provider)?;
    let own_source = own.source();
    let _renewing = AbortOnDrop::spawn(info_span!("own certificate"), own.keep());

    let (updates, received) = mpsc::channel(1024);
    let (worlds, world) = watch::channel(None::<World>);
    let scope = Scope {
        root_namespace: config.namespace.clone(),
        mesh_config: MESH_CONFIG.to_owned(),
    };
    let _watches = watch_all(&client, &scope, &updates);
    let settings = MeshSettings {
        root_namespace: config.namespace.as_str().into(),
        cluster_id: config.cluster_id.as_str().into(),
        trust_domain: trust_domain.clone(),
        ..MeshSettings::default()
    };
    let namespaces = Arc::new(ArcSwap::default());
    let asked = Arc::new(Asked::default());
    let (read, secrets) = watch::channel(Arc::default());
    let reading = secrets::keep(
        client.clone(),
        Arc::clone(&provider),
        Arc::clone(&asked),
        read,
    );
    let _secrets = AbortOnDrop::spawn(info_span!("secrets"), reading);
    let _index = AbortOnDrop::spawn(
        info_span!("index"),
        world::keep(
            world::Input {
                updates: received,
                secrets,
            },
            settings.clone(),
            worlds,
            Arc::clone(&namespaces),
            listed,
        ),
    );

    let authenticator = Authenticator::new(client.clone(), trust_domain);
    let nodes = Arc::new(Nodes::new(
        authenticator.clone(),
        world.clone(),
        Arc::clone(&asked),
    ));
    let ca = CaServer::new(
        Arc::new(ArcSwap::from(Arc::clone(&authority))),
        authenticator,
        Lifetimes::default(),
        RateLimit::default(),
    );
    let reviewer = Arc::new(Reviewer {
        settings: inject_settings(&config, &settings),
        namespaces,
    });
    let roots_pem: Arc<str> = authority.roots_pem().into();
    let _writers = writers::start(&client, &config, &roots_pem, &world, &nodes, &asked, served);
    info!(
        namespace = config.namespace,
        cluster = config.cluster_id,
        "control plane starts"
    );
    listen::serve(
        bound,
        listen::Parts {
            own: own_source,
            ca,
            nodes,
            reviewer,
            readiness,
            world,
            identifier: BuildInfo::own().identifier(&config.pod),
        },
        &provider,
        drain,
    )
    .await
}

fn inject_settings(config: &ControlConfig, mesh: &MeshSettings) -> InjectSettings {
    InjectSettings {
        image: config.image.clone(),
        discovery_address: format!("istiod.{}.svc:{}", config.namespace, config.ports.xds),
        domain: mesh.domain.to_string(),
        trust_domain: mesh.trust_domain.to_string(),
        cluster_id: config.cluster_id.clone(),
        mesh_id: mesh.trust_domain.to_string(),
        revisions: config.revisions.clone(),
        extra_proxy_args: config.proxy_args.clone(),
        hold_application: false,
        root_namespace: config.namespace.clone(),
    }
}
