//! kubectl's everyday verbs on every kind there is.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::samples::{Sample, THINGS, samples};

const PATIENCE: Duration = Duration::from_secs(30);
/// Kinds at a time: kubectl itself is most of the work.
const TOGETHER: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_verbs_work_on_every_kind() {
    let cluster = Cluster::start().await;
    cluster.apply(THINGS).await;
    // Discovery is cached before many ask at a time.
    cluster.ok(&["api-resources"]).await;
    stream::iter(samples())
        .for_each_concurrent(TOGETHER, async |sample| {
            live_and_die(&cluster, &sample).await
        })
        .await;
}

async fn live_and_die(cluster: &Cluster, sample: &Sample) {
    let resource = sample.resource();
    // The two Events are one resource, and must not meet.
    let given = resource.replace('.', "-");
    let name = sample.name(&given);
    let at = [resource.as_str(), name.as_str()];
    let manifest = serde_json::to_string(&sample.object(&given)).unwrap();
    let created = cluster.apply(&manifest).await;
    assert!(created.ends_with(" created"), "{created}");
    shown(cluster, sample, at).await;
    let mut watch = Watch::start(cluster, at);
    watch.tells("ADDED", &name).await;
    cluster.ok(&["annotate", at[0], at[1], "note=wanted"]).await;
    watch.tells("MODIFIED", &name).await;
    edit(cluster, at).await;
    watch.tells("MODIFIED", &name).await;
    let note = [
        "get",
        at[0],
        at[1],
        "-o",
        "jsonpath={.metadata.annotations.note}",
    ];
    assert_eq!(cluster.ok(&note).await, "edited", "{resource}");
    // What was not in the manifest stays.
    let again = cluster.apply(&manifest).await;
    let unchanged = again.ends_with(" unchanged") || sample.kind == "Secret";
    assert!(unchanged, "{again}");
    let deleted = cluster.ok(&["delete", at[0], at[1], "--wait=false"]).await;
    assert!(deleted.contains(&format!("{name:?} deleted")), "{deleted}");
    if sample.kind == "Namespace" {
        watch.tells("MODIFIED", &name).await;
        cluster.client().finalize_namespace(&name).await.unwrap();
    }
    if sample.kind == "CustomResourceDefinition" {
        watch.tells("MODIFIED", &name).await;
    }
    watch.tells("DELETED", &name).await;
    let gone = cluster.fails(&["get", at[0], at[1]]).await;
    assert!(gone.contains("not found"), "{gone}");
}

/// `get` in its forms, `describe` and `explain`.
async fn shown(cluster: &Cluster, sample: &Sample, at: [&str; 2]) {
    let get = async |form: &str| cluster.ok(&["get", at[0], at[1], "-o", form]).await;
    let group = sample.api_version.split_once('/').map(|(group, _)| group);
    let kind = sample.kind.to_lowercase();
    let qualified = match group {
        None => kind,
        Some(group) => format!("{kind}.{group}"),
    };
    assert_eq!(get("name").await, format!("{qualified}/{}", at[1]));
    let yaml = get("yaml").await;
    let head = format!("apiVersion: {}\n", sample.api_version);
    assert!(yaml.contains(&head), "{yaml}");
    let table = get("wide").await;
    assert_eq!(table.lines().count(), 2, "a head and a row: {table}");
    let described = cluster.ok(&["describe", at[0], at[1]]).await;
    // Events are described without their name.
    let named = described.contains(at[1]) || sample.kind == "Event";
    assert!(named, "{described}");
    let version = format!("--api-version={}", sample.api_version);
    let explained = cluster.ok(&["explain", &sample.plural, &version]).await;
    let title = format!("KIND:       {}\n", sample.kind);
    assert!(explained.contains(&title), "{explained}");
}

async fn edit(cluster: &Cluster, at: [&str; 2]) {
    let mut command = cluster.command(&["edit", at[0], at[1]]);
    command.env("KUBE_EDITOR", "sed -i s/wanted/edited/");
    let edited = tokio::task::spawn_blocking(move || command.output().unwrap());
    let edited = edited.await.unwrap();
    assert!(edited.status.success(), "{edited:?}");
}

/// `kubectl get -w` of one object; killed on drop.
struct Watch {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Watch {
    fn start(cluster: &Cluster, at: [&str; 2]) -> Self {
        let form = "-o=jsonpath={.type} {.object.metadata.name}{'\\n'}";
        let arguments = ["get", at[0], at[1], "-w", "--output-watch-events", form];
        let mut command = cluster.command(&arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = mpsc::unbounded_channel();
        tokio::task::spawn_blocking(move || {
            for line in output.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// Waits for an event; others may come before.
    async fn tells(&mut self, event: &str, name: &str) {
        let told = async {
            loop {
                let line = self.lines.recv().await.expect("kubectl goes on watching");
                if line.split_whitespace().eq([event, name]) {
                    return;
                }
            }
        };
        let told = timeout(PATIENCE, told).await;
        assert!(told.is_ok(), "no {event} of {name}");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
