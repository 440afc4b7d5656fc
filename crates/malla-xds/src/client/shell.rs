//! Runs a [`ClientStream`] over a transport.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use malla_runtime::log::Throttle;
use malla_runtime::task::AbortOnDrop;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::handler::{Interest, ResourceHandler};
use super::status::Status;
use super::stream::{ClientConfig, ClientStream, Event, Input, Output};
use crate::message::{ServerMessage, Variant};
use crate::resource::TypeUrl;
use crate::transport::{Link, LinkError, Transport};

/// A running client; dropping it ends the stream. What the handler holds is the handler's.
#[derive(Debug)]
pub struct AdsClient {
    interests: mpsc::UnboundedSender<(TypeUrl, Interest)>,
    status: watch::Receiver<Arc<Status>>,
    _task: AbortOnDrop<()>,
}

impl AdsClient {
    /// Connects, and goes on doing so.
    #[must_use]
    pub fn start(
        config: ClientConfig,
        transport: Arc<dyn Transport>,
        handler: Box<dyn ResourceHandler>,
    ) -> Self {
        let (interests, wanted) = mpsc::unbounded_channel();
        let (publish, status) = watch::channel(Arc::new(Status::default()));
        let span = tracing::info_span!("xds_client", node = config.node.id);
        let shell = Shell {
            variant: config.variant,
            stream: ClientStream::new(config, Instant::now(), rand::random()),
            transport,
            handler,
            wanted,
            publish,
            warnings: Throttle::default(),
        };
        Self {
            interests,
            status,
            _task: AbortOnDrop::spawn(span, shell.run()),
        }
    }

    /// The client at every moment.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.status.clone()
    }

    /// Subscribes a type to exactly this, from outside of the handler (resources on demand).
    pub fn set_interest(&self, type_url: impl Into<TypeUrl>, interest: Interest) {
        // The task lives as long as we do.
        let _ = self.interests.send((type_url.into(), interest));
    }
}

struct Shell {
    variant: Variant,
    stream: ClientStream,
    transport: Arc<dyn Transport>,
    handler: Box<dyn ResourceHandler>,
    wanted: mpsc::UnboundedReceiver<(TypeUrl, Interest)>,
    publish: watch::Sender<Arc<Status>>,
    warnings: Throttle,
}

impl Shell {
    async fn run(mut self) {
        for (type_url, interest) in self.handler.subscriptions() {
            let input = Input::Interest(type_url, interest);
            self.stream.handle(Instant::now(), input);
        }
        let transport = self.transport.clone();
        let mut opening: Option<BoxFuture<'_, Result<Link, LinkError>>> = None;
        let mut link: Option<Link> = None;
        loop {
            if self.pump(&mut link) {
                link = None;
                opening = Some(transport.open(self.variant));
            }
            self.publish.send_replace(Arc::new(self.stream.status()));
            let deadline = self.stream.deadline();
            let input = tokio::select! {
                biased; // The owner's wishes first: they are few, and shape what is asked for.
                Some((type_url, interest)) = self.wanted.recv() => {
                    Some(Input::Interest(type_url, interest))
                }
                opened = open(&mut opening) => {
                    opening = None;
                    Some(match opened {
                        Ok(opened) => {
                            link = Some(opened);
                            Input::Opened
                        }
                        Err(error) => Input::Closed { reason: error.to_string() },
                    })
                }
                response = next(&mut link) => Some(match response {
                    Ok(message) => Input::Response(message),
                    Err(reason) => {
                        link = None;
                        Input::Closed { reason }
                    }
                }),
                () = until(deadline) => None,
            };
            if let Some(input) = input {
                self.stream.handle(Instant::now(), input);
            }
        }
    }

    /// Does what the state machine says; `true` when it wants a new link.
    fn pump(&mut self, link: &mut Option<Link>) -> bool {
        let mut open = false;
        while let Some(output) = self.stream.poll_output(Instant::now()) {
            match output {
                Output::Open => open = true,
                Output::Send(request) => {
                    if let Some(link) = link {
                        // When the other side has gone, the responses will say why.
                        let _ = link.requests.send(request);
                    }
                }
                Output::Apply(update) => {
                    let verdict = self.handler.apply(update);
                    self.stream.handle(Instant::now(), Input::Verdict(verdict));
                }
                Output::Event(event) => {
                    self.log(&event);
                    self.handler.event(&event);
                }
            }
        }
        open
    }

    fn log(&self, event: &Event) {
        match event {
            Event::Connected => tracing::info!("connected"),
            Event::Disconnected { reason, retry_in } => {
                if let Some(skipped) = self.warnings.allow("disconnected") {
                    tracing::warn!(
                        reason,
                        ?retry_in,
                        skipped,
                        "disconnected, configuration is kept"
                    );
                }
            }
            Event::Applied {
                type_url,
                accepted,
                removed,
                rejected,
            } => {
                tracing::debug!(%type_url, accepted, removed, "configuration applied");
                for rejection in rejected {
                    let (name, reason) = (&*rejection.name, &*rejection.reason);
                    tracing::warn!(%type_url, name, reason, "resource rejected");
                }
            }
            Event::Unexpected { type_url } => {
                if self.warnings.allow(type_url).is_some() {
                    tracing::warn!(type_url, "the server sent a type that nobody asked for");
                }
            }
        }
    }
}

async fn open(
    opening: &mut Option<BoxFuture<'_, Result<Link, LinkError>>>,
) -> Result<Link, LinkError> {
    match opening {
        Some(opening) => opening.await,
        None => std::future::pending().await,
    }
}

async fn next(link: &mut Option<Link>) -> Result<ServerMessage, String> {
    match link {
        Some(link) => match link.responses.next().await {
            Some(Ok(message)) => Ok(message),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("the server ended the stream".to_owned()),
        },
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
