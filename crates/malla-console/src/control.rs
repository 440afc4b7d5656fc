//! What the control plane says about its proxies: every ready replica's `/debug/syncz`, together. It is
//! told on the replica's loopback only, or to who proves an identity: the API server forwards us there.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::debug;

use crate::mirror::{Mirror, Watched, selects};
use crate::proxies::get_within;
use crate::wire::{Bounds, WireError};

const BOUNDS: Bounds = Bounds {
    time: Duration::from_secs(3),
    bytes: 64 * 1024 * 1024,
};
/// Answers this young are given again.
const FRESH: Duration = Duration::from_millis(500);
const MONITORING: u16 = 15014;

/// One proxy as a replica of the control plane sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Synced {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) gateway: bool,
    /// Such as `malla-0.1.0`; empty if it does not say.
    pub(crate) version: String,
    /// The replica's pod.
    pub(crate) replica: String,
    /// By type: CDS, EDS, LDS, RDS, SDS.
    pub(crate) sync: [(&'static str, &'static str); 5],
    pub(crate) last_error: Option<String>,
}

/// Asks the control plane.
pub(crate) struct ControlPlane {
    client: kube::Client,
    namespace: String,
    latest: Mutex<Option<(Instant, Arc<Vec<Synced>>)>>,
}

impl std::fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlPlane")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// One entry of `/debug/syncz`.
#[derive(Debug, Deserialize)]
struct Entry {
    /// `pod.namespace`.
    proxy: String,
    /// `sidecar~10.1.2.3~pod.namespace~domain`.
    #[serde(default)]
    node: String,
    #[serde(default)]
    proxy_version: String,
    #[serde(default)]
    resources: Value,
    #[serde(default)]
    refused: Vec<Refused>,
}

#[derive(Debug, Deserialize)]
struct Refused {
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    message: String,
}

/// The types, by the last part of their URLs.
const TYPES: [(&str, &str); 5] = [
    ("CDS", "envoy.config.cluster.v3.Cluster"),
    ("EDS", "envoy.config.endpoint.v3.ClusterLoadAssignment"),
    ("LDS", "envoy.config.listener.v3.Listener"),
    ("RDS", "envoy.config.route.v3.RouteConfiguration"),
    ("SDS", "envoy.extensions.transport_sockets.tls.v3.Secret"),
];

impl ControlPlane {
    pub(crate) fn new(client: kube::Client, namespace: String) -> Self {
        Self {
            client,
            namespace,
            latest: Mutex::default(),
        }
    }

    /// Every connected proxy, by namespace and pod.
    pub(crate) async fn proxies(&self, mirror: &Mirror) -> Arc<Vec<Synced>> {
        // Who comes while somebody asks waits for that answer.
        let mut latest = self.latest.lock().await;
        if let Some((at, answer)) = latest.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            debug_assert!(at.elapsed() >= Duration::ZERO);
            return Arc::clone(answer);
        }
        let answer = Arc::new(self.ask(mirror).await);
        *latest = Some((Instant::now(), Arc::clone(&answer)));
        answer
    }

    async fn ask(&self, mirror: &Mirror) -> Vec<Synced> {
        let pods = mirror.list(Watched::Pod);
        let replicas = pods.iter().filter(|pod| {
            pod.namespace() == self.namespace && selects(&json!({"app": "istiod"}), &pod.value)
        });
        let asked = replicas
            .filter(|pod| !pod.text("/status/podIP").is_empty())
            .map(|pod| async {
                let replica = pod.name();
                (replica.to_owned(), self.ask_one(replica).await)
            });
        let mut proxies = Vec::new();
        for (replica, entries) in futures_util::future::join_all(asked).await {
            match entries {
                Ok(entries) => {
                    proxies.extend(entries.into_iter().map(|entry| synced(entry, &replica)))
                }
                Err(error) => {
                    debug!(replica, %error, "the control plane's replica does not tell about its proxies")
                }
            }
        }
        proxies.sort_by(|a, b| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
        proxies
    }

    async fn ask_one(&self, replica: &str) -> Result<Vec<Entry>, WireError> {
        let pod = (&self.client, self.namespace.as_str(), replica);
        let answer = get_within(pod, MONITORING, "/debug/syncz", BOUNDS).await?;
        Ok(serde_json::from_slice(&answer)?)
    }
}

/// An address as it stands in URLs; IPv6 in brackets.
pub(crate) fn host_port(ip: &str, port: u16) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

fn synced(entry: Entry, replica: &str) -> Synced {
    let (pod, namespace) = entry.proxy.rsplit_once('.').unwrap_or((&entry.proxy, ""));
    let state = |url: &str| {
        let types = entry.resources.as_object().into_iter().flatten();
        let mut found = types.filter(|(known, _)| known.ends_with(url));
        match found
            .next()
            .and_then(|(_, facts)| facts.get("state")?.as_str())
        {
            Some("SYNCED") => "SYNCED",
            Some("STALE") => "STALE",
            Some("ERROR") => "NACK",
            _ => "NOT SENT",
        }
    };
    let refused = entry.refused.first();
    let last_error =
        refused.map(|refused| format!("{}: {}", refused.names.join(", "), refused.message));
    Synced {
        namespace: namespace.to_owned(),
        pod: pod.to_owned(),
        gateway: entry.node.starts_with("router~"),
        version: entry.proxy_version.clone(),
        replica: replica.to_owned(),
        sync: TYPES.map(|(short, url)| (short, state(url))),
        last_error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncz_is_read_as_the_control_plane_writes_it() {
        let entry = json!({
            "proxy": "cart-1.base", "node": "sidecar~10.0.0.1~cart-1.base~base.svc.cluster.local", "proxy_version": "malla-0.1.0",
            "refused": [{"type": "x", "names": ["inbound"], "message": "no"}],
            "resources": {
                "type.googleapis.com/envoy.config.cluster.v3.Cluster": {"state": "SYNCED"},
                "type.googleapis.com/envoy.config.listener.v3.Listener": {"state": "ERROR"},
            },
        });
        let synced = synced(serde_json::from_value(entry).unwrap(), "istiod-1");
        assert_eq!(
            (
                synced.namespace.as_str(),
                synced.pod.as_str(),
                synced.gateway
            ),
            ("base", "cart-1", false)
        );
        assert_eq!(
            synced.sync,
            [
                ("CDS", "SYNCED"),
                ("EDS", "NOT SENT"),
                ("LDS", "NACK"),
                ("RDS", "NOT SENT"),
                ("SDS", "NOT SENT")
            ]
        );
        assert_eq!(synced.last_error.as_deref(), Some("inbound: no"));
        assert_eq!(host_port("::1", 80), "[::1]:80");
    }
}
