//! One connected proxy: what it was offered, and how far it has come with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use malla_model::SpiffeId;
use malla_model::id::Labels;
use malla_translate::{NodeKind, NodeView};
use malla_xds::server::{Event, Hello, StreamFacts};
use malla_xds::{Name, NodeResources};
use malla_xds_proto::core::Node;
use malla_xds_proto::core::node::UserAgentVersionType;
use malla_xds_proto::wkt::get_str;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::attest::attested;
use super::set::NodeSet;
use super::shared::SharedWorld;
use crate::secrets::Asked;

/// How far a proxy is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// The newest world whose every resource the proxy has taken or refused.
    pub settled: u64,
    /// How long that took from the push on.
    pub after: Duration,
    /// What it refuses: type, resource and its reason, until it takes another version of the resource.
    pub refused: Vec<Refusal>,
}

impl Progress {
    /// These resources have been taken, or are refused anew.
    fn forget(&mut self, type_url: &str, names: &[Name]) {
        for refusal in &mut self.refused {
            if refusal.type_url == type_url {
                refusal
                    .names
                    .retain(|known| names.iter().all(|name| **name != **known));
            }
        }
        self.refused.retain(|refusal| !refusal.names.is_empty());
    }
}

/// One resource a proxy will not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub type_url: String,
    pub names: Vec<String>,
    pub message: String,
}

/// A proxy as status and debug pages show it.
#[derive(Debug, Clone)]
pub struct NodeReport {
    pub connection: u64,
    /// xDS node id.
    pub id: String,
    pub identity: SpiffeId,
    /// `pod.namespace`.
    pub name: String,
    pub namespace: Arc<str>,
    /// The pod's, as Kubernetes says.
    pub labels: Labels,
    pub kind: NodeKind,
    /// What it says it is, such as `malla-0.1.0`; empty if it does not say.
    pub version: String,
    /// `ISTIO_VERSION` of its metadata, else its program's version.
    pub istio_version: String,
    pub cluster_id: String,
    pub since: SystemTime,
    /// What its stream was sent and has answered.
    pub facts: Arc<StreamFacts>,
    pub offered: u64,
    pub progress: Progress,
}

pub(super) struct Session {
    connection: u64,
    id: String,
    said: Said,
    since: SystemTime,
    facts: Arc<ArcSwap<StreamFacts>>,
    identity: SpiffeId,
    /// What the proxy says of itself. Never translated for: see [`attested`].
    claimed: NodeView,
    state: Mutex<State>,
    resources: watch::Sender<Arc<dyn NodeResources>>,
}

#[derive(Debug)]
struct State {
    view: Arc<NodeView>,
    set: Arc<NodeSet>,
    offered: u64,
    progress: Progress,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(
        hello: &Hello,
        identity: SpiffeId,
        claimed: NodeView,
        view: Arc<NodeView>,
        offered: u64,
        set: Arc<NodeSet>,
    ) -> Self {
        let resources: Arc<dyn NodeResources> = Arc::clone(&set) as _;
        Self {
            connection: hello.connection,
            id: hello.node.id.clone(),
            said: Said::by(&hello.node),
            since: hello.since,
            facts: Arc::clone(&hello.facts),
            identity,
            claimed,
            state: Mutex::new(State {
                view,
                set,
                offered,
                progress: Progress::default(),
            }),
            resources: watch::Sender::new(resources),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves whole values: every change below is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn connection(&self) -> u64 {
        self.connection
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    pub(super) fn resources(&self) -> watch::Receiver<Arc<dyn NodeResources>> {
        self.resources.subscribe()
    }

    /// What it is offered.
    pub(super) fn set(&self) -> Arc<NodeSet> {
        Arc::clone(&self.state().set)
    }

    /// Translates the world for this proxy.
    pub(super) fn offer(&self, shared: &SharedWorld, asked: &Arc<Asked>) {
        let world = &shared.world;
        let (view, before) = {
            let state = self.state();
            if state.offered >= world.number {
                return;
            }
            (Arc::clone(&state.view), Arc::clone(&state.set))
        };
        // A pod that has gone leaves its proxy what it was: it is draining.
        let view = attested(world, &self.claimed, &self.identity)
            .filter(|now| *now != *view)
            .map_or(view, Arc::new);
        let set = NodeSet::translate(shared, &view, Some(&before), asked);
        {
            let mut state = self.state();
            if state.offered >= world.number {
                return; // Somebody was faster, with a newer one.
            }
            state.view = view;
            state.set = Arc::clone(&set);
            state.offered = world.number;
        }
        self.resources.send_replace(set);
    }

    pub(super) fn event(&self, event: &Event) {
        match event {
            Event::Settled { version, after } => {
                let mut state = self.state();
                state.progress.settled = version.parse().unwrap_or(state.progress.settled);
                state.progress.after = *after;
            }
            Event::Acked {
                type_url, names, ..
            } => self.state().progress.forget(type_url, names),
            Event::Nacked {
                type_url,
                names,
                message,
                ..
            } => {
                warn!(node = self.id, %type_url, ?names, message, "the proxy refused resources and keeps what it had");
                let refusal = Refusal {
                    type_url: type_url.to_string(),
                    names: names.iter().map(ToString::to_string).collect(),
                    message: message.clone(),
                };
                let mut state = self.state();
                state.progress.forget(type_url, names);
                state.progress.refused.push(refusal);
            }
            Event::Subscribed { type_url } => debug!(node = self.id, %type_url, "subscribed"),
            Event::Pushed {
                type_url,
                resources,
                removed,
                ..
            } => {
                debug!(node = self.id, %type_url, resources, removed, "pushed");
            }
        }
    }

    pub(super) fn report(&self) -> NodeReport {
        let state = self.state();
        NodeReport {
            connection: self.connection,
            id: self.id.clone(),
            identity: self.identity.clone(),
            name: format!("{}.{}", state.view.name, state.view.namespace),
            namespace: Arc::clone(&state.view.namespace),
            labels: state.view.labels.clone(),
            kind: state.view.kind,
            version: self.said.version.clone(),
            istio_version: self.said.istio_version.clone(),
            cluster_id: self.said.cluster_id.clone(),
            since: self.since,
            facts: self.facts.load_full(),
            offered: state.offered,
            progress: state.progress.clone(),
        }
    }
}

/// What a proxy says of itself that is only shown.
struct Said {
    version: String,
    istio_version: String,
    cluster_id: String,
}

impl Said {
    fn by(node: &Node) -> Self {
        let number = version_number(node);
        let meta = |key| {
            let metadata = node.metadata.as_ref()?;
            get_str(metadata, key).filter(|text| !text.is_empty())
        };
        Self {
            istio_version: meta("ISTIO_VERSION").unwrap_or(&number).to_owned(),
            cluster_id: meta("CLUSTER_ID").unwrap_or_default().to_owned(),
            version: match (node.user_agent_name.as_str(), number.as_str()) {
                ("", version) => version.to_owned(),
                (name, "") => name.to_owned(),
                (name, version) => format!("{name}-{version}"),
            },
        }
    }
}

/// Version of the program, as a node says it of itself.
fn version_number(node: &Node) -> String {
    match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => {
            let version = build.version.unwrap_or_default();
            format!(
                "{}.{}.{}",
                version.major_number, version.minor_number, version.patch
            )
        }
        None => String::new(),
    }
}
