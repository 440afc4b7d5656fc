//! Stock kubectl against the server.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

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
    let file = cluster.path().join("web.yaml");
    std::fs::write(&file, WEB).unwrap();
    let diff = cluster.run(&["diff", "-f", file.to_str().unwrap()]).await;
    assert!(
        diff.out.contains("-      - image: example/web:2"),
        "{diff:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_names_the_mistakes() {
    let cluster = Cluster::start().await;
    let unknown = WEB.replace("replicas: 2", "replicas: 2\n  replica: 3");
    let refused = cluster.feed(&["apply", "-f", "-"], &unknown).await;
    assert!(
        refused.err.contains(r#"unknown field "spec.replica""#),
        "{}",
        refused.err
    );
    let warned = cluster
        .feed(&["apply", "--validate=warn", "-f", "-"], &unknown)
        .await;
    assert!(
        warned.ok
            && warned
                .err
                .contains(r#"Warning: unknown field "spec.replica""#),
        "{warned:?}"
    );
    let invalid = WEB.replace("replicas: 2", "replicas: -2");
    let refused = cluster.feed(&["apply", "-f", "-"], &invalid).await;
    assert_eq!(
        refused.err,
        "The Deployment \"web\" is invalid: spec.replicas: Invalid value: -2: must be greater than or equal to 0"
    );
    let malformed = cluster.feed(&["apply", "-f", "-"], "a: [").await;
    assert!(
        malformed.err.contains("error parsing STDIN"),
        "{}",
        malformed.err
    );
    let nowhere = cluster
        .feed(&["apply", "-n", "nowhere", "-f", "-"], WEB)
        .await;
    assert!(
        nowhere.err.ends_with(r#"namespaces "nowhere" not found"#),
        "{}",
        nowhere.err
    );
    let foreign = WEB.replace("apps/v1", "apps/v9");
    let refused = cluster.feed(&["apply", "-f", "-"], &foreign).await;
    assert!(
        refused
            .err
            .contains(r#"no matches for kind "Deployment" in version "apps/v9""#),
        "{}",
        refused.err
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn server_side_apply_owns_fields() {
    let cluster = Cluster::start().await;
    let first = cluster
        .feed(&["apply", "--server-side", "-f", "-"], WEB)
        .await;
    assert_eq!(first.out, "deployment.apps/web serverside-applied");
    let changed = WEB.replace("replicas: 2", "replicas: 5");
    let other = &["apply", "--server-side", "--field-manager=other", "-f", "-"];
    let refused = cluster.feed(other, &changed).await;
    assert!(
        refused
            .err
            .contains("conflict with \"kubectl\": .spec.replicas"),
        "{}",
        refused.err
    );
    let forced = &[
        "apply",
        "--server-side",
        "--field-manager=other",
        "--force-conflicts",
        "-f",
        "-",
    ];
    assert!(cluster.feed(forced, &changed).await.ok);
    let got = cluster
        .json(&["deployment", "web", "--show-managed-fields"])
        .await;
    assert_eq!(got["spec"]["replicas"], 5);
    let managers: Vec<&str> = got["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|entry| entry["manager"].as_str())
        .collect();
    assert!(
        managers.contains(&"kubectl") && managers.contains(&"other"),
        "{managers:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_of_all_kinds_work() {
    let cluster = Cluster::start().await;
    cluster.apply(WEB).await;
    let patch = |kind: &'static str, patch: &'static str| {
        let cluster = &cluster;
        async move {
            cluster
                .ok(&["patch", "deployment", "web", "--type", kind, "-p", patch])
                .await
        }
    };
    // A strategic merge finds the container by its name; the other two replace.
    patch(
        "strategic",
        r#"{"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "s"}]}}}}"#,
    )
    .await;
    let images = "jsonpath={.spec.template.spec.containers[*].image}";
    assert_eq!(
        cluster
            .ok(&["get", "deployment", "web", "-o", images])
            .await,
        "s example/web:1"
    );
    patch(
        "merge",
        r#"{"spec": {"replicas": 3}, "metadata": {"labels": {"app": null}}}"#,
    )
    .await;
    patch(
        "json",
        r#"[{"op": "add", "path": "/metadata/labels", "value": {"x": "y"}}]"#,
    )
    .await;
    let got = cluster.json(&["deployment", "web"]).await;
    assert_eq!(got["spec"]["replicas"], 3);
    assert_eq!(got["metadata"]["labels"], serde_json::json!({"x": "y"}));
    let failed = cluster
        .fails(&[
            "patch",
            "deployment",
            "web",
            "--type=json",
            "-p",
            r#"[{"op": "test", "path": "/spec/replicas", "value": 9}]"#,
        ])
        .await;
    assert!(
        failed.contains("the server rejected our request due to an error in our request"),
        "{failed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn scale_label_annotate_edit_and_restart() {
    let cluster = Cluster::start().await;
    cluster.apply(WEB).await;
    cluster
        .ok(&["scale", "deployment", "web", "--replicas=4"])
        .await;
    let busy = cluster
        .fails(&[
            "scale",
            "deployment",
            "web",
            "--current-replicas=9",
            "--replicas=1",
        ])
        .await;
    assert!(busy.contains("Expected replicas to be 9, was 4"), "{busy}");
    cluster
        .ok(&["label", "deployment", "web", "tier=front"])
        .await;
    cluster
        .ok(&["annotate", "deployment", "web", "note=x"])
        .await;
    cluster.ok(&["rollout", "restart", "deployment/web"]).await;
    cluster
        .ok(&["set", "image", "deployment/web", "main=example/web:3"])
        .await;
    cluster.ok(&["set", "env", "deployment/web", "A=B"]).await;
    let mut edit = cluster.command(&["edit", "deployment", "web"]);
    edit.env("KUBE_EDITOR", "sed -i 's/replicas: 4/replicas: 6/'");
    let edited = tokio::task::spawn_blocking(move || edit.output().unwrap())
        .await
        .unwrap();
    assert!(edited.status.success(), "{edited:?}");
    let got = cluster.json(&["deployment", "web"]).await;
    assert_eq!(got["spec"]["replicas"], 6);
    assert_eq!(got["metadata"]["labels"]["tier"], "front");
    let template = &got["spec"]["template"];
    assert!(template["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"].is_string());
    assert_eq!(template["spec"]["containers"][0]["image"], "example/web:3");
}

#[tokio::test(flavor = "multi_thread")]
async fn get_watches_and_waits() {
    let cluster = Cluster::start().await;
    let mut watching = cluster.command(&["get", "configmaps", "-w", "--output-watch-events"]);
    let mut child = watching.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    cluster.ok(&["create", "configmap", "a"]).await;
    cluster.ok(&["label", "configmap", "a", "x=y"]).await;
    cluster.ok(&["delete", "configmap", "a"]).await;
    let seen = tokio::task::spawn_blocking(move || {
        let mut next = || lines.next().unwrap().unwrap();
        [next(), next(), next(), next()]
    });
    let seen = tokio::time::timeout(Duration::from_secs(20), seen)
        .await
        .unwrap()
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let words: Vec<&str> = seen
        .iter()
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(words, ["EVENT", "ADDED", "MODIFIED", "DELETED"], "{seen:?}");
    cluster.ok(&["create", "configmap", "b"]).await;
    let waiting = cluster.command(&[
        "wait",
        "configmap/b",
        "--for=jsonpath={.data.ready}=yes",
        "--timeout=20s",
    ]);
    let waiting = tokio::task::spawn_blocking(move || {
        let mut waiting = waiting;
        waiting.output().unwrap()
    });
    cluster
        .ok(&[
            "patch",
            "configmap",
            "b",
            "-p",
            r#"{"data": {"ready": "yes"}}"#,
        ])
        .await;
    assert!(waiting.await.unwrap().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_and_discovery_tell_what_is_served() {
    let cluster = Cluster::start().await;
    let explained = cluster
        .ok(&["explain", "deployment.spec.strategy.rollingUpdate"])
        .await;
    assert!(
        explained.contains("GROUP:      apps") && explained.contains("maxSurge"),
        "{explained}"
    );
    let recursive = cluster
        .ok(&["explain", "pod.spec.containers", "--recursive"])
        .await;
    assert!(recursive.contains("livenessProbe"), "{recursive}");
    let resources = cluster.ok(&["api-resources", "--no-headers"]).await;
    assert!(resources.contains("deploy     apps/v1"), "{resources}");
    let versions = cluster.ok(&["api-versions"]).await;
    assert!(
        versions.lines().any(|line| line == "discovery.k8s.io/v1"),
        "{versions}"
    );
    assert!(
        cluster
            .ok(&["version"])
            .await
            .contains("Server Version: v1.32")
    );
    assert_eq!(cluster.ok(&["get", "--raw", "/readyz"]).await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors_pages_and_sorting() {
    let cluster = Cluster::start().await;
    for n in 0..5 {
        let name = format!("c{n}");
        cluster.ok(&["create", "configmap", &name]).await;
        let label = format!("parity={}", if n % 2 == 0 { "even" } else { "odd" });
        cluster.ok(&["label", "configmap", &name, &label]).await;
    }
    let names = |arguments: &'static [&'static str]| {
        let cluster = &cluster;
        async move {
            let mut all = vec![
                "get",
                "configmaps",
                "-o",
                "jsonpath={.items[*].metadata.name}",
            ];
            all.extend(arguments);
            cluster.ok(&all).await
        }
    };
    assert_eq!(names(&["-l", "parity=odd"]).await, "c1 c3");
    assert_eq!(names(&["-l", "parity notin (odd)"]).await, "c0 c2 c4");
    assert_eq!(names(&["--field-selector", "metadata.name=c4"]).await, "c4");
    assert_eq!(names(&["--chunk-size=2"]).await, "c0 c1 c2 c3 c4");
    let refused = cluster
        .fails(&["get", "configmaps", "--field-selector", "data.x=y"])
        .await;
    assert!(
        refused.contains("field label not supported: data.x"),
        "{refused}"
    );
    cluster
        .ok(&["delete", "configmap", "-l", "parity=even"])
        .await;
    assert_eq!(names(&[]).await, "c1 c3");
    cluster.ok(&["delete", "configmap", "--all"]).await;
    assert_eq!(names(&[]).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_runs_store_nothing() {
    let cluster = Cluster::start().await;
    let printed = cluster
        .feed(&["apply", "--dry-run=server", "-f", "-"], WEB)
        .await;
    assert_eq!(printed.out, "deployment.apps/web created (server dry run)");
    assert!(
        cluster
            .fails(&["get", "deployment", "web"])
            .await
            .contains("NotFound")
    );
    cluster.apply(WEB).await;
    cluster
        .ok(&["delete", "deployment", "web", "--dry-run=server"])
        .await;
    cluster
        .ok(&[
            "scale",
            "deployment",
            "web",
            "--replicas=9",
            "--dry-run=server",
        ])
        .await;
    assert_eq!(
        cluster.json(&["deployment", "web"]).await["spec"]["replicas"],
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_generated() {
    let cluster = Cluster::start().await;
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: run-}\n";
    let printed = cluster
        .feed(&["create", "-f", "-", "-o", "name"], map)
        .await;
    let name = printed.out.strip_prefix("configmap/run-").unwrap();
    assert_eq!(name.len(), 5, "{}", printed.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_end_in_order() {
    let cluster = Cluster::start().await;
    cluster.ok(&["create", "namespace", "x"]).await;
    cluster.ok(&["create", "configmap", "a", "-n", "x"]).await;
    cluster
        .ok(&["delete", "namespace", "x", "--wait=false"])
        .await;
    let phase = "jsonpath={.status.phase}";
    assert_eq!(
        cluster.ok(&["get", "namespace", "x", "-o", phase]).await,
        "Terminating"
    );
    let refused = cluster
        .fails(&["create", "configmap", "b", "-n", "x"])
        .await;
    assert!(
        refused
            .contains("unable to create new content in namespace x because it is being terminated"),
        "{refused}"
    );
    cluster.client().finalize_namespace("x").await.unwrap();
    assert!(
        cluster
            .fails(&["get", "namespace", "x"])
            .await
            .contains("NotFound")
    );
    let refused = cluster.fails(&["delete", "namespace", "default"]).await;
    assert!(
        refused.contains("this namespace may not be deleted"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_cascade_as_asked() {
    let cluster = Cluster::start().await;
    let check = |cascade: &'static str, want: &'static str| {
        let cluster = &cluster;
        async move {
            let (map, flag) = (
                format!("configmap/{cascade}"),
                format!("--cascade={cascade}"),
            );
            cluster.ok(&["create", "configmap", cascade]).await;
            cluster.ok(&["delete", &map, &flag, "--wait=false"]).await;
            let finalizers = "jsonpath={.metadata.finalizers}";
            let held = &["get", &map, "-o", finalizers, "--ignore-not-found"];
            assert_eq!(cluster.ok(held).await, want, "{cascade}");
        }
    };
    // The controller of `malla-local` takes these away when it has done what they ask for.
    check("foreground", r#"["foregroundDeletion"]"#).await;
    check("orphan", r#"["orphan"]"#).await;
    check("background", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn describe_shows_objects_and_their_events() {
    let cluster = Cluster::start().await;
    cluster.apply(WEB).await;
    cluster.ok(&["run", "p", "--image=example/p"]).await;
    let uid = cluster
        .ok(&["get", "pod", "p", "-o", "jsonpath={.metadata.uid}"])
        .await;
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Event\nmetadata: {{name: p.1, namespace: default}}\nreason: Scheduled\nmessage: found a node\n\
         type: Normal\ncount: 1\ninvolvedObject: {{kind: Pod, name: p, namespace: default, uid: {uid}}}"
    ))
    .await;
    let pod = cluster.ok(&["describe", "pod", "p"]).await;
    assert!(
        pod.contains("Service Account:  default") && pod.contains("found a node"),
        "{pod}"
    );
    let deployment = cluster.ok(&["describe", "deployment", "web"]).await;
    assert!(
        deployment.contains("StrategyType:           RollingUpdate"),
        "{deployment}"
    );
    assert!(cluster.ok(&["events"]).await.contains("found a node"));
    assert!(
        cluster
            .ok(&["get", "events"])
            .await
            .contains("found a node")
    );
    assert!(
        cluster
            .ok(&["get", "all", "-A"])
            .await
            .contains("deployment.apps/web")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn replace_and_conflicts() {
    let cluster = Cluster::start().await;
    cluster.apply(WEB).await;
    let mut old = cluster.json(&["deployment", "web"]).await;
    cluster
        .ok(&["scale", "deployment", "web", "--replicas=3"])
        .await;
    old["spec"]["replicas"] = 7.into();
    let refused = cluster
        .feed(&["replace", "-f", "-"], &old.to_string())
        .await;
    assert!(refused.err.contains("the object has been modified; please apply your changes to the latest version and try again"), "{}", refused.err);
    old["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("resourceVersion");
    assert!(
        cluster
            .feed(&["replace", "-f", "-"], &old.to_string())
            .await
            .ok
    );
    assert_eq!(
        cluster.json(&["deployment", "web"]).await["spec"]["replicas"],
        7
    );
}
