//! Stock kubectl against the server.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;

use crate::cluster::Cluster;

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: main, image: example/web:1, ports: [{containerPort: 80}]}
";

#[tokio::test(flavor = "multi_thread")]
async fn config_maps_live_and_die() {
    let cluster = Cluster::start().await;
    cluster
        .ok(&["create", "configmap", "a", "--from-literal=k=v"])
        .await;
    assert_eq!(
        cluster
            .ok(&["get", "cm", "a", "-o", "jsonpath={.data.k}"])
            .await,
        "v"
    );
    let again = cluster.fails(&["create", "configmap", "a"]).await;
    assert_eq!(
        again,
        r#"error: failed to create configmap: configmaps "a" already exists"#
    );
    let table = cluster.ok(&["get", "configmaps"]).await;
    assert!(
        table.starts_with("NAME   DATA   AGE\na      1      "),
        "{table}"
    );
    assert_eq!(
        cluster.ok(&["delete", "cm", "a"]).await,
        r#"configmap "a" deleted"#
    );
    let gone = cluster.fails(&["get", "cm", "a"]).await;
    assert_eq!(
        gone,
        r#"Error from server (NotFound): configmaps "a" not found"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_creates_changes_and_leaves_alone() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.apply(WEB).await, "deployment.apps/web created");
    assert_eq!(cluster.apply(WEB).await, "deployment.apps/web unchanged");
    let before = cluster.json(&["deployment", "web"]).await;
    let changed = WEB.replace("example/web:1", "example/web:2");
    assert_eq!(
        cluster.apply(&changed).await,
        "deployment.apps/web configured"
    );
    let after = cluster.json(&["deployment", "web"]).await;
    assert_eq!(
        after["spec"]["template"]["spec"]["containers"][0]["image"],
        "example/web:2"
    );
    assert_eq!(before["metadata"]["generation"], 1);
    assert_eq!(after["metadata"]["generation"], 2);
    assert_eq!(
        after["spec"]["strategy"]["type"], "RollingUpdate",
        "defaults are filled in"
    );
}
