//! Ports of Services on the host's loopback: LoadBalancer ports and node ports.
//!
//! A connection is accepted on the host's side and dialled to the Service from inside the node's
//! network namespace. Invariants: a port is open only while the Service has an endpoint for it;
//! a LoadBalancer port keeps the number it was first given for as long as the Service lives;
//! status and annotation say what is open.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use malla_apiserver::{ApiError, Client, Patch, kinds};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::view::{PortView, ServiceView};
use crate::events::{Recorder, Severity, Subject};
use crate::net::rules::Transport;
use crate::net::{Namespace, reset};
use crate::object::Key;

/// Annotation that says where a LoadBalancer Service is reached: `80=127.0.0.1:8080,…`.
pub const PUBLISHED: &str = "local.malla.dev/published";
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Ports below 1024 need rights on the host; they are published this much higher.
const SHIFT: u16 = 8000;
const FIRST_FREE_FOR_ALL: u16 = 1024;
/// How many ports after the wished one are tried.
const TRIES: u16 = 200;

/// Where the ports of a LoadBalancer Service are reached on the host, by Service port.
pub fn published(service: &Value) -> BTreeMap<u16, SocketAddr> {
    let annotations = service.pointer("/metadata/annotations");
    let text = annotations
        .and_then(|all| all.get(PUBLISHED))
        .and_then(Value::as_str);
    entries(text.unwrap_or_default()).collect()
}

fn entries(annotation: &str) -> impl Iterator<Item = (u16, SocketAddr)> {
    let entries = annotation
        .split(',')
        .filter_map(|entry| entry.split_once('='));
    entries.filter_map(|(port, at)| Some((port.parse().ok()?, at.parse().ok()?)))
}

/// A Service's port, whichever way it is published.
type PortKey = (Key, u16, Way);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    LoadBalancer,
    NodePort,
}

#[derive(Debug)]
struct Open {
    at: u16,
    to: SocketAddr,
    _accepting: AbortOnDropHandle<()>,
}

/// Opens and closes ports of the host.
#[derive(Debug)]
pub(super) struct Publisher {
    client: Client,
    events: Recorder,
    node: Namespace,
    open: BTreeMap<PortKey, Open>,
    /// Numbers once given to LoadBalancer ports.
    given: BTreeMap<PortKey, u16>,
    complained: BTreeSet<PortKey>,
}

impl Publisher {
    pub(super) fn new(client: Client, events: Recorder, node: Namespace) -> Self {
        Self {
            client,
            events,
            node,
            open: BTreeMap::new(),
            given: BTreeMap::new(),
            complained: BTreeSet::new(),
        }
    }

    /// Opens what `views` call for and closes the rest; fails if a status could not be written.
    pub(super) async fn publish(&mut self, views: &[ServiceView]) -> Result<(), ApiError> {
        let mut wanted = BTreeSet::new();
        let mut existing = BTreeSet::new();
        for view in views {
            let Some(address) = view.cluster_ip else {
                continue;
            };
            for (port, way) in ways(view) {
                let key = (view.key.clone(), port.port, way);
                existing.insert(key.clone());
                if port.transport != Some(Transport::Tcp) {
                    self.complain(
                        &key,
                        view,
                        "only TCP ports are published on the host".to_owned(),
                    );
                    continue;
                }
                if port.endpoints.is_empty() {
                    continue;
                }
                let to = SocketAddr::new(address.into(), port.port);
                wanted.insert(key.clone());
                self.ensure_open(key, view, port, to).await;
            }
        }
        self.open.retain(|key, _| wanted.contains(key));
        self.given.retain(|key, _| existing.contains(key));
        self.complained.retain(|key| existing.contains(key));
        let mut result = Ok(());
        for view in views {
            let told = self.tell(view).await;
            result = result.and(told);
        }
        result
    }

    async fn ensure_open(
        &mut self,
        key: PortKey,
        view: &ServiceView,
        port: &PortView,
        to: SocketAddr,
    ) {
        if self.open.get(&key).is_some_and(|open| open.to == to) {
            return;
        }
        self.open.remove(&key);
        let bound = match key.2 {
            Way::NodePort => {
                let at = port.node_port.unwrap_or_default();
                bind(at)
                    .await
                    .map_err(|error| format!("nodePort {at} of the host: {error}"))
            }
            Way::LoadBalancer => self.bind_near(&key, view).await,
        };
        match bound {
            Ok((at, listener)) => {
                let accepting =
                    AbortOnDropHandle::new(tokio::spawn(accept(listener, self.node.clone(), to)));
                if key.2 == Way::LoadBalancer {
                    self.given.insert(key.clone(), at);
                }
                self.complained.remove(&key);
                let open = Open {
                    at,
                    to,
                    _accepting: accepting,
                };
                self.open.insert(key, open);
            }
            Err(message) => self.complain(&key, view, message),
        }
    }

    /// Binds the number given before, or else the wished one or the next that is free.
    async fn bind_near(
        &self,
        key: &PortKey,
        view: &ServiceView,
    ) -> Result<(u16, TcpListener), String> {
        let before = self
            .given
            .get(key)
            .copied()
            .or_else(|| published_before(view, key.1));
        if let Some(at) = before
            && let Ok(bound) = bind(at).await
        {
            return Ok(bound);
        }
        let wished = wished(key.1);
        let mut last = String::new();
        for at in wished..wished.saturating_add(TRIES) {
            match bind(at).await {
                Ok(bound) => return Ok(bound),
                Err(error) => last = error.to_string(),
            }
        }
        let end = wished.saturating_add(TRIES);
        Err(format!(
            "no port of 127.0.0.1 from {wished} to {end} is free for port {}: {last}",
            key.1
        ))
    }

    fn complain(&mut self, key: &PortKey, view: &ServiceView, message: String) {
        if self.complained.insert(key.clone()) {
            let subject = Subject::new("v1", "Service", &view.service.metadata);
            let events = &self.events;
            events.record(
                "malla-local",
                Severity::Warning,
                subject,
                "NotPublished",
                message,
            );
        }
    }

    /// Writes `status.loadBalancer` and the annotation, if they differ.
    async fn tell(&self, view: &ServiceView) -> Result<(), ApiError> {
        let balancer = view.kind == "LoadBalancer";
        let ports: Vec<String> = view
            .ports
            .iter()
            .filter_map(|port| {
                let key = (view.key.clone(), port.port, Way::LoadBalancer);
                let at = self.open.get(&key)?.at;
                Some(format!("{}={LOOPBACK}:{at}", port.port))
            })
            .collect();
        let annotation = (balancer && !ports.is_empty()).then(|| ports.join(","));
        let known = annotation_of(&view.service.metadata);
        let (scope, name) = (view.key.scope(), &view.key.name);
        if known != annotation.as_deref() {
            let patch = json!({"metadata": {"annotations": {PUBLISHED: annotation}}});
            let patched = self
                .client
                .patch(&kinds::SERVICES, scope, name, Patch::Merge(patch))
                .await;
            forgive_gone(patched)?;
        }
        let status = view
            .service
            .status
            .as_ref()
            .and_then(|status| status.load_balancer.as_ref());
        let ingress = status.and_then(|status| status.ingress.as_ref());
        let has = ingress.is_some_and(|ingress| !ingress.is_empty());
        if has != balancer {
            let ingress = if balancer {
                json!([{"ip": LOOPBACK, "ipMode": "Proxy"}])
            } else {
                Value::Null
            };
            let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": ingress}}}));
            let patched = self
                .client
                .patch_status(&kinds::SERVICES, scope, name, patch)
                .await;
            forgive_gone(patched)?;
        }
        Ok(())
    }
}

fn ways(view: &ServiceView) -> impl Iterator<Item = (&PortView, Way)> {
    let balancer = view.kind == "LoadBalancer";
    let node_ports = balancer || view.kind == "NodePort";
    view.ports.iter().flat_map(move |port| {
        let balanced = balancer.then_some((port, Way::LoadBalancer));
        let node = (node_ports && port.node_port.is_some()).then_some((port, Way::NodePort));
        balanced.into_iter().chain(node)
    })
}

fn wished(port: u16) -> u16 {
    if port >= FIRST_FREE_FOR_ALL {
        port
    } else {
        port + SHIFT
    }
}

fn annotation_of(metadata: &ObjectMeta) -> Option<&str> {
    metadata
        .annotations
        .as_ref()?
        .get(PUBLISHED)
        .map(String::as_str)
}

/// The number an earlier start of the cluster gave to `port`.
fn published_before(view: &ServiceView, port: u16) -> Option<u16> {
    let annotation = annotation_of(&view.service.metadata)?;
    let (_, at) = entries(annotation).find(|(from, _)| *from == port)?;
    Some(at.port())
}

fn forgive_gone<T>(result: Result<T, ApiError>) -> Result<(), ApiError> {
    match result {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

async fn bind(at: u16) -> io::Result<(u16, TcpListener)> {
    let listener = TcpListener::bind((LOOPBACK, at)).await?;
    Ok((at, listener))
}

/// Accepts until dropped; open connections end with it.
async fn accept(listener: TcpListener, node: Namespace, to: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let node = node.clone();
                    connections.spawn(async move { relay(stream, &node, to).await });
                }
                Err(error) => {
                    // Usually too many open files: others must end first.
                    tracing::warn!(%error, %to, "a published port could not accept");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Copies both ways, each side's end of input by itself.
async fn relay(mut client: TcpStream, node: &Namespace, to: SocketAddr) {
    let connected = async {
        client.set_nodelay(true)?;
        let service = node.connect(to).await?;
        service.set_nodelay(true)?;
        io::Result::Ok(service)
    };
    match connected.await {
        Ok(mut service) => {
            let copied = tokio::io::copy_bidirectional(&mut client, &mut service).await;
            if let Err(error) = copied {
                tracing::trace!(%error, %to, "a published connection broke off");
            }
        }
        Err(error) => {
            tracing::debug!(%error, %to, "a published port's service cannot be reached");
            reset(&client);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{published, wished};

    #[test]
    fn the_annotation_says_where_ports_are() {
        let annotation = "80=127.0.0.1:8080,443=127.0.0.1:8443,x=y";
        let service =
            json!({"metadata": {"annotations": {"local.malla.dev/published": annotation}}});
        let ports: Vec<String> = published(&service)
            .iter()
            .map(|(p, at)| format!("{p} {at}"))
            .collect();
        assert_eq!(ports, ["80 127.0.0.1:8080", "443 127.0.0.1:8443"]);
    }

    #[test]
    fn ports_that_need_rights_are_shifted() {
        assert_eq!(
            (wished(80), wished(443), wished(1024), wished(15021)),
            (8080, 8443, 1024, 15021)
        );
    }
}
