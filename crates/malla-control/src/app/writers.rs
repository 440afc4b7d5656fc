//! Runs the writers of [`crate::write`]: the one that every replica needs, and those of the leader.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, Patch, PatchParams};
use malla_runtime::ready::Gate;
use malla_runtime::task::AbortOnDrop;
use tokio::sync::watch;
use tracing::{debug, info_span, warn};

use super::ControlConfig;
use crate::index::World;
use crate::lease;
use crate::manifest::Installation;
use crate::nodes::Nodes;
use crate::secrets::Asked;
use crate::write::{gateway_api, gateway_ports, roots, status};

const RETRY: Duration = Duration::from_millis(500);

pub(super) fn start(
    client: &kube::Client,
    config: &ControlConfig,
    roots_pem: &Arc<str>,
    worlds: &watch::Receiver<Option<World>>,
    nodes: &Arc<Nodes>,
    asked: &Arc<Asked>,
    webhooks_trusted: Gate,
) -> Vec<AbortOnDrop<()>> {
    let (leads, leading) = watch::channel(false);
    let elect = lease::elect(
        client.clone(),
        config.namespace.clone(),
        "istio-leader",
        config.pod.clone(),
        leads,
    );
    let trust = trust_webhooks(client.clone(), Arc::clone(roots_pem), webhooks_trusted);
    let publish = publish_roots(
        client.clone(),
        Arc::clone(roots_pem),
        worlds.clone(),
        leading.clone(),
    );
    let ports = open_ports(client.clone(), worlds.clone(), leading.clone());
    let gateways =
        gateway_api::Writer::new(client.clone(), installation(config), Arc::clone(asked));
    let gateways = keep_gateways(gateways, worlds.clone(), leading.clone());
    let status = status::keep(client.clone(), worlds.clone(), Arc::clone(nodes), leading);
    vec![
        AbortOnDrop::spawn(info_span!("elect"), elect),
        AbortOnDrop::spawn(info_span!("trust_webhooks"), trust),
        AbortOnDrop::spawn(info_span!("publish_roots"), publish),
        AbortOnDrop::spawn(info_span!("open_ports"), ports),
        AbortOnDrop::spawn(info_span!("gateway_api"), gateways),
        AbortOnDrop::spawn(info_span!("status"), status),
    ]
}

/// As far as gateways are concerned.
fn installation(config: &ControlConfig) -> Installation {
    Installation {
        namespace: config.namespace.clone(),
        image: config.image.clone(),
        cluster_id: config.cluster_id.clone(),
        mesh_config: String::new(),
        control_args: Vec::new(),
        proxy_args: config.proxy_args.clone(),
    }
}

async fn keep_gateways(
    mut writer: gateway_api::Writer,
    mut worlds: watch::Receiver<Option<World>>,
    mut leading: watch::Receiver<bool>,
) {
    while let Some(world) = next(&mut worlds, &mut leading).await {
        let good = writer.write(&world).await;
        pause(&mut worlds, !good).await;
    }
}

/// Every replica does this: whichever answers first makes injection work.
async fn trust_webhooks(client: kube::Client, roots_pem: Arc<str>, trusted: Gate) {
    while let Err(error) = roots::trust_webhooks(&client, &roots_pem).await {
        warn!(%error, "the API server does not trust the webhooks yet");
        tokio::time::sleep(RETRY).await;
    }
    trusted.open();
}

/// Waits until this replica leads and a world is there, and gives the next one.
async fn next(
    worlds: &mut watch::Receiver<Option<World>>,
    leading: &mut watch::Receiver<bool>,
) -> Option<World> {
    leading.wait_for(|leads| *leads).await.ok()?;
    worlds.wait_for(Option::is_some).await.ok()?;
    worlds.borrow_and_update().clone()
}

async fn publish_roots(
    client: kube::Client,
    roots_pem: Arc<str>,
    mut worlds: watch::Receiver<Option<World>>,
    mut leading: watch::Receiver<bool>,
) {
    let mut done: HashMap<String, ()> = HashMap::new();
    while let Some(world) = next(&mut worlds, &mut leading).await {
        done.retain(|name, ()| world.namespaces.contains_key(name));
        let mut failed = false;
        for name in world
            .namespaces
            .keys()
            .filter(|name| !done.contains_key(*name))
            .cloned()
            .collect::<Vec<_>>()
        {
            match roots::publish(&client, &name, &roots_pem).await {
                Ok(()) => drop(done.insert(name, ())),
                Err(error) => {
                    failed = true;
                    debug!(namespace = name, %error, "the root certificates are not published there yet");
                }
            }
        }
        pause(&mut worlds, failed).await;
    }
}

async fn open_ports(
    client: kube::Client,
    mut worlds: watch::Receiver<Option<World>>,
    mut leading: watch::Receiver<bool>,
) {
    while let Some(world) = next(&mut worlds, &mut leading).await {
        let mut failed = false;
        for (key, service) in world.gateway_services.iter() {
            let gateways = world.mesh.gateways.iter().map(|gateway| &**gateway);
            let gateways = gateways.filter(|gateway| {
                let here = gateway.pods_in.as_deref();
                here.is_none_or(|namespace| namespace == key.namespace)
            });
            let Some(patch) = gateway_ports::patch(service, gateways) else {
                continue;
            };
            let services: Api<Service> = Api::namespaced(client.clone(), &key.namespace);
            if let Err(error) = services
                .patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch))
                .await
            {
                failed = true;
                warn!(service = ?key, %error, "the gateway's ports could not be changed");
            }
        }
        pause(&mut worlds, failed).await;
    }
}

/// Until the next world, or a moment when there is something to try again.
async fn pause(worlds: &mut watch::Receiver<Option<World>>, failed: bool) {
    if failed {
        tokio::time::sleep(RETRY).await;
    } else {
        // The sender has gone when this fails; `next` sees that too.
        drop(worlds.changed().await);
        worlds.mark_changed();
    }
}
