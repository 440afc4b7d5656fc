//! A whole cluster: what users see of pods, Services, probes, restarts and ends.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures_util::StreamExt;
use malla_apiserver::outside::{ExecOptions, Exit, LogOptions};
use malla_apiserver::{Client, DeleteParams, NodeRuntime, Patch, Resource, kinds};
use malla_local::sandbox::Inside;
use malla_local::{Cluster, ClusterConfig, Image, PUBLISHED_ANNOTATION, RunDirectory};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::support::Tests;

pub(crate) fn all(tests: &mut Tests) {
    tests.run("a_deployment_serves_through_its_service", deployment_serves);
    tests.run("pods_find_services_by_name", names);
    tests.run("probes_decide_who_gets_traffic", probes);
    tests.run("what_is_killed_comes_back", restarts);
    tests.run("init_containers_and_sidecars_keep_their_order", order);
    tests.run("a_pod_gets_its_volumes_and_their_changes", volumes);
    tests.run("commands_and_logs_of_a_container", exec_and_logs);
    tests.run("images_are_a_table_that_can_be_edited", images);
    tests.run("a_rollout_replaces_pods_and_can_be_undone", rollout);
    tests.run("jobs_of_all_restart_policies_end_as_they_should", policies);
    tests.run("a_namespace_takes_everything_with_it", namespace_ends);
    tests.run("owners_take_their_dependents_along", garbage);
    tests.run("a_stopped_cluster_leaves_nothing", leaves_nothing);
    tests.run("a_cluster_comes_back_with_its_objects", comes_back);
    tests.run("pods_reach_the_world_outside", egress);
    tests.run("endpoints_of_users_are_served", own_endpoints);
    tests.run("two_clusters_live_side_by_side", two_clusters);
    tests.run("what_is_not_honoured_is_named", not_honoured);
}

/// Answers HTTP on port 8080 with its host name; `/ready` with 200 once `/tmp/ready` exists.
const WEB: &str = r#"
import http.server as h, os, sys
class H(h.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass
    def do_GET(self):
        ok = self.path != "/ready" or os.path.exists("/tmp/ready")
        body = (os.environ["HOSTNAME"] + "\n").encode()
        self.send_response(200 if ok else 503)
        self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body)
print("serving", flush=True)
h.ThreadingHTTPServer(("", 8080), H).serve_forever()
"#;

struct World {
    cluster: Cluster,
    client: Client,
    _parent: tempfile::TempDir,
}

impl World {
    async fn new(inside: &Inside) -> Result<Self> {
        Self::with(inside, |config| config.api_port = 0).await
    }

    async fn with(inside: &Inside, change: impl FnOnce(&mut ClusterConfig)) -> Result<Self> {
        let parent = tempfile::tempdir()?;
        let directory = RunDirectory::temporary(parent.path())?;
        let mut config = ClusterConfig::new("test", directory);
        change(&mut config);
        config.images = vec![
            Image::new("shell", &["sh"]),
            Image::new("web", &["python3", "-c", WEB]),
        ];
        let cluster = Cluster::start(config, inside).await?;
        Ok(Self {
            client: cluster.client("test"),
            cluster,
            _parent: parent,
        })
    }

    async fn create(&self, resource: &Resource, object: Value) -> Result<()> {
        let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
        let namespaced = *resource != kinds::NAMESPACES;
        let scope = namespaced.then(|| namespace.as_deref().unwrap_or("default"));
        let created = self.client.create(resource, scope, object).await;
        created
            .map(drop)
            .map_err(|error| anyhow!("{}", error.message()))
    }

    async fn pod(&self, name: &str, spec: Value) -> Result<()> {
        let metadata = json!({"name": name, "labels": {"app": name}});
        self.create(&kinds::PODS, json!({"metadata": metadata, "spec": spec}))
            .await
    }

    /// A pod of one container that runs a shell script.
    async fn shell(&self, name: &str, script: &str) -> Result<()> {
        let container = json!({"name": "main", "image": "shell", "args": ["-c", script]});
        self.pod(
            name,
            json!({"containers": [container], "terminationGracePeriodSeconds": 1}),
        )
        .await
    }

    fn get(&self, resource: &Resource, name: &str) -> Option<Value> {
        let scope = (*resource != kinds::NAMESPACES).then_some("default");
        self.client
            .get(resource, scope, name)
            .ok()
            .map(|object| (*object).clone())
    }

    /// Waits until an object is as wanted; the object then.
    async fn until(
        &self,
        resource: &Resource,
        name: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let found = self.get(resource, name);
            if let Some(found) = found.as_ref().filter(|object| wanted(object)) {
                return Ok(found.clone());
            }
            if Instant::now() > deadline {
                bail!("{resource} {name} is not as wanted: {found:#?}");
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn until_gone(&self, resource: &Resource, name: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Some(found) = self.get(resource, name) {
            ensure!(
                Instant::now() < deadline,
                "{name} is still there: {found:#?}"
            );
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    async fn ready(&self, pod: &str) -> Result<Value> {
        self.until(&kinds::PODS, pod, |pod| condition(pod, "Ready") == "True")
            .await
    }

    async fn delete(&self, resource: &Resource, name: &str) -> Result<()> {
        let scope = (*resource != kinds::NAMESPACES).then_some("default");
        let deleted = self
            .client
            .delete(resource, scope, name, &DeleteParams::default())
            .await;
        deleted.map_err(|error| anyhow!("{}", error.message()))
    }

    async fn merge(&self, resource: &Resource, name: &str, patch: Value) -> Result<()> {
        let patched = self
            .client
            .patch(resource, Some("default"), name, Patch::Merge(patch))
            .await;
        patched
            .map(drop)
            .map_err(|error| anyhow!("{}", error.message()))
    }

    /// Exit code and output of a command in a pod's container.
    async fn exec(&self, pod: &str, container: &str, script: &str) -> Result<(i32, String)> {
        let object = self.client.get(&kinds::PODS, Some("default"), pod);
        let object = object.map_err(|error| anyhow!("{}", error.message()))?;
        let options = ExecOptions {
            container: container.to_owned(),
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            stdout: true,
            stderr: true,
            ..ExecOptions::default()
        };
        let node = self.cluster.node();
        let session = node.exec(object, options).await;
        let session = session.map_err(|error| anyhow!("{}", error.message()))?;
        let (mut out, mut err) = (String::new(), String::new());
        let mut stdout = session.stdout.context("no stdout")?;
        let mut stderr = session.stderr.context("no stderr")?;
        let (read, _, exit) = tokio::join!(
            stdout.read_to_string(&mut out),
            stderr.read_to_string(&mut err),
            session.exit
        );
        read?;
        match exit {
            Exit::Code(code) => Ok((code, out + &err)),
            Exit::Failed(why) => bail!("{why}"),
        }
    }

    async fn logs(&self, pod: &str, previous: bool) -> Result<String> {
        let object = self.client.get(&kinds::PODS, Some("default"), pod);
        let object = object.map_err(|error| anyhow!("{}", error.message()))?;
        let options = LogOptions {
            container: "main".to_owned(),
            previous,
            ..LogOptions::default()
        };
        let stream = self.cluster.node().logs(object, options).await;
        let stream = stream.map_err(|error| anyhow!("{}", error.message()))?;
        let chunks: Vec<_> = stream
            .map(|chunk| chunk.map(|bytes| bytes.to_vec()))
            .collect()
            .await;
        let bytes: Result<Vec<Vec<u8>>, _> = chunks.into_iter().collect();
        Ok(String::from_utf8(bytes?.concat())?)
    }

    /// Waits until a container's log has some text.
    async fn logged(&self, pod: &str, text: &str) -> Result<String> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let log = self.logs(pod, false).await.unwrap_or_default();
            if log.contains(text) {
                return Ok(log);
            }
            ensure!(
                Instant::now() < deadline,
                "{text:?} is not in the log: {log}"
            );
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn web(&self, replicas: i32, template: Value) -> Result<()> {
        let mut pod = json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
                "name": "web", "image": "web", "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/", "port": "http"}},
            }]},
        });
        merge_into(&mut pod, template);
        let spec = json!({"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": pod});
        self.create(
            &kinds::DEPLOYMENTS,
            json!({"metadata": {"name": "web"}, "spec": spec}),
        )
        .await
    }

    async fn service(&self, kind: &str) -> Result<Value> {
        let spec = json!({"type": kind, "selector": {"app": "web"},
                          "ports": [{"name": "http", "port": 80, "targetPort": "http"}]});
        self.create(
            &kinds::SERVICES,
            json!({"metadata": {"name": "web"}, "spec": spec}),
        )
        .await?;
        self.get(&kinds::SERVICES, "web")
            .context("the service is gone")
    }

    async fn stop(self) -> Result<()> {
        drop(self.client);
        Ok(self.cluster.stop(Duration::from_secs(1)).await?)
    }
}

fn merge_into(object: &mut Value, change: Value) {
    match (object, change) {
        (Value::Object(fields), Value::Object(changes)) => {
            for (key, value) in changes {
                merge_into(fields.entry(key).or_insert(Value::Null), value);
            }
        }
        (object, change) if !change.is_null() => *object = change,
        _ => {}
    }
}

fn condition(object: &Value, kind: &str) -> String {
    let all = object["status"]["conditions"].as_array();
    let found = all.into_iter().flatten().find(|one| one["type"] == kind);
    found
        .and_then(|one| one["status"].as_str())
        .unwrap_or_default()
        .to_owned()
}

fn container<'a>(pod: &'a Value, list: &str, name: &str) -> &'a Value {
    let all = pod["status"][list].as_array();
    let found = all.into_iter().flatten().find(|one| one["name"] == name);
    found.unwrap_or(&Value::Null)
}

fn main_of(pod: &Value) -> &Value {
    container(pod, "containerStatuses", "main")
}

/// The body of a GET over a connection of its own.
async fn fetch(mut stream: TcpStream, path: &str) -> Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    Ok(body.trim().to_owned())
}

async fn deployment_serves(inside: Inside) -> Result<()> {
    let world = World::new(&inside).await?;
    let service = world.service("LoadBalancer").await?;
    world.web(2, json!({})).await?;
    let ready = |object: &Value| object["status"]["availableReplicas"] == 2;
    let deployment = world.until(&kinds::DEPLOYMENTS, "web", ready).await?;
    ensure!(
        condition(&deployment, "Available") == "True",
        "{deployment:#}"
    );
    // Through the VIP, from the node: both pods answer.
    let address: Ipv4Addr = service["spec"]["clusterIP"]
        .as_str()
        .context("no VIP")?
        .parse()?;
    let mut seen = BTreeMap::new();
    for _ in 0..30 {
        let node = world.cluster.network().namespace();
        let stream = node.connect(SocketAddr::new(address.into(), 80)).await?;
        *seen.entry(fetch(stream, "/").await?).or_insert(0) += 1;
    }
    ensure!(seen.len() == 2, "{seen:?}");
    // And from the host, where the annotation says.
    let published =
        |object: &Value| object["metadata"]["annotations"][PUBLISHED_ANNOTATION].is_string();
    let service = world.until(&kinds::SERVICES, "web", published).await?;
    ensure!(
        service["status"]["loadBalancer"]["ingress"][0]["ip"] == "127.0.0.1",
        "{service:#}"
    );
    let entry = service["metadata"]["annotations"][PUBLISHED_ANNOTATION]
        .as_str()
        .unwrap_or_default();
    let at: SocketAddr = entry.strip_prefix("80=").context("no port 80")?.parse()?;
    ensure!(seen.contains_key(&fetch(TcpStream::connect(at).await?, "/").await?));
    // Without pods the port closes, and the annotation goes.
    world
        .merge(&kinds::DEPLOYMENTS, "web", json!({"spec": {"replicas": 0}}))
        .await?;
    world
        .until(&kinds::SERVICES, "web", |object| !published(object))
        .await?;
    ensure!(
        TcpStream::connect(at).await.is_err(),
        "the port is still open"
    );
    world.stop().await
}

async fn names(inside: Inside) -> Result<()> {
    let world = World::new(&inside).await?;
    world.service("ClusterIP").await?;
    world
        .web(
            1,
            json!({"spec": {"hostname": "one", "subdomain": "heads"}}),
        )
        .await?;
    let headless = json!({"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"name": "http", "port": 8080}]});
    world
        .create(
            &kinds::SERVICES,
            json!({"metadata": {"name": "heads"}, "spec": headless}),
        )
        .await?;
    let external = json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"});
    world
        .create(
            &kinds::SERVICES,
            json!({"metadata": {"name": "alias"}, "spec": external}),
        )
        .await?;
    world
        .until(&kinds::DEPLOYMENTS, "web", |one| {
            one["status"]["availableReplicas"] == 1
        })
        .await?;
    world.shell("client", "exec sleep 1000").await?;
    world.ready("client").await?;
    let script = "getent ahostsv4 web | head -1; getent ahostsv4 alias | head -1; getent ahostsv4 one.heads | head -1; \
                  getent hosts nowhere || echo none; curl -s --max-time 3 http://web/ && curl -s --max-time 3 http://one.heads:8080/; \
                  curl -sk --max-time 3 -o /dev/null -w '%{http_code}' https://kubernetes.default.svc/healthz";
    let (_, output) = world.exec("client", "main", script).await?;
    let lines: Vec<&str> = output.lines().collect();
    let [web, alias, head, none, by_vip, by_name, health] = lines.as_slice() else {
        bail!("{output}");
    };
    ensure!(web.split(' ').next() == alias.split(' ').next(), "{output}");
    ensure!(
        web.starts_with("10.96.") && head.starts_with("10.244.0."),
        "{output}"
    );
    ensure!(
        *none == "none" && by_vip == by_name && *by_vip == "one",
        "{output}"
    );
    ensure!(*health == "200" || *health == "401", "{output}");
    world.stop().await
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
        "volumes": [{"name": "shared", "hostPath": {"path": "/tmp/malla-order", "type": "DirectoryOrCreate"}}],
        "terminationGracePeriodSeconds": 2,
    });
    let _fresh = std::fs::remove_dir_all("/tmp/malla-order");
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
    world.delete(&kinds::PODS, "app").await?;
    world.until_gone(&kinds::PODS, "app").await?;
    let told = std::fs::read_to_string("/tmp/malla-order/order")?;
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
    std::fs::remove_dir_all("/tmp/malla-order")?;
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
    let runs = async |cluster: &Cluster| -> Result<Value> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let pod = cluster
                .client("test")
                .get(&kinds::PODS, Some("default"), "app");
            let pod = pod.map_err(|error| anyhow!("{}", error.message()))?;
            if condition(&pod, "Ready") == "True" && cluster.pids().len() == 1 {
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
    let before = runs(&first).await?;
    first.stop(Duration::from_secs(1)).await?;
    let second = start().await?;
    let after = runs(&second).await?;
    ensure!(before["metadata"]["uid"] == after["metadata"]["uid"]);
    ensure!(main_of(&after)["restartCount"] == 1, "{after:#}");
    Ok(second.stop(Duration::from_secs(1)).await?)
}

async fn egress(inside: Inside) -> Result<()> {
    let world = World::new(&inside).await?;
    world.shell("client", "exec sleep 1000").await?;
    world.ready("client").await?;
    // "Outside" is the host's network namespace; its loopback stands for the world at 127.0.0.2,
    // which a pod cannot name, so an address of the host is needed: any that is not loopback.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let outside = match probe.connect("192.0.2.1:9") {
        Ok(()) => probe.local_addr()?.ip(),
        Err(error) => bail!("this machine has no address besides its loopback: {error}"),
    };
    let listener = tokio::net::TcpListener::bind((outside, 0)).await?;
    let at = listener.local_addr()?;
    let serving = tokio::spawn(async move {
        let (mut stream, peer) = listener.accept().await?;
        stream
            .write_all(format!("hello {}", peer.ip()).as_bytes())
            .await?;
        anyhow::Ok(())
    });
    let script = format!("curl -s --max-time 5 --http0.9 http://{at}/");
    let (_, output) = world.exec("client", "main", &script).await?;
    ensure!(output == format!("hello {outside}"), "{output}");
    serving.await??;
    // Nobody listens there any more: reset, at once.
    let (code, output) = world.exec("client", "main", &script).await?;
    ensure!([7, 52, 56].contains(&code), "{code} {output}");
    world.stop().await
}

async fn own_endpoints(inside: Inside) -> Result<()> {
    let world = World::new(&inside).await?;
    world.web(1, json!({})).await?;
    world
        .until(&kinds::DEPLOYMENTS, "web", |one| {
            one["status"]["availableReplicas"] == 1
        })
        .await?;
    let pods = world
        .client
        .list(&kinds::PODS, Some("default"), &Default::default());
    let pods = pods.map_err(|error| anyhow!("{}", error.message()))?;
    let ip = pods.items[0]["status"]["podIP"]
        .as_str()
        .context("no address")?
        .to_owned();
    let spec = json!({"ports": [{"port": 80, "targetPort": 8080}]});
    world
        .create(
            &kinds::SERVICES,
            json!({"metadata": {"name": "mine"}, "spec": spec}),
        )
        .await?;
    let subsets = json!([{"addresses": [{"ip": ip}], "ports": [{"port": 8080}]}]);
    world
        .create(
            &kinds::ENDPOINTS,
            json!({"metadata": {"name": "mine"}, "subsets": subsets}),
        )
        .await?;
    world.shell("client", "exec sleep 1000").await?;
    world.ready("client").await?;
    let (_, output) = world
        .exec(
            "client",
            "main",
            "curl -s --retry 9 --retry-connrefused --retry-delay 1 http://mine/",
        )
        .await?;
    ensure!(output.starts_with("web-"), "{output}");
    world.stop().await
}

async fn two_clusters(inside: Inside) -> Result<()> {
    let ranges = ["10.244.0.0/24".parse()?, "10.244.1.0/24".parse()?];
    let [first, second] = ranges;
    let a = World::with(&inside, |config| {
        (config.pods, config.peers) = (first, vec![second])
    })
    .await?;
    let b = World::with(&inside, |config| {
        (config.pods, config.peers) = (second, vec![first])
    })
    .await?;
    ensure!(a.cluster.url() != b.cluster.url());
    a.cluster.link(&b.cluster).await?;
    let mut published = Vec::new();
    for world in [&a, &b] {
        world.service("LoadBalancer").await?;
        world.web(1, json!({})).await?;
        let annotation =
            |one: &Value| one["metadata"]["annotations"][PUBLISHED_ANNOTATION].is_string();
        let service = world.until(&kinds::SERVICES, "web", annotation).await?;
        published.push(service["metadata"]["annotations"][PUBLISHED_ANNOTATION].to_string());
    }
    ensure!(published[0] != published[1], "{published:?}");
    let pods = b
        .client
        .list(&kinds::PODS, Some("default"), &Default::default());
    let pods = pods.map_err(|error| anyhow!("{}", error.message()))?;
    let ip = pods.items[0]["status"]["podIP"]
        .as_str()
        .context("no address")?;
    ensure!(ip.starts_with("10.244.1."), "{ip}");
    a.shell("client", "exec sleep 1000").await?;
    a.ready("client").await?;
    let (_, output) = a
        .exec(
            "client",
            "main",
            &format!("curl -s --max-time 5 http://{ip}:8080/; curl -s --max-time 5 http://web/"),
        )
        .await?;
    let names: Vec<&str> = output.lines().collect();
    ensure!(names.len() == 2 && names[0] != names[1], "{output}");
    ensure!(
        Some(names[0]) == pods.items[0]["metadata"]["name"].as_str(),
        "{output}"
    );
    a.stop().await?;
    b.stop().await
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
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let events = world
            .client
            .list(&kinds::EVENTS, Some("default"), &Default::default());
        let events = events.map(|listed| listed.items).unwrap_or_default();
        let named = |event: &Value| {
            event["message"]
                .as_str()
                .is_some_and(|text| text.contains("spec.hostPID"))
        };
        if events.iter().any(|event| named(event)) {
            return world.stop().await;
        }
        ensure!(Instant::now() < deadline, "no event names the field");
        sleep(Duration::from_millis(10)).await;
    }
}
