//! Connected proxies: who they are, what they get, and what they made of it.
//!
//! Invariant: a proxy is served as the pod its proof of identity belongs to. What it says about
//! itself (labels, namespace) never widens what it sees.

mod session;
mod set;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use malla_identity::ca_server::{Denied, bearer};
use malla_identity::tls::grpc::PeerInfo;
use malla_model::SpiffeId;
use malla_runtime::task::AbortOnDrop;
use malla_translate::NodeView;
use malla_xds::NodeResources;
use malla_xds::server::{Hello, NodeHandle, ResourceSource};
use malla_xds_proto::core::Node;
use tokio::sync::watch;
use tonic::Status;
use tracing::{debug, info, info_span};

use session::Session;
pub use session::{NodeReport, Progress};
use set::NodeSet;

use crate::index::World;
use crate::tokens::Authenticator;

/// Serves every connected proxy its view of the newest world.
#[derive(Debug)]
pub struct Nodes {
    authenticator: Authenticator,
    shared: Arc<Shared>,
    _pushing: AbortOnDrop<()>,
}

#[derive(Debug)]
struct Shared {
    worlds: watch::Receiver<Option<World>>,
    sessions: Mutex<HashMap<u64, Arc<Session>>>,
}

impl Shared {
    fn sessions(&self) -> MutexGuard<'_, HashMap<u64, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Nodes {
    /// Starts pushing worlds as they come.
    #[must_use]
    pub fn new(authenticator: Authenticator, worlds: watch::Receiver<Option<World>>) -> Self {
        let shared = Arc::new(Shared {
            worlds,
            sessions: Mutex::default(),
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
        let mut reports: Vec<NodeReport> = self
            .shared
            .sessions()
            .values()
            .map(|s| s.report())
            .collect();
        reports.sort_by(|a, b| a.id.cmp(&b.id));
        reports
    }

    async fn accept(&self, hello: Hello) -> Result<Box<dyn NodeHandle>, Status> {
        let identity = self.identify(&hello).await?;
        let view = NodeView::from_xds(&hello.node)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let claimed = claims(&hello.node, &view);
        if let Some(refusal) = refusal(&claimed, &identity) {
            return Err(Status::permission_denied(refusal));
        }
        let mut worlds = self.shared.worlds.clone();
        // Nothing is served before the first whole world: an empty one would take everything away.
        let first = worlds.wait_for(Option::is_some).await;
        let world = first
            .map_err(|_| Status::unavailable("the control plane is stopping"))?
            .clone();
        let Some(world) = world else {
            return Err(Status::unavailable("the control plane is starting"));
        };
        let view = known_by(&world, view, &identity);
        info!(node = hello.node.id, %identity, "proxy connected");
        let set = NodeSet::translate(&world, &view, None);
        let session = Arc::new(Session::new(
            hello.connection,
            &hello.node.id,
            identity,
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
            session.offer(&newest, &mut HashMap::new());
        }
        Ok(Box::new(Handle {
            session,
            shared: Arc::clone(&self.shared),
        }))
    }

    async fn identify(&self, hello: &Hello) -> Result<SpiffeId, Status> {
        let token = bearer(&hello.metadata);
        let peer = hello.extensions.get::<PeerInfo>();
        // A certificate is proof enough; a token is asked about only where there is none.
        let proof = match peer.and_then(PeerInfo::identity) {
            Some(identity) => Ok(identity.clone()),
            None => self.authenticator.identify(token, None).await,
        };
        proof.map_err(|denied: Denied| Status::unauthenticated(denied.to_string()))
    }
}

/// The same `Nodes` behind every listener.
#[derive(Debug, Clone)]
pub struct Source(pub Arc<Nodes>);

impl ResourceSource for Source {
    fn connect(&self, hello: Hello) -> BoxFuture<'_, Result<Box<dyn NodeHandle>, Status>> {
        Box::pin(self.0.accept(hello))
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

/// The view with what Kubernetes says of the pod in place of what the proxy says.
fn known_by(world: &World, mut view: NodeView, identity: &SpiffeId) -> NodeView {
    view.service_account = Arc::clone(&identity.service_account);
    let workload = view
        .addresses
        .iter()
        .find_map(|ip| world.mesh.workload_by_ip(*ip));
    if let Some(workload) = workload.filter(|w| w.identity == *identity) {
        view.labels = workload.meta.labels.clone();
        view.locality = workload.locality.clone();
        view.machine = Arc::clone(&workload.node);
    } else {
        debug!(node = %view.name, "no pod of that address and identity is known yet");
    }
    view
}

#[derive(Debug)]
struct Handle {
    session: Arc<Session>,
    shared: Arc<Shared>,
}

impl NodeHandle for Handle {
    fn resources(&self) -> watch::Receiver<Arc<dyn NodeResources>> {
        self.session.resources()
    }

    fn event(&self, event: &malla_xds::server::Event) {
        self.session.event(event);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        info!(node = self.session.id(), "proxy disconnected");
        self.shared.sessions().remove(&self.session.connection());
    }
}

/// Gives every proxy the newest world; worlds in between are skipped.
async fn push(shared: Arc<Shared>) {
    let mut worlds = shared.worlds.clone();
    while worlds.changed().await.is_ok() {
        let Some(world) = worlds.borrow_and_update().clone() else {
            continue;
        };
        let sessions: Vec<Arc<Session>> = shared.sessions().values().cloned().collect();
        // Equal views get equal resources, so they are translated once.
        let mut translated = HashMap::new();
        for session in sessions {
            session.offer(&world, &mut translated);
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use malla_model::TrustDomain;

    use super::*;

    #[test]
    fn a_proxy_may_not_claim_to_be_another() {
        let identity = SpiffeId::new(&TrustDomain::default(), "base", "cart");
        let check = |namespace: &str, account: Option<&str>| {
            let claims = Claims {
                namespace: namespace.into(),
                service_account: account.map(str::to_owned),
            };
            refusal(&claims, &identity)
        };
        assert_eq!(check("base", Some("cart")), None);
        assert_eq!(check("base", None), None);
        assert!(check("other", Some("cart")).is_some());
        assert!(check("base", Some("order")).is_some());
    }
}
