//! Every stored kind answers every verb, through kube-rs's dynamic client.

use futures_util::StreamExt;
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind, WatchEvent};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::watcher::client;

/// One kind and the smallest object of it that is valid.
struct Sample {
    api_version: &'static str,
    kind: &'static str,
    plural: &'static str,
    namespaced: bool,
    body: Value,
}

fn sample(
    api_version: &'static str,
    kind: &'static str,
    plural: &'static str,
    namespaced: bool,
    body: Value,
) -> Sample {
    Sample {
        api_version,
        kind,
        plural,
        namespaced,
        body,
    }
}

/// The rows of the table in `docs/local-cluster.md`.
fn samples() -> Vec<Sample> {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let workload = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let webhook = json!({"webhooks": [{
        "name": "h.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "clientConfig": {"url": "https://127.0.0.1:1/"}, "rules": [],
    }]});
    let role_ref = |kind: &str| json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "r"}});
    vec![
        sample("v1", "Namespace", "namespaces", false, json!({})),
        sample("v1", "Node", "nodes", false, json!({})),
        sample(
            "v1",
            "Pod",
            "pods",
            true,
            json!({"spec": {"containers": [{"name": "c", "image": "i"}]}}),
        ),
        sample(
            "v1",
            "Service",
            "services",
            true,
            json!({"spec": {"ports": [{"port": 80}]}}),
        ),
        sample("v1", "Endpoints", "endpoints", true, json!({})),
        sample(
            "v1",
            "ConfigMap",
            "configmaps",
            true,
            json!({"data": {"k": "v"}}),
        ),
        sample(
            "v1",
            "Secret",
            "secrets",
            true,
            json!({"stringData": {"k": "v"}}),
        ),
        sample("v1", "ServiceAccount", "serviceaccounts", true, json!({})),
        sample(
            "v1",
            "Event",
            "events",
            true,
            json!({"involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}}),
        ),
        sample(
            "apps/v1",
            "Deployment",
            "deployments",
            true,
            workload.clone(),
        ),
        sample("apps/v1", "ReplicaSet", "replicasets", true, workload),
        sample(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            "endpointslices",
            true,
            json!({"addressType": "IPv4", "endpoints": []}),
        ),
        sample(
            "coordination.k8s.io/v1",
            "Lease",
            "leases",
            true,
            json!({"spec": {"holderIdentity": "me"}}),
        ),
        sample(
            "admissionregistration.k8s.io/v1",
            "MutatingWebhookConfiguration",
            "mutatingwebhookconfigurations",
            false,
            webhook.clone(),
        ),
        sample(
            "admissionregistration.k8s.io/v1",
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
            false,
            webhook,
        ),
        sample(
            "rbac.authorization.k8s.io/v1",
            "Role",
            "roles",
            true,
            json!({"rules": []}),
        ),
        sample(
            "rbac.authorization.k8s.io/v1",
            "ClusterRole",
            "clusterroles",
            false,
            json!({"rules": []}),
        ),
        sample(
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            "rolebindings",
            true,
            role_ref("Role"),
        ),
        sample(
            "rbac.authorization.k8s.io/v1",
            "ClusterRoleBinding",
            "clusterrolebindings",
            false,
            role_ref("ClusterRole"),
        ),
        sample(
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            false,
            crd(),
        ),
        sample(
            "example.com/v1",
            "Thing",
            "things",
            true,
            json!({"spec": {"x": 1}}),
        ),
    ]
}

fn crd() -> Value {
    crd_named("samples", "Sample")
}

fn crd_named(plural: &str, kind: &str) -> Value {
    json!({"spec": {
        "group": "example.com", "scope": "Namespaced",
        "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")},
        "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}],
    }})
}

impl Sample {
    fn api(&self, client: Client) -> Api<DynamicObject> {
        let (group, version) = self
            .api_version
            .split_once('/')
            .unwrap_or(("", self.api_version));
        let kind = GroupVersionKind::gvk(group, version, self.kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, self.plural);
        if self.namespaced {
            Api::namespaced_with(client, "default", &resource)
        } else {
            Api::all_with(client, &resource)
        }
    }

    fn name(&self, name: &str) -> String {
        match self.kind {
            "CustomResourceDefinition" => "samples.example.com".to_owned(),
            _ => name.to_owned(),
        }
    }

    fn object(&self, name: &str) -> DynamicObject {
        let mut object = self.body.clone();
        object["apiVersion"] = self.api_version.into();
        object["kind"] = self.kind.into();
        object["metadata"] = json!({"name": self.name(name), "labels": {"sample": "yes"}});
        serde_json::from_value(object).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_answers_every_verb() {
    let cluster = Cluster::start().await;
    let mut definition = crd_named("things", "Thing");
    definition["apiVersion"] = "apiextensions.k8s.io/v1".into();
    definition["kind"] = "CustomResourceDefinition".into();
    definition["metadata"] = json!({"name": "things.example.com"});
    cluster.apply(&definition.to_string()).await;
    let client = client(&cluster).await;
    for sample in samples() {
        let api = sample.api(client.clone());
        create_get_list_watch(&sample, &api).await;
        update_and_patch(&sample, &api).await;
        delete(&sample, &api, &cluster).await;
    }
}

async fn create_get_list_watch(sample: &Sample, api: &Api<DynamicObject>) {
    let kind = sample.kind;
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
    let kind = sample.kind;
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
    applied["apiVersion"] = sample.api_version.into();
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
    let kind = sample.kind;
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
