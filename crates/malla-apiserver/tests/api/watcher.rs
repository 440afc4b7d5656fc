//! kube-rs's own watcher, reflector semantics and typed clients, through restarts and compaction.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{
    AttachParams, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::pods;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn client(cluster: &Cluster) -> Client {
    client_of(&cluster.kubeconfig()).await
}

pub(crate) async fn client_of(kubeconfig: &Path) -> Client {
    let text = std::fs::read_to_string(kubeconfig).unwrap();
    let kubeconfig = Kubeconfig::from_yaml(&text).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

pub(crate) fn map(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("k".to_owned(), value.to_owned())])),
        ..ConfigMap::default()
    }
}

/// What a watcher knows: name to value, kept as a store would.
pub(crate) struct Mirror {
    now: BTreeMap<String, String>,
    events: mpsc::UnboundedReceiver<watcher::Event<ConfigMap>>,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

impl Mirror {
    pub(crate) fn follow(api: Api<ConfigMap>, config: watcher::Config) -> Self {
        let (tell, events) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            // Errors (the server is away, 410) are the watcher's own to recover from.
            let mut stream = watcher(api, config).default_backoff().boxed();
            while let Some(event) = stream.next().await {
                if let Ok(event) = event
                    && tell.send(event).is_err()
                {
                    return;
                }
            }
        });
        Self {
            now: BTreeMap::new(),
            events,
            _task: tokio_util::task::AbortOnDropHandle::new(task),
        }
    }

    /// Takes events until the mirror shows exactly this.
    pub(crate) async fn shows(&mut self, want: &[(&str, &str)]) {
        let want: BTreeMap<String, String> = want
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let mut staging = BTreeMap::new();
        let reached = async {
            loop {
                if self.now == want {
                    return;
                }
                match self.events.recv().await.unwrap() {
                    watcher::Event::Init => staging.clear(),
                    watcher::Event::InitApply(object) => {
                        staging.insert(name(&object), value(&object));
                    }
                    watcher::Event::InitDone => self.now = std::mem::take(&mut staging),
                    watcher::Event::Apply(object) => {
                        self.now.insert(name(&object), value(&object));
                    }
                    watcher::Event::Delete(object) => {
                        self.now.remove(&name(&object));
                    }
                }
            }
        };
        let late = timeout(PATIENCE, reached).await.is_err();
        assert!(!late, "wanted {want:?}, have {:?}", self.now);
    }
}

fn name(object: &ConfigMap) -> String {
    object.metadata.name.clone().unwrap()
}

fn value(object: &ConfigMap) -> String {
    object
        .data
        .as_ref()
        .and_then(|data| data.get("k"))
        .cloned()
        .unwrap_or_default()
}

async fn follows_through(config: watcher::Config) {
    let cluster = Cluster::start().await;
    let api: Api<ConfigMap> = Api::namespaced(client(&cluster).await, "default");
    let create = PostParams::default();
    api.create(&create, &map("a", "1")).await.unwrap();
    let mut mirror = Mirror::follow(api.clone(), config);
    mirror.shows(&[("a", "1")]).await;
    api.create(&create, &map("b", "1")).await.unwrap();
    api.delete("a", &DeleteParams::default()).await.unwrap();
    mirror.shows(&[("b", "1")]).await;
    // Compaction does not disturb a watch that is up to date.
    cluster.server.compact();
    api.create(&create, &map("c", "1")).await.unwrap();
    mirror.shows(&[("b", "1"), ("c", "1")]).await;
    // A restart breaks the watch; the watcher finds its version forgotten, lists again, and misses nothing.
    let cluster = cluster.restart().await;
    api.replace("b", &create, &map("b", "2")).await.unwrap();
    api.delete("c", &DeleteParams::default()).await.unwrap();
    mirror.shows(&[("b", "2")]).await;
    let cluster = cluster.restart().await;
    cluster.server.compact();
    api.create(&create, &map("d", "1")).await.unwrap();
    mirror.shows(&[("b", "2"), ("d", "1")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_watch_watcher_survives_restarts_and_compaction() {
    follows_through(watcher::Config::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streaming_list_watcher_survives_restarts_and_compaction() {
    follows_through(watcher::Config::default().streaming_lists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn typed_clients_patch_apply_and_list() {
    let cluster = Cluster::start().await;
    let api: Api<ConfigMap> = Api::namespaced(client(&cluster).await, "default");
    let apply = PatchParams::apply("kube-rs");
    let mut wanted = map("a", "1");
    let applied = api
        .patch("a", &apply, &Patch::Apply(&wanted))
        .await
        .unwrap();
    assert_eq!(value(&applied), "1");
    wanted.data = Some(BTreeMap::from([("other".to_owned(), "2".to_owned())]));
    let applied = api
        .patch("a", &apply, &Patch::Apply(&wanted))
        .await
        .unwrap();
    assert_eq!(
        applied.data, wanted.data,
        "a field no longer applied is removed"
    );
    let merged = serde_json::json!({"data": {"k": "3"}});
    api.patch("a", &PatchParams::default(), &Patch::Merge(&merged))
        .await
        .unwrap();
    for n in 0..4 {
        api.create(&PostParams::default(), &map(&format!("m{n}"), "x"))
            .await
            .unwrap();
    }
    let page = api.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!(
        (page.items.len(), page.metadata.remaining_item_count),
        (2, Some(3))
    );
    let rest = ListParams::default().continue_token(page.metadata.continue_.as_ref().unwrap());
    assert_eq!(api.list(&rest).await.unwrap().items.len(), 3);
    let metadata = api.list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(metadata.items.len(), 5);
    api.delete_collection(&DeleteParams::default(), &ListParams::default())
        .await
        .unwrap();
    assert!(
        api.list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kube_rs_execs_and_forwards_ports() {
    let cluster = pods::cluster().await;
    let api: Api<Pod> = Api::namespaced(client(&cluster).await, "default");
    let params = AttachParams::default()
        .container("a")
        .stdin(true)
        .stderr(false);
    let mut process = api.exec("p", ["cat"], &params).await.unwrap();
    let mut stdin = process.stdin().unwrap();
    let mut stdout = process.stdout().unwrap();
    stdin.write_all(b"hello").await.unwrap();
    let mut read = [0; 5];
    timeout(PATIENCE, stdout.read_exact(&mut read))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&read, b"hello");
    stdin.shutdown().await.unwrap();
    let status = timeout(PATIENCE, process.take_status().unwrap())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(status.status.as_deref(), Some("Success"));
    let mut forward = api.portforward("p", &[7, 8]).await.unwrap();
    let mut stream = forward.take_stream(7).unwrap();
    stream.write_all(b"echo").await.unwrap();
    let mut read = [0; 4];
    timeout(PATIENCE, stream.read_exact(&mut read))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&read, b"echo");
    let failed = timeout(PATIENCE, forward.take_error(8).unwrap())
        .await
        .unwrap();
    assert_eq!(failed.as_deref(), Some("nothing listens on 8"));
    let lines: Vec<String> = api
        .log_stream(
            "p",
            &kube::api::LogParams {
                container: Some("a".to_owned()),
                follow: true,
                ..Default::default()
            },
        )
        .await
        .map(|log| {
            use futures_util::AsyncBufReadExt;
            log.lines()
        })
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert_eq!(lines.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_faces_of_an_event_show_the_same() {
    let cluster = Cluster::start().await;
    let client = client(&cluster).await;
    let reporter = kube::runtime::events::Reporter::from("example.com/controller");
    let recorder = kube::runtime::events::Recorder::new(client.clone(), reporter);
    let pod = k8s_openapi::api::core::v1::ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some("p".to_owned()),
        namespace: Some("default".to_owned()),
        ..Default::default()
    };
    let event = kube::runtime::events::Event {
        type_: kube::runtime::events::EventType::Warning,
        reason: "Rejected".to_owned(),
        note: Some("host is missing".to_owned()),
        action: "Check".to_owned(),
        secondary: None,
    };
    recorder.publish(&event, &pod).await.unwrap();
    let shown = cluster
        .ok(&["get", "events", "--field-selector=involvedObject.name=p"])
        .await;
    assert!(
        shown.contains("Rejected") && shown.contains("host is missing"),
        "{shown}"
    );
    let other = cluster.json(&["events.events.k8s.io"]).await;
    assert_eq!(other["items"][0]["note"], "host is missing");
    assert_eq!(other["items"][0]["regarding"]["name"], "p");
    let events = cluster.ok(&["events", "--for=pod/p"]).await;
    assert!(events.contains("host is missing"), "{events}");
}
