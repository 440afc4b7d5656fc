//! One HTTP/1.1 request to someone in the pod, within bounds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use malla_runtime::socket::{ConnectOptions, connect};
use malla_runtime::task::AbortOnDrop;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tracing::Span;

use crate::istiod::Io;

/// Bytes of an answer that are read; metrics of a busy proxy have a few MiB.
const MAX_BODY: usize = 64 << 20;

/// A request to someone in the pod.
#[derive(Debug, Clone)]
pub(crate) struct Call<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) headers: Vec<(&'a str, &'a str)>,
    pub(crate) timeout: Duration,
    /// From the address that capture lets through to the application.
    pub(crate) past_capture: bool,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// Bytes of the answer that are read.
    pub(crate) most: usize,
}

impl<'a> Call<'a> {
    pub(crate) fn new(address: SocketAddr, method: Method, path: &'a str) -> Self {
        Self {
            address,
            method,
            path,
            headers: Vec::new(),
            timeout: Duration::from_secs(5),
            past_capture: false,
            tls: None,
            most: MAX_BODY,
        }
    }

    /// The whole answer, or why there is none.
    pub(crate) async fn send(self) -> Result<Response<Bytes>, String> {
        let (address, timeout) = (self.address, self.timeout);
        tokio::time::timeout(timeout, self.exchange())
            .await
            .unwrap_or_else(|_| Err(format!("{address} did not answer within {timeout:?}")))
    }

    async fn exchange(self) -> Result<Response<Bytes>, String> {
        let io = self.open().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(io))
            .await
            .map_err(|e| e.to_string())?;
        let _connection = AbortOnDrop::spawn(Span::current(), async move {
            // What goes wrong shows in the answer.
            let _ = connection.await;
        });
        let mut request = Request::builder().method(self.method).uri(self.path);
        if !self
            .headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            request = request.header("host", self.address.to_string());
        }
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|e| e.to_string())?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|e| e.to_string())?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, self.most)
            .collect()
            .await
            .map_err(|e| e.to_string())?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }

    async fn open(&self) -> Result<Box<dyn Io>, String> {
        let source = if self.address.is_ipv4() {
            IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6))
        } else {
            IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6))
        };
        let options = ConnectOptions {
            source: self.past_capture.then(|| SocketAddr::new(source, 0)),
            ..ConnectOptions::default()
        };
        let connected = connect(self.address, options).await;
        let tcp = connected.map_err(|error| format!("{error}: {}", error.io()))?;
        let Some(config) = &self.tls else {
            return Ok(Box::new(tcp));
        };
        let name = ServerName::from(self.address.ip());
        let stream = TlsConnector::from(config.clone()).connect(name, tcp).await;
        Ok(Box::new(stream.map_err(|error| error.to_string())?))
    }
}

/// An error for an answer that is not 2xx.
pub(crate) fn successful(answer: Response<Bytes>) -> Result<Bytes, String> {
    if answer.status().is_success() {
        return Ok(answer.into_body());
    }
    Err(format!("the answer is {}", answer.status()))
}
