//! `kubectl rollout`, with this test in the controller's place: what the API has to do for it.

use std::time::Duration;

use malla_apiserver::{Patch, kinds};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::cluster::Cluster;

fn template(image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "main", "image": image}]},
    })
}

/// A Deployment of two revisions, with the ReplicaSets its controller would have made.
async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"app": "web"}, "annotations": {"deployment.kubernetes.io/revision": "2"}},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template("example/web:2")},
    });
    cluster.apply(&deployment.to_string()).await;
    let uid = cluster.json(&["deployment", "web"]).await["metadata"]["uid"].clone();
    for revision in 1..=2 {
        let owner = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": uid, "controller": true,
        });
        let set = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {
                "name": format!("web-{revision}"), "labels": {"app": "web"}, "ownerReferences": [owner],
                "annotations": {"deployment.kubernetes.io/revision": revision.to_string()},
            },
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template(&format!("example/web:{revision}"))},
        });
        cluster.apply(&set.to_string()).await;
    }
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn rollout_status_waits_for_the_last_pod() {
    let cluster = cluster().await;
    let mut waiting = cluster.command(&["rollout", "status", "deployment/web"]);
    let waiting = tokio::task::spawn_blocking(move || waiting.output().unwrap());
    let status = |updated: u64| json!({"status": {"observedGeneration": 1, "replicas": 2, "updatedReplicas": updated, "availableReplicas": updated}});
    for updated in [1, 2] {
        cluster
            .client()
            .patch_status(
                &kinds::DEPLOYMENTS,
                Some("default"),
                "web",
                Patch::Merge(status(updated)),
            )
            .await
            .unwrap();
    }
    let done = timeout(Duration::from_secs(30), waiting).await;
    let done = done.expect("the rollout has ended").unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success() && said.ends_with("deployment \"web\" successfully rolled out\n"),
        "{done:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rollouts_are_told_undone_paused_and_resumed() {
    let cluster = cluster().await;
    let history = cluster.ok(&["rollout", "history", "deployment/web"]).await;
    let revisions: Vec<&str> = history
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(revisions, ["deployment.apps/web", "REVISION", "1", "2"]);
    let first = cluster
        .ok(&["rollout", "history", "deployment/web", "--revision=1"])
        .await;
    assert!(first.contains("example/web:1"), "{first}");
    cluster.ok(&["rollout", "pause", "deployment/web"]).await;
    let paused = cluster
        .fails(&["rollout", "undo", "deployment/web", "--to-revision=1"])
        .await;
    assert!(
        paused.contains("cannot rollback a paused deployment"),
        "{paused}"
    );
    cluster.ok(&["rollout", "resume", "deployment/web"]).await;
    cluster
        .ok(&["rollout", "undo", "deployment/web", "--to-revision=1"])
        .await;
    let undone = cluster.json(&["deployment", "web"]).await;
    let spec = &undone["spec"];
    assert_eq!(
        spec["template"]["spec"]["containers"][0]["image"],
        "example/web:1"
    );
    assert!(spec["paused"].is_null() || spec["paused"] == false);
}
