//! Connections end, and no request is lost by it, whatever ends them and however busy they are.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use malla_runtime::drain::Stopped;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::support::{LIMIT, Running, bootstrap, cluster, http, listener};

/// Bytes of an answer: several frames.
const ANSWER: usize = 40_000;
/// How long clients ask again and again.
const BUSY: Duration = Duration::from_millis(400);

/// A server that takes its time.
async fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(|_| async {
                tokio::time::sleep(Duration::from_millis(3)).await;
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(vec![b'x'; ANSWER]))))
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    address
}

fn request() -> Request<()> {
    let request = Request::get("http://test.example/").header("host", "test.example");
    request.body(()).unwrap()
}

/// Asks until `end`, on a new connection wherever the old one ends; how often it was answered. Not to be let in any more
/// is no loss.
async fn ask_http1(address: SocketAddr, end: Instant) -> usize {
    let mut served = 0;
    'connection: while Instant::now() < end {
        let Ok(stream) = TcpStream::connect(address).await else {
            return served;
        };
        let Ok((mut sender, connection)) = http1::handshake(TokioIo::new(stream)).await else {
            return served;
        };
        let _driving = malla_runtime::task::AbortOnDrop::adopt(tokio::spawn(async move {
            let _ = connection.await;
        }));
        for count in 0.. {
            if Instant::now() > end {
                return served;
            }
            let answer = sender.send_request(request().map(|()| Empty::<Bytes>::new()));
            let answer = match answer.await {
                Ok(answer) => answer,
                Err(_) if count == 0 => return served, // The kernel let it in, and nobody else.
                Err(error) => panic!("request {count} of a connection was lost: {error}"),
            };
            let closes = answer
                .headers()
                .get("connection")
                .is_some_and(|value| value == "close");
            assert_eq!(answer.status(), 200);
            let body = answer.into_body().collect().await.expect("a whole answer");
            assert_eq!(body.to_bytes().len(), ANSWER);
            served += 1;
            if closes {
                continue 'connection;
            }
        }
    }
    served
}

/// The same with several streams at once on each connection.
async fn ask_http2(address: SocketAddr, end: Instant) -> usize {
    let mut served = 0;
    while Instant::now() < end {
        let Ok(stream) = TcpStream::connect(address).await else {
            return served;
        };
        let Ok((client, connection)) = h2::client::handshake(stream).await else {
            return served;
        };
        let _driving = malla_runtime::task::AbortOnDrop::adopt(tokio::spawn(async move {
            let _ = connection.await;
        }));
        let mut streams = JoinSet::new();
        for _ in 0..8 {
            streams.spawn(ask_stream(client.clone(), end));
        }
        let on_this: usize = streams.join_all().await.into_iter().sum();
        if on_this == 0 {
            return served;
        }
        served += on_this;
    }
    served
}

async fn ask_stream(client: h2::client::SendRequest<Bytes>, end: Instant) -> usize {
    let mut served = 0;
    while Instant::now() < end {
        // A connection that goes away takes no new request: none is lost.
        let Ok(mut ready) = client.clone().ready().await else {
            break;
        };
        let Ok((answer, _)) = ready.send_request(request(), true) else {
            break;
        };
        let answer = match answer.await {
            Ok(answer) => answer,
            // On the way when the word came that it would not be served; the client knows that for certain (RFC 9113 §6.8).
            Err(error) if error.reason() == Some(h2::Reason::REFUSED_STREAM) => break,
            Err(error) if error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR) => {
                break;
            }
            Err(_) if served == 0 => break, // The kernel let it in, and nobody else.
            Err(error) => panic!("a stream was lost: {error}"),
        };
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        let mut length = 0;
        while let Some(data) = body.data().await {
            let data = data.expect("a whole answer");
            length += data.len();
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        assert_eq!(length, ANSWER);
        served += 1;
    }
    served
}

/// Lets clients of both kinds ask while connections end by `more` of the manager; then stops the proxy if `stops`.
async fn check(more: &str, stops: bool, ended: &str) {
    let routes = "{ match: { prefix: / }, route: { cluster: web } }";
    let yaml = bootstrap(
        &[listener(
            "web",
            "127.0.0.1:0".parse().unwrap(),
            &http(routes, more),
            "",
        )],
        &[cluster("web", &[backend().await], "")],
    );
    let (proxy, address) = Running::start(&yaml, "web").await;
    let end = Instant::now() + BUSY * 2;
    let mut clients = JoinSet::new();
    for _ in 0..6 {
        clients.spawn(ask_http1(address, end));
    }
    for _ in 0..2 {
        clients.spawn(ask_http2(address, end));
    }
    tokio::time::sleep(BUSY).await;
    if stops {
        let stopped = proxy.stop().await;
        assert!(matches!(stopped, Stopped::Drained), "{stopped:?}");
        let counts = timeout(LIMIT, clients.join_all()).await.unwrap();
        assert!(counts.iter().all(|count| *count > 5), "{counts:?}");
        return;
    }
    let counts = timeout(LIMIT, clients.join_all()).await.unwrap();
    assert!(counts.iter().all(|count| *count > 5), "{counts:?}");
    let stats = proxy.admin("/stats").await;
    let count = stats.lines().find_map(|line| line.strip_prefix(ended));
    let count: u64 = count.and_then(|count| count.parse().ok()).unwrap();
    assert!(count > 8, "{ended}{count}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_stops_loses_no_request() {
    check("", true, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_have_served_enough_lose_no_request() {
    let more = ", common_http_protocol_options: { max_requests_per_connection: 7 }";
    check(more, false, "http.http.downstream_cx_total: ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_old_lose_no_request() {
    let more = ", drain_timeout_jitter: { value: 20 }, common_http_protocol_options: { max_connection_duration: 0.1s, max_connection_duration_jitter: { value: 50 } }";
    check(
        more,
        false,
        "http.http.downstream_cx_max_duration_reached: ",
    )
    .await;
}
