//! A crowd of proxies that subscribe as Envoy does and acknowledge everything; for `bench/control.py`.
//!
//! `cargo run --release -p malla-xds --example proxies -- HOST:PORT`
//!
//! Reads lines. `NODE-ID TOKEN` connects one more proxy, over a connection of its own; `mark` forgets what was counted;
//! `report` prints one line of JSON: responses by type, their resources and bytes, and for each proxy that has
//! acknowledged anything since the mark, when it last did (microseconds since 1970).
#![allow(clippy::print_stdout, reason = "a program for developers")]

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use malla_xds_proto::core::Node;
use malla_xds_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use malla_xds_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use malla_xds_proto::type_url::{CLUSTER, ENDPOINTS, LISTENER, ROUTE};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Request;
use tonic::transport::Endpoint;

/// Proxies that connect at a time: the control plane bounds who has not proved an identity yet by address.
const CONNECTING: usize = 64;

/// Largest response that is taken.
const MAX_RESPONSE: usize = 256 << 20;

/// What all proxies have seen since the last mark.
#[derive(Debug, Default)]
struct Seen {
    /// Responses, their resources (removals too) and bytes, by the last part of the type.
    types: BTreeMap<String, [usize; 3]>,
    acknowledged: BTreeMap<usize, u128>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let address = std::env::args()
        .nth(1)
        .context("usage: proxies HOST:PORT")?;
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let connecting = Arc::new(Semaphore::new(CONNECTING));
    let mut connected = 0;
    while let Some(line) = lines.next_line().await? {
        let now = || seen.lock().unwrap_or_else(PoisonError::into_inner);
        match line.split_once(' ') {
            Some((id, token)) => {
                let (url, seen) = (format!("http://{address}"), Arc::clone(&seen));
                let (id, token) = (id.to_owned(), token.to_owned());
                let number = connected;
                connected += 1;
                let connecting = Arc::clone(&connecting);
                tokio::spawn(async move {
                    if let Err(error) = proxy(url, number, &id, &token, &seen, &connecting).await {
                        println!("{{\"error\": {:?}}}", format!("{id}: {error:#}"));
                    }
                });
            }
            None if line == "mark" => *now() = Seen::default(),
            None if line == "report" => println!("{}", now().report()),
            None => anyhow::bail!("{line:?} is none of NODE-ID TOKEN, mark, report"),
        }
    }
    Ok(())
}

impl Seen {
    fn report(&self) -> String {
        let types = self.types.iter();
        let types: Vec<String> = types
            .map(|(name, counted)| format!("{name:?}: {counted:?}"))
            .collect();
        let acknowledged: Vec<&u128> = self.acknowledged.values().collect();
        format!(
            "{{\"types\": {{{}}}, \"acknowledged\": {acknowledged:?}}}",
            types.join(", ")
        )
    }

    fn count(&mut self, response: &DeltaDiscoveryResponse) {
        let name = response.type_url.rsplit('.').next().unwrap_or_default();
        let bodies = response
            .resources
            .iter()
            .filter_map(|it| it.resource.as_ref());
        let [pushes, resources, bytes] = self.types.entry(name.to_owned()).or_default();
        *pushes += 1;
        *resources += response.resources.len() + response.removed_resources.len();
        *bytes += bodies.map(|body| body.value.len()).sum::<usize>();
    }
}

/// Connects one proxy and serves it until its stream ends.
async fn proxy(
    url: String,
    number: usize,
    id: &str,
    token: &str,
    seen: &Mutex<Seen>,
    connecting: &Semaphore,
) -> Result<()> {
    let permit = connecting.acquire().await?;
    let channel = Endpoint::from_shared(url)?.connect().await?;
    let mut client =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE);
    let (requests, receiver) = mpsc::unbounded_channel();
    for type_url in [CLUSTER, LISTENER] {
        requests.send(DeltaDiscoveryRequest {
            node: Some(Node {
                id: id.to_owned(),
                user_agent_name: "envoy".to_owned(),
                ..Node::default()
            }),
            type_url: type_url.to_owned(),
            ..DeltaDiscoveryRequest::default()
        })?;
    }
    let mut request = Request::new(UnboundedReceiverStream::new(receiver));
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {token}").parse()?);
    let mut responses = client
        .delta_aggregated_resources(request)
        .await?
        .into_inner();
    drop(permit);
    let mut subscribed = HashSet::new();
    while let Some(response) = responses.message().await? {
        follow(&response, &mut subscribed, &requests)?;
        requests.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        })?;
        let at = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.count(&response);
        seen.acknowledged.insert(number, at);
    }
    anyhow::bail!("the stream ended")
}

/// Subscribes to what new clusters and listeners refer to, as far as their names tell.
fn follow(
    response: &DeltaDiscoveryResponse,
    subscribed: &mut HashSet<String>,
    requests: &UnboundedSender<DeltaDiscoveryRequest>,
) -> Result<()> {
    let (type_url, referred): (_, fn(&str) -> Option<&str>) = match &*response.type_url {
        CLUSTER => (ENDPOINTS, |name| {
            name.starts_with("outbound|").then_some(name)
        }),
        LISTENER => (ROUTE, |name| name.strip_prefix("0.0.0.0_")),
        _ => return Ok(()),
    };
    let added = response
        .resources
        .iter()
        .filter_map(|it| referred(&it.name));
    let added: Vec<String> = added
        .filter(|name| subscribed.insert((*name).to_owned()))
        .map(str::to_owned)
        .collect();
    let gone = response.removed_resources.iter();
    let gone: Vec<String> = gone
        .filter_map(|name| referred(name))
        .filter(|name| subscribed.remove(*name))
        .map(str::to_owned)
        .collect();
    if !(added.is_empty() && gone.is_empty()) {
        requests.send(DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_subscribe: added,
            resource_names_unsubscribe: gone,
            ..DeltaDiscoveryRequest::default()
        })?;
    }
    Ok(())
}
