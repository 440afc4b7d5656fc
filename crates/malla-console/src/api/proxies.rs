//! Proxies: how far each has come with its configuration, and that configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::control::Synced;
use crate::discovery::is_gateway;
use crate::error::ApiError;
use crate::mirror::{Watched, has_proxy};
use crate::proxies::config_dump;
use crate::server::App;

pub(crate) async fn list(State(app): State<Arc<App>>) -> Json<Vec<Value>> {
    Json(all(&app).await.iter().map(described).collect())
}

/// Tells pages that listen of proxies whose state changed, until it is dropped.
pub(crate) async fn watch(app: Arc<App>) {
    app.mirror.ready().await;
    let mut known: BTreeMap<(String, String), Synced> = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK).await;
        // Nobody asks the control plane for nobody.
        if app.mirror.listeners() == 0 {
            known.clear();
            continue;
        }
        let now: BTreeMap<_, _> = all(&app)
            .await
            .into_iter()
            .map(|proxy| ((proxy.namespace.clone(), proxy.pod.clone()), proxy))
            .collect();
        let gone = known.keys().filter(|key| !now.contains_key(*key));
        let changed = now
            .iter()
            .filter(|(key, proxy)| known.get(*key) != Some(*proxy));
        // The first look has nothing to compare with.
        if !known.is_empty() {
            for (namespace, pod) in gone.chain(changed.map(|(key, _)| key)) {
                let data = json!({"namespace": namespace, "pod": pod});
                app.mirror.publish("proxy", data);
            }
        }
        known = now;
    }
}

pub(crate) async fn config(
    State(app): State<Arc<App>>,
    Path((namespace, pod)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let known = app.mirror.get(Watched::Pod, &namespace, &pod);
    let known =
        known.ok_or_else(|| ApiError::not_found(format!("there is no Pod {namespace}/{pod}")))?;
    if !has_proxy(&known.value) {
        return Err(ApiError::not_found(format!(
            "the Pod {namespace}/{pod} has no proxy"
        )));
    }
    Ok(Json(
        config_dump(app.cluster.client(), &namespace, &pod).await?,
    ))
}

/// How often the control plane is asked on behalf of pages that listen.
const LOOK: Duration = Duration::from_secs(1);

/// Those that are connected, and those of the cluster's pods that are not.
pub(crate) async fn all(app: &App) -> Vec<Synced> {
    let connected = app.control.proxies(&app.mirror).await;
    let known: BTreeSet<(&str, &str)> = connected
        .iter()
        .map(|p| (p.namespace.as_str(), p.pod.as_str()))
        .collect();
    let pods = app.mirror.list(Watched::Pod);
    let others = pods.iter().filter(|pod| {
        let lives = !["Succeeded", "Failed"].contains(&pod.text("/status/phase"));
        lives && has_proxy(&pod.value) && !known.contains(&(pod.namespace(), pod.name()))
    });
    let others = others.map(|pod| Synced {
        namespace: pod.namespace().to_owned(),
        pod: pod.name().to_owned(),
        gateway: is_gateway(&pod.value),
        version: String::new(),
        replica: String::new(),
        sync: ["CDS", "EDS", "LDS", "RDS", "SDS"].map(|kind| (kind, "NOT SENT")),
        last_error: None,
    });
    let mut all: Vec<Synced> = connected.iter().cloned().chain(others).collect();
    let certified: BTreeSet<(String, String)> = app
        .identities
        .all()
        .into_iter()
        .map(|identity| (identity.namespace, identity.pod))
        .collect();
    for proxy in &mut all {
        if certified.contains(&(proxy.namespace.clone(), proxy.pod.clone())) {
            given_by_agent(proxy);
        }
    }
    all.sort_by(|a, b| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
    all
}

/// Its agent gave it the certificate it shows: the control plane has none to send.
fn given_by_agent(proxy: &mut Synced) {
    let sds = proxy.sync.iter_mut().find(|(kind, _)| *kind == "SDS");
    if let Some((_, state)) = sds.filter(|(_, state)| *state == "NOT SENT") {
        *state = "SYNCED";
    }
}

/// Whether the proxy is connected and has taken all it was sent.
pub(crate) fn is_synced(proxy: &Synced) -> bool {
    !proxy.replica.is_empty()
        && proxy
            .sync
            .iter()
            .all(|(_, state)| ["SYNCED", "NOT SENT"].contains(state))
}

fn described(proxy: &Synced) -> Value {
    let sync: serde_json::Map<String, Value> = proxy
        .sync
        .iter()
        .map(|(kind, state)| ((*kind).to_owned(), json!(state)))
        .collect();
    let mut shown = json!({
        "pod": proxy.pod, "namespace": proxy.namespace,
        "kind": if proxy.gateway { "gateway" } else { "sidecar" },
        "version": proxy.version, "connectedTo": proxy.replica, "sync": sync,
    });
    if let Some(error) = &proxy.last_error {
        shown["lastError"] = json!(error);
    }
    shown
}
