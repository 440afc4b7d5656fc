//! Services: the addresses and ports they are given and keep.

use futures_util::future::try_join_all;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::cluster::Cluster;
use crate::watcher::client;

#[tokio::test(flavor = "multi_thread")]
async fn services_get_addresses_and_ports() {
    let cluster = Cluster::start().await;
    cluster
        .ok(&["create", "service", "nodeport", "np", "--tcp=80:8080"])
        .await;
    cluster
        .ok(&[
            "create",
            "service",
            "clusterip",
            "headless",
            "--clusterip=None",
            "--tcp=80",
        ])
        .await;
    cluster
        .ok(&[
            "create",
            "service",
            "externalname",
            "en",
            "--external-name=example.com",
        ])
        .await;
    let np = cluster.json(&["service", "np"]).await;
    let address = np["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(address.starts_with("10.96."), "{address}");
    let port = np["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30000..=32767).contains(&port));
    assert_eq!(
        cluster.json(&["service", "headless"]).await["spec"]["clusterIP"],
        "None"
    );
    assert!(cluster.json(&["service", "en"]).await["spec"]["clusterIP"].is_null());
    let taken = cluster
        .fails(&[
            "create",
            "service",
            "clusterip",
            "b",
            "--tcp=80",
            &format!("--clusterip={address}"),
        ])
        .await;
    assert!(
        taken.contains("provided IP is already allocated"),
        "{taken}"
    );
    let outside = cluster
        .fails(&[
            "create",
            "service",
            "clusterip",
            "b",
            "--tcp=80",
            "--clusterip=10.1.2.3",
        ])
        .await;
    assert!(
        outside.contains("The range of valid IPs is 10.96.0.0/16"),
        "{outside}"
    );
    let again = cluster
        .fails(&[
            "create",
            "service",
            "nodeport",
            "c",
            "--tcp=81",
            &format!("--node-port={port}"),
        ])
        .await;
    assert!(
        again.contains("provided port is already allocated"),
        "{again}"
    );
    cluster.ok(&["delete", "service", "np"]).await;
    cluster
        .ok(&[
            "create",
            "service",
            "clusterip",
            "b",
            "--tcp=80",
            &format!("--clusterip={address}"),
        ])
        .await;
}

/// Many patch one Service at a time; its address is its own, whoever else is just writing it.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_patches_of_a_service_keep_its_address() {
    let cluster = Cluster::start().await;
    let services: Api<Service> = Api::namespaced(client(&cluster).await, "default");
    cluster
        .ok(&["create", "service", "nodeport", "s", "--tcp=80"])
        .await;
    let before = services.get("s").await.unwrap().spec.unwrap();
    let patches = (0..8).map(|number| {
        let patch = json!({"metadata": {"annotations": {format!("n{number}"): "x"}}});
        let services = services.clone();
        async move {
            let params = PatchParams::default();
            services.patch("s", &params, &Patch::Merge(patch)).await
        }
    });
    try_join_all(patches).await.unwrap();
    let after = services.get("s").await.unwrap();
    assert_eq!(after.metadata.annotations.unwrap().len(), 8);
    let after = after.spec.unwrap();
    assert_eq!(after.cluster_ip, before.cluster_ip);
    assert_eq!(after.ports, before.ports);
}
