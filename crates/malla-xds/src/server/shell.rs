//! Runs a [`ServerStream`] per connection, over gRPC or in memory.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use malla_runtime::drain::DrainWatch;
use malla_runtime::task::AbortOnDrop;
use malla_xds_proto::core::Node;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Status};

use super::facts::{ConnectionFacts, StreamFacts};
use super::questions::Questions;
use super::source::{Hello, NodeHandle, ResourceSource};
use super::stream::{Input, Output, ServerStream};
use crate::message::{ClientMessage, ServerMessage, Variant};

/// Responses on their way to one client; beyond it the stream waits. (Pushes wait for
/// acknowledgements anyway, so there is at most one per type.)
const RESPONSE_BUFFER: usize = 16;

/// Bounds and life of a server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Streams at a time; more are refused with `RESOURCE_EXHAUSTED`.
    pub max_streams: usize,
    /// A stream that does not say who it is within this time is ended.
    pub first_request: Duration,
    /// Ends all streams when the process drains; clients connect to another replica.
    pub drain: DrainWatch,
    /// `control_plane.identifier` of every response; none when it is empty.
    pub identifier: String,
}

impl ServerOptions {
    #[must_use]
    pub fn new(drain: DrainWatch) -> Self {
        Self {
            max_streams: 100_000,
            first_request: Duration::from_secs(15),
            drain,
            identifier: String::new(),
        }
    }
}

/// Serves a [`ResourceSource`]; cheap to clone.
pub struct AdsServer<S> {
    inner: Arc<Inner<S>>,
}

struct Inner<S> {
    source: S,
    options: ServerOptions,
    connections: Mutex<BTreeMap<u64, Arc<Connection>>>,
    next_id: AtomicU64,
}

struct Connection {
    id: u64,
    node: Arc<Node>,
    variant: Variant,
    since: SystemTime,
    stream: Arc<ArcSwap<StreamFacts>>,
    kick: CancellationToken,
}

impl<S> Clone for AdsServer<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<S> std::fmt::Debug for AdsServer<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdsServer")
            .field("connections", &self.inner.lock().len())
            .finish_non_exhaustive()
    }
}

impl<S> Inner<S> {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<Connection>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: ResourceSource> AdsServer<S> {
    pub fn new(source: S, options: ServerOptions) -> Self {
        Self {
            inner: Arc::new(Inner {
                source,
                options,
                connections: Mutex::new(BTreeMap::new()),
                next_id: AtomicU64::new(1),
            }),
        }
    }

    /// Every connected client and what it has been sent and has acknowledged.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionFacts> {
        let connections = self.inner.lock();
        let facts = connections.values().map(|connection| ConnectionFacts {
            id: connection.id,
            node: connection.node.clone(),
            variant: connection.variant,
            since: connection.since,
            stream: connection.stream.load_full(),
        });
        facts.collect()
    }

    /// Ends one stream; its client will connect again. `false` when there is no such connection.
    #[must_use]
    pub fn disconnect(&self, connection: u64) -> bool {
        let connections = self.inner.lock();
        let found = connections.get(&connection);
        found
            .inspect(|connection| connection.kick.cancel())
            .is_some()
    }

    /// Serves one stream of requests. The responses end the stream when dropped.
    pub fn open(
        &self,
        variant: Variant,
        requests: BoxStream<'static, Result<ClientMessage, Status>>,
        metadata: MetadataMap,
        extensions: Extensions,
    ) -> Responses {
        let (sender, receiver) = mpsc::channel(RESPONSE_BUFFER);
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let session = Session {
            inner: self.inner.clone(),
            id,
            variant,
            requests,
            responses: sender,
        };
        let span = tracing::info_span!("xds", connection = id, node = tracing::field::Empty);
        Responses {
            receiver,
            _session: AbortOnDrop::spawn(span, session.run(metadata, extensions)),
        }
    }
}

/// What a client is sent; dropping it ends the stream.
#[derive(Debug)]
pub struct Responses {
    receiver: mpsc::Receiver<Result<ServerMessage, Status>>,
    _session: AbortOnDrop<()>,
}

impl Stream for Responses {
    type Item = Result<ServerMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(cx)
    }
}

struct Session<S> {
    inner: Arc<Inner<S>>,
    id: u64,
    variant: Variant,
    requests: BoxStream<'static, Result<ClientMessage, Status>>,
    responses: mpsc::Sender<Result<ServerMessage, Status>>,
}

impl<S: ResourceSource> Session<S> {
    async fn run(mut self, metadata: MetadataMap, extensions: Extensions) {
        if let Err(status) = self.serve(metadata, extensions).await {
            tracing::debug!(code = ?status.code(), reason = status.message(), "stream ended");
            // The client has gone when this fails.
            let _ = self.responses.send(Err(status)).await;
        }
    }

    async fn serve(
        &mut self,
        metadata: MetadataMap,
        mut extensions: Extensions,
    ) -> Result<(), Status> {
        let limit = self.inner.options.first_request;
        // Strangers have nothing of theirs read: a message is megabytes where it is decoded.
        let admitting = self.inner.source.admit(&metadata, &mut extensions);
        tokio::time::timeout(limit, admitting)
            .await
            .map_err(|_| Status::unavailable("nobody could say in time who this is"))??;
        let first = tokio::time::timeout(limit, self.requests.next())
            .await
            .map_err(|_| Status::deadline_exceeded("no request arrived"))?;
        let Some(first) = first.transpose()? else {
            return Ok(());
        };
        let node = first.node().cloned().ok_or_else(|| {
            Status::invalid_argument("the first request has no node (expected one with an id)")
        })?;
        tracing::Span::current().record("node", &node.id);
        let connection = Connection {
            id: self.id,
            node: Arc::new(node.clone()),
            variant: self.variant,
            since: SystemTime::now(),
            stream: Arc::default(),
            kick: CancellationToken::new(),
        };
        let hello = Hello {
            connection: self.id,
            node,
            variant: self.variant,
            first_type: first.type_url().to_owned(),
            since: connection.since,
            facts: Arc::clone(&connection.stream),
            metadata,
            extensions,
        };
        let handle = self.inner.source.connect(hello).await?;
        let inner = self.inner.clone();
        let registered = Registered::new(&inner, connection)?;
        tracing::debug!("connected");
        self.exchange(first, &*handle, &registered.connection).await
    }

    async fn exchange(
        &mut self,
        first: ClientMessage,
        handle: &dyn NodeHandle,
        connection: &Connection,
    ) -> Result<(), Status> {
        let mut resources = handle.resources();
        let current = resources.borrow_and_update().clone();
        let mut stream = ServerStream::new(self.variant, current, Instant::now());
        let mut input = Input::Request(first);
        let drain = self.inner.options.drain.clone();
        let mut questions = Questions::default();
        loop {
            let mut messages = VecDeque::new();
            match questions.take(&input, handle, stream.resources().version())? {
                Some(answer) => messages.extend(answer),
                None => stream
                    .handle(Instant::now(), input)
                    .map_err(|violation| Status::invalid_argument(violation.to_string()))?,
            }
            let mut events = Vec::new();
            loop {
                let message = match messages.pop_front() {
                    Some(message) => message,
                    None => match stream.poll_output(Instant::now()) {
                        Some(Output::Send(message)) => message,
                        Some(Output::Event(event)) => {
                            events.push(event);
                            continue;
                        }
                        None => break,
                    },
                };
                let sending = self.send(message);
                let sent = tokio::select! {
                    biased; // A client that does not read must not keep us from ending.
                    ended = ended(connection, &drain) => return Err(ended),
                    sent = sending => sent,
                };
                if !sent {
                    return Ok(()); // The client has gone.
                }
            }
            // Facts first: who hears of an event may look them up.
            connection.stream.store(Arc::new(stream.facts()));
            events.iter().for_each(|event| handle.event(event));
            input = tokio::select! {
                biased; // Ending outranks serving; answers before news, so that news are merged.
                ended = ended(connection, &drain) => return Err(ended),
                request = self.requests.next() => match request.transpose()? {
                    Some(request) => Input::Request(request),
                    None => return Ok(()),
                },
                changed = resources.changed() => match changed {
                    Ok(()) => Input::Resources(resources.borrow_and_update().clone()),
                    Err(_) => return Err(Status::unavailable("the node is no longer served")),
                },
            };
        }
    }
}

impl<S> Session<S> {
    /// Whether the client is still there.
    async fn send(&mut self, mut message: ServerMessage) -> bool {
        let identifier = &self.inner.options.identifier;
        if !identifier.is_empty() {
            message.sign(identifier);
        }
        self.responses.send(Ok(message)).await.is_ok()
    }
}

/// Completes when this end wants the stream to end.
async fn ended(connection: &Connection, drain: &DrainWatch) -> Status {
    tokio::select! {
        biased; // The operator's word is the better reason.
        () = connection.kick.cancelled() => Status::unavailable("disconnected by an operator"),
        () = drain.draining() => Status::unavailable("this server is shutting down"),
    }
}

/// An entry in the table of connections, for as long as it lives.
struct Registered<'a, S> {
    inner: &'a Inner<S>,
    connection: Arc<Connection>,
}

impl<'a, S> Registered<'a, S> {
    fn new(inner: &'a Inner<S>, connection: Connection) -> Result<Self, Status> {
        let connection = Arc::new(connection);
        let mut connections = inner.lock();
        if connections.len() >= inner.options.max_streams {
            return Err(Status::resource_exhausted("too many xDS streams"));
        }
        connections.insert(connection.id, connection.clone());
        drop(connections);
        Ok(Self { inner, connection })
    }
}

impl<S> Drop for Registered<'_, S> {
    fn drop(&mut self) {
        self.inner.lock().remove(&self.connection.id);
    }
}
