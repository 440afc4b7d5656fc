//! One HTTP request of a probe or a hook, from the node's network namespace.
//!
//! Certificates are not verified, as by the kubelet: a probe asks whether something answers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::net::Namespace;

/// What probes call themselves.
const USER_AGENT: &str = "kube-probe/1.37";
/// Of an answer's body only so much is read (the kubelet's limit).
const MOST_BODY: usize = 10 * 1024;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error("port {0:?} is not a port of the container")]
    Port(String),
    #[error("host {0:?} is not an address: probes of other hosts take addresses only")]
    Host(String),
    #[error("invalid request: {0}")]
    Request(#[from] http::Error),
    #[error("dial tcp {to}: {source}")]
    Connect { to: SocketAddr, source: io::Error },
    #[error("tls: {0}")]
    Tls(io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

/// Resolves a probe's port by the container's names.
pub(super) fn port(container: &Container, port: &IntOrString) -> Result<u16, HttpError> {
    let unknown = |text: String| HttpError::Port(text);
    match port {
        IntOrString::Int(number) => u16::try_from(*number).map_err(|_| unknown(number.to_string())),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_ref() == Some(name));
            let number = named.and_then(|port| u16::try_from(port.container_port).ok());
            number
                .or_else(|| name.parse().ok())
                .ok_or_else(|| unknown(name.clone()))
        }
    }
}

/// Resolves where a probe goes: the pod, unless it names an address.
pub(super) fn target(
    pod: SocketAddr,
    host: Option<&String>,
    port: u16,
) -> Result<SocketAddr, HttpError> {
    let mut target = pod;
    target.set_port(port);
    if let Some(host) = host.filter(|host| !host.is_empty()) {
        let address = host.parse().map_err(|_| HttpError::Host(host.clone()))?;
        target.set_ip(address);
    }
    Ok(target)
}

/// Sends a GET; the status of the answer.
pub(super) async fn get(
    node: &Namespace,
    pod: SocketAddr,
    container: &Container,
    action: &HTTPGetAction,
) -> Result<StatusCode, HttpError> {
    let to = target(pod, action.host.as_ref(), port(container, &action.port)?)?;
    let request = request(to, action)?;
    let stream = node.connect(to).await;
    let stream = stream.map_err(|source| HttpError::Connect { to, source })?;
    if action.scheme.as_deref() == Some("HTTPS") {
        let name = ServerName::IpAddress(to.ip().into());
        let connected = TlsConnector::from(blind_tls()?).connect(name, stream).await;
        return send(connected.map_err(HttpError::Tls)?, request).await;
    }
    send(stream, request).await
}

fn request(to: SocketAddr, action: &HTTPGetAction) -> Result<Request<Empty<Bytes>>, HttpError> {
    let path = action.path.as_deref().unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut request = Request::get(format!("{slash}{path}")).body(Empty::new())?;
    let headers = request.headers_mut();
    let host = HeaderValue::from_str(&to.to_string()).map_err(http::Error::from)?;
    headers.insert(http::header::HOST, host);
    headers.insert(
        http::header::USER_AGENT,
        HeaderValue::from_static(USER_AGENT),
    );
    headers.insert(http::header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    for header in action.http_headers.iter().flatten() {
        let name = HeaderName::try_from(&header.name).map_err(http::Error::from)?;
        let value = HeaderValue::from_str(&header.value).map_err(http::Error::from)?;
        headers.insert(name, value);
    }
    Ok(request)
}

async fn send<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<StatusCode, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    // An answer that breaks off has still been given.
    let _body = http_body_util::BodyExt::collect(Limited::new(answer.into_body(), MOST_BODY)).await;
    Ok(status)
}

fn blind_tls() -> Result<Arc<ClientConfig>, HttpError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let schemes = provider
        .signature_verification_algorithms
        .supported_schemes();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| HttpError::Tls(io::Error::other(error)))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(schemes)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Accepts every certificate.
#[derive(Debug)]
struct AnyCertificate(Vec<SignatureScheme>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
