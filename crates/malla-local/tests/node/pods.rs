//! Pods: probes, restarts, order, volumes, commands, images.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use malla_apiserver::kinds;
use malla_local::Image;
use malla_local::sandbox::Inside;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::health;
use super::support::Tests;
use super::world::{World, condition, container, fetch, main_of};

pub(crate) fn all(tests: &mut Tests) {
    tests.run("probes_decide_who_gets_traffic", probes);
    tests.run("sockets_and_grpc_are_probed_too", other_probes);
    tests.run("an_init_container_redirects_the_pods_traffic", redirection);
    tests.run("what_is_killed_comes_back", restarts);
    tests.run("init_containers_and_sidecars_keep_their_order", order);
    tests.run("a_pod_gets_its_volumes_and_their_changes", volumes);
    tests.run("commands_and_logs_of_a_container", exec_and_logs);
    tests.run("images_are_a_table_that_can_be_edited", images);
    tests.run("jobs_of_all_restart_policies_end_as_they_should", policies);
    tests.run("what_is_not_honoured_is_named", not_honoured);
}

async fn probes(inside: Inside) -> Result<()> {
    let world = World::new(&inside).await?;
    let probe = |path: &str| json!({"httpGet": {"path": path, "port": 8080}, "periodSeconds": 1, "failureThreshold": 1});
    world.service("ClusterIP").await?;
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "main", "image": "web", "readinessProbe": probe("/ready"),
         "ports": [{"name": "http", "containerPort": 8080}],
         "startupProbe": {"exec": {"command": ["true"]}},
         "livenessProbe": {"exec": {"command": ["sh", "-c", "! test -e /tmp/sick"]}, "periodSeconds": 1, "failureThreshold": 1}},
    ]});
    world.pod("web", spec).await?;
    let running = |pod: &Value| main_of(pod)["started"] == true;
    let pod = world.until(&kinds::PODS, "web", running).await?;
    ensure!(condition(&pod, "Ready") == "False", "{pod:#}");
    let endpoint_ready = |world: &World| {
        let slices = world.client.list(
            &kinds::ENDPOINT_SLICES,
            Some("default"),
            &Default::default(),
        );
        let items = slices.map(|listed| listed.items).unwrap_or_default();
        let web = items
            .iter()
            .find(|one| one["metadata"]["labels"]["kubernetes.io/service-name"] == "web");
        web.and_then(|one| one["endpoints"][0]["conditions"]["ready"].as_bool())
    };
    ensure!(endpoint_ready(&world) == Some(false));
    world.exec("web", "main", "touch /tmp/ready").await?;
    world.ready("web").await?;
    world.exec("web", "main", "rm /tmp/ready").await?;
    world
        .until(&kinds::PODS, "web", |pod| {
            condition(pod, "Ready") == "False"
        })
        .await?;
    world.exec("web", "main", "touch /tmp/sick").await?;
    let pod = world
        .until(&kinds::PODS, "web", |pod| main_of(pod)["restartCount"] == 1)
        .await?;
    ensure!(
        main_of(&pod)["lastState"]["terminated"]["exitCode"] == 143,
        "{pod:#}"
    );
    world.stop().await
}

async fn restarts(inside: Inside) -> Result<()> {
    let world = World::new(&inside).await?;
    world
        .shell("app", "echo life; sleep 1000 & exec sleep 1000")
        .await?;
    world.ready("app").await?;
    world.logged("app", "life").await?;
    let pids = world.cluster.pids();
    let pid = *pids.get("default/app/main").context("no pid")?;
    ensure!(
        std::path::Path::new(&format!("/proc/{pid}")).exists(),
        "{pids:?}"
    );
    // The test is in the sandbox too, so it reaches the container only through its own pid there.
    let (_, killed) = world.exec("app", "main", "kill -9 2").await?;
    let restarted =
        |pod: &Value| main_of(pod)["restartCount"] == 1 && condition(pod, "Ready") == "True";
    let pod = world.until(&kinds::PODS, "app", restarted).await?;
    ensure!(
        main_of(&pod)["lastState"]["terminated"]["exitCode"] == 137,
        "{killed}{pod:#}"
    );
    ensure!(world.logs("app", true).await? == "life\n");
    let now = *world
        .cluster
        .pids()
        .get("default/app/main")
        .context("no pid")?;
    ensure!(now != pid && !std::path::Path::new(&format!("/proc/{pid}")).exists());
    // A command that keeps failing is backed off from.
    world.shell("loop", "exit 3").await?;
    let waits = |pod: &Value| main_of(pod)["state"]["waiting"]["reason"] == "CrashLoopBackOff";
    let pod = world.until(&kinds::PODS, "loop", waits).await?;
    ensure!(
        main_of(&pod)["lastState"]["terminated"]["exitCode"] == 3,
        "{pod:#}"
    );
    ensure!(pod["status"]["phase"] == "Running", "{pod:#}");
    world.delete(&kinds::PODS, "loop").await?;
    world.until_gone(&kinds::PODS, "loop").await?;
    world.stop().await
}

async fn order(inside: Inside) -> Result<()> {
    let shared = tempfile::tempdir()?;
    let notes = shared.path().join("order");
    let world = World::new(&inside).await?;
    let note = |word: &str| format!("echo {word} >> /shared/order");
    let mount = json!([{"name": "shared", "mountPath": "/shared"}]);
    let shell = |name: &str, script: String| json!({"name": name, "image": "shell", "args": ["-c", script], "volumeMounts": mount});
    let mut side = shell(
        "side",
        format!(
            "trap '{}; exit 0' TERM; {}; touch /tmp/up; while :; do sleep 0.01; done",
            note("side-ends"),
            note("side")
        ),
    );
    side["restartPolicy"] = json!("Always");
    side["startupProbe"] = json!({"exec": {"command": ["test", "-e", "/tmp/up"]}});
    let mut main = shell(
        "main",
        format!(
            "trap '{}; exit 0' TERM; {}; while :; do sleep 0.01; done",
            note("main-ends"),
            note("main")
        ),
    );
    main["lifecycle"] = json!({
        "postStart": {"exec": {"command": ["sh", "-c", format!("sleep 0.2; {}", note("hook"))]}},
        "preStop": {"exec": {"command": ["sh", "-c", note("pre-stop")]}},
    });
    let second = shell("second", format!("{}; exec sleep 1000", note("second")));
    let spec = json!({
        "initContainers": [shell("one", note("one")), side, shell("two", note("two"))],
        "containers": [main, second],
        "volumes": [{"name": "shared", "hostPath": {"path": shared.path(), "type": "Directory"}}],
        "terminationGracePeriodSeconds": 2,
    });
    world.pod("app", spec).await?;
    let pod = world.ready("app").await?;
    ensure!(
        container(&pod, "initContainerStatuses", "one")["state"]["terminated"]["reason"]
            == "Completed",
        "{pod:#}"
    );
    ensure!(
        container(&pod, "initContainerStatuses", "side")["ready"] == true,
        "{pod:#}"
    );
    // Running is not yet having said so.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !std::fs::read_to_string(&notes)?.contains("second") {
        ensure!(
            Instant::now() < deadline,
            "the second container said nothing"
        );
        sleep(Duration::from_millis(10)).await;
    }
    world.delete(&kinds::PODS, "app").await?;
    world.until_gone(&kinds::PODS, "app").await?;
    let told = std::fs::read_to_string(&notes)?;
    let told: Vec<&str> = told.lines().collect();
    let wanted = [
        "one",
        "side",
        "two",
        "main",
        "hook",
        "second",
        "pre-stop",
        "main-ends",
        "side-ends",
    ];
    ensure!(told == wanted, "{told:?}");
    world.stop().await
}

async fn volumes(inside: Inside) -> Result<()> {
    let world = World::new(&inside).await?;
    let script = "exec sleep 1000";
    let spec = json!({
        "securityContext": {"fsGroup": 1337},
        "containers": [{
            "name": "main", "image": "shell", "args": ["-c", script],
            "securityContext": {"runAsUser": 1337, "runAsGroup": 1337, "readOnlyRootFilesystem": true},
            "env": [
                {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
                {"name": "LINE", "value": "$(NAME) is $(COLOUR)"},
            ],
            "volumeMounts": [
                {"name": "settings", "mountPath": "/etc/settings"},
                {"name": "settings", "mountPath": "/single", "subPath": "colour"},
                {"name": "token", "mountPath": "/var/run/secrets/tokens"},
                {"name": "info", "mountPath": "/etc/istio/pod"},
                {"name": "data", "mountPath": "/etc/istio/proxy"},
                {"name": "memory", "mountPath": "/memory"},
            ],
        }],
        "volumes": [
            {"name": "settings", "configMap": {"name": "settings"}},
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"audience": "istio-ca", "expirationSeconds": 43200, "path": "istio-token"}}]}},
            {"name": "info", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"name": "data", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ],
        "terminationGracePeriodSeconds": 0,
    });
    world.pod("app", spec).await?;
    // The pod waits for its ConfigMap.
    world
        .until(&kinds::PODS, "app", |pod| {
            pod["status"]["podIP"].is_string()
        })
        .await?;
    let map = json!({"metadata": {"name": "settings"}, "data": {"colour": "red"}});
    world.create(&kinds::CONFIG_MAPS, map).await?;
    let pod = world.ready("app").await?;
    let script = "id -u; echo $LINE; echo $IP; cat /etc/settings/colour /single; echo; cat /etc/istio/pod/labels; echo; \
                  touch /etc/istio/proxy/x && ls -l /etc/istio/proxy | tail -1 | cut -d' ' -f4; touch /x 2>&1 | grep -o 'Read-only.*'; \
                  df -k /memory | tail -1 | tr -s ' ' | cut -d' ' -f2; cut -d. -f2 /var/run/secrets/tokens/istio-token | tr '_-' '/+' | base64 -d 2>/dev/null | grep -o '\"aud\":\\[[^]]*\\]'";
    let (_, output) = world.exec("app", "main", script).await?;
    let ip = pod["status"]["podIP"].as_str().unwrap_or_default();
    let wanted = format!(
        "1337\napp is red\n{ip}\nredred\napp=\"app\"\n1337\nRead-only file system\n1024\n\"aud\":[\"istio-ca\"]\n"
    );
    ensure!(output == wanted, "{output}\nwanted:\n{wanted}");
    // Changes arrive, all at once; a subPath keeps what it was.
    world
        .merge(
            &kinds::CONFIG_MAPS,
            "settings",
            json!({"data": {"colour": "blue"}}),
        )
        .await?;
    world
        .merge(
            &kinds::PODS,
            "app",
            json!({"metadata": {"labels": {"new": "yes"}}}),
        )
        .await?;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let (_, output) = world
            .exec(
                "app",
                "main",
                "cat /etc/settings/colour /single /etc/istio/pod/labels",
            )
            .await?;
        if output == "bluered\napp=\"app\"\nnew=\"yes\""
            || output == "blueredapp=\"app\"\nnew=\"yes\""
        {
            break;
        }
        ensure!(Instant::now() < deadline, "{output}");
        sleep(Duration::from_millis(20)).await;
    }
    world.stop().await
}

async fn exec_and_logs(inside: Inside) -> Result<()> {
    let world = World::new(&inside).await?;
    world
        .shell("app", "echo out; echo err >&2; exec sleep 1000")
        .await?;
    world.ready("app").await?;
    world.logged("app", "out\n").await?;
    let log = world.logged("app", "err\n").await?;
    ensure!(log.len() == 8, "{log}");
    let (code, output) = world
        .exec(
            "app",
            "main",
            "hostname; echo $KUBERNETES_SERVICE_HOST; cat /proc/2/comm; exit 7",
        )
        .await?;
    ensure!(
        code == 7 && output == "app\n10.96.0.1\nsleep\n",
        "{code} {output}"
    );
    // The same through the API server, by kubectl.
    let kubeconfig = world.cluster.directory().path().join("kubeconfig");
    std::fs::write(&kubeconfig, world.cluster.kubeconfig()?)?;
    let kubectl = async |arguments: &[&str]| -> Result<(i32, String)> {
        let mut command = tokio::process::Command::new("kubectl");
        let output = command
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .args(arguments)
            .output()
            .await?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.code().unwrap_or(-1), String::from_utf8(text)?))
    };
    ensure!(kubectl(&["logs", "app", "--tail=1"]).await?.1.trim().len() == 3);
    let (code, text) = kubectl(&["exec", "app", "--", "sh", "-c", "echo hi; exit 5"]).await?;
    ensure!(code == 5 && text.starts_with("hi\n"), "{code} {text}");
    let (_, text) = kubectl(&["describe", "pod", "app"]).await?;
    ensure!(
        text.contains("Successfully assigned default/app to local")
            && text.contains("Started container main"),
        "{text}"
    );
    world.stop().await
}

async fn images(inside: Inside) -> Result<()> {
    let world = World::new(&inside).await?;
    let container = json!({"name": "main", "image": "ghcr.io/acme/tool:v1", "args": ["10"]});
    world
        .pod(
            "app",
            json!({"containers": [container], "terminationGracePeriodSeconds": 0}),
        )
        .await?;
    let waits = |pod: &Value| main_of(pod)["state"]["waiting"]["reason"] == "ErrImagePull";
    let pod = world.until(&kinds::PODS, "app", waits).await?;
    let message = main_of(&pod)["state"]["waiting"]["message"]
        .as_str()
        .unwrap_or_default();
    ensure!(
        message.contains("malla local image add ghcr.io/acme/tool:v1 -- COMMAND"),
        "{message}"
    );
    let entry = json!({"image": "acme/tool", "command": ["sleep"], "args": ["1000"]}).to_string();
    let map = json!({"metadata": {"name": "malla-images", "namespace": "kube-system"}, "data": {"tool": entry}});
    world.create(&kinds::CONFIG_MAPS, map).await?;
    world.ready("app").await?;
    let (_, line) = world
        .exec("app", "main", "tr '\\0' ' ' < /proc/2/cmdline")
        .await?;
    ensure!(line == "sleep 10 ", "{line}");
    world.stop().await
}

async fn policies(inside: Inside) -> Result<()> {
    let world = World::new(&inside).await?;
    for (name, policy, script, phase, restarts) in [
        (
            "done",
            "Never",
            "echo last words > /dev/termination-log",
            "Succeeded",
            0,
        ),
        ("bad", "Never", "exit 4", "Failed", 0),
        (
            "again",
            "OnFailure",
            "test -e /keep/x || { touch /keep/x; exit 1; }",
            "Succeeded",
            1,
        ),
    ] {
        let spec = json!({"restartPolicy": policy, "volumes": [{"name": "keep", "emptyDir": {}}], "containers": [{
            "name": "main", "image": "shell", "args": ["-c", script],
            "volumeMounts": [{"name": "keep", "mountPath": "/keep"}]}]});
        world.pod(name, spec).await?;
        let pod = world
            .until(&kinds::PODS, name, |pod| pod["status"]["phase"] == phase)
            .await?;
        ensure!(main_of(&pod)["restartCount"] == restarts, "{pod:#}");
    }
    let pod = world.get(&kinds::PODS, "done").context("gone")?;
    ensure!(
        main_of(&pod)["state"]["terminated"]["message"] == "last words\n",
        "{pod:#}"
    );
    let late = json!({"activeDeadlineSeconds": 1, "terminationGracePeriodSeconds": 0,
                      "containers": [{"name": "main", "image": "shell", "args": ["-c", "exec sleep 1000"]}]});
    world.pod("late", late).await?;
    let pod = world
        .until(&kinds::PODS, "late", |pod| {
            pod["status"]["phase"] == "Failed"
        })
        .await?;
    ensure!(pod["status"]["reason"] == "DeadlineExceeded", "{pod:#}");
    world.delete(&kinds::PODS, "late").await?;
    world.until_gone(&kinds::PODS, "late").await?;
    world.stop().await
}

async fn not_honoured(inside: Inside) -> Result<()> {
    let world = World::new(&inside).await?;
    let container = json!({"name": "main", "image": "shell", "args": ["-c", "exec sleep 1000"]});
    world
        .pod(
            "odd",
            json!({"hostPID": true, "containers": [container], "terminationGracePeriodSeconds": 0}),
        )
        .await?;
    world.ready("odd").await?;
    let named = |event: &Value| {
        event["message"]
            .as_str()
            .is_some_and(|text| text.contains("spec.hostPID"))
    };
    world.event(named).await?;
    world.stop().await
}

async fn other_probes(inside: Inside) -> Result<()> {
    let program = std::env::current_exe()?.display().to_string();
    let world = World::with(&inside, |config| {
        config.api_port = 0;
        config.images = vec![
            Image::new("health", &[program.as_str(), health::ARGUMENT]),
            Image::new("web", &["python3", "-m", "http.server", "8080"]),
        ];
    });
    let world = world.await?;
    let ready = |probe: Value| {
        let image = if probe["grpc"].is_null() {
            "web"
        } else {
            "health"
        };
        json!({"terminationGracePeriodSeconds": 0,
               "containers": [{"name": "main", "image": image, "readinessProbe": probe}]})
    };
    let grpc = |service: &str| json!({"grpc": {"port": health::PORT, "service": service}, "periodSeconds": 1});
    world.pod("good", ready(grpc("web"))).await?;
    world.pod("bad", ready(grpc("other"))).await?;
    world
        .pod("socket", ready(json!({"tcpSocket": {"port": 8080}})))
        .await?;
    world
        .pod("deaf", ready(json!({"tcpSocket": {"port": 8081}})))
        .await?;
    world.ready("good").await?;
    world.ready("socket").await?;
    let told = |event: &Value| {
        let message = event["message"].as_str().unwrap_or_default();
        event["reason"] == "Unhealthy" && message.contains("service unhealthy: status 2")
    };
    world.event(told).await?;
    for name in ["bad", "deaf"] {
        let pod = world
            .until(&kinds::PODS, name, |pod| main_of(pod)["started"] == true)
            .await?;
        ensure!(condition(&pod, "Ready") == "False", "{pod:#}");
    }
    world.stop().await
}

/// What `malla init` does, by hand: rules in the pod's namespace, made by an init container.
async fn redirection(inside: Inside) -> Result<()> {
    let world = World::new(&inside).await?;
    let rules = "nft add table ip t; nft add chain ip t c '{ type nat hook prerouting priority dstnat; }'; \
                 nft add rule ip t c tcp dport 9000 redirect to :8080; nft list ruleset | grep -c redirect";
    let spec = json!({
        "terminationGracePeriodSeconds": 0,
        "initContainers": [{"name": "init", "image": "shell", "args": ["-ec", rules],
            "securityContext": {"runAsUser": 0, "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]}}}],
        "containers": [{"name": "main", "image": "web", "securityContext": {"runAsUser": 1337},
            "readinessProbe": {"httpGet": {"path": "/", "port": 9000}}}],
    });
    world.pod("app", spec).await?;
    let pod = world.ready("app").await?;
    let address = pod["status"]["podIP"].as_str().context("no address")?;
    let node = world.cluster.network().namespace();
    let stream = node.connect(format!("{address}:9000").parse()?).await?;
    ensure!(fetch(stream, "/").await? == "app");
    world.stop().await
}
