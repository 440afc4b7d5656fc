//! HTTP/2 on both sides: a backend and a client, with prior knowledge or under TLS.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::wire::Answer;

type Body = BoxBody<Bytes, std::io::Error>;

/// A request as the client sends it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ask {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) headers: &'static [(&'static str, &'static str)],
    pub(crate) body: &'static str,
    pub(crate) trailers: &'static [(&'static str, &'static str)],
}

/// Starts an h2c server; it lives as long as the process.
pub(crate) fn start() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper::service::service_fn(serve);
                tokio::spawn(async move {
                    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    // Resets are part of what is tested.
                    let _ = builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
    });
    address
}

fn frames(frames: Vec<Result<Frame<Bytes>, std::io::Error>>) -> Body {
    BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)))
}

fn trailers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect::<Vec<(http::HeaderName, http::HeaderValue)>>()
        .into_iter()
        .collect()
}

async fn serve(request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
    let (head, body) = request.into_parts();
    let grpc = Response::builder().header("content-type", "application/grpc");
    let data = |text: &'static str| Ok(Frame::data(Bytes::from_static(text.as_bytes())));
    Ok(match head.uri.path() {
        "/h2/grpc" => {
            body.collect().await.map_err(std::io::Error::other)?;
            grpc.body(frames(vec![
                data("message"),
                Ok(Frame::trailers(trailers(&[
                    ("grpc-status", "0"),
                    ("x-more", "1"),
                ]))),
            ]))
            .unwrap()
        }
        "/h2/grpc-error" => grpc
            .header("grpc-status", "5")
            .header("grpc-message", "none such")
            .body(frames(vec![]))
            .unwrap(),
        "/h2/reset" => return Err(std::io::Error::other("reset")),
        "/h2/reset-later" => Response::new(frames(vec![
            data("some"),
            Err(std::io::Error::other("reset")),
        ])),
        _ if head.method == http::Method::HEAD => Response::builder()
            .header("content-length", "10")
            .body(frames(vec![]))
            .unwrap(),
        _ => {
            let collected = body.collect().await.map_err(std::io::Error::other)?;
            let after = collected.trailers().cloned().unwrap_or_default();
            let bytes = collected.to_bytes();
            let mut lines: Vec<String> = head
                .headers
                .iter()
                .map(|(name, value)| {
                    format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()))
                })
                .collect();
            lines.sort();
            let text = format!(
                "{} {} {:?}\n{}body: {}\ntrailers: {after:?}\n",
                head.method,
                head.uri,
                head.version,
                lines.concat(),
                String::from_utf8_lossy(&bytes),
            );
            Response::new(BodyExt::boxed(
                Full::new(Bytes::from(text)).map_err(|never: Infallible| match never {}),
            ))
        }
    })
}

/// Sends one request over HTTP/2 and reads the answer; trailers are shown as headers of the same name with a dot.
pub(crate) fn exchange(address: SocketAddr, ask: &Ask, proxy: &str) -> Answer {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        match tokio::time::timeout(Duration::from_secs(10), go(address, ask, proxy)).await {
            Ok(answer) => answer,
            Err(_) => ended("timed out"),
        }
    })
}

fn ended(how: &str) -> Answer {
    Answer {
        status: how.into(),
        headers: BTreeMap::new(),
        body: String::new(),
        closed: false,
    }
}

async fn go(address: SocketAddr, ask: &Ask, proxy: &str) -> Answer {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(ask.method)
        .version(Version::HTTP_2)
        .uri(format!("http://test.example{}", ask.path))
        .header("x-proxy", proxy);
    for (name, value) in ask.headers {
        request = request.header(*name, *value);
    }
    let mut parts = Vec::new();
    if !ask.body.is_empty() {
        parts.push(Ok(Frame::data(Bytes::from_static(ask.body.as_bytes()))));
    }
    if !ask.trailers.is_empty() {
        parts.push(Ok(Frame::trailers(trailers(ask.trailers))));
    }
    let body = if parts.is_empty() {
        BodyExt::boxed(http_body_util::Empty::new().map_err(|never: Infallible| match never {}))
    } else {
        frames(parts)
    };
    let response = match sender.send_request(request.body(body).unwrap()).await {
        Ok(response) => response,
        Err(error) => return ended(&format!("failed: {}", reason(&error))),
    };
    let status = response.status().as_u16().to_string();
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in response.headers() {
        headers.insert(
            name.to_string(),
            String::from_utf8_lossy(value.as_bytes()).into_owned(),
        );
    }
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => match frame.into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => {
                    for (name, value) in frame.trailers_ref().into_iter().flatten() {
                        headers.insert(
                            format!("{name}."),
                            String::from_utf8_lossy(value.as_bytes()).into_owned(),
                        );
                    }
                }
            },
            Err(error) => {
                bytes.extend_from_slice(format!("<{}>", reason(&error)).as_bytes());
                break;
            }
        }
    }
    Answer {
        status,
        headers,
        body: String::from_utf8_lossy(&bytes).into_owned(),
        closed: false,
    }
}

fn reason(error: &hyper::Error) -> String {
    let h2 = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    h2.and_then(h2::Error::reason)
        .map_or_else(|| error.to_string(), |reason| format!("{reason:?}"))
}

/// Sends a request and resets its stream a moment later.
pub(crate) fn give_up(address: SocketAddr, path: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        let request = Request::get(format!("http://test.example{path}")).version(Version::HTTP_2);
        let body = http_body_util::Empty::<Bytes>::new();
        let asking = sender.send_request(request.body(body).unwrap());
        assert!(
            tokio::time::timeout(Duration::from_millis(200), asking)
                .await
                .is_err()
        );
        // The reset goes out before the connection does.
        tokio::time::sleep(Duration::from_millis(200)).await;
    });
}
