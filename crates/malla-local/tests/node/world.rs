//! A cluster to test with, and words for what tests ask of it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures_util::StreamExt;
use malla_apiserver::outside::{ExecOptions, Exit, LogOptions};
use malla_apiserver::{Client, DeleteParams, NodeRuntime, Patch, Resource, kinds};
use malla_local::sandbox::Inside;
use malla_local::{Cluster, ClusterConfig, Image, RunDirectory};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

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

pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) client: Client,
    _parent: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new(inside: &Inside) -> Result<Self> {
        Self::with(inside, |config| config.api_port = 0).await
    }

    pub(crate) async fn with(
        inside: &Inside,
        change: impl FnOnce(&mut ClusterConfig),
    ) -> Result<Self> {
        let parent = tempfile::tempdir()?;
        let directory = RunDirectory::temporary(parent.path())?;
        let mut config = ClusterConfig::new("test", directory);
        config.images = vec![
            Image::new("shell", &["sh"]),
            Image::new("web", &["python3", "-c", WEB]),
        ];
        change(&mut config);
        let cluster = Cluster::start(config, inside).await?;
        Ok(Self {
            client: cluster.client("test"),
            cluster,
            _parent: parent,
        })
    }

    pub(crate) async fn create(&self, resource: &Resource, object: Value) -> Result<()> {
        let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
        let namespaced = *resource != kinds::NAMESPACES;
        let scope = namespaced.then(|| namespace.as_deref().unwrap_or("default"));
        let created = self.client.create(resource, scope, object).await;
        created
            .map(drop)
            .map_err(|error| anyhow!("{}", error.message()))
    }

    pub(crate) async fn pod(&self, name: &str, spec: Value) -> Result<()> {
        let metadata = json!({"name": name, "labels": {"app": name}});
        self.create(&kinds::PODS, json!({"metadata": metadata, "spec": spec}))
            .await
    }

    /// A pod of one container that runs a shell script.
    pub(crate) async fn shell(&self, name: &str, script: &str) -> Result<()> {
        let container = json!({"name": "main", "image": "shell", "args": ["-c", script]});
        self.pod(
            name,
            json!({"containers": [container], "terminationGracePeriodSeconds": 1}),
        )
        .await
    }

    pub(crate) fn get(&self, resource: &Resource, name: &str) -> Option<Value> {
        let scope = (*resource != kinds::NAMESPACES).then_some("default");
        self.client
            .get(resource, scope, name)
            .ok()
            .map(|object| (*object).clone())
    }

    /// Waits until an object is as wanted; the object then.
    pub(crate) async fn until(
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

    pub(crate) async fn until_gone(&self, resource: &Resource, name: &str) -> Result<()> {
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

    pub(crate) async fn ready(&self, pod: &str) -> Result<Value> {
        self.until(&kinds::PODS, pod, |pod| condition(pod, "Ready") == "True")
            .await
    }

    pub(crate) async fn delete(&self, resource: &Resource, name: &str) -> Result<()> {
        let scope = (*resource != kinds::NAMESPACES).then_some("default");
        let deleted = self
            .client
            .delete(resource, scope, name, &DeleteParams::default())
            .await;
        deleted.map_err(|error| anyhow!("{}", error.message()))
    }

    pub(crate) async fn merge(&self, resource: &Resource, name: &str, patch: Value) -> Result<()> {
        let patched = self
            .client
            .patch(resource, Some("default"), name, Patch::Merge(patch))
            .await;
        patched
            .map(drop)
            .map_err(|error| anyhow!("{}", error.message()))
    }

    /// Exit code and output of a command in a pod's container.
    pub(crate) async fn exec(
        &self,
        pod: &str,
        container: &str,
        script: &str,
    ) -> Result<(i32, String)> {
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

    pub(crate) async fn logs(&self, pod: &str, previous: bool) -> Result<String> {
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

    /// Waits for an event.
    pub(crate) async fn event(&self, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let events = self
                .client
                .list(&kinds::EVENTS, Some("default"), &Default::default());
            let events = events.map(|listed| listed.items).unwrap_or_default();
            if events.iter().any(|event| wanted(event)) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "no such event among {events:#?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until a container's log has some text.
    pub(crate) async fn logged(&self, pod: &str, text: &str) -> Result<String> {
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

    pub(crate) async fn web(&self, replicas: i32, template: Value) -> Result<()> {
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

    pub(crate) async fn service(&self, kind: &str) -> Result<Value> {
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

    /// Waits until as many pods answer through a service's VIP, asked from the node: that pods are ready does not say that the
    /// node's rules know them yet. Their names.
    pub(crate) async fn answering(&self, service: &Value, pods: usize) -> Result<BTreeSet<String>> {
        let address = service["spec"]["clusterIP"].as_str().context("no VIP")?;
        let at = SocketAddr::new(address.parse()?, 80);
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut seen = BTreeSet::new();
        while seen.len() < pods {
            ensure!(Instant::now() < deadline, "only {seen:?} answer at {at}");
            let answer = async {
                let stream = self.cluster.network().namespace().connect(at).await?;
                fetch(stream, "/").await
            };
            match timeout(Duration::from_secs(1), answer).await {
                Ok(Ok(name)) => drop(seen.insert(name)),
                Ok(Err(_)) | Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
        Ok(seen)
    }

    pub(crate) async fn stop(self) -> Result<()> {
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

pub(crate) fn condition(object: &Value, kind: &str) -> String {
    let all = object["status"]["conditions"].as_array();
    let found = all.into_iter().flatten().find(|one| one["type"] == kind);
    found
        .and_then(|one| one["status"].as_str())
        .unwrap_or_default()
        .to_owned()
}

pub(crate) fn container<'a>(pod: &'a Value, list: &str, name: &str) -> &'a Value {
    let all = pod["status"][list].as_array();
    let found = all.into_iter().flatten().find(|one| one["name"] == name);
    found.unwrap_or(&Value::Null)
}

pub(crate) fn main_of(pod: &Value) -> &Value {
    container(pod, "containerStatuses", "main")
}

/// The body of a GET over a connection of its own.
pub(crate) async fn fetch(mut stream: TcpStream, path: &str) -> Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    Ok(body.trim().to_owned())
}
