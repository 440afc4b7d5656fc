//! The agent's HTTP port.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz/ready` | 200 when the proxy can serve, 503 with what is missing |
//! | `/stats/prometheus`, `/metrics` | the metrics of proxy, application and agent as one text |
//! | `/app-health/CONTAINER/PROBE` | the application's own probe, called past the capture |
//! | `/quitquitquit` (POST) | ends proxy and agent, after draining |
//!
//! `/quitquitquit` is for jobs, whose pods end only when the sidecar does; like Istio's it is
//! answered on the loopback only.

mod probe;
mod scrape;

pub use probe::{HttpGet, HttpHeader, Probe, TcpSocket};

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use malla_runtime::admission::{Admission, Limits};
use malla_runtime::metrics::{CONTENT_TYPE, Registry};
use malla_runtime::ready::Readiness;
use malla_runtime::task::TaskSet;
use rustls::crypto::CryptoProvider;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::Span;

use crate::http::Call;
use crate::settings::{AppMetrics, Settings};
use scrape::{Merged, Scrapes};

/// Probes and a scraper or two need a handful. Whoever opens more, silently or not, makes room for
/// the next probe with its own oldest connection.
const LIMITS: Limits = Limits {
    total: 64,
    per_peer: 16,
    idle: Some(Duration::from_secs(60)),
};

/// A client that sends no head within this time is cut off.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// The proxy, as this port sees it.
pub trait Proxy: Send + Sync {
    /// Whether it can serve; otherwise what is missing.
    fn ready(&self) -> BoxFuture<'_, Result<(), String>>;

    /// Its metrics in Prometheus' text format.
    fn metrics(&self) -> BoxFuture<'_, Result<String, String>>;
}

/// What the port answers with.
pub struct Status {
    proxy: Arc<dyn Proxy>,
    readiness: Readiness,
    registry: Registry,
    scrapes: Scrapes,
    probes: BTreeMap<String, Probe>,
    app_metrics: Option<AppMetrics>,
    address: IpAddr,
    provider: Arc<CryptoProvider>,
    quit: Notify,
}

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Status")
            .field("readiness", &self.readiness)
            .finish_non_exhaustive()
    }
}

impl Status {
    #[must_use]
    pub fn new(
        settings: &Settings,
        proxy: Arc<dyn Proxy>,
        readiness: Readiness,
        registry: Registry,
        provider: Arc<CryptoProvider>,
    ) -> Arc<Self> {
        Arc::new(Self {
            proxy,
            readiness,
            scrapes: Scrapes::new(&registry),
            registry,
            probes: settings.probes.clone(),
            app_metrics: settings.app_metrics.clone(),
            address: settings.address,
            provider,
            quit: Notify::new(),
        })
    }

    /// Completes when someone asked for the end.
    pub async fn quit(&self) {
        self.quit.notified().await;
    }

    /// Whether traffic may be sent to the proxy; otherwise what is missing.
    ///
    /// # Errors
    /// The reason, for the probe's answer.
    pub async fn ready(&self) -> Result<(), String> {
        let answer = self.readiness.answer();
        if answer.status != 200 {
            return Err(answer.body);
        }
        let ready = self.proxy.ready().await;
        ready.map_err(|missing| format!("not ready, the proxy: {missing}\n"))
    }

    /// Everything there is to scrape, within `patience`. What cannot be had is left out, and the scrape succeeds: the
    /// other parts are no less true.
    pub async fn metrics(&self, patience: Duration) -> String {
        self.scrapes.all.inc();
        let proxy = async {
            let asked = tokio::time::timeout(patience, self.proxy.metrics()).await;
            asked.unwrap_or_else(|_| Err(format!("it did not answer within {patience:?}")))
        };
        let application = async {
            match &self.app_metrics {
                Some(metrics) => metrics.scrape(self.address, patience).await,
                None => Ok(String::new()),
            }
        };
        let (proxy, application) = tokio::join!(proxy, application);
        let mut merged = Merged::default();
        for (who, metrics) in [("envoy", proxy), ("application", application)] {
            match metrics {
                Ok(metrics) => merged.add(&metrics),
                Err(reason) => {
                    tracing::debug!(reason, "no metrics of the {who}");
                    self.scrapes.failed.with(&[who]).inc();
                }
            }
        }
        merged.add(&self.registry.render());
        merged.finish()
    }

    async fn answer(&self, request: &Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        match (request.method(), path) {
            (&Method::GET | &Method::HEAD, "/healthz/ready") => match self.ready().await {
                Ok(()) => text(StatusCode::OK, "ready\n"),
                Err(missing) => text(StatusCode::SERVICE_UNAVAILABLE, missing),
            },
            (&Method::GET, "/stats/prometheus" | "/metrics") => {
                let patience = scrape::patience(request.headers());
                let mut answer = text(StatusCode::OK, self.metrics(patience).await);
                let kind = http::HeaderValue::from_static(CONTENT_TYPE);
                answer
                    .headers_mut()
                    .insert(http::header::CONTENT_TYPE, kind);
                answer
            }
            (&Method::POST, "/quitquitquit") => {
                if !peer.ip().to_canonical().is_loopback() {
                    return text(StatusCode::FORBIDDEN, "only from inside of the pod\n");
                }
                self.quit.notify_one();
                text(StatusCode::OK, "ending\n")
            }
            (_, "/quitquitquit") => text(StatusCode::METHOD_NOT_ALLOWED, "expected POST\n"),
            (_, path) => match self.probes.get(path) {
                Some(probe) => match probe.call(self.address, &self.provider).await {
                    Ok(status) => text(status, ""),
                    Err(reason) => text(StatusCode::INTERNAL_SERVER_ERROR, reason + "\n"),
                },
                None => text(StatusCode::NOT_FOUND, "no such path\n"),
            },
        }
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let kind = http::HeaderValue::from_static("text/plain; charset=utf-8");
    answer
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, kind);
    answer
}

/// Waits until the agent at `address` says that the proxy can serve: what a postStart hook does to
/// hold the application back (`malla proxy wait`).
///
/// # Errors
/// The last reason it was not ready, when `patience` is over.
pub async fn wait_until_ready(address: SocketAddr, patience: Duration) -> Result<(), String> {
    const PERIOD: Duration = Duration::from_millis(100);
    let deadline = Instant::now() + patience;
    loop {
        let reason = match Call::new(address, Method::GET, "/healthz/ready")
            .send()
            .await
        {
            Ok(answer) if answer.status() == StatusCode::OK => return Ok(()),
            Ok(answer) => String::from_utf8_lossy(answer.body()).trim().to_owned(),
            Err(reason) => reason,
        };
        if Instant::now() + PERIOD > deadline {
            return Err(reason);
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Answers on `listener` until it is dropped.
pub async fn serve(listener: TcpListener, status: Arc<Status>) {
    let admission = Admission::new(LIMITS);
    let mut connections = TaskSet::new();
    loop {
        let (stream, peer) = admission.accept(&listener).await;
        let status = status.clone();
        connections.spawn(Span::current(), async move {
            let keeper = stream.keeper();
            let service = service_fn(|request: Request<Incoming>| {
                let (status, keeper) = (&status, &keeper);
                async move {
                    let answer = status.answer(&request, peer).await;
                    keeper.touch();
                    Ok::<_, Infallible>(answer)
                }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%peer, %error, "a connection to the agent's port ended badly");
            }
        });
    }
}

#[cfg(test)]
mod tests;
