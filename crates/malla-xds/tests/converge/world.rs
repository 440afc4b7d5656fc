//! The model: what the server has, what the client holds, and the messages between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use malla_xds::client::stream::{ClientConfig, ClientStream, Input as In, Output as Out};
use malla_xds::client::{Interest, Rejection, Update, Verdict};
use malla_xds::server::stream::{Input, Output, ServerStream};
use malla_xds::{ClientMessage, Name, NodeResources, ResourceSet, ServerMessage, Variant};
use malla_xds_proto::core::Node;
use malla_xds_proto::type_url::{CLUSTER, ENDPOINTS, LISTENER, ROUTE};
use tokio::time::Instant;

use crate::told::Told;

/// Content that the client rejects, in worlds where it rejects anything.
const BAD: u8 = 13;

#[derive(Debug, Clone)]
pub(crate) enum Step {
    PutCluster {
        name: u8,
        value: u8,
    },
    RemoveCluster {
        name: u8,
    },
    PutEndpoints {
        name: u8,
        value: u8,
    },
    /// A listener and its route, which points to a cluster.
    PutRoute {
        name: u8,
        cluster: u8,
    },
    RemoveRoute {
        name: u8,
    },
    /// The server learns of everything put and removed since the last time.
    Publish,
    ToServer {
        count: usize,
    },
    ToClient {
        count: usize,
    },
    /// The connection breaks; everything on it is lost.
    Cut,
}

/// What the server is to serve; consistent: a route's cluster exists.
#[derive(Debug, Clone, Default)]
struct Content {
    clusters: BTreeMap<u8, u8>,
    endpoints: BTreeMap<u8, u8>,
    routes: BTreeMap<u8, u8>,
}

impl Content {
    fn apply(&mut self, step: &Step) {
        match *step {
            Step::PutCluster { name, value } => {
                self.clusters.insert(name, value);
            }
            Step::RemoveCluster { name } => {
                self.clusters.remove(&name);
                self.routes.retain(|_, cluster| *cluster != name);
            }
            Step::PutEndpoints { name, value } => {
                self.endpoints.insert(name, value);
            }
            Step::PutRoute { name, cluster } if self.clusters.contains_key(&cluster) => {
                self.routes.insert(name, cluster);
            }
            Step::RemoveRoute { name } => {
                self.routes.remove(&name);
            }
            _ => {}
        }
    }

    fn resources(&self) -> ResourceSet {
        let mut set = ResourceSet::new("");
        for type_url in [CLUSTER, ENDPOINTS, LISTENER, ROUTE] {
            set.set(type_url, malla_xds::ResourceMap::new());
        }
        for (name, value) in &self.clusters {
            put(&mut set, CLUSTER, *name, *value);
        }
        for (name, value) in &self.endpoints {
            put(&mut set, ENDPOINTS, *name, *value);
        }
        for (name, cluster) in &self.routes {
            put(&mut set, LISTENER, *name, 0);
            put(&mut set, ROUTE, *name, *cluster);
        }
        set
    }
}

fn text(name: u8) -> String {
    format!("name-{name}")
}

/// A message with the name in field 1 and the value in field 2.
fn put(set: &mut ResourceSet, type_url: &str, name: u8, value: u8) {
    let name = text(name);
    let mut body = vec![0x0a, u8::try_from(name.len()).unwrap()];
    body.extend(name.as_bytes());
    body.extend([0x12, 1, value]);
    set.put(type_url, &name, body);
}

/// What the client holds, by type and name.
type Held = BTreeMap<String, BTreeMap<Name, u8>>;

#[derive(Default)]
struct Handler {
    held: Held,
    reject: bool,
    resources_received: usize,
}

impl Handler {
    fn apply(&mut self, update: Update) -> Verdict {
        let held = self.held.entry(update.type_url.to_string()).or_default();
        let mut verdict = Verdict::default();
        for resource in update.resources {
            self.resources_received += 1;
            let value = *resource.body.last().unwrap();
            if self.reject && value == BAD {
                verdict.rejected.push(Rejection {
                    name: resource.name,
                    reason: "thirteen".to_owned(),
                });
            } else {
                held.insert(resource.name, value);
            }
        }
        for name in &update.removed {
            held.remove(name);
        }
        let names: BTreeSet<Name> = held.keys().cloned().collect();
        match update.type_url.as_str() {
            CLUSTER => verdict
                .subscriptions
                .push((ENDPOINTS.into(), Interest::names(names))),
            LISTENER => verdict
                .subscriptions
                .push((ROUTE.into(), Interest::names(names))),
            _ => {}
        }
        self.forget_unwanted();
        verdict
    }

    /// As every real handler: endpoints go with their cluster, routes with their listener.
    fn forget_unwanted(&mut self) {
        for (parent, child) in [(CLUSTER, ENDPOINTS), (LISTENER, ROUTE)] {
            let parents = self.held.get(parent).cloned().unwrap_or_default();
            if let Some(children) = self.held.get_mut(child) {
                children.retain(|name, _| parents.contains_key(name));
            }
        }
    }

    fn of(&self, type_url: &str) -> BTreeMap<Name, u8> {
        self.held.get(type_url).cloned().unwrap_or_default()
    }
}

pub(crate) struct World {
    now: Instant,
    variant: Variant,
    content: Content,
    published: Content,
    /// All that has been published; given to the server where it is told what changed.
    told: Option<Told>,
    client: ClientStream,
    handler: Handler,
    server: Option<ServerStream>,
    to_server: VecDeque<ClientMessage>,
    to_client: VecDeque<ServerMessage>,
}

impl World {
    /// Where `told`, the server is told what has changed, and else finds out.
    pub(crate) fn new(variant: Variant, reject: bool, told: bool) -> Self {
        let now = Instant::now();
        let config = ClientConfig {
            variant,
            ..ClientConfig::new(Node::default())
        };
        let mut client = ClientStream::new(config, now, 7);
        for type_url in [CLUSTER, LISTENER] {
            client.handle(now, In::Interest(type_url.into(), Interest::all()));
        }
        Self {
            now,
            variant,
            content: Content::default(),
            published: Content::default(),
            told: told.then(|| {
                let mut told = Told::default();
                told.publish(Content::default().resources());
                told
            }),
            client,
            handler: Handler {
                reject,
                ..Handler::default()
            },
            server: None,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
        }
    }

    pub(crate) fn run(mut self, steps: &[Step]) {
        for step in steps {
            self.content.apply(step);
            self.step(step);
            self.pump_client();
            self.check_references();
        }
        self.step(&Step::Publish);
        self.settle();
        self.check_converged();
        self.check_quiet_reconnect();
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Publish => {
                self.published = self.content.clone();
                if let Some(told) = &mut self.told {
                    told.publish(self.published.resources());
                }
                let resources = self.resources();
                self.serve(Input::Resources(resources));
            }
            Step::ToServer { count } => {
                for _ in 0..*count {
                    if let Some(message) = self.to_server.pop_front() {
                        self.serve(Input::Request(message));
                    }
                }
            }
            Step::ToClient { count } => {
                for _ in 0..*count {
                    if let Some(message) = self.to_client.pop_front() {
                        self.client.handle(self.now, In::Response(message));
                        self.pump_client();
                    }
                }
            }
            Step::Cut if self.server.is_some() => {
                self.server = None;
                self.to_server.clear();
                self.to_client.clear();
                let reason = "cut".to_owned();
                self.client.handle(self.now, In::Closed { reason });
                self.now += Duration::from_secs(60);
            }
            _ => {}
        }
    }

    /// What the server is given.
    fn resources(&self) -> Arc<dyn NodeResources> {
        match &self.told {
            Some(told) => Arc::new(told.clone()),
            None => Arc::new(self.published.resources()),
        }
    }

    fn serve(&mut self, input: Input) {
        let Some(server) = &mut self.server else {
            return;
        };
        server.handle(self.now, input).unwrap();
        while let Some(output) = server.poll_output(self.now) {
            if let Output::Send(message) = output {
                self.to_client.push_back(message);
            }
        }
        let mut in_flight: Vec<&str> = self.to_client.iter().map(|m| m.type_url()).collect();
        let all = in_flight.len();
        in_flight.sort_unstable();
        in_flight.dedup();
        assert_eq!(in_flight.len(), all, "one push of a type at a time");
    }

    fn pump_client(&mut self) {
        while let Some(output) = self.client.poll_output(self.now) {
            match output {
                Out::Open => {
                    let resources = self.resources();
                    self.server = Some(ServerStream::new(self.variant, resources, self.now));
                    self.client.handle(self.now, In::Opened);
                }
                Out::Send(message) => self.to_server.push_back(message),
                Out::Apply(update) => {
                    let verdict = self.handler.apply(update);
                    self.client.handle(self.now, In::Verdict(verdict));
                    self.check_references();
                }
                Out::Event(_) => {}
            }
        }
    }

    /// Delivers everything until nobody has anything to say.
    fn settle(&mut self) {
        for _ in 0..1000 {
            self.pump_client();
            if self.to_server.is_empty() && self.to_client.is_empty() {
                return;
            }
            self.step(&Step::ToServer { count: 100 });
            self.step(&Step::ToClient { count: 100 });
        }
        panic!("client and server do not come to rest");
    }

    /// Make before break. SotW responses must be complete, so there removals cannot wait.
    fn check_references(&self) {
        if self.handler.reject || self.variant == Variant::Sotw {
            return;
        }
        let clusters = self.handler.of(CLUSTER);
        for (route, cluster) in self.handler.of(ROUTE) {
            let cluster = text(cluster);
            assert!(
                clusters.contains_key(&*cluster),
                "{route} points to {cluster}, which is gone"
            );
        }
    }

    fn check_converged(&self) {
        let named = |map: &BTreeMap<u8, u8>| -> BTreeMap<Name, u8> {
            map.iter()
                .map(|(name, value)| (text(*name).into(), *value))
                .collect()
        };
        self.check_type(CLUSTER, &named(&self.published.clusters));
        let held = self.handler.of(CLUSTER);
        let mut endpoints = named(&self.published.endpoints);
        endpoints.retain(|name, _| held.contains_key(name));
        self.check_type(ENDPOINTS, &endpoints);
        self.check_type(ROUTE, &named(&self.published.routes));
    }

    /// Equal, except that a rejected resource is held in an earlier version or not at all.
    fn check_type(&self, type_url: &str, expected: &BTreeMap<Name, u8>) {
        let held = self.handler.of(type_url);
        let rejected = |value: u8| self.handler.reject && value == BAD;
        for (name, value) in expected {
            if !rejected(*value) {
                assert_eq!(held.get(name), Some(value), "{type_url} {name}");
            }
        }
        for (name, value) in &held {
            assert!(
                expected.contains_key(name),
                "{type_url} {name} should be gone"
            );
            assert!(!rejected(*value), "{type_url} {name} was rejected");
        }
    }

    /// After a reconnect without changes, a delta client is not sent anything it has.
    fn check_quiet_reconnect(&mut self) {
        if self.handler.reject || self.variant == Variant::Sotw {
            return;
        }
        self.step(&Step::Cut);
        let before = self.handler.resources_received;
        self.settle();
        assert_eq!(self.handler.resources_received, before);
        self.check_converged();
    }
}
