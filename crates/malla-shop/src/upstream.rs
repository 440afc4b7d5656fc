//! Calls to the shop's other services.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::serve::Body;
use crate::wire::Stock;

const TIMEOUT: Duration = Duration::from_secs(10);
const LARGEST_ANSWER: usize = 1 << 20;

/// What cart and order hand on of a request, so that its spans are one trace.
const TRACING: [&str; 10] = [
    "x-request-id",
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "x-ot-span-context",
];

/// The shop as its services see it.
#[derive(Debug, Clone)]
pub(crate) struct Shop {
    domain: String,
    client: Client<HttpConnector, Body>,
}

impl Shop {
    pub(crate) fn new(domain: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(TIMEOUT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self {
            domain: domain.to_owned(),
            client,
        }
    }

    /// `host:port` of a service.
    pub(crate) fn authority(&self, service: &str) -> String {
        format!("{service}.{}:7000", self.domain)
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> anyhow::Result<Response<Incoming>> {
        Ok(self.client.request(request).await?)
    }

    /// A GET whose whole answer must arrive in ten seconds; the status is the caller's business.
    pub(crate) async fn get(
        &self,
        service: &str,
        path: &str,
        headers: HeaderMap,
    ) -> anyhow::Result<(u16, Bytes)> {
        let authority = self.authority(service);
        let mut request = Request::get(format!("http://{authority}{path}")).body(empty())?;
        *request.headers_mut() = headers;
        let exchange = async {
            let answer = self.client.request(request).await?;
            let status = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), LARGEST_ANSWER)
                .collect()
                .await;
            let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
            Ok::<_, anyhow::Error>((status, body))
        };
        match tokio::time::timeout(TIMEOUT, exchange).await {
            Ok(done) => done.with_context(|| format!("Get \"http://{authority}{path}\"")),
            Err(_) => bail!("Get \"http://{authority}{path}\": no answer in {TIMEOUT:?}"),
        }
    }

    /// How much there is of each product.
    pub(crate) async fn stock(&self, pids: &[i64], request: &HeaderMap) -> anyhow::Result<Stock> {
        let list = pids
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",");
        let mut headers = tracing_headers(request);
        headers.insert("pids", HeaderValue::from_str(&list)?);
        let (_, body) = self.get("stock", "/stock", headers).await?;
        serde_json::from_slice(&body).context("answer of stock")
    }
}

fn tracing_headers(request: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in TRACING {
        if let Some(value) = request.get(name) {
            headers.insert(name, value.clone());
        }
    }
    headers
}

fn empty() -> Body {
    Full::default()
        .map_err(|never| match never {})
        .boxed_unsync()
}
