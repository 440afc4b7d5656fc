//! One pod: from its network to its last process.
//!
//! A worker is one task per pod. Order of a life: network and volumes, init containers one by one,
//! the others one after the other (each once the one before has run its postStart hook), then
//! waiting; at the end the main containers together, then the sidecars in reverse order.
//!
//! Invariants: when the worker is done, no process, link, mount or file of the pod is left; the
//! API's object is removed only then.

mod shared;
mod writer;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use malla_apiserver::{DeleteParams, kinds};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

pub(super) use self::shared::{Network, PodShared};
use super::container::{Role, Supervisor};
use super::status::is_sidecar;
use super::stop::Stop;
use super::volumes::{Inputs, VolumeSet};
use super::{NodeShared, files, unsupported};
use crate::events::Severity;
use crate::net::AddressPool;

/// Pauses between attempts to set a pod up.
const RETRY: Duration = Duration::from_secs(2);
/// Least time sidecars get when the main containers used up the grace period.
const SIDECAR_GRACE: Duration = Duration::from_secs(2);
/// Pause before a pod's object is removed again if that failed.
const REMOVE_AGAIN: Duration = Duration::from_millis(500);

/// Lives a pod's life, to the removal of its object.
///
/// A pod that had `finished` before the node started keeps the status it has.
pub(super) async fn run(node: Arc<NodeShared>, pod: Arc<PodShared>, finished: bool) {
    if finished {
        pod.deleted.requested().await;
        return remove(&node, &pod).await;
    }
    let writer = AbortOnDropHandle::new(tokio::spawn(writer::run(
        Arc::clone(&node),
        Arc::clone(&pod),
    )));
    tell_unsupported(&node, &pod);
    let ready = tokio::select! {
        biased;
        () = pod.stop.requested() => false,
        () = set_up(&node, &pod) => true,
    };
    if ready {
        let refresh = AbortOnDropHandle::new(tokio::spawn(refresh_volumes(
            Arc::clone(&node),
            Arc::clone(&pod),
        )));
        live(&node, &pod).await;
        refresh.abort();
        let _aborted = refresh.await;
    }
    pod.drop_volumes();
    pod.board_settled();
    take_network(&node, &pod).await;
    // A finished pod keeps its status and logs until it is deleted.
    pod.deleted.requested().await;
    writer::write_last(&node, &pod).await;
    drop(writer);
    clear(&node, &pod);
    remove(&node, &pod).await;
}

/// Names what the pod asks for and does not get here.
fn tell_unsupported(node: &NodeShared, pod: &PodShared) {
    let fields = unsupported::fields(&pod.current());
    if !fields.is_empty() {
        let message = format!(
            "This node does not honour {}: see docs/local-node.md",
            fields.join(", ")
        );
        let (events, subject) = (&node.events, pod.subject.clone());
        events.record(
            "kubelet",
            Severity::Warning,
            subject,
            "NotHonoured",
            message,
        );
    }
}

/// Makes network, files and volumes, trying until it works.
async fn set_up(node: &Arc<NodeShared>, pod: &Arc<PodShared>) {
    loop {
        match try_to_set_up(node, pod).await {
            Ok(()) => return,
            Err((reason, message)) => {
                let events = &node.events;
                events.record(
                    "kubelet",
                    Severity::Warning,
                    pod.subject.clone(),
                    reason,
                    message,
                );
            }
        }
        let mut changes = node.config_changes.subscribe();
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            _ = changes.recv() => {}
        }
    }
}

async fn try_to_set_up(
    node: &Arc<NodeShared>,
    pod: &Arc<PodShared>,
) -> Result<(), (&'static str, String)> {
    if pod.network().is_none() {
        let network = make_network(node, pod).await;
        let network = network.map_err(|error| ("FailedCreatePodSandBox", error))?;
        pod.set_network(network);
    }
    write_files(node, pod).map_err(|error| ("FailedCreatePodSandBox", error.to_string()))?;
    if pod.volumes().is_none() {
        let (current, place) = (pod.current(), pod.place(node));
        let inputs = Inputs {
            client: &node.client,
            pod: &current,
            place: &place,
            capacity: node.settings.capacity,
        };
        let volumes = VolumeSet::prepare(&inputs, &pod.directories(node)).await;
        pod.set_volumes(volumes.map_err(|error| ("FailedMount", error.to_string()))?);
    }
    Ok(())
}

async fn make_network(node: &NodeShared, pod: &PodShared) -> Result<Network, String> {
    let spec = pod.current().spec.clone().unwrap_or_default();
    if spec.host_network.unwrap_or(false) {
        // "Host" is the node, which has a namespace of its own here.
        return Ok(Network {
            namespace: node.network.namespace().clone(),
            address: node.network.address(),
            own: None,
        });
    }
    let address = node.pool().take().map_err(|error| error.to_string())?;
    match node.network.add_pod(address).await {
        Ok(own) => Ok(Network {
            namespace: own.namespace.clone(),
            address,
            own: Some(own),
        }),
        Err(error) => {
            node.pool().release(address);
            Err(error.to_string())
        }
    }
}

fn write_files(node: &NodeShared, pod: &PodShared) -> io::Result<()> {
    let current = pod.current();
    let names = &node.settings.names;
    let address = pod
        .network()
        .map_or(node.network.address(), |network| network.address);
    let etc = pod.directory.join("etc");
    fs::create_dir_all(&etc)?;
    let texts = [
        ("hosts", files::hosts(&current, address.into(), names)),
        ("hostname", format!("{}\n", files::hostname(&current))),
        ("resolv.conf", files::resolv_conf(&current, names)),
    ];
    for (name, text) in texts {
        let path = etc.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// Keeps contents from the API up to date for as long as the pod lives.
async fn refresh_volumes(node: Arc<NodeShared>, pod: Arc<PodShared>) {
    let mut changes = node.config_changes.subscribe();
    let mut current = pod.watch_current();
    let mut due: Option<Timestamp> = None;
    let mut first = true;
    loop {
        if !first {
            let wait = due.map(|due| Duration::try_from(due.duration_since(Timestamp::now())));
            let wait = wait.map(Result::unwrap_or_default);
            tokio::select! {
                changed = changes.recv() => match changed {
                    Ok(key) if !pod.watches(&key) => continue,
                    _ => {} // Also after missed changes.
                },
                changed = current.changed() => if changed.is_err() { return },
                () = sleep_or_never(wait) => {}
            }
        }
        first = false;
        let (now, place) = (pod.current(), pod.place(&node));
        let inputs = Inputs {
            client: &node.client,
            pod: &now,
            place: &place,
            capacity: node.settings.capacity,
        };
        let Some(volumes) = pod.volumes() else { return };
        match volumes.refresh(&inputs).await {
            Ok(renew) => due = renew,
            Err(error) => {
                // The last contents stay, as in Kubernetes.
                tracing::debug!(pod = %pod.key, %error, "volumes are not up to date");
                due = Timestamp::now()
                    .checked_add(jiff::SignedDuration::from_secs(2))
                    .ok();
            }
        }
    }
}

async fn sleep_or_never(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// A sidecar with the means to end it.
struct Sidecar {
    stop: Stop,
    task: AbortOnDropHandle<()>,
}

/// Runs the containers until they all have ended for good.
async fn live(node: &Arc<NodeShared>, pod: &Arc<PodShared>) {
    let spec = pod.current().spec.clone().unwrap_or_default();
    let deadline = spec
        .active_deadline_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    let overdue = async {
        sleep_or_never(deadline.map(Duration::from_secs)).await;
        let message = "Pod was active on the node longer than the specified deadline";
        pod.fail("DeadlineExceeded", message);
        pod.stop.request(Instant::now() + pod.grace());
        std::future::pending().await
    };
    let mut sidecars = Vec::new();
    let run = async {
        let inits = spec.init_containers.unwrap_or_default();
        if initialize(node, pod, &inits, &mut sidecars).await {
            pod.set_initialized();
            run_mains(node, pod, spec.containers).await;
        }
        while let Some(Sidecar { stop, task }) = sidecars.pop() {
            let least = Instant::now() + SIDECAR_GRACE;
            let own = Instant::now() + pod.grace();
            stop.request(
                pod.stop
                    .deadline()
                    .map_or(own, |deadline| deadline.max(least)),
            );
            let _panicked = task.await;
        }
    };
    tokio::select! {
        () = run => {}
        () = overdue => {}
    }
}

/// Runs the init containers; false if the pod ends here.
async fn initialize(
    node: &Arc<NodeShared>,
    pod: &Arc<PodShared>,
    containers: &[Container],
    sidecars: &mut Vec<Sidecar>,
) -> bool {
    for container in containers {
        let sidecar = is_sidecar(container);
        let stop = if sidecar {
            Stop::new()
        } else {
            pod.stop.clone()
        };
        let supervisor = Supervisor {
            node: Arc::clone(node),
            pod: Arc::clone(pod),
            container: container.clone(),
            role: if sidecar { Role::Sidecar } else { Role::Init },
            stop: stop.clone(),
        };
        let (launched, _) = oneshot::channel();
        let task = AbortOnDropHandle::new(tokio::spawn(supervisor.run(launched)));
        let name = container.name.as_str();
        if sidecar {
            sidecars.push(Sidecar { stop, task });
            let up = pod
                .board
                .wait_for(name, |record| record.is_running() && record.started);
            tokio::select! {
                () = up => {}
                () = pod.stop.requested() => return false,
            }
        } else {
            let _panicked = task.await;
            if !pod.board.get(name).is_some_and(|record| record.succeeded()) {
                return false;
            }
        }
        if pod.stop.deadline().is_some() {
            return false;
        }
    }
    true
}

/// Starts the main containers in order and waits for all of them to end for good.
async fn run_mains(node: &Arc<NodeShared>, pod: &Arc<PodShared>, containers: Vec<Container>) {
    let mut running = JoinSet::new();
    for container in containers {
        let supervisor = Supervisor {
            node: Arc::clone(node),
            pod: Arc::clone(pod),
            container,
            role: Role::Main,
            stop: pod.stop.clone(),
        };
        let (launched, up) = oneshot::channel();
        running.spawn(supervisor.run(launched));
        tokio::select! {
            _ = up => {}
            () = pod.stop.requested() => break,
        }
    }
    while running.join_next().await.is_some() {}
}

async fn take_network(node: &NodeShared, pod: &PodShared) {
    let Some(network) = pod.take_network() else {
        return;
    };
    if let Some(own) = network.own {
        node.network.remove_pod(&own).await;
        node.pool().release(own.address);
    }
}

/// Removes the pod's files and mounts.
fn clear(node: &NodeShared, pod: &PodShared) {
    let directories = pod.directories(node);
    for path in [&directories.memory, &directories.disk] {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %path.display(), "a pod's files could not be removed");
            }
            _ => {}
        }
    }
}

/// Tells the API that nothing of the pod is left.
async fn remove(node: &NodeShared, pod: &PodShared) {
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        uid: Some(pod.uid.clone()),
        ..DeleteParams::default()
    };
    loop {
        let (scope, name) = (pod.key.scope(), &pod.key.name);
        match node.client.delete(&kinds::PODS, scope, name, &params).await {
            Ok(()) => return,
            // Gone already, or another pod has the name by now.
            Err(error) if error.is_not_found() || error.is_conflict() => return,
            Err(error) => {
                tracing::warn!(pod = %pod.key, error = error.message(), "a pod's object could not be removed");
                tokio::time::sleep(REMOVE_AGAIN).await;
            }
        }
    }
}

impl NodeShared {
    fn pool(&self) -> std::sync::MutexGuard<'_, AddressPool> {
        self.pool
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
