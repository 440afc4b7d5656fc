//! What no peer can hold for longer than it is configured to last.
use std::net::SocketAddr;
use std::sync::Arc;

use malla_runtime::drain::Stopped;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use super::support::{Certs, LIMIT, Running, bootstrap, cluster, http, listener};

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A server that writes `answer` to every connection it has heard a head from, and then nothing more.
async fn answering(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind(anywhere()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer: Arc<[u8]> = answer.into();
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = Arc::clone(&answer);
            open.push(tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                // A client that has gone is no concern of this server.
                let _ = stream.write_all(&answer).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }));
        }
    });
    address
}

#[tokio::test]
async fn a_mirror_that_never_answers_is_given_up_with_the_route() {
    let silent = answering(Vec::new()).await;
    let app = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi".to_vec()).await;
    let route = r#"{ match: { prefix: "/" }, route: { cluster: app, timeout: 0.3s, request_mirror_policies: [ { cluster: silent } ] } }"#;
    let yaml = bootstrap(
        &[listener("web", anywhere(), &http(route, ""), "")],
        &[cluster("app", &[app], ""), cluster("silent", &[silent], "")],
    );
    let (proxy, address) = Running::start(&yaml, "web").await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    timeout(LIMIT, client.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.ends_with("hi"), "{answer}");
    proxy
        .until_stat("cluster.silent.upstream_rq_timeout: 1")
        .await;
    proxy
        .until_stat("cluster.silent.upstream_rq_active: 0")
        .await;
    proxy
        .until_stat("cluster.silent.upstream_cx_active: 0")
        .await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_mirror_of_a_request_that_never_ends_is_given_up_with_it() {
    let app = answering(Vec::new()).await;
    let route = r#"{ match: { prefix: "/" }, route: { cluster: app, request_mirror_policies: [ { cluster: app } ] } }"#;
    let yaml = bootstrap(
        &[listener("web", anywhere(), &http(route, ""), "")],
        &[cluster("app", &[app], "")],
    );
    let (proxy, address) = Running::start(&yaml, "web").await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client
        .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nsome")
        .await
        .unwrap();
    proxy.until_stat("cluster.app.upstream_rq_active: 1").await;
    drop(client);
    proxy.until_stat("http.http.downstream_rq_active: 0").await;
    // A mirror that still waited would have to be killed.
    assert_eq!(proxy.stop().await, Stopped::Drained);
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `SETTINGS` that lets no byte of an answer through.
const NO_WINDOW: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// `GET /` of `x` on stream 1.
const GET: &[u8] = &[0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84, 0x41, 1, b'x'];
/// The beginning of `HEADERS`, without its end.
const HALF_HEADERS: &[u8] = &[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82];

/// Sends `bytes` and nothing more; what comes until the proxy closes the connection.
async fn until_closed(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(bytes).await.unwrap();
    closed(client).await
}

/// What comes until the proxy closes the connection.
async fn closed(mut client: TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    // A reset is an end too.
    let reading = async { while let Ok(1..) = client.read_buf(&mut got).await {} };
    assert!(timeout(LIMIT, reading).await.is_ok(), "still open");
    got
}

#[tokio::test]
async fn connections_that_do_nothing_are_closed_whatever_they_began_with() {
    let more = ", common_http_protocol_options: { idle_timeout: 0.3s }";
    let hi = r#"{ match: { prefix: "/" }, direct_response: { status: 200 } }"#;
    let yaml = bootstrap(&[listener("web", anywhere(), &http(hi, more), "")], &[]);
    let (proxy, address) = Running::start(&yaml.replace("  clusters:\n", ""), "web").await;
    let beginnings: [&[&[u8]]; 8] = [
        &[],
        &[b"PRI * HT"],
        &[b"GET / HTT"],
        &[b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HT"],
        &[PREFACE],
        &[PREFACE, SETTINGS, &[0, 0]],
        &[PREFACE, SETTINGS, GET],
        &[PREFACE, SETTINGS, HALF_HEADERS],
    ];
    let clients = beginnings.map(|parts| {
        let bytes = parts.concat();
        tokio::spawn(async move { until_closed(address, &bytes).await })
    });
    for client in clients {
        client.await.unwrap();
    }
    proxy
        .until_stat("http.http.downstream_cx_idle_timeout: 8")
        .await;
    proxy.until_stat("http.http.downstream_cx_active: 0").await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_head_that_does_not_end_is_a_stream_that_does_not_move() {
    let more = ", stream_idle_timeout: 0.3s";
    let hi = r#"{ match: { prefix: "/" }, direct_response: { status: 200 } }"#;
    let yaml = bootstrap(&[listener("web", anywhere(), &http(hi, more), "")], &[]);
    let (proxy, address) = Running::start(&yaml.replace("  clusters:\n", ""), "web").await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    assert!(client.read(&mut [0; 1024]).await.unwrap() > 0);
    client.write_all(b"GET / HT").await.unwrap();
    closed(client).await;
    until_closed(address, b"GET / HTTP/1.1\r\nhost: x\r\n").await;
    proxy
        .until_stat("http.http.downstream_rq_idle_timeout: 2")
        .await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_handshake_lasts_no_longer_than_an_idle_connection() {
    let certs = Certs::new(&["server"]);
    let more = ", common_http_protocol_options: { idle_timeout: 0.3s }";
    let hi = r#"{ match: { prefix: "/" }, direct_response: { status: 200 } }"#;
    let tls = certs.downstream("server");
    let yaml = bootstrap(&[listener("web", anywhere(), &http(hi, more), &tls)], &[]);
    let (proxy, address) = Running::start(&yaml.replace("  clusters:\n", ""), "web").await;
    // Nothing, and the beginning of a hello.
    until_closed(address, b"").await;
    until_closed(address, &[22, 3, 1, 1, 0, 1, 0, 0]).await;
    proxy
        .until_stat("listener.web.downstream_cx_active: 0")
        .await;
    proxy.stop().await;
}

#[tokio::test]
async fn an_answer_before_the_end_of_its_request_is_the_last() {
    let app = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi".to_vec()).await;
    let route = r#"{ match: { prefix: "/" }, route: { cluster: app } }"#;
    let yaml = bootstrap(
        &[listener("web", anywhere(), &http(route, ""), "")],
        &[cluster("app", &[app], "")],
    );
    let (proxy, address) = Running::start(&yaml, "web").await;
    let post = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nsome";
    let answer = String::from_utf8(until_closed(address, post).await).unwrap();
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(answer.ends_with("hi"), "{answer}");
    proxy.until_stat("cluster.app.upstream_cx_active: 0").await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_tunnel_in_which_nothing_moves_is_closed() {
    let agreed =
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let app = answering(agreed.to_vec()).await;
    let route = r#"{ match: { prefix: "/" }, route: { cluster: app } }"#;
    let more = ", stream_idle_timeout: 0.3s, upgrade_configs: [ { upgrade_type: websocket } ]";
    let yaml = bootstrap(
        &[listener("web", anywhere(), &http(route, more), "")],
        &[cluster("app", &[app], "")],
    );
    let (proxy, address) = Running::start(&yaml, "web").await;
    let ask = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let answer = until_closed(address, ask).await;
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{answer:?}");
    proxy
        .until_stat("http.http.downstream_cx_upgrades_active: 0")
        .await;
    proxy.until_stat("cluster.app.upstream_rq_active: 0").await;
    proxy.stop().await;
}

/// Asks for an endless answer, does not read it, and waits until the endpoint is rid of the request.
async fn check_unread(limits: &str, timeout: &str, bytes: &[u8]) {
    let mut endless = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n".to_vec();
    endless.resize(30_000_000, b'x');
    let app = answering(endless).await;
    let route =
        format!(r#"{{ match: {{ prefix: "/" }}, route: {{ cluster: app, timeout: {timeout} }} }}"#);
    let yaml = bootstrap(
        &[listener("web", anywhere(), &http(&route, limits), "")],
        &[cluster("app", &[app], "")],
    );
    let (proxy, address) = Running::start(&yaml, "web").await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = socket.connect(address).await.unwrap();
    client.write_all(bytes).await.unwrap();
    proxy.until_stat("cluster.app.upstream_rq_total: 1").await;
    proxy.until_stat("cluster.app.upstream_rq_active: 0").await;
    proxy.until_stat("cluster.app.upstream_cx_active: 0").await;
    proxy.until_stat("http.http.downstream_rq_active: 0").await;
    proxy
        .until_stat("http.http.downstream_rq_tx_reset: 1")
        .await;
    drop(client);
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_no_longer_answered_than_one_that_does() {
    let get = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".as_slice();
    let stalled = [PREFACE, NO_WINDOW, GET].concat();
    tokio::join!(
        check_unread("", "1.5s", get),
        check_unread("", "1.5s", &stalled),
        check_unread(", stream_idle_timeout: 1.5s", "0s", get),
        check_unread(", stream_idle_timeout: 1.5s", "0s", &stalled),
        check_unread(
            ", common_http_protocol_options: { max_stream_duration: 1.5s }",
            "0s",
            &stalled
        ),
    );
}
