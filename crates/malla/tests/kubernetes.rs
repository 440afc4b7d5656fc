//! The control plane against a real Kubernetes API server: `malla manifest` is applied by `kubectl`, and `malla control`
//! runs with the rights that it gives and no others.
//!
//! Needs root (everything runs in a network namespace of its own) and `MALLA_KUBERNETES`, a folder with `kube-apiserver`,
//! `kube-controller-manager` and `etcd`: `tests/kubernetes/build FOLDER`. There is no kubelet, so pods are written by hand.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod real;

use std::process::Command;
use std::time::Duration;

use real::{Cluster, MALLA};
use serde_json::Value;

/// For what the control plane or the API server does in milliseconds, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

const RULE: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: order, namespace: default}
spec:
  hosts: [order]
  http: [{route: [{destination: {host: order, subset: v1}}], timeout: 1s}]
";

fn condition<'v>(object: &'v Value, kind: &str) -> Option<&'v Value> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|it| it["type"] == kind)
}

/// Whether the rule `order` has a condition about its generation.
fn reported(cluster: &Cluster) -> Result<Value, String> {
    let rule = cluster.get("virtualservice", "order");
    let generation = &rule["metadata"]["generation"];
    match condition(&rule, "Accepted") {
        Some(accepted) if accepted["observedGeneration"] == *generation => Ok(rule),
        _ => Err(format!("{:#}", rule["status"])),
    }
}

/// Kinds are established, the webhooks answer (injection too), and status is written.
#[test]
#[ignore = "needs kube-apiserver, built by tests/kubernetes/build"]
fn the_mesh_is_installed_and_works() {
    let cluster = Cluster::start();
    cluster.install();
    let _control = cluster.control("istiod-0", "10.200.0.1");
    cluster.ready("10.200.0.1");

    let wrong = RULE.replace("route:", "match: [{uri: {regex: '('}}], route:");
    malla_testkit::eventually("the webhook refuses", SOON, || {
        let said = cluster.apply(&wrong);
        let refused = said.contains("spec.http[0].match[0].uri.regex");
        refused.then_some(()).ok_or(said)
    });
    let wrong = cluster.apply(&RULE.replace("timeout: 1s", "timeout: soon"));
    assert!(wrong.contains("spec.http[0].timeout"), "{wrong}");
    let applied = cluster.apply(RULE);
    assert!(applied.contains("serverside-applied"), "{applied}");
    malla_testkit::eventually("a status", SOON, || reported(&cluster));

    cluster.kubectl(&["label", "namespace", "default", "istio-injection=enabled"]);
    let run = ["run", "web", "--image=web", "--restart=Never", "--port=80"];
    malla_testkit::eventually("a pod", SOON, || cluster.try_kubectl(&run));
    let pod = cluster.get("pod", "web");
    let containers = |field: &str| pod["spec"][field].to_string();
    assert!(
        containers("containers").contains("istio-proxy")
            || containers("initContainers").contains("istio-proxy"),
        "{pod:#}"
    );
    let root = || cluster.try_kubectl(&["get", "configmap", "istio-ca-root-cert"]);
    malla_testkit::eventually("the root certificate", SOON, root);
}

/// `kill -9` of the API server: what is changed when it is back arrives.
#[test]
#[ignore = "needs kube-apiserver, built by tests/kubernetes/build"]
fn a_lost_api_server_is_found_again() {
    let mut cluster = Cluster::start();
    cluster.install();
    let _control = cluster.control("istiod-0", "10.200.0.1");
    cluster.ready("10.200.0.1");
    cluster.apply(RULE);
    malla_testkit::eventually("a status", SOON, || reported(&cluster));
    cluster.restart_api_server();
    cluster.ready("10.200.0.1");
    let changed = RULE.replace("timeout: 1s", "timeout: 2s");
    malla_testkit::eventually("the change is taken", SOON, || {
        let said = cluster.apply(&changed);
        said.contains("serverside-applied")
            .then_some(())
            .ok_or(said)
    });
    malla_testkit::eventually("a status of the change", SOON, || {
        let rule = reported(&cluster)?;
        (rule["metadata"]["generation"] == 2)
            .then_some(())
            .ok_or_else(|| "still the first".to_owned())
    });
}

/// Of two replicas one writes; when it is killed the other does.
#[test]
#[ignore = "needs kube-apiserver, built by tests/kubernetes/build"]
fn the_lead_passes_on() {
    let cluster = Cluster::start();
    cluster.install();
    let first = cluster.control("istiod-0", "10.200.0.1");
    cluster.ready("10.200.0.1");
    let holder = || {
        let leases = ["-n", "istio-system", "get", "lease", "istio-leader", "-o"];
        let path = "jsonpath={.spec.holderIdentity}";
        cluster.try_kubectl(&[&leases[..], &[path]].concat())
    };
    let is = |name: &str| {
        let held = holder()?;
        (held == name).then_some(()).ok_or(held)
    };
    malla_testkit::eventually("a leader", SOON, || is("istiod-0"));
    let _second = cluster.control("istiod-1", "10.200.0.2");
    cluster.ready("10.200.0.2");
    drop(first); // kill -9
    malla_testkit::eventually("another leader", SOON, || is("istiod-1"));
    cluster.apply(RULE);
    malla_testkit::eventually("a status", SOON, || reported(&cluster));
}

/// Rights that are taken away are said, cost nothing else, and work again when they are given back.
#[test]
#[ignore = "needs kube-apiserver, built by tests/kubernetes/build"]
fn denied_rights_are_told() {
    let cluster = Cluster::start();
    cluster.install();
    let role = cluster.get("clusterrole", "istiod-istio-system");
    let mut without = role.clone();
    let rules = without["rules"].as_array_mut().unwrap();
    rules.retain(|rule| !rule["resources"].to_string().contains("/status"));
    cluster.replace(&without);
    let control = cluster.control("istiod-0", "10.200.0.1");
    cluster.ready("10.200.0.1");
    cluster.apply(RULE);
    malla_testkit::eventually("the denial", SOON, || {
        let said = control.said();
        let told = said.contains("forbidden") && said.contains("virtualservices/status");
        told.then_some(()).ok_or(said)
    });
    cluster.replace(&role);
    malla_testkit::eventually("a status", SOON, || reported(&cluster));
}

/// Every object of the manifest is one that the API server takes, and its own dry run changes nothing afterwards.
#[test]
#[ignore = "needs kube-apiserver, built by tests/kubernetes/build"]
fn the_manifest_can_be_applied_again() {
    let cluster = Cluster::start();
    cluster.install();
    let manifest = Command::new(MALLA)
        .args(["manifest", "--gateway"])
        .output()
        .unwrap();
    let said = cluster.apply(&String::from_utf8(manifest.stdout).unwrap());
    assert!(!said.contains("rror"), "{said}");
}
