//! `/ready`, `/version`, `/metrics` and what `/debug` shows. Nothing secret is served: no resource
//! bodies, no tokens, no keys.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use malla_runtime::admission::{Admission, Limits};
use malla_runtime::drain::DrainWatch;
use malla_runtime::ready::Readiness;
use malla_translate::unresolved;
use malla_xds::server::AdsServer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::info_span;

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
        let (stream, _) = tokio::select! {
            biased; // A stop asked for comes before new work.
            () = drain.draining() => return,
            accepted = admission.accept(&listener) => accepted,
        };
        let (facts, keeper) = (Arc::clone(&facts), stream.keeper());
        let service = service_fn(move |request| {
            let answer = facts.answer(&request);
            keeper.touch();
            std::future::ready(Ok::<_, Infallible>(answer))
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(10))
            .serve_connection(TokioIo::new(stream), service);
        drain.spawn(info_span!("http"), async move { drop(connection.await) });
    }
}

impl Facts {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "expected GET\n".to_owned());
        }
        match request.uri().path() {
            "/ready" | "/healthz/ready" => {
                let answer = self.readiness.answer();
                let status =
                    StatusCode::from_u16(answer.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
                text(status, answer.body)
            }
            "/version" => data(&json!({"version": env!("CARGO_PKG_VERSION"), "product": "malla"})),
            "/metrics" => text(StatusCode::OK, self.metrics()),
            "/debug/syncz" => data(&self.syncz()),
            "/debug/push_status" => data(&self.push_status()),
            "/debug/registryz" => data(&self.registryz()),
            "/debug" | "/debug/" | "/debug/list" => data(&json!([
                "/debug/syncz",
                "/debug/push_status",
                "/debug/registryz"
            ])),
            _ => text(StatusCode::NOT_FOUND, "see /debug/list\n".to_owned()),
        }
    }

    fn syncz(&self) -> Value {
        let streams = self.ads.connections();
        let of = |connection: u64| streams.iter().find(|facts| facts.id == connection);
        let proxies = self.nodes.reports().into_iter().map(|report| {
            let types: serde_json::Map<String, Value> = of(report.connection)
                .into_iter()
                .flat_map(|facts| &facts.stream.types)
                .map(|(url, facts)| {
                    let state = match (facts.rejected.is_empty(), facts.in_flight()) {
                        (false, _) => "ERROR",
                        (true, true) => "STALE",
                        (true, false) => "SYNCED",
                    };
                    (url.to_string(), json!({"state": state, "held": facts.held, "pushes": facts.pushes, "rejects": facts.rejects}))
                })
                .collect();
            json!({
                "proxy": report.name, "node": report.id, "version": report.version, "identity": report.identity.to_string(),
                "offered": report.offered, "settled": report.progress.settled,
                "settled_after_ms": report.progress.after.as_millis(),
                "refused": report.progress.refused.iter().map(|r| json!({"type": r.type_url, "names": r.names, "message": r.message})).collect::<Vec<_>>(),
                "types": types,
            })
        });
        Value::Array(proxies.collect())
    }

    fn push_status(&self) -> Value {
        let world = self.world.borrow();
        let Some(world) = world.as_ref() else {
            return json!({});
        };
        let missing: Vec<String> = unresolved(&world.mesh)
            .iter()
            .map(ToString::to_string)
            .collect();
        json!({"world": world.number, "unresolved": missing, "meshConfig": *world.mesh_config_notes})
    }

    fn registryz(&self) -> Value {
        let world = self.world.borrow();
        let services = world.iter().flat_map(|world| &world.mesh.services).map(|service| {
            json!({
                "hostname": service.hostname.as_str(),
                "addresses": service.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "ports": service.ports.iter().map(|p| json!({"name": *p.name, "port": p.port, "protocol": format!("{:?}", p.protocol)})).collect::<Vec<_>>(),
                "endpoints": service.endpoints.len(),
            })
        });
        Value::Array(services.collect())
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
