//! Controllers: rollouts, ends of namespaces and owners, a cluster's end and return.

use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use malla_apiserver::{Resource, kinds};
use malla_local::sandbox::Inside;
use malla_local::{Cluster, ClusterConfig, Image, RunDirectory};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::support::Tests;
use super::world::{World, condition, main_of};

pub(crate) fn all(tests: &mut Tests) {
    tests.run("a_rollout_replaces_pods_and_can_be_undone", rollout);
    tests.run("a_namespace_takes_everything_with_it", namespace_ends);
    tests.run("owners_take_their_dependents_along", garbage);
    tests.run("a_stopped_cluster_leaves_nothing", leaves_nothing);
    tests.run("a_cluster_comes_back_with_its_objects", comes_back);
}

async fn rollout(inside: Inside) -> Result<()> {
    let world = World::new(&inside).await?;
    world.web(3, json!({})).await?;
    let done = |one: &Value| {
        let status = &one["status"];
        status["observedGeneration"] == one["metadata"]["generation"]
            && status["updatedReplicas"] == 3
            && status["availableReplicas"] == 3
            && status["replicas"] == 3
    };
    world.until(&kinds::DEPLOYMENTS, "web", done).await?;
    let change = json!({"spec": {"template": {"metadata": {"annotations": {"turn": "2"}}}}});
    world.merge(&kinds::DEPLOYMENTS, "web", change).await?;
    let second = world.until(&kinds::DEPLOYMENTS, "web", done).await?;
    ensure!(
        second["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2",
        "{second:#}"
    );
    let sets = world
        .client
        .list(&kinds::REPLICA_SETS, Some("default"), &Default::default());
    let sets = sets.map_err(|error| anyhow!("{}", error.message()))?.items;
    ensure!(sets.len() == 2, "{}", sets.len());
    // Undo is the old template again: the old set comes back as revision 3.
    let change = json!({"spec": {"template": {"metadata": {"annotations": {"turn": null}}}}});
    world.merge(&kinds::DEPLOYMENTS, "web", change).await?;
    let third = world.until(&kinds::DEPLOYMENTS, "web", done).await?;
    ensure!(
        third["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3",
        "{third:#}"
    );
    let again = world
        .client
        .list(&kinds::REPLICA_SETS, Some("default"), &Default::default());
    ensure!(again.map(|listed| listed.items.len()).unwrap_or(0) == 2);
    // A paused Deployment keeps its template but follows its size.
    let pause = json!({"spec": {"paused": true, "replicas": 1, "template": {"metadata": {"annotations": {"turn": "4"}}}}});
    world.merge(&kinds::DEPLOYMENTS, "web", pause).await?;
    let small = |one: &Value| one["status"]["replicas"] == 1;
    let paused = world.until(&kinds::DEPLOYMENTS, "web", small).await?;
    ensure!(
        paused["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3",
        "{paused:#}"
    );
    world.stop().await
}

async fn namespace_ends(inside: Inside) -> Result<()> {
    let world = World::new(&inside).await?;
    world
        .create(&kinds::NAMESPACES, json!({"metadata": {"name": "base"}}))
        .await?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while world
        .client
        .get(&kinds::CONFIG_MAPS, Some("base"), "kube-root-ca.crt")
        .is_err()
    {
        ensure!(Instant::now() < deadline, "no certificate in the namespace");
        sleep(Duration::from_millis(10)).await;
    }
    let pod = json!({"metadata": {"name": "app", "namespace": "base"}, "spec": {"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": "shell", "args": ["-c", "exec sleep 1000"]}]}});
    world.create(&kinds::PODS, pod).await?;
    while world.cluster.pids().is_empty() {
        ensure!(Instant::now() < deadline, "the pod does not run");
        sleep(Duration::from_millis(10)).await;
    }
    world.delete(&kinds::NAMESPACES, "base").await?;
    world.until_gone(&kinds::NAMESPACES, "base").await?;
    ensure!(world.cluster.pids().is_empty());
    world.stop().await
}

async fn garbage(inside: Inside) -> Result<()> {
    let world = World::new(&inside).await?;
    world.web(1, json!({})).await?;
    world
        .until(&kinds::DEPLOYMENTS, "web", |one| {
            one["status"]["availableReplicas"] == 1
        })
        .await?;
    world.delete(&kinds::DEPLOYMENTS, "web").await?;
    let deadline = Instant::now() + Duration::from_secs(15);
    let left = |resource: &Resource| {
        let listed = world
            .client
            .list(resource, Some("default"), &Default::default());
        listed.map(|listed| listed.items.len()).unwrap_or(0)
    };
    while left(&kinds::REPLICA_SETS) + left(&kinds::PODS) > 0 {
        ensure!(
            Instant::now() < deadline,
            "sets: {}, pods: {}",
            left(&kinds::REPLICA_SETS),
            left(&kinds::PODS)
        );
        sleep(Duration::from_millis(10)).await;
    }
    world.stop().await
}

async fn leaves_nothing(inside: Inside) -> Result<()> {
    let world = World::new(&inside).await?;
    let path = world.cluster.directory().path().to_path_buf();
    world.web(2, json!({})).await?;
    world
        .until(&kinds::DEPLOYMENTS, "web", |one| {
            one["status"]["availableReplicas"] == 2
        })
        .await?;
    let pids: Vec<i32> = world.cluster.pids().into_values().collect();
    ensure!(pids.len() == 2, "{pids:?}");
    world.stop().await?;
    ensure!(!path.exists(), "{} is left", path.display());
    let alive = pids
        .iter()
        .any(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists());
    ensure!(!alive, "a process is left");
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    ensure!(!mounts.contains(&path.display().to_string()), "{mounts}");
    Ok(())
}

async fn comes_back(inside: Inside) -> Result<()> {
    let parent = tempfile::tempdir()?;
    let start = async || -> Result<Cluster> {
        let directory = RunDirectory::kept(&parent.path().join("data"))?;
        let mut config = ClusterConfig::new("test", directory);
        config.api_port = 0;
        config.images = vec![Image::new("shell", &["sh"])];
        Ok(Cluster::start(config, &inside).await?)
    };
    let pod = json!({"metadata": {"name": "app"}, "spec": {"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": "shell", "args": ["-c", "exec sleep 1000"]}]}});
    let runs = async |cluster: &Cluster, restarts: i32| -> Result<Value> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let pod = cluster
                .client("test")
                .get(&kinds::PODS, Some("default"), "app");
            let pod = pod.map_err(|error| anyhow!("{}", error.message()))?;
            let counted = main_of(&pod)["restartCount"] == restarts;
            if counted && condition(&pod, "Ready") == "True" && cluster.pids().len() == 1 {
                return Ok((*pod).clone());
            }
            ensure!(Instant::now() < deadline, "{pod:#}");
            sleep(Duration::from_millis(10)).await;
        }
    };
    let first = start().await?;
    let created = first
        .client("test")
        .create(&kinds::PODS, Some("default"), pod)
        .await;
    created.map_err(|error| anyhow!("{}", error.message()))?;
    let before = runs(&first, 0).await?;
    first.stop(Duration::from_secs(1)).await?;
    let second = start().await?;
    let after = runs(&second, 1).await?;
    ensure!(before["metadata"]["uid"] == after["metadata"]["uid"]);
    Ok(second.stop(Duration::from_secs(1)).await?)
}
