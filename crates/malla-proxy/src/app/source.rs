//! Where the configuration comes from: a bootstrap alone, or a control plane over ADS beside one.
use std::sync::Arc;

use bytes::Bytes;
use malla_identity::source::CertSource;
use malla_proxy_config::bootstrap::Bootstrap;
use malla_proxy_config::cluster::{Discovery, DnsResolver};
use malla_proxy_config::endpoints::Locality;
use malla_runtime::task::AbortOnDrop;
use malla_xds::client::{ClientConfig, Status};
use malla_xds::transport::Transport;
use malla_xds_proto::bootstrap as pb;
use prost::Message as _;
use tracing::Span;

use super::StartError;
use crate::apply::{Applier, ApplyError, check_sources};
use crate::inventory::Inventory;
use crate::live::Live;
use crate::peers::Own;
use crate::sources::{Managed, Means, Sources, SourcesHandle};
use crate::telemetry::trace::tags::NodeNames;
use crate::tls::TlsSetup;
use crate::upstream::cluster::{Clusters, Home};

/// Where the configuration comes from.
pub enum ConfigSource {
    /// A bootstrap, and nothing else ever.
    Static(Box<pb::Bootstrap>),
    /// A control plane.
    Ads(Box<Ads>),
}

/// A control plane and what it needs beside it.
pub struct Ads {
    /// Static listeners and clusters, and the admin address.
    pub bootstrap: pb::Bootstrap,
    pub client: ClientConfig,
    pub transport: Arc<dyn Transport>,
    /// The workload's own identity: the secrets `default` and `ROOTCA`.
    pub identity: Option<CertSource>,
}

impl std::fmt::Debug for ConfigSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Static(_) => "Static",
            Self::Ads(_) => "Ads",
        })
    }
}

impl std::fmt::Debug for Ads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ads")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

/// What keeps the configuration coming; dropping it ends that, and what is configured stays.
#[derive(Debug)]
pub(super) struct Running {
    sources: Sources,
    _identity: Option<AbortOnDrop<()>>,
}

impl Running {
    pub(super) fn handle(&self) -> SourcesHandle {
        self.sources.handle()
    }

    pub(super) fn status(&self) -> Option<Arc<Status>> {
        self.sources.status()
    }
}

impl ConfigSource {
    pub(super) fn has_identity(&self) -> bool {
        matches!(self, Self::Ads(ads) if ads.identity.is_some())
    }

    /// Who the proxy says it is: by its file, or to its control plane.
    pub(super) fn node(&self) -> NodeNames {
        let node = match self {
            Self::Static(bootstrap) => bootstrap.node.clone().unwrap_or_default(),
            Self::Ads(ads) => ads.client.node.clone(),
        };
        NodeNames {
            encoded: node.encode_to_vec().into(),
            zone: node.locality.unwrap_or_default().zone.into(),
            id: node.id.into(),
            cluster: node.cluster.into(),
        }
    }

    /// Where the proxy says it is.
    pub(super) fn home(&self) -> Home {
        let node = match self {
            Self::Static(bootstrap) => bootstrap.node.clone(),
            Self::Ads(ads) => Some(ads.client.node.clone()),
        };
        let locality = node.and_then(|node| node.locality).unwrap_or_default();
        let manager = self.bootstrap().cluster_manager.as_ref();
        let cluster = manager.map(|manager| manager.local_cluster_name.as_str());
        Home {
            resolver: DnsResolver::of_bootstrap(self.bootstrap()).map(Arc::new),
            locality: Arc::new(Locality {
                region: locality.region,
                zone: locality.zone,
                sub_zone: locality.sub_zone,
            }),
            cluster: cluster.filter(|name| !name.is_empty()).map(Arc::from),
        }
    }

    pub(super) fn bootstrap(&self) -> &pb::Bootstrap {
        match self {
            Self::Static(bootstrap) => bootstrap,
            Self::Ads(ads) => &ads.bootstrap,
        }
    }

    /// The workload that the bootstrap's node, or that of the stream to the control plane, tells of.
    pub(super) fn own(&self) -> Own {
        let node = match self {
            Self::Static(bootstrap) => bootstrap.node.clone(),
            Self::Ads(ads) => ads
                .bootstrap
                .node
                .clone()
                .or_else(|| Some(ads.client.node.clone())),
        };
        Own::from_node(&node.unwrap_or_default())
    }

    /// Applies the static part and starts the rest.
    pub(super) fn start(
        self,
        mut applier: Applier,
        clusters: Clusters,
        setup: TlsSetup,
    ) -> Result<(Bootstrap, Running), StartError> {
        let live = applier.live().clone();
        let (bootstrap, managed, identity) = match self {
            Self::Static(bootstrap) => (*bootstrap, None, None),
            Self::Ads(ads) => {
                let Ads {
                    bootstrap,
                    client,
                    transport,
                    identity,
                } = *ads;
                (bootstrap, Some(Managed { client, transport }), identity)
            }
        };
        let means = Means {
            node: introduction(bootstrap.node.clone().unwrap_or_default()),
            live: live.clone(),
            clusters,
            setup,
        };
        let checked = applier.bootstrap(bootstrap)?;
        let identity = identity.map(|source| {
            let inventory = applier.inventory().clone();
            publish(&live, &inventory, &source);
            AbortOnDrop::spawn(Span::current(), follow(live, inventory, source))
        });
        let sources = Sources::start(applier, checked.dynamic.clone(), managed, means);
        Ok((
            checked,
            Running {
                sources,
                _identity: identity,
            },
        ))
    }
}

/// What a control plane is told about this proxy.
fn introduction(mut node: malla_xds_proto::core::Node) -> malla_xds_proto::core::Node {
    use malla_xds_proto::core::node::UserAgentVersionType;
    if node.user_agent_name.is_empty() {
        node.user_agent_name = "malla".to_owned();
    }
    node.user_agent_version_type.get_or_insert_with(|| {
        UserAgentVersionType::UserAgentVersion(env!("CARGO_PKG_VERSION").to_owned())
    });
    node
}

/// Keeps the workload's own secrets as the identity source has them.
async fn follow(live: Live, inventory: Inventory, source: CertSource) {
    let mut changes = source.changes();
    publish(&live, &inventory, &source);
    while changes.changed().await.is_ok() {
        publish(&live, &inventory, &source);
    }
}

fn publish(live: &Live, inventory: &Inventory, source: &CertSource) {
    let bundle = source.bundle();
    let Some(credential) = source.credential().filter(|_| !bundle.is_empty()) else {
        return;
    };
    let bytes = |text: String| Bytes::from(text.into_bytes());
    let (chain, key) = (bytes(credential.chain_pem()), bytes(credential.key_pem()));
    crate::apply::own_identity(live, inventory, chain, key, bytes(bundle.roots_pem()));
}

/// Reads certificates and matches of a bootstrap, as starting it would.
pub(super) fn check(bootstrap: &Bootstrap, setup: TlsSetup) -> Result<(), ApplyError> {
    let clusters = Clusters::new(
        tokio::runtime::Handle::current(),
        setup.clone(),
        Live::default(),
    );
    let fixed = bootstrap
        .clusters
        .iter()
        .filter(|cluster| !matches!(cluster.discovery, Discovery::Eds { .. }));
    check_sources(
        bootstrap,
        &fixed.map(|cluster| Arc::clone(&cluster.name)).collect(),
    )?;
    let mut draft = malla_proxy_config::Snapshot::default().draft();
    bootstrap.clone().apply(&mut draft);
    let snapshot = draft.finish();
    for cluster in &bootstrap.clusters {
        clusters
            .check_tls(cluster, &snapshot)
            .map_err(|error| ApplyError::Cluster {
                name: Arc::clone(&cluster.name),
                reason: error.to_string(),
            })?;
    }
    for listener in &bootstrap.listeners {
        crate::listener::manager::check(listener, &setup, &snapshot).map_err(|source| {
            ApplyError::Listener {
                name: Arc::clone(&listener.name),
                source,
            }
        })?;
    }
    Ok(())
}
