//! A serving process that is killed with SIGKILL: nothing answered is lost, and watchers find their way.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use malla_apiserver::{Config, Server};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::cluster::kubectl;
use crate::watcher::{Mirror, client_of, map};

/// Where the child keeps its store, and the port it listens on (0: any).
const CHILD_DIRECTORY: &str = "MALLA_TEST_DIRECTORY";
const CHILD_PORT: &str = "MALLA_TEST_PORT";

/// Not a test by itself: the process that the tests kill.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the other tests of this file"]
async fn child_that_serves_until_killed() {
    let directory = std::env::var(CHILD_DIRECTORY).unwrap();
    let directory = Path::new(&directory);
    let port: u16 = std::env::var(CHILD_PORT).unwrap().parse().unwrap();
    let server = Server::open(Config::new(directory.join("store")))
        .await
        .unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = format!("https://127.0.0.1:{port}");
    let kubeconfig = server.admin_kubeconfig("test", &url).unwrap();
    std::fs::write(directory.join("kubeconfig"), kubeconfig).unwrap();
    println!("\nserving {port}");
    server
        .serve(vec![listener], std::future::pending())
        .await
        .unwrap();
}

/// A process that serves what is stored in a directory; ends by SIGKILL only.
struct Serving {
    child: Child,
    port: u16,
}

impl Serving {
    fn start(directory: &Path, port: u16) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "durability::child_that_serves_until_killed",
                "--ignored",
                "--nocapture",
            ])
            .env(CHILD_DIRECTORY, directory)
            .env(CHILD_PORT, port.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("serving ")?.parse().ok())
            .expect("the child says when it serves");
        Self { child, port }
    }

    /// Kills the process and starts another on the same port.
    fn kill_and_start(mut self, directory: &Path) -> Self {
        self.kill();
        Self::start(directory, self.port)
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn maps(directory: &Path) -> Api<ConfigMap> {
    Api::namespaced(client_of(&directory.join("kubeconfig")).await, "default")
}

async fn follows_through_a_kill(config: watcher::Config) {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let serving = Serving::start(directory, 0);
    let api = maps(directory).await;
    let create = PostParams::default();
    for name in ["a", "b", "c"] {
        api.create(&create, &map(name, "1")).await.unwrap();
    }
    let mut mirror = Mirror::follow(api.clone(), config);
    mirror.shows(&[("a", "1"), ("b", "1"), ("c", "1")]).await;
    let before = api.list(&ListParams::default()).await.unwrap();
    let serving = serving.kill_and_start(directory);
    let api = maps(directory).await;
    let after = api.list(&ListParams::default()).await.unwrap();
    assert_eq!(after.items, before.items, "with the same resourceVersions");
    // What happens before the watcher is back is not missed by it, deletions included.
    api.replace("b", &create, &map("b", "2")).await.unwrap();
    api.delete("c", &DeleteParams::default()).await.unwrap();
    mirror.shows(&[("a", "1"), ("b", "2")]).await;
    let made = api.create(&create, &map("d", "1")).await.unwrap();
    mirror.shows(&[("a", "1"), ("b", "2"), ("d", "1")]).await;
    let version = |text: Option<String>| text.unwrap().parse::<u64>().unwrap();
    let newest = version(before.metadata.resource_version);
    assert!(
        version(made.resource_version()) > newest,
        "versions only grow"
    );
    drop(serving);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_watch_watcher_survives_kill_9() {
    follows_through_a_kill(watcher::Config::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streaming_list_watcher_survives_kill_9() {
    follows_through_a_kill(watcher::Config::default().streaming_lists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answered_write_survives_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let mut serving = Serving::start(directory, 0);
    let api = maps(directory).await;
    // Several writers until the process is gone; it dies in the middle of their writes.
    let (tell, mut answers) = mpsc::unbounded_channel();
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let (api, tell) = (api.clone(), tell.clone());
        writers.spawn(async move {
            for number in 0.. {
                let object = map(&format!("w{writer}-{number}"), "x");
                let Ok(object) = api.create(&PostParams::default(), &object).await else {
                    return;
                };
                tell.send(object).unwrap();
            }
        });
    }
    drop(tell);
    let mut answered: Vec<ConfigMap> = Vec::new();
    while answered.len() < 40 {
        answered.push(answers.recv().await.unwrap());
    }
    serving.kill();
    while let Some(object) = answers.recv().await {
        answered.push(object);
    }
    writers.join_all().await;
    let serving = serving.kill_and_start(directory);
    let api = maps(directory).await;
    for object in answered {
        let found = api.get(&object.name_any()).await.unwrap();
        assert_eq!(found, object);
    }
    let manifest = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "new", "namespace": "default"},
    });
    let file = directory.join("new.json");
    std::fs::write(&file, manifest.to_string()).unwrap();
    let mut apply = kubectl(directory, &["apply", "-f", file.to_str().unwrap()]);
    let applied = tokio::task::spawn_blocking(move || apply.output().unwrap());
    let applied = applied.await.unwrap();
    assert!(applied.status.success(), "{applied:?}");
    drop(serving);
}
