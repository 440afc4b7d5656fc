//! `/ready`, `/version`, `/metrics`, and the pages of [`crate::debug`].
//!
//! Debug pages are for this pod's loopback (where `kubectl port-forward` and `istioctl` come in) and for
//! who shows a service-account token for the audience `istio-ca`, as istiod's.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use malla_runtime::admission::{Admission, Limits};
use malla_runtime::drain::DrainWatch;
use malla_runtime::ready::Readiness;
use malla_xds::server::AdsServer;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::info_span;

use super::build::BuildInfo;
use crate::debug::{self, Caller, NoPage};
use crate::index::World;
use crate::nodes::{Nodes, Source};

const LIMITS: Limits = Limits {
    total: 256,
    per_peer: 64,
    idle: Some(Duration::from_secs(60)),
};

/// What there is to tell.
pub(super) struct Facts {
    pub(super) readiness: Readiness,
    pub(super) nodes: Arc<Nodes>,
    pub(super) world: watch::Receiver<Option<World>>,
    pub(super) ads: AdsServer<Source>,
}

pub(super) async fn serve(listener: TcpListener, facts: Arc<Facts>, drain: DrainWatch) {
    let admission = Admission::new(LIMITS);
    loop {
        let (stream, peer) = tokio::select! {
            biased; // A stop asked for comes before new work.
            () = drain.draining() => return,
            accepted = admission.accept(&listener) => accepted,
        };
        let (facts, keeper) = (Arc::clone(&facts), stream.keeper());
        let service = service_fn(move |request| {
            let (facts, keeper) = (Arc::clone(&facts), keeper.clone());
            async move {
                let answer = facts.answer(&request, peer).await;
                keeper.touch();
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(10))
            .serve_connection(TokioIo::new(stream), service);
        drain.spawn(info_span!("http"), async move { drop(connection.await) });
    }
}

impl Facts {
    async fn answer(&self, request: &Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "expected GET\n".to_owned());
        }
        // istioctl asks for `//version`.
        let path = request.uri().path().trim_start_matches('/');
        match path {
            "ready" | "healthz/ready" => {
                let answer = self.readiness.answer();
                let status =
                    StatusCode::from_u16(answer.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
                text(status, answer.body)
            }
            "version" => text(StatusCode::OK, BuildInfo::own().to_string()),
            "metrics" => text(StatusCode::OK, self.metrics()),
            "debug" | "debug/" => text(StatusCode::OK, debug::PAGES.join("\n") + "\n"),
            path => match path.strip_prefix("debug/") {
                Some(name) => self.debug(name, request, peer).await,
                None => text(StatusCode::NOT_FOUND, "see /debug/list\n".to_owned()),
            },
        }
    }

    async fn debug(
        &self,
        name: &str,
        request: &Request<Incoming>,
        peer: SocketAddr,
    ) -> Response<Full<Bytes>> {
        let name = match request.uri().query() {
            Some(query) => format!("{name}?{query}"),
            None => name.to_owned(),
        };
        let identity;
        let caller = match peer.ip().to_canonical().is_loopback() {
            true => Caller::Local,
            false => match self.nodes.bearer(bearer(request.headers())).await {
                Ok(proved) => {
                    identity = proved;
                    Caller::Proved(&identity)
                }
                Err(denied) => return text(StatusCode::UNAUTHORIZED, format!("{denied}\n")),
            },
        };
        match debug::page(self.nodes.connected(), &name, caller) {
            Ok(page) => data(&page),
            Err(error) => {
                let status = match error {
                    NoPage::Unknown(_) | NoPage::NotConnected => StatusCode::NOT_FOUND,
                    NoPage::Forbidden(_) => StatusCode::FORBIDDEN,
                    NoPage::NoProxy(_) => StatusCode::BAD_REQUEST,
                };
                text(status, format!("{error}\n"))
            }
        }
    }

    /// istiod's names for what is counted the same way.
    fn metrics(&self) -> String {
        let reports = self.nodes.reports();
        let services = self
            .world
            .borrow()
            .as_ref()
            .map_or(0, |world| world.mesh.services.len());
        let connections = self.ads.connections();
        let mut lines = vec![
            "# TYPE pilot_xds gauge".to_owned(),
            format!(
                "pilot_xds{{version=\"{}\"}} {}",
                env!("CARGO_PKG_VERSION"),
                reports.len()
            ),
            "# TYPE pilot_services gauge".to_owned(),
            format!("pilot_services {services}"),
            "# TYPE pilot_total_xds_rejects gauge".to_owned(),
            format!(
                "pilot_total_xds_rejects {}",
                connections
                    .iter()
                    .flat_map(|c| c.stream.types.values())
                    .map(|t| t.rejects)
                    .sum::<u64>()
            ),
            "# TYPE pilot_xds_pushes gauge".to_owned(),
        ];
        for name in ["cds", "eds", "lds", "rds", "sds"] {
            let url = match name {
                "cds" => malla_xds_proto::type_url::CLUSTER,
                "eds" => malla_xds_proto::type_url::ENDPOINTS,
                "lds" => malla_xds_proto::type_url::LISTENER,
                "rds" => malla_xds_proto::type_url::ROUTE,
                _ => malla_xds_proto::type_url::SECRET,
            };
            let pushes: u64 = connections
                .iter()
                .filter_map(|c| c.stream.types.get(url))
                .map(|t| t.pushes)
                .sum();
            lines.push(format!("pilot_xds_pushes{{type=\"{name}\"}} {pushes}"));
        }
        lines.join("\n") + "\n"
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    text.strip_prefix("Bearer ").map(str::trim)
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

fn data(value: &Value) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::OK, value.to_string());
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}
