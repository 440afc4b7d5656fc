//! The collector as a process runs it: opened in the background, tried again while it cannot be
//! opened, and asked through one router whichever it is.
//!
//! Invariant: nothing that is wrong with the store (a full disk, a damaged file, another process
//! that uses it) keeps the caller from starting or from being answered; every answer says what is
//! wrong until it is right again.

mod status;

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use http::StatusCode;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::ServiceExt as _;

use crate::api::error::{ConsoleError, JaegerError, PrometheusError};
use crate::derive::Workloads;
use crate::scrape::Target;
use crate::telemetry::Receivers;
use crate::{Telemetry, TelemetryConfig};
pub use status::{Phase, Status, Stored};

/// How long until a store that could not be opened is tried again.
const AGAIN: Duration = Duration::from_secs(5);
const STATUS: &str = "/api/malla/v1/telemetry/status";

/// A collector and where it receives.
#[derive(Debug, Clone)]
pub struct CollectorConfig {
    pub telemetry: TelemetryConfig,
    /// OTLP and Envoy's access logs, by gRPC.
    pub grpc: Option<SocketAddr>,
    /// OTLP by HTTP.
    pub otlp_http: Option<SocketAddr>,
    /// Zipkin's spans, v2 JSON.
    pub zipkin: Option<SocketAddr>,
}

/// A collector that may be closed at the moment.
#[derive(Debug)]
pub struct Collector {
    config: CollectorConfig,
    state: RwLock<Life>,
    targets: watch::Sender<Vec<Target>>,
}

#[derive(Debug)]
enum Life {
    Opening,
    Open {
        telemetry: Arc<Telemetry>,
        routes: Router,
    },
    /// Why; it is tried again.
    Failed(String),
}

/// Why a question cannot be answered now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    #[error("the telemetry store is being opened")]
    Opening,
    #[error("the telemetry store cannot be opened: {0}")]
    Failed(String),
}

impl Collector {
    #[must_use]
    pub fn new(config: CollectorConfig) -> Arc<Self> {
        Arc::new(Self {
            config,
            state: RwLock::new(Life::Opening),
            targets: watch::Sender::new(Vec::new()),
        })
    }

    /// Opens the store and keeps it going until `stop` resolves; what fails is tried again.
    pub async fn run(self: Arc<Self>, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            let reason = tokio::select! {
                biased; // A stop asked for comes first.
                () = &mut stop => break,
                reason = self.live() => reason,
            };
            tracing::warn!(reason, "telemetry is not collected; it is tried again");
            self.set(Life::Failed(reason));
            tokio::select! {
                biased; // As above.
                () = &mut stop => break,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
        self.set(Life::Opening);
    }

    /// One life: from opening to what ended it.
    async fn live(&self) -> String {
        let config = self.config.telemetry.clone();
        let opened = tokio::task::spawn_blocking(move || Telemetry::open(config)).await;
        let telemetry = match opened {
            Ok(Ok(telemetry)) => Arc::new(telemetry),
            Ok(Err(error)) => return chain(&error),
            Err(_) => return "opening it panicked".to_owned(),
        };
        let receivers = match self.listen().await {
            Ok(receivers) => receivers,
            Err(reason) => return reason,
        };
        let routes = telemetry.router();
        self.set(Life::Open {
            telemetry: telemetry.clone(),
            routes,
        });
        tokio::select! {
            () = telemetry.run(self.targets.subscribe()) => "the scraper stopped".to_owned(),
            served = telemetry.serve(receivers, std::future::pending()) => match served {
                Ok(()) => "the receivers stopped".to_owned(),
                Err(error) => format!("receive: {error}"),
            },
        }
    }

    async fn listen(&self) -> Result<Receivers, String> {
        let CollectorConfig {
            grpc,
            otlp_http,
            zipkin,
            ..
        } = self.config;
        Ok(Receivers {
            grpc: bind(grpc).await?,
            otlp_http: bind(otlp_http).await?,
            zipkin: bind(zipkin).await?,
        })
    }

    /// What is scraped from now on, also after the store was opened again.
    pub fn scrape(&self, targets: Vec<Target>) {
        self.targets
            .send_if_modified(|known| std::mem::replace(known, targets) != *known);
    }

    /// Who has which address, for the metrics of proxies that do not count themselves.
    #[must_use]
    pub fn workloads(&self) -> &Workloads {
        &self.config.telemetry.workloads
    }

    /// The collector, while it is open.
    ///
    /// # Errors
    /// Why it is not.
    pub fn telemetry(&self) -> Result<Arc<Telemetry>, Closed> {
        match &*self.read() {
            Life::Open { telemetry, .. } => Ok(telemetry.clone()),
            Life::Opening => Err(Closed::Opening),
            Life::Failed(reason) => Err(Closed::Failed(reason.clone())),
        }
    }

    /// How it is, and what it has taken, dropped and kept.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::of(&self.telemetry(), &self.config)
    }

    /// [`Telemetry::router`] while it is open, else answers that say why not; and
    /// `/api/malla/v1/telemetry/status`, which always answers. The graph is the caller's to serve:
    /// it knows what bears on the nodes.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/api/v1/{*rest}", any(ask))
            .route("/jaeger/api/{*rest}", any(ask))
            .route("/api/malla/v1/logs", any(ask))
            .route("/api/malla/v1/logs/stream", any(ask))
            .route(STATUS, get(status))
            .with_state(self.clone())
    }

    fn set(&self, life: Life) {
        let before = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *state, life)
        };
        // The last owner of a store waits for its writers; not under the lock.
        drop(before);
    }

    fn read(&self) -> RwLockReadGuard<'_, Life> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn bind(address: Option<SocketAddr>) -> Result<Option<TcpListener>, String> {
    match address {
        None => Ok(None),
        Some(address) => match TcpListener::bind(address).await {
            Ok(listener) => Ok(Some(listener)),
            Err(error) => Err(format!("listen on {address} (is it in use?): {error}")),
        },
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Many messages carry their cause's already.
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

async fn ask(State(collector): State<Arc<Collector>>, request: Request) -> Response {
    let life = match &*collector.read() {
        Life::Open { routes, .. } => Ok(routes.clone()),
        Life::Opening => Err(Closed::Opening),
        Life::Failed(reason) => Err(Closed::Failed(reason.clone())),
    };
    match life {
        Ok(routes) => routes.oneshot(unmatched(request)).await.into_response(),
        Err(closed) => refusal(request.uri().path(), &closed),
    }
}

/// The request without what the first routing left in it: its path's parameters would be counted
/// among those of the second.
fn unmatched(request: Request) -> Request {
    let (mut parts, body) = request.into_parts();
    parts.extensions.clear();
    Request::from_parts(parts, body)
}

/// In the words of the API that was asked.
fn refusal(path: &str, closed: &Closed) -> Response {
    let message = closed.to_string();
    if path.starts_with("/api/v1/") {
        PrometheusError::unavailable(message).into_response()
    } else if path.starts_with("/jaeger/") {
        JaegerError(StatusCode::SERVICE_UNAVAILABLE, message).into_response()
    } else {
        ConsoleError::unavailable(message)
            .fix(closed.fix())
            .into_response()
    }
}

async fn status(State(collector): State<Arc<Collector>>) -> Json<Status> {
    Json(collector.status())
}

#[cfg(test)]
mod tests;
