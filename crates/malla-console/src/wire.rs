//! Small HTTP exchanges of the console's own: bounded in time and size, one connection each.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use malla_runtime::task::AbortOnDrop;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tracing::Span;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("connect to {0}")]
    Connect(String, #[source] std::io::Error),
    #[error("no answer in {0:?}")]
    TooLate(Duration),
    #[error("the exchange broke off")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be written")]
    Request(#[from] http::Error),
    #[error("the answer breaks off or is longer than {0} bytes")]
    TooLong(usize),
    #[error("the answer is not what was expected")]
    NotJson(#[from] serde_json::Error),
    #[error("it answers {0}")]
    Status(StatusCode),
    #[error("the API server forwards no port")]
    NoPort,
    #[error(transparent)]
    Kubernetes(#[from] kube::Error),
}

/// How much one exchange may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) time: Duration,
    pub(crate) bytes: usize,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// One request, as far as we need them.
#[derive(Debug, Clone)]
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: &'a str,
}

impl<'a> Call<'a> {
    pub(crate) fn get(host: &'a str, path: &'a str) -> Self {
        Self {
            method: Method::GET,
            host,
            path,
            headers: &[],
            body: "",
        }
    }

    /// Sends it to `address` (`host:port`).
    ///
    /// # Errors
    /// When there is no whole answer within the bounds; any status is an answer.
    pub(crate) async fn to(&self, address: &str, bounds: Bounds) -> Result<Answer, WireError> {
        let exchange = async {
            let stream = TcpStream::connect(address).await;
            let stream = stream.map_err(|error| WireError::Connect(address.to_owned(), error))?;
            self.exchange(stream, bounds.bytes).await
        };
        in_time(bounds.time, exchange).await
    }

    /// Sends it over a stream that is already there.
    ///
    /// # Errors
    /// As [`Call::to`].
    pub(crate) async fn over<S>(&self, stream: S, bounds: Bounds) -> Result<Answer, WireError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        in_time(bounds.time, self.exchange(stream, bounds.bytes)).await
    }

    async fn exchange<S>(&self, stream: S, most: usize) -> Result<Answer, WireError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let _driving = AbortOnDrop::spawn(Span::none(), async move { drop(connection.await) });
        let mut request = Request::builder()
            .method(&self.method)
            .uri(self.path)
            .header(header::HOST, self.host)
            .header(header::USER_AGENT, "malla-console")
            .header(header::CONNECTION, "close");
        for (name, value) in self.headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(self.body.as_bytes())))?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), most).collect().await;
        let body = body.map_err(|_| WireError::TooLong(most))?.to_bytes();
        Ok(Answer { status, body })
    }
}

async fn in_time<T>(
    time: Duration,
    exchange: impl Future<Output = Result<T, WireError>>,
) -> Result<T, WireError> {
    let answered = tokio::time::timeout(time, exchange).await;
    answered.unwrap_or(Err(WireError::TooLate(time)))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Percent-encodes what is not unreserved (RFC 3986), for one value of a query.
pub(crate) fn query_value(text: &str) -> String {
    let encoded = text.bytes().map(|byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    });
    encoded.collect()
}
