//! What the control plane reads: one watch per kind, each turned into changes for the index.
//!
//! A list that starts over (after a broken watch or a compaction) is collected first and handed on
//! whole, so the world never shrinks to half a list in between.

use std::sync::Arc;

use futures_util::StreamExt as _;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use malla_api::Kind;
use malla_api::gateway_api::{self, GatewayKind};
use malla_runtime::task::AbortOnDrop;
use tokio::sync::mpsc;
use tracing::{Instrument as _, debug, info_span, warn};

/// A watched kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Watched {
    Namespace,
    Node,
    Pod,
    Service,
    EndpointSlice,
    /// Only the mesh's own, in the root namespace.
    MeshConfig,
    Istio(Kind),
    /// Clusters need not have them.
    GatewayApi(GatewayKind),
}

impl Watched {
    /// Everything that makes up the world.
    pub fn all() -> impl Iterator<Item = Self> {
        let core = [
            Self::Namespace,
            Self::Node,
            Self::Pod,
            Self::Service,
            Self::EndpointSlice,
            Self::MeshConfig,
        ];
        core.into_iter()
            .chain(Kind::ALL.into_iter().map(Self::Istio))
            .chain(GatewayKind::ALL.into_iter().map(Self::GatewayApi))
    }

    /// How the API server names the kind.
    pub(crate) fn resource(self) -> ApiResource {
        let builtin = |group: &str, kind: &str| {
            ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind))
        };
        let custom = |group: &str, version: &str, kind: &str, plural: &str| {
            let kind = GroupVersionKind::gvk(group, version, kind);
            ApiResource::from_gvk_with_plural(&kind, plural)
        };
        match self {
            Self::Namespace => builtin("", "Namespace"),
            Self::Node => builtin("", "Node"),
            Self::Pod => builtin("", "Pod"),
            Self::Service => builtin("", "Service"),
            Self::EndpointSlice => builtin("discovery.k8s.io", "EndpointSlice"),
            Self::MeshConfig => builtin("", "ConfigMap"),
            Self::Istio(kind) => custom(
                kind.group(),
                kind.storage_version(),
                kind.name(),
                kind.plural(),
            ),
            Self::GatewayApi(kind) => custom(
                gateway_api::GROUP,
                kind.storage_version(),
                kind.name(),
                kind.plural(),
            ),
        }
    }
}

/// One step in what is known of a kind.
#[derive(Debug, Clone)]
pub enum Change {
    /// The whole list.
    Replaced(Vec<Arc<DynamicObject>>),
    Applied(Arc<DynamicObject>),
    Deleted(Arc<DynamicObject>),
}

/// A change and the kind it is about.
pub type Update = (Watched, Change);

/// Where to read, and what of it.
#[derive(Debug, Clone)]
pub struct Scope {
    pub root_namespace: String,
    /// Name of the mesh's ConfigMap, `istio` unless this is a named revision.
    pub mesh_config: String,
}

/// Watches everything until the returned tasks are dropped.
#[must_use]
pub fn watch_all(
    client: &kube::Client,
    scope: &Scope,
    updates: &mpsc::Sender<Update>,
) -> Vec<AbortOnDrop<()>> {
    Watched::all()
        .map(|watched| {
            let span = info_span!("watch", kind = ?watched);
            AbortOnDrop::spawn(
                span.clone(),
                watch(client.clone(), scope.clone(), watched, updates.clone()).instrument(span),
            )
        })
        .collect()
}

async fn watch(
    client: kube::Client,
    scope: Scope,
    watched: Watched,
    updates: mpsc::Sender<Update>,
) {
    let resource = watched.resource();
    let mut config = watcher::Config::default();
    let api: Api<DynamicObject> = if watched == Watched::MeshConfig {
        config = config.fields(&format!("metadata.name={}", scope.mesh_config));
        Api::namespaced_with(client, &scope.root_namespace, &resource)
    } else {
        Api::all_with(client, &resource)
    };
    let stream = watcher::watcher(api, config).default_backoff();
    let mut stream = std::pin::pin!(stream);
    let mut list = Vec::new();
    while let Some(event) = stream.next().await {
        let change = match event {
            Ok(event) => step(event, &mut list),
            // Nobody has installed that kind's definition yet: there are no such objects, and when
            // it comes, the list that is tried again will have them.
            Err(watcher::Error::InitialListFailed(kube::Error::Api(status)))
                if status.code == 404 =>
            {
                debug!("the kind is not served");
                Some(Change::Replaced(Vec::new()))
            }
            Err(error) => {
                // Back-off is the stream's; what was known stays known meanwhile.
                warn!(%error, "the watch broke off and will be resumed");
                continue;
            }
        };
        if let Some(change) = change
            && updates.send((watched, change)).await.is_err()
        {
            return; // Nobody listens any more: the control plane is stopping.
        }
    }
}

/// Collects lists, passes single changes on.
fn step(event: Event<DynamicObject>, list: &mut Vec<Arc<DynamicObject>>) -> Option<Change> {
    match event {
        Event::Init => {
            list.clear();
            None
        }
        Event::InitApply(object) => {
            list.push(Arc::new(slim(object)));
            None
        }
        Event::InitDone => Some(Change::Replaced(std::mem::take(list))),
        Event::Apply(object) => Some(Change::Applied(Arc::new(slim(object)))),
        Event::Delete(object) => Some(Change::Deleted(Arc::new(slim(object)))),
    }
}

/// Managed fields are half of an object's size and say nothing about the mesh.
fn slim(mut object: DynamicObject) -> DynamicObject {
    object.metadata.managed_fields = None;
    if let Some(annotations) = &mut object.metadata.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    object
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use kube::client::Body;
    use serde_json::json;

    use super::*;

    fn object(name: &str) -> DynamicObject {
        DynamicObject::new(name, &Watched::Pod.resource())
    }

    #[test]
    fn a_list_arrives_whole() {
        let mut list = Vec::new();
        assert!(step(Event::Init, &mut list).is_none());
        assert!(step(Event::InitApply(object("a")), &mut list).is_none());
        // The watch breaks off here and starts over.
        assert!(step(Event::Init, &mut list).is_none());
        assert!(step(Event::InitApply(object("b")), &mut list).is_none());
        let Some(Change::Replaced(whole)) = step(Event::InitDone, &mut list) else {
            panic!("no list")
        };
        assert_eq!(
            whole
                .iter()
                .map(|o| o.metadata.name.clone().unwrap())
                .collect::<Vec<_>>(),
            ["b"]
        );
    }

    /// Answers a kind's list: 404 until it is served.
    fn api_server(served: Arc<AtomicBool>) -> kube::Client {
        let answer = tower::service_fn(move |request: http::Request<Body>| {
            let served = served.load(Ordering::SeqCst);
            let watch = request
                .uri()
                .query()
                .is_some_and(|q| q.contains("watch=true"));
            async move {
                if watch {
                    std::future::pending::<()>().await;
                }
                let (status, body) = match served {
                    false => (
                        404,
                        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound", "message": "not found"}),
                    ),
                    true => (
                        200,
                        json!({"kind": "List", "apiVersion": "networking.istio.io/v1", "metadata": {"resourceVersion": "1"}, "items": [
                            {"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "g", "namespace": "n"}},
                        ]}),
                    ),
                };
                let body = Body::from(body.to_string().into_bytes());
                let answer = http::Response::builder().status(status).body(body);
                Ok::<_, Infallible>(answer.unwrap())
            }
        });
        kube::Client::new(answer, "default")
    }

    #[tokio::test]
    async fn a_kind_that_is_not_served_has_no_objects_until_it_is() {
        let served = Arc::new(AtomicBool::new(false));
        let client = api_server(Arc::clone(&served));
        let scope = Scope {
            root_namespace: "istio-system".into(),
            mesh_config: "istio".into(),
        };
        let (send, mut updates) = mpsc::channel(1);
        let watched = Watched::Istio(malla_api::Kind::Gateway);
        let watching = watch(client, scope, watched, send);
        let _watching = AbortOnDrop::spawn(info_span!("watch"), watching);
        let mut next = async || match updates.recv().await {
            Some((_, Change::Replaced(list))) => list.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(next().await, 0);
        served.store(true, Ordering::SeqCst);
        let found = async { while next().await == 0 {} };
        tokio::time::timeout(Duration::from_secs(60), found)
            .await
            .unwrap();
    }

    #[test]
    fn every_watched_kind_is_another_resource() {
        let mut paths: Vec<_> = Watched::all()
            .map(|w| format!("{}/{}", w.resource().api_version, w.resource().plural))
            .collect();
        let count = paths.len();
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), count);
    }
}
