//! The node: runs the pods bound to it as processes of this machine.
//!
//! One task per pod and one per container; probes and hooks run inside the container's task. The
//! node learns of pods from a feed, tells the API by status patches and events, and answers logs,
//! exec, attach and port-forward for the API server.

mod board;
mod commands;
mod container;
mod env;
mod fields;
mod files;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod grpc;
mod hooks;
mod http;
mod identity;
mod images;
mod logs;
mod pod;
mod probe;
mod runtime;
mod status;
mod stop;
mod unsupported;
mod volumes;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use malla_apiserver::Client;
use tokio::sync::broadcast;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::controllers::Feeds;
use crate::events::{Recorder, Severity, Subject};
use crate::feed::Change;
use crate::net::{AddressPool, NodeNetwork};
use crate::object::{self, Key};
use crate::pods;
use crate::process::Spawner;

pub(crate) use images::Images;
pub use images::{CONFIG_MAP, Image};

/// Changes of ConfigMaps and Secrets that a slow pod may be behind; more make it look at all.
const CONFIG_BACKLOG: usize = 256;

/// What the node is told at its start.
#[derive(Debug, Clone)]
pub(crate) struct NodeSettings {
    pub(crate) node: String,
    pub(crate) dns: IpAddr,
    pub(crate) domain: String,
    /// An empty directory to mount containers' roots on.
    pub(crate) scratch: PathBuf,
    /// The cluster's own directory.
    pub(crate) hidden: PathBuf,
    /// Files of pods, on disk and in memory.
    pub(crate) disk: PathBuf,
    pub(crate) memory: PathBuf,
    /// Programs every container finds in `/malla/bin`: name and place on the machine.
    pub(crate) binaries: Vec<(String, PathBuf)>,
}

/// Settings as the pods' code wants them.
#[derive(Debug)]
struct Settings {
    node: String,
    names: files::Names,
    capacity: fields::Capacity,
    scratch: PathBuf,
    hidden: PathBuf,
    disk: PathBuf,
    memory: PathBuf,
    binaries: Vec<(String, PathBuf)>,
}

/// What a node is made of.
#[derive(Debug)]
pub(crate) struct NodeParts {
    pub(crate) client: Client,
    pub(crate) events: Recorder,
    pub(crate) spawner: Arc<Spawner>,
    pub(crate) network: Arc<NodeNetwork>,
    pub(crate) pool: AddressPool,
    pub(crate) images: Arc<Images>,
    pub(crate) settings: NodeSettings,
}

/// What all pods share.
#[derive(Debug)]
struct NodeShared {
    client: Client,
    events: Recorder,
    spawner: Arc<Spawner>,
    network: Arc<NodeNetwork>,
    pool: Mutex<AddressPool>,
    images: Arc<Images>,
    settings: Settings,
    config_changes: broadcast::Sender<Key>,
}

/// The running node.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    shared: Arc<NodeShared>,
    pods: Arc<Mutex<BTreeMap<String, Hosted>>>,
    tasks: TaskTracker,
}

/// What [`Node::streams`] gives.
#[derive(Debug, Clone)]
pub(crate) struct NodeStreams {
    shared: Weak<NodeShared>,
    pods: Weak<Mutex<BTreeMap<String, Hosted>>>,
}

#[derive(Debug)]
struct Hosted {
    pod: Arc<pod::PodShared>,
    task: AbortOnDropHandle<()>,
}

impl Node {
    /// Makes the node and adds its listeners to `feeds`.
    pub(crate) fn start(parts: NodeParts, feeds: &mut Feeds) -> Self {
        let shared = Arc::new(NodeShared {
            client: parts.client,
            events: parts.events,
            spawner: parts.spawner,
            network: parts.network,
            pool: Mutex::new(parts.pool),
            images: parts.images,
            settings: Settings::from(parts.settings),
            config_changes: broadcast::Sender::new(CONFIG_BACKLOG),
        });
        let node = Self {
            shared,
            pods: Arc::default(),
            tasks: TaskTracker::new(),
        };
        let hosting = node.clone();
        feeds.pods.listen(move |change| hosting.take(change));
        for feed in [&mut feeds.config_maps, &mut feeds.secrets] {
            let shared = Arc::clone(&node.shared);
            feed.listen(move |change| {
                let _no_pod_waits = shared.config_changes.send(change.key.clone());
            });
        }
        node.follow_images(feeds);
        node
    }

    fn follow_images(&self, feeds: &mut Feeds) {
        let shared = Arc::clone(&self.shared);
        let (namespace, name) = CONFIG_MAP;
        let table = Key::new(namespace, name);
        feeds.config_maps.listen(move |change| {
            if change.key != table {
                return;
            }
            let complaints = shared.images.edit(change.new.as_deref());
            for (complaint, object) in complaints.iter().zip(change.new.iter().cycle()) {
                let metadata = object.get("metadata").cloned().unwrap_or_default();
                let metadata = serde_json::from_value(metadata).unwrap_or_default();
                let subject = Subject::new("v1", "ConfigMap", &metadata);
                let events = &shared.events;
                events.record(
                    "kubelet",
                    Severity::Warning,
                    subject,
                    "InvalidImage",
                    complaint,
                );
            }
        });
    }

    fn pods(&self) -> MutexGuard<'_, BTreeMap<String, Hosted>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a change of a pod's object.
    fn take(&self, change: &Change) {
        let Some(object) = change.object() else {
            return;
        };
        let pod: Pod = match object::typed(object) {
            Ok(pod) => pod,
            Err(error) => {
                tracing::error!(pod = %change.key, error = error.message(), "a pod is not run");
                return;
            }
        };
        let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        if bound != Some(self.shared.settings.node.as_str()) {
            return;
        }
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut pods = self.pods();
        match (pods.get(&uid), &change.new) {
            (Some(hosted), Some(_)) => hosted.pod.update(Arc::new(pod)),
            // Removed without us, by force: nothing may be left of it.
            (Some(hosted), None) => hosted.pod.end(Duration::ZERO),
            (None, Some(_)) => {
                let hosted = self.host(pod);
                pods.insert(uid, hosted);
            }
            (None, None) => {}
        }
    }

    fn host(&self, pod: Pod) -> Hosted {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let directory = self.shared.settings.disk.join(&uid);
        let finished = pods::is_finished(&pod);
        let ending = pod.metadata.deletion_timestamp.is_some();
        let pod = Arc::new(pod);
        let shared = Arc::new(pod::PodShared::new(Arc::clone(&pod), directory));
        if ending {
            // Its processes ended with the node that ran them.
            shared.end(Duration::ZERO);
        } else if finished {
            shared.stop.request(tokio::time::Instant::now());
        }
        let (node, worked) = (self.clone(), Arc::clone(&shared));
        let work = async move {
            pod::run(Arc::clone(&node.shared), worked, finished).await;
            // Dropping its own handle would cut this task short; it ends here anyway.
            if let Some(hosted) = node.pods().remove(&uid) {
                drop(hosted.task.detach());
            }
        };
        Hosted {
            pod: shared,
            task: AbortOnDropHandle::new(self.tasks.spawn(work)),
        }
    }

    /// Ends all containers within `grace`; the pods' objects stay as they are, to run again.
    pub(crate) async fn end_all(&self, grace: Duration) {
        let all: Vec<_> = self
            .pods()
            .values()
            .map(|hosted| Arc::clone(&hosted.pod))
            .collect();
        let deadline = tokio::time::Instant::now() + grace;
        for pod in &all {
            pod.freeze();
            pod.stop.request(deadline);
        }
        for pod in all {
            pod.ended().await;
        }
    }

    /// Lets go of all pods; nothing of the node runs afterwards.
    pub(crate) async fn shut_down(&self) {
        let hosted = std::mem::take(&mut *self.pods());
        drop(hosted);
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Logs, commands and connections for the API server, which the node itself holds: so this
    /// does not hold the node.
    pub(crate) fn streams(&self) -> NodeStreams {
        NodeStreams {
            shared: Arc::downgrade(&self.shared),
            pods: Arc::downgrade(&self.pods),
        }
    }

    /// Pids of all containers' commands as the host sees them, by `namespace/pod/container`.
    pub(crate) fn pids(&self) -> BTreeMap<String, i32> {
        let pods = self.pods();
        let of = |hosted: &Hosted| {
            let key = hosted.pod.key.clone();
            let pids = hosted.pod.pids().into_iter();
            pids.map(move |(name, pid)| (format!("{key}/{name}"), pid))
        };
        pods.values().flat_map(of).collect()
    }
}

impl From<NodeSettings> for Settings {
    fn from(settings: NodeSettings) -> Self {
        Self {
            node: settings.node,
            names: files::Names {
                dns: settings.dns,
                domain: settings.domain,
            },
            capacity: capacity(),
            scratch: settings.scratch,
            hidden: settings.hidden,
            disk: settings.disk,
            memory: settings.memory,
            binaries: settings.binaries,
        }
    }
}

/// The machine's CPUs and memory.
fn capacity() -> fields::Capacity {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|line| line.split_whitespace().next()?.parse::<i128>().ok());
    fields::Capacity {
        milli_cpus: i128::try_from(cpus).unwrap_or(1) * 1000,
        memory_bytes: kib.unwrap_or(0) * 1024,
    }
}

/// The node object's capacity: CPUs and memory.
pub(crate) fn machine_capacity() -> (String, String) {
    let capacity = capacity();
    (
        (capacity.milli_cpus / 1000).to_string(),
        format!("{}Ki", capacity.memory_bytes / 1024),
    )
}
