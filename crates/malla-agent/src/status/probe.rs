//! The application's own probes, made by the agent on the kubelet's behalf.
//!
//! The kubelet has no certificate of the mesh, so its probes would be turned away where mutual TLS
//! is required. The injector therefore points them to the agent, which calls the application from
//! an address that capture lets through.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use malla_identity::source::CertSource;
use malla_identity::tls::{ClientOptions, client_config};
use malla_runtime::socket::{ConnectOptions, connect};
use rustls::crypto::CryptoProvider;
use serde::Deserialize;

use crate::http::Call;

/// One entry of `ISTIO_KUBE_APP_PROBERS`. Exactly one of the handlers is given.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    #[serde(default)]
    pub http_get: Option<HttpGet>,
    #[serde(default)]
    pub tcp_socket: Option<TcpSocket>,
    /// Seconds; the kubelet's default is one.
    #[serde(default)]
    pub timeout_seconds: Option<u64>,
}

/// `httpGet` of a Kubernetes probe.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpGet {
    #[serde(default)]
    pub path: String,
    pub port: u16,
    /// `HTTP` or `HTTPS`; certificates are not verified, as the kubelet does not.
    #[serde(default)]
    pub scheme: Option<String>,
    /// The pod itself when absent.
    #[serde(default)]
    pub host: Option<String>,
    #[serde(default)]
    pub http_headers: Vec<HttpHeader>,
}

/// A header of an HTTP probe.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct HttpHeader {
    pub name: String,
    #[serde(default)]
    pub value: String,
}

/// `tcpSocket` of a Kubernetes probe.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct TcpSocket {
    pub port: u16,
}

impl Probe {
    /// Makes the probe. `Ok` is the application's own status (200 for a TCP connection).
    pub(super) async fn call(
        &self,
        pod: IpAddr,
        provider: &Arc<CryptoProvider>,
    ) -> Result<StatusCode, String> {
        let timeout = Duration::from_secs(self.timeout_seconds.unwrap_or(1).max(1));
        match (&self.http_get, &self.tcp_socket) {
            (Some(get), None) => get.call(pod, timeout, provider).await,
            (None, Some(socket)) => {
                let address = SocketAddr::new(pod, socket.port);
                let connecting = connect(address, ConnectOptions::default());
                let connected = tokio::time::timeout(timeout, connecting).await;
                match connected {
                    Ok(Ok(_)) => Ok(StatusCode::OK),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err(format!("{address} did not answer within {timeout:?}")),
                }
            }
            _ => Err("the probe has no handler, or two (expected httpGet or tcpSocket)".to_owned()),
        }
    }
}

impl HttpGet {
    async fn call(
        &self,
        pod: IpAddr,
        timeout: Duration,
        provider: &Arc<CryptoProvider>,
    ) -> Result<StatusCode, String> {
        let host = match self.host.as_deref() {
            None | Some("") => pod,
            Some(host) => host.parse().map_err(|_| {
                format!("httpGet.host is {host:?} (expected an IP address, or none for the pod)")
            })?,
        };
        let path = match &*self.path {
            "" => "/",
            path => path,
        };
        let mut call = Call::new(SocketAddr::new(host, self.port), Method::GET, path);
        call.timeout = timeout;
        call.past_capture = true;
        call.headers = vec![("user-agent", "kube-probe/malla")];
        let own = self.http_headers.iter();
        call.headers
            .extend(own.map(|header| (&*header.name, &*header.value)));
        if self
            .scheme
            .as_deref()
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
        {
            let options = ClientOptions {
                verify: false,
                ..ClientOptions::web(false, &[])
            };
            let config = client_config(&CertSource::new(), options, provider);
            call.tls = Some(Arc::new(config.map_err(|error| error.to_string())?));
        }
        Ok(call.send().await?.status())
    }
}
