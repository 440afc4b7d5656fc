//! What proxies say about themselves: their admin interface, reached through the API server's port
//! forwarding, since it listens on the pod's loopback only.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;
use tracing::debug;

use crate::error::ApiError;
use crate::mirror::{Mirror, Watched, has_proxy};
use crate::wire::{Bounds, Call, WireError};

const ADMIN: u16 = 15000;
const CONFIG_DUMP: Bounds = Bounds {
    time: Duration::from_secs(10),
    bytes: 64 * 1024 * 1024,
};
const CERTS: Bounds = Bounds {
    time: Duration::from_secs(3),
    bytes: 4 * 1024 * 1024,
};
/// How often a proxy is asked for its certificate again.
const AGAIN: Duration = Duration::from_secs(60);
/// How often somebody new is looked for.
const LOOK: Duration = Duration::from_secs(2);
/// Proxies asked in one round, and at the same time.
const A_ROUND: usize = 256;
const AT_ONCE: usize = 4;

/// A workload's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) spiffe: String,
    /// RFC 3339.
    pub(crate) expires: String,
    pub(crate) serial: String,
}

#[derive(Debug)]
struct Asked {
    at: Instant,
    identity: Option<Identity>,
}

/// Keeps every proxy's certificate facts up to date.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    asked: Mutex<BTreeMap<(String, String), Asked>>,
}

impl Identities {
    /// All that are known, by pod.
    pub(crate) fn all(&self) -> Vec<Identity> {
        self.lock()
            .values()
            .filter_map(|asked| asked.identity.clone())
            .collect()
    }

    /// Asks until it is dropped.
    pub(crate) async fn keep(self: Arc<Self>, client: kube::Client, mirror: Arc<Mirror>) {
        mirror.ready().await;
        loop {
            let due = self.due(&mirror);
            let asks = due.into_iter().map(|(namespace, pod)| {
                let client = client.clone();
                async move {
                    let identity = identity(&client, &namespace, &pod).await;
                    (namespace, pod, identity)
                }
            });
            let mut answers = futures_util::stream::iter(asks).buffer_unordered(AT_ONCE);
            while let Some((namespace, pod, identity)) = answers.next().await {
                let identity = identity.unwrap_or_else(|error| {
                    debug!(namespace, pod, %error, "a proxy does not show its certificate");
                    None
                });
                let asked = Asked {
                    at: Instant::now(),
                    identity,
                };
                self.lock().insert((namespace, pod), asked);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ready proxies nobody has asked lately; those that have gone are forgotten.
    fn due(&self, mirror: &Mirror) -> Vec<(String, String)> {
        let pods = mirror.list(Watched::Pod);
        let there: Vec<(String, String)> = pods
            .iter()
            .filter(|pod| has_proxy(&pod.value) && is_ready(&pod.value))
            .map(|pod| (pod.namespace().to_owned(), pod.name().to_owned()))
            .collect();
        let mut asked = self.lock();
        asked.retain(|key, _| there.contains(key));
        let old = |key: &(String, String)| {
            asked
                .get(key)
                .is_none_or(|asked| asked.at.elapsed() > AGAIN)
        };
        there.into_iter().filter(old).take(A_ROUND).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether every container of a pod serves.
pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        && pod.pointer("/metadata/deletionTimestamp").is_none()
}

/// The proxy's `config_dump`, endpoints included.
///
/// # Errors
/// When the pod or its proxy cannot be reached.
pub(crate) async fn config_dump(
    client: &kube::Client,
    namespace: &str,
    pod: &str,
) -> Result<Value, ApiError> {
    let answer = admin(
        client,
        namespace,
        pod,
        "/config_dump?include_eds",
        CONFIG_DUMP,
    )
    .await?;
    serde_json::from_slice(&answer).map_err(|error| unreachable_proxy(namespace, pod, &error))
}

async fn admin(
    client: &kube::Client,
    namespace: &str,
    pod: &str,
    path: &str,
    bounds: Bounds,
) -> Result<bytes::Bytes, ApiError> {
    let answer = get_within((client, namespace, pod), ADMIN, path, bounds).await;
    answer.map_err(|error| match error {
        WireError::Kubernetes(error) => error.into(),
        other => unreachable_proxy(namespace, pod, &other),
    })
}

/// A page from the loopback of a pod (a namespace's), where it says more than to strangers.
///
/// # Errors
/// When the pod cannot be reached, or the page is not there.
pub(crate) async fn get_within(
    (client, namespace, pod): (&kube::Client, &str, &str),
    port: u16,
    path: &str,
    bounds: Bounds,
) -> Result<bytes::Bytes, WireError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let forward = tokio::time::timeout(bounds.time, pods.portforward(pod, &[port])).await;
    let mut forward = forward.map_err(|_| WireError::TooLate(bounds.time))??;
    let stream = forward.take_stream(port).ok_or(WireError::NoPort)?;
    let answer = Call::get("localhost", path).over(stream, bounds).await?;
    match answer.status.is_success() {
        true => Ok(answer.body),
        false => Err(WireError::Status(answer.status)),
    }
}

fn unreachable_proxy(namespace: &str, pod: &str, error: &dyn std::error::Error) -> ApiError {
    ApiError::unavailable(format!(
        "the proxy of {namespace}/{pod} does not answer: {error}"
    ))
    .fix("look whether the pod runs and has an istio-proxy container")
}

#[derive(Debug, Deserialize)]
struct Certs {
    #[serde(default)]
    certificates: Vec<Certificate>,
}

#[derive(Debug, Deserialize)]
struct Certificate {
    #[serde(default)]
    cert_chain: Vec<Facts>,
}

#[derive(Debug, Deserialize)]
struct Facts {
    #[serde(default)]
    serial_number: String,
    #[serde(default)]
    expiration_time: String,
    #[serde(default)]
    subject_alt_names: Vec<AltName>,
}

#[derive(Debug, Deserialize)]
struct AltName {
    #[serde(default)]
    uri: String,
}

async fn identity(
    client: &kube::Client,
    namespace: &str,
    pod: &str,
) -> Result<Option<Identity>, ApiError> {
    let body = admin(client, namespace, pod, "/certs", CERTS).await?;
    let certs: Certs =
        serde_json::from_slice(&body).map_err(|error| unreachable_proxy(namespace, pod, &error))?;
    Ok(own(certs, namespace, pod))
}

/// The certificate with a SPIFFE identity that a proxy shows; it has one at a time.
fn own(certs: Certs, namespace: &str, pod: &str) -> Option<Identity> {
    let chains = certs
        .certificates
        .into_iter()
        .filter_map(|certificate| certificate.cert_chain.into_iter().next());
    let mut ours = chains.filter_map(|facts| {
        let spiffe = facts
            .subject_alt_names
            .into_iter()
            .find(|name| name.uri.starts_with("spiffe://"))?
            .uri;
        Some(Identity {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            spiffe,
            expires: facts.expiration_time,
            serial: facts.serial_number,
        })
    });
    ours.next()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_workloads_certificate_is_the_one_with_an_identity() {
        let chain = |uri: &str| {
            json!({"cert_chain": [{
                "serial_number": "0a", "expiration_time": "2026-01-01T00:00:00Z", "subject_alt_names": [{"uri": uri}],
            }]})
        };
        let certs = json!({"certificates": [{"ca_cert": [{}]}, chain("https://x"), chain("spiffe://cluster.local/ns/base/sa/a")]});
        let found = own(serde_json::from_value(certs).unwrap(), "base", "a-1").unwrap();
        assert_eq!(
            (found.spiffe.as_str(), found.serial.as_str()),
            ("spiffe://cluster.local/ns/base/sa/a", "0a")
        );
        assert_eq!(
            own(serde_json::from_value(json!({})).unwrap(), "base", "a-1"),
            None
        );
    }
}
