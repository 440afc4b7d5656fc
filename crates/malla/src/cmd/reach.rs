//! How commands reach what runs in a cluster: its API server, and through that the ports on pods'
//! loopback.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use clap::Args;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use malla_runtime::task::AbortOnDrop;
use serde_json::Value;
use tracing::Span;

/// What one page may take.
const PATIENCE: Duration = Duration::from_secs(30);
const MOST: usize = 256 * 1024 * 1024;
/// The proxy's admin interface.
pub(crate) const ADMIN: u16 = 15000;
/// The control plane's pages.
pub(crate) const MONITORING: u16 = 15014;

/// Which cluster.
#[derive(Debug, Clone, Args)]
pub(crate) struct Reach {
    /// The cluster to look at, unless `KUBECONFIG` names it.
    #[arg(long, global = true)]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context.
    #[arg(long, global = true)]
    context: Option<String>,
    /// The control plane's namespace.
    #[arg(
        short = 'i',
        long = "istioNamespace",
        alias = "istio-namespace",
        default_value = "istio-system",
        global = true
    )]
    pub(crate) istio_namespace: String,
}

/// A pod by namespace and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl std::fmt::Display for PodName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

/// Runs a command that talks to a cluster.
pub(crate) fn run<T>(command: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(command)
}

/// The cluster that a kubeconfig and a context name; without them the one that `kubectl` would take. `advice` is what
/// else helps where there is none.
pub(crate) async fn find(
    kubeconfig: Option<&Path>,
    context: Option<&str>,
    advice: &str,
) -> Result<kube::Config> {
    let options = KubeConfigOptions {
        context: context.map(str::to_owned),
        ..KubeConfigOptions::default()
    };
    Ok(match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)?;
            kube::Config::from_custom_kubeconfig(file, &options).await?
        }
        None if context.is_some() => kube::Config::from_kubeconfig(&options).await?,
        None => kube::Config::infer()
            .await
            .with_context(|| format!("find the cluster (set KUBECONFIG, or {advice})"))?,
    })
}

impl Reach {
    pub(crate) async fn cluster(&self) -> Result<Cluster> {
        let (file, context) = (self.kubeconfig.as_deref(), self.context.as_deref());
        let config = find(file, context, "use --kubeconfig").await?;
        let namespace = config.default_namespace.clone();
        let client = kube::Client::try_from(config).context("connect to the API server")?;
        Ok(Cluster { client, namespace })
    }
}

/// A cluster that is reached.
pub(crate) struct Cluster {
    pub(crate) client: kube::Client,
    /// The context's.
    namespace: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// The pod a user means: `NAME`, `NAME.NAMESPACE`, or with `pod/` or `deployment/` before it.
    pub(crate) async fn pod(&self, text: &str, namespace: Option<&str>) -> Result<PodName> {
        let (kind, name) = text.split_once('/').unwrap_or(("pod", text));
        let (name, own) = name
            .rsplit_once('.')
            .map_or((name, None), |(name, namespace)| (name, Some(namespace)));
        let namespace = own.or(namespace).unwrap_or(&self.namespace).to_owned();
        let name = match kind {
            "pod" | "pods" | "po" => name.to_owned(),
            "deployment" | "deployments" | "deploy" => {
                let gvk = GroupVersionKind::gvk("apps", "v1", "Deployment");
                let deployment = self.object(&gvk, &namespace, name).await?;
                let labels = &deployment.data["spec"]["selector"]["matchLabels"];
                let pods = self.pods(&namespace, &selector(labels)).await?;
                let Some(first) = pods.first() else {
                    bail!("deployment {name}.{namespace} has no running pod");
                };
                first.name.clone()
            }
            other => bail!(
                "{other:?} is no kind of proxy (expected POD[.NAMESPACE], pod/… or deployment/…)"
            ),
        };
        Ok(PodName { namespace, name })
    }

    /// The control plane's pods.
    pub(crate) async fn control_planes(&self, namespace: &str) -> Result<Vec<PodName>> {
        let pods = self.pods(namespace, "app=istiod").await?;
        if pods.is_empty() {
            bail!(
                "no running control plane in namespace {namespace:?} (pods with the label app=istiod; --istioNamespace names another)"
            );
        }
        Ok(pods)
    }

    /// Running pods with these labels.
    async fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<PodName>> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Pod"));
        let pods: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &resource);
        let list = ListParams::default()
            .labels(selector)
            .fields("status.phase=Running");
        let pods = pods.list(&list).await.context("list pods")?;
        let names = pods.items.into_iter().filter_map(|pod| {
            Some(PodName {
                namespace: namespace.to_owned(),
                name: pod.metadata.name?,
            })
        });
        Ok(names.collect())
    }

    async fn object(
        &self,
        gvk: &GroupVersionKind,
        namespace: &str,
        name: &str,
    ) -> Result<DynamicObject> {
        let resource = ApiResource::from_gvk(gvk);
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &resource);
        let found = api.get(name).await;
        found.with_context(|| format!("get {} {name}.{namespace}", gvk.kind))
    }

    /// A page of JSON from a port on a pod's loopback.
    pub(crate) async fn json(&self, pod: &PodName, port: u16, path: &str) -> Result<Value> {
        let page = tokio::time::timeout(PATIENCE, self.page(pod, port, path))
            .await
            .unwrap_or_else(|_| bail!("no answer in {} s", PATIENCE.as_secs()))
            .with_context(|| format!("ask {pod} for http://localhost:{port}{path}"))?;
        serde_json::from_slice(&page).with_context(|| format!("read {path} of {pod}"))
    }

    async fn page(&self, pod: &PodName, port: u16, path: &str) -> Result<Bytes> {
        let pods: Api<k8s_openapi::api::core::v1::Pod> =
            Api::namespaced(self.client.clone(), &pod.namespace);
        let mut forward = pods.portforward(&pod.name, &[port]).await?;
        let stream = forward
            .take_stream(port)
            .context("the API server forwards no port")?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let _driving = AbortOnDrop::spawn(Span::none(), async move { drop(connection.await) });
        let request = Request::get(path)
            .header(header::HOST, "localhost")
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MOST).collect().await;
        let body = body.map_err(anyhow::Error::from_boxed)?.to_bytes();
        if status != StatusCode::OK {
            bail!(
                "it answers {status}: {}",
                String::from_utf8_lossy(&body).trim()
            );
        }
        Ok(body)
    }
}

/// `matchLabels` as a query.
fn selector(labels: &Value) -> String {
    let labels = labels.as_object().into_iter().flatten();
    let pairs = labels.filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)));
    pairs.collect::<Vec<_>>().join(",")
}
