//! Connected proxies: who they are, what they get, and what they made of it.
//!
//! Invariant: a proxy is served as the pod its proof of identity belongs to. What it says about
//! itself (labels, namespace, addresses) never widens what it sees: as long as no pod is known with
//! the address it says and the identity it proves, it has no labels, and so carries no gateway.

mod attest;
mod guest;
mod layer;
mod origins;
mod session;
mod set;
mod shared;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use malla_identity::ca_server::{Denied, bearer};
use malla_identity::tls::grpc::PeerInfo;
use malla_model::SpiffeId;
use malla_runtime::task::AbortOnDrop;
use malla_translate::NodeView;
use malla_xds::NodeResources;
use malla_xds::server::{Answer, Hello, NodeHandle, ResourceSource};
use malla_xds_proto::core::Node;
use malla_xds_proto::type_url;
use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Status};
use tracing::{info, info_span, warn};

use attest::{attested, restricted};
use guest::Guest;
use session::Session;
pub use session::{NodeReport, Progress};
pub(crate) use set::NodeSet;
use shared::SharedWorld;

use crate::debug;
use crate::index::World;
use crate::secrets::Asked;
use crate::tokens::Authenticator;

/// How long a proxy's first answer waits for its pod to be known: a proxy may be faster than the
/// news of its pod, and a burst of changes holds worlds back for ten seconds.
const PATIENCE: Duration = Duration::from_secs(12);

/// Serves every connected proxy its view of the newest world.
#[derive(Debug)]
pub struct Nodes {
    authenticator: Authenticator,
    shared: Arc<Connected>,
    _pushing: AbortOnDrop<()>,
}

/// The connected proxies, and the newest world.
#[derive(Debug)]
pub(crate) struct Connected {
    worlds: watch::Receiver<Option<World>>,
    sessions: Mutex<HashMap<u64, Arc<Session>>>,
    /// The newest world that anything has been translated of.
    shared: Mutex<Option<Arc<SharedWorld>>>,
    asked: Arc<Asked>,
}

impl Connected {
    fn sessions(&self) -> MutexGuard<'_, HashMap<u64, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That world with what proxies share of it; or a newer one, where that is there already.
    fn share(&self, world: &World) -> Arc<SharedWorld> {
        let mut newest = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(newest) = &*newest
            && newest.world.number >= world.number
        {
            return Arc::clone(newest);
        }
        let shared = SharedWorld::new(world.clone(), newest.take());
        *newest = Some(Arc::clone(&shared));
        shared
    }

    /// The newest world; `None` before the first.
    pub(crate) fn world(&self) -> Option<World> {
        self.worlds.borrow().clone()
    }

    /// What every connected proxy has and has not acknowledged, by node id.
    pub(crate) fn reports(&self) -> Vec<NodeReport> {
        let sessions = self.sessions();
        let mut reports: Vec<NodeReport> = sessions.values().map(|s| s.report()).collect();
        drop(sessions);
        reports.sort_by(|a, b| a.id.cmp(&b.id));
        reports
    }

    /// Every connected proxy with what it is offered.
    pub(crate) fn proxies(&self) -> Vec<(NodeReport, Arc<NodeSet>)> {
        let sessions = self.sessions();
        sessions.values().map(|s| (s.report(), s.set())).collect()
    }

    /// A proxy by `POD.NAMESPACE` or node id, and what it is offered.
    pub(crate) fn proxy(&self, name: &str) -> Option<(NodeReport, Arc<NodeSet>)> {
        let sessions = self.sessions();
        let mut proxies = sessions.values().map(|s| (s.report(), s));
        let (report, session) = proxies.find(|(r, _)| r.name == name || r.id == name)?;
        Some((report, session.set()))
    }
}

impl Nodes {
    /// Starts pushing worlds as they come. Who wants a secret that is not known is noted in `asked`.
    #[must_use]
    pub fn new(
        authenticator: Authenticator,
        worlds: watch::Receiver<Option<World>>,
        asked: Arc<Asked>,
    ) -> Self {
        let shared = Arc::new(Connected {
            worlds,
            sessions: Mutex::default(),
            shared: Mutex::default(),
            asked,
        });
        let pushing = AbortOnDrop::spawn(info_span!("push"), push(Arc::clone(&shared)));
        Self {
            authenticator,
            shared,
            _pushing: pushing,
        }
    }

    /// What every connected proxy has and has not acknowledged.
    #[must_use]
    pub fn reports(&self) -> Vec<NodeReport> {
        self.shared.reports()
    }

    /// What debug pages are made of.
    pub(crate) fn connected(&self) -> &Arc<Connected> {
        &self.shared
    }

    /// Who shows a token.
    pub(crate) async fn bearer(&self, token: Option<&str>) -> Result<SpiffeId, Denied> {
        self.authenticator.identify(token, None).await
    }

    async fn accept(
        &self,
        hello: Hello,
        patience: Duration,
    ) -> Result<Box<dyn NodeHandle>, Status> {
        let Some(Proved(identity)) = hello.extensions.get::<Proved>().cloned() else {
            return Err(Denied::NoProof.into());
        };
        // Who asks about proxies is none.
        if hello.first_type.starts_with(type_url::DEBUG) {
            return Ok(Box::new(Guest::new(identity, Arc::clone(&self.shared))));
        }
        let claimed = NodeView::from_xds(&hello.node)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if let Some(refusal) = refusal(&claims(&hello.node, &claimed), &identity) {
            return Err(Status::permission_denied(refusal));
        }
        let world = self.world_with(&claimed, &identity, patience).await?;
        let shared = self.shared.share(&world);
        let world = &shared.world;
        let view = attested(world, &claimed, &identity).unwrap_or_else(|| {
            warn!(
                node = hello.node.id,
                %identity,
                "no pod of that address and identity is known: the proxy is served without labels"
            );
            restricted(world, &claimed, &identity)
        });
        info!(node = hello.node.id, %identity, "proxy connected");
        let view = Arc::new(view);
        let set = NodeSet::translate(&shared, &view, None, &self.shared.asked);
        let session = Arc::new(Session::new(
            &hello,
            identity,
            claimed,
            view,
            world.number,
            set,
        ));
        self.shared
            .sessions()
            .insert(hello.connection, Arc::clone(&session));
        // A world that came while this one was translated must not be missed.
        let newest = self.shared.worlds.borrow().clone();
        if let Some(newest) = newest.filter(|newest| newest.number > world.number) {
            session.offer(&self.shared.share(&newest), &self.shared.asked);
        }
        Ok(Box::new(Handle {
            session,
            shared: Arc::clone(&self.shared),
        }))
    }

    /// The first world that knows the proxy's pod, or the newest one when patience is over.
    async fn world_with(
        &self,
        claimed: &NodeView,
        identity: &SpiffeId,
        patience: Duration,
    ) -> Result<World, Status> {
        let mut worlds = self.shared.worlds.clone();
        let stopping = |_| Status::unavailable("the control plane is stopping");
        // Nothing is served before the first whole world: an empty one would take everything away.
        drop(worlds.wait_for(Option::is_some).await.map_err(stopping)?);
        let knows = |world: &Option<World>| {
            let world = world.as_ref();
            world.is_some_and(|world| attested(world, claimed, identity).is_some())
        };
        let known = match tokio::time::timeout(patience, worlds.wait_for(knows)).await {
            Ok(known) => known.map_err(stopping)?.clone(),
            Err(_) => None,
        };
        known
            .or_else(|| self.shared.worlds.borrow().clone())
            .ok_or_else(|| Status::unavailable("the control plane is starting"))
    }

    async fn identify(
        &self,
        metadata: &MetadataMap,
        extensions: &Extensions,
    ) -> Result<SpiffeId, Denied> {
        let peer = extensions.get::<PeerInfo>();
        // A certificate is proof enough; a token is asked about only where there is none.
        let token = match peer.and_then(PeerInfo::identity) {
            Some(_) => None,
            None => bearer(metadata),
        };
        self.authenticator.identify(token, peer).await
    }
}

/// Who the client of a stream is; left in its extensions when it has been admitted.
#[derive(Debug, Clone)]
struct Proved(SpiffeId);

/// The same `Nodes` behind every listener.
#[derive(Debug, Clone)]
pub struct Source(pub Arc<Nodes>);

impl ResourceSource for Source {
    fn admit<'a>(
        &'a self,
        metadata: &'a MetadataMap,
        extensions: &'a mut Extensions,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let identity = self.0.identify(metadata, extensions).await?;
            extensions.insert(Proved(identity));
            Ok(())
        })
    }

    fn connect(&self, hello: Hello) -> BoxFuture<'_, Result<Box<dyn NodeHandle>, Status>> {
        Box::pin(self.0.accept(hello, PATIENCE))
    }
}

/// What a proxy says about itself.
#[derive(Debug)]
struct Claims {
    namespace: String,
    service_account: Option<String>,
}

fn claims(node: &Node, view: &NodeView) -> Claims {
    let metadata = node.metadata.as_ref();
    let account = metadata.and_then(|m| malla_xds_proto::wkt::get_str(m, "SERVICE_ACCOUNT"));
    Claims {
        namespace: view.namespace.to_string(),
        service_account: account
            .filter(|account| !account.is_empty())
            .map(str::to_owned),
    }
}

fn refusal(claims: &Claims, identity: &SpiffeId) -> Option<String> {
    if claims.namespace != *identity.namespace {
        return Some(format!(
            "the proxy says it is of namespace {:?} and proves to be {identity}",
            claims.namespace
        ));
    }
    match &claims.service_account {
        Some(account) if **account != *identity.service_account => Some(format!(
            "the proxy says it is of service account {account:?} and proves to be {identity}"
        )),
        _ => None,
    }
}

#[derive(Debug)]
struct Handle {
    session: Arc<Session>,
    shared: Arc<Connected>,
}

impl NodeHandle for Handle {
    fn resources(&self) -> watch::Receiver<Arc<dyn NodeResources>> {
        self.session.resources()
    }

    fn event(&self, event: &malla_xds::server::Event) {
        self.session.event(event);
    }

    fn answer(&self, type_url: &str, names: &[String]) -> Option<Result<Vec<Answer>, Status>> {
        debug::answer(&self.shared, self.session.identity(), type_url, names)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        info!(node = self.session.id(), "proxy disconnected");
        self.shared.sessions().remove(&self.session.connection());
    }
}

/// Gives every proxy the newest world; worlds in between are skipped.
async fn push(shared: Arc<Connected>) {
    let mut worlds = shared.worlds.clone();
    while worlds.changed().await.is_ok() {
        let Some(world) = worlds.borrow_and_update().clone() else {
            continue;
        };
        let sessions: Vec<Arc<Session>> = shared.sessions().values().cloned().collect();
        let world = shared.share(&world);
        for session in sessions {
            session.offer(&world, &shared.asked);
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests;
