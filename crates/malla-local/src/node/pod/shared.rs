//! What all tasks of a pod share.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::events::Subject;
use crate::net::{Namespace, PodNetwork};
use crate::node::NodeShared;
use crate::node::board::Board;
use crate::node::container::Running;
use crate::node::fields::Place;
use crate::node::logs::ContainerLogs;
use crate::node::stop::Stop;
use crate::node::volumes::{Directories, VolumeSet};
use crate::object::Key;

/// `terminationGracePeriodSeconds` when it is not set.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// A pod's place in the network.
#[derive(Debug)]
pub(in crate::node) struct Network {
    pub(in crate::node) namespace: Namespace,
    pub(in crate::node) address: Ipv4Addr,
    /// Its own namespace's link; none with `hostNetwork`.
    pub(super) own: Option<PodNetwork>,
}

impl Network {
    pub(in crate::node) fn socket(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address), port)
    }
}

/// A pod on this node.
#[derive(Debug)]
pub(in crate::node) struct PodShared {
    pub(in crate::node) key: Key,
    pub(in crate::node) uid: String,
    pub(in crate::node) subject: Subject,
    /// Files of the pod, on disk.
    pub(in crate::node) directory: PathBuf,
    pub(in crate::node) board: Board,
    /// Ends the containers.
    pub(in crate::node) stop: Stop,
    /// The object is to be removed.
    pub(in crate::node) deleted: Stop,
    pub(in crate::node) begun: Timestamp,
    latest: watch::Sender<Arc<Pod>>,
    logs: BTreeMap<String, ContainerLogs>,
    running: Mutex<BTreeMap<String, Arc<Running>>>,
    facts: watch::Sender<Facts>,
    network: Mutex<Option<Arc<Network>>>,
    volumes: Mutex<Option<Arc<VolumeSet>>>,
}

/// What the status says beside the containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) address: Option<Ipv4Addr>,
    pub(super) initialized: bool,
    pub(super) failure: Option<(&'static str, String)>,
    /// All containers have ended for good.
    pub(super) over: bool,
    pub(super) frozen: bool,
}

impl PodShared {
    pub(in crate::node) fn new(pod: Arc<Pod>, directory: PathBuf) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let status = pod.status.clone().unwrap_or_default();
        let inits = spec.init_containers.unwrap_or_default();
        let waiting = if inits.is_empty() {
            "ContainerCreating"
        } else {
            "PodInitializing"
        };
        let restarts = |name: &str| {
            let all = [&status.container_statuses, &status.init_container_statuses];
            let mut all = all.into_iter().flatten().flatten();
            all.find(|status| status.name == name)
                .map_or(0, restarts_of)
        };
        let names = inits
            .iter()
            .chain(&spec.containers)
            .map(|container| container.name.as_str());
        let board = Board::new(names.clone().map(|name| (name, waiting, restarts(name))));
        let logs = names
            .map(|name| {
                (
                    name.to_owned(),
                    ContainerLogs::new(directory.join("logs").join(name)),
                )
            })
            .collect();
        Self {
            key: Key::of_meta(&pod.metadata),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            subject: Subject::new("v1", "Pod", &pod.metadata),
            directory,
            board,
            stop: Stop::new(),
            deleted: Stop::new(),
            begun: status.start_time.map_or_else(Timestamp::now, |time| time.0),
            latest: watch::Sender::new(pod),
            logs,
            running: Mutex::default(),
            facts: watch::Sender::new(Facts::default()),
            network: Mutex::default(),
            volumes: Mutex::default(),
        }
    }

    /// The object as last seen.
    pub(in crate::node) fn current(&self) -> Arc<Pod> {
        Arc::clone(&self.latest.borrow())
    }

    pub(super) fn watch_current(&self) -> watch::Receiver<Arc<Pod>> {
        self.latest.subscribe()
    }

    /// Takes a changed object; one that is being deleted ends the pod.
    pub(in crate::node) fn update(&self, pod: Arc<Pod>) {
        if pod.metadata.deletion_timestamp.is_some() {
            let seconds = pod.metadata.deletion_grace_period_seconds;
            let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
            self.end(seconds.map_or_else(|| self.grace(), Duration::from_secs));
        }
        self.latest.send_replace(pod);
    }

    /// Ends the pod within `grace` and lets its object be removed.
    pub(in crate::node) fn end(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.stop.request(deadline);
        self.deleted.request(deadline);
    }

    pub(in crate::node) fn grace(&self) -> Duration {
        let current = self.current();
        let seconds = current
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds);
        let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
        seconds.map_or(DEFAULT_GRACE, Duration::from_secs)
    }

    pub(in crate::node) fn restart_policy(&self) -> String {
        let current = self.current();
        let policy = current
            .spec
            .as_ref()
            .and_then(|spec| spec.restart_policy.clone());
        policy.unwrap_or_else(|| "Always".to_owned())
    }

    pub(in crate::node) fn logs(&self, container: &str) -> Option<&ContainerLogs> {
        self.logs.get(container)
    }

    fn running_map(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::node) fn running(&self, container: &str) -> Option<Arc<Running>> {
        self.running_map().get(container).cloned()
    }

    /// Pids of the running containers' commands, as the host sees them.
    pub(in crate::node) fn pids(&self) -> Vec<(String, i32)> {
        let running = self.running_map();
        let pid =
            |(name, one): (&String, &Arc<Running>)| Some((name.clone(), one.process.host_pid()?));
        running.iter().filter_map(pid).collect()
    }

    pub(in crate::node) fn set_running(&self, container: &str, running: Option<Arc<Running>>) {
        match running {
            Some(running) => self.running_map().insert(container.to_owned(), running),
            None => self.running_map().remove(container),
        };
    }

    pub(in crate::node) fn network(&self) -> Option<Arc<Network>> {
        self.network
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set_network(&self, network: Network) {
        self.facts
            .send_modify(|facts| facts.address = Some(network.address));
        let mut slot = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(Arc::new(network));
    }

    /// Takes the network away; `None` while somebody still uses it.
    pub(super) fn take_network(&self) -> Option<Network> {
        let taken = self
            .network
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()?;
        let (namespace, address) = (taken.namespace.clone(), taken.address);
        Some(Arc::try_unwrap(taken).unwrap_or(Network {
            namespace,
            address,
            own: None,
        }))
    }

    pub(in crate::node) fn volumes(&self) -> Option<Arc<VolumeSet>> {
        self.volumes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set_volumes(&self, volumes: VolumeSet) {
        let mut slot = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(Arc::new(volumes));
    }

    pub(super) fn drop_volumes(&self) {
        self.volumes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    /// Whether a ConfigMap or Secret is in one of the pod's volumes.
    pub(super) fn watches(&self, key: &Key) -> bool {
        let namespace = &self.key.namespace;
        self.volumes()
            .is_some_and(|volumes| volumes.watched(namespace).contains(key))
    }

    pub(super) fn directories(&self, node: &NodeShared) -> Directories {
        Directories {
            disk: self.directory.clone(),
            memory: node.settings.memory.join(&self.uid),
        }
    }

    pub(in crate::node) fn place(&self, node: &NodeShared) -> Place {
        Place {
            pod_ip: self
                .network()
                .map_or_else(String::new, |network| network.address.to_string()),
            host_ip: node.network.address().to_string(),
            node: node.settings.node.clone(),
        }
    }

    pub(super) fn set_initialized(&self) {
        self.facts.send_modify(|facts| facts.initialized = true);
    }

    pub(super) fn fail(&self, reason: &'static str, message: &str) {
        let failure = Some((reason, message.to_owned()));
        self.facts.send_modify(|facts| facts.failure = failure);
    }

    pub(super) fn facts(&self) -> Facts {
        self.facts.borrow().clone()
    }

    pub(super) fn watch_facts(&self) -> watch::Receiver<Facts> {
        self.facts.subscribe()
    }

    /// The status is not written any more: the node ends, not the pod.
    pub(in crate::node) fn freeze(&self) {
        self.facts.send_modify(|facts| facts.frozen = true);
    }

    /// Waits until no container will be started any more.
    pub(in crate::node) async fn ended(&self) {
        let mut facts = self.facts.subscribe();
        // The sender lives in self, so this only ends when met.
        let _met = facts.wait_for(|facts| facts.over).await;
    }

    /// No container will be started any more.
    pub(super) fn board_settled(&self) {
        for name in self.logs.keys() {
            self.board.change(name, |record| record.settled = true);
        }
        self.facts.send_modify(|facts| facts.over = true);
    }
}

/// A pod that runs again after the node went away counts that as one restart more.
fn restarts_of(status: &ContainerStatus) -> i32 {
    let ran = status.container_id.is_some();
    status.restart_count.saturating_add(i32::from(ran))
}
