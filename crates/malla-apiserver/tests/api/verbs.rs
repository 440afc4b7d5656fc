//! Every stored kind answers every verb, through kube-rs's dynamic client.

use futures_util::StreamExt;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::WatchEvent;
use serde_json::json;

use crate::cluster::Cluster;
use crate::samples::{Sample, THINGS, samples};
use crate::watcher::client;

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_answers_every_verb() {
    let cluster = Cluster::start().await;
    cluster.apply(THINGS).await;
    let client = client(&cluster).await;
    for sample in samples() {
        let api = sample.api(client.clone());
        create_get_list_watch(&sample, &api).await;
        update_and_patch(&sample, &api).await;
        delete(&sample, &api, &cluster).await;
    }
}

async fn create_get_list_watch(sample: &Sample, api: &Api<DynamicObject>) {
    let kind = sample.kind.as_str();
    let selected = ListParams::default().labels("sample=yes");
    let before = api.list(&selected).await.unwrap();
    assert!(before.items.is_empty(), "{kind}");
    let made = api
        .create(&PostParams::default(), &sample.object("s"))
        .await
        .unwrap();
    assert!(
        made.metadata.uid.is_some() && made.metadata.creation_timestamp.is_some(),
        "{kind}"
    );
    let name = sample.name("s");
    let got = api.get(&name).await.unwrap();
    assert_eq!(
        got.metadata.resource_version, made.metadata.resource_version,
        "{kind}"
    );
    let listed = api.list(&selected).await.unwrap();
    assert_eq!(listed.items.len(), 1, "{kind}");
    let params = kube::api::WatchParams::default()
        .labels("sample=yes")
        .timeout(10);
    let version = before.metadata.resource_version.unwrap();
    let mut watch = api.watch(&params, &version).await.unwrap().boxed();
    match watch.next().await {
        Some(Ok(WatchEvent::Added(seen))) => {
            assert_eq!(seen.metadata.uid, made.metadata.uid, "{kind}")
        }
        other => panic!("{kind}: {other:?}"),
    }
    let again = api
        .create(&PostParams::default(), &sample.object("s"))
        .await
        .unwrap_err();
    assert!(
        matches!(again, kube::Error::Api(ref status) if status.reason == "AlreadyExists"),
        "{kind}: {again}"
    );
}

async fn update_and_patch(sample: &Sample, api: &Api<DynamicObject>) {
    let kind = sample.kind.as_str();
    let name = sample.name("s");
    let label = |key: &str| json!({"metadata": {"labels": {key: "x"}}});
    let mut current = api.get(&name).await.unwrap();
    current
        .metadata
        .labels
        .get_or_insert_default()
        .insert("put".to_owned(), "x".to_owned());
    let stale = current.clone();
    api.replace(&name, &PostParams::default(), &current)
        .await
        .unwrap();
    let conflict = api
        .replace(&name, &PostParams::default(), &stale)
        .await
        .unwrap_err();
    assert!(
        matches!(conflict, kube::Error::Api(ref status) if status.reason == "Conflict"),
        "{kind}: {conflict}"
    );
    let plain = PatchParams::default();
    api.patch(&name, &plain, &Patch::Merge(label("merge")))
        .await
        .unwrap();
    let op: kube::core::params::Patch<()> = Patch::Json(
        serde_json::from_value(
            json!([{"op": "add", "path": "/metadata/labels/json", "value": "x"}]),
        )
        .unwrap(),
    );
    api.patch(&name, &plain, &op).await.unwrap();
    let strategic = api
        .patch(&name, &plain, &Patch::Strategic(label("strategic")))
        .await;
    assert_eq!(
        strategic.is_err(),
        sample.kind == "Thing",
        "{kind}: only custom kinds refuse"
    );
    let mut applied = label("apply");
    applied["apiVersion"] = sample.api_version.clone().into();
    applied["kind"] = kind.into();
    api.patch(&name, &PatchParams::apply("tester"), &Patch::Apply(applied))
        .await
        .unwrap();
    let got = api.get(&name).await.unwrap();
    let labels = got.metadata.labels.unwrap();
    for key in ["put", "merge", "json", "apply"] {
        assert_eq!(
            labels.get(key).map(String::as_str),
            Some("x"),
            "{kind} {key}"
        );
    }
    // A write that changes nothing stores nothing.
    let same = api
        .patch(&name, &plain, &Patch::Merge(label("merge")))
        .await
        .unwrap();
    assert_eq!(
        same.metadata.resource_version, got.metadata.resource_version,
        "{kind}"
    );
    let dry = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    api.patch(&name, &dry, &Patch::Merge(label("dry")))
        .await
        .unwrap();
    let after = api.get(&name).await.unwrap();
    assert_eq!(
        after.metadata.resource_version, got.metadata.resource_version,
        "{kind}"
    );
}

async fn delete(sample: &Sample, api: &Api<DynamicObject>, cluster: &Cluster) {
    let kind = sample.kind.as_str();
    let name = sample.name("s");
    api.delete(&name, &DeleteParams::default()).await.unwrap();
    if kind == "Namespace" {
        cluster.client().finalize_namespace(&name).await.unwrap();
    }
    gone(api, &name).await;
    if matches!(kind, "Namespace" | "CustomResourceDefinition") {
        return;
    }
    for name in ["t", "u"] {
        api.create(&PostParams::default(), &sample.object(name))
            .await
            .unwrap();
    }
    let selected = ListParams::default().labels("sample=yes");
    api.delete_collection(&DeleteParams::default(), &selected)
        .await
        .unwrap();
    assert!(
        api.list(&selected).await.unwrap().items.is_empty(),
        "{kind}"
    );
}

/// Waits until an object that may be held by finalizers is gone.
async fn gone(api: &Api<DynamicObject>, name: &str) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        match api.get_opt(name).await.unwrap() {
            None => return,
            Some(_) if tokio::time::Instant::now() < deadline => tokio::task::yield_now().await,
            Some(left) => panic!("{name} stays: {left:?}"),
        }
    }
}
