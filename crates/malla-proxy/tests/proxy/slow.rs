//! Peers that do not read hold back whom they listen to: the proxy keeps a bounded part of what it is sent.
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use super::support::{LIMIT, Running, bootstrap, cluster, http, listener};

const CLIENTS: usize = 20;
const BODY: usize = 64 << 20;
/// What the kernel keeps of one connection on either side of the proxy, and 1 MiB of the proxy's own, with room to spare.
const MOST: usize = 24 << 20;

/// The proxy in front of a backend.
async fn in_front_of(backend: SocketAddr) -> (Running, SocketAddr) {
    let routes = "{ match: { prefix: / }, route: { cluster: app, timeout: 0s } }";
    let anywhere = "127.0.0.1:0".parse().unwrap();
    let yaml = bootstrap(
        &[listener("in", anywhere, &http(routes, ""), "")],
        &[cluster("app", &[backend], "")],
    );
    Running::start(&yaml, "in").await
}

/// Waits until a count no longer changes; it has changed before.
async fn settled(count: &AtomicUsize) -> usize {
    let (deadline, mut last, mut since) = (Instant::now() + LIMIT, 0, Instant::now());
    while since.elapsed() < Duration::from_secs(1) || last == 0 {
        assert!(Instant::now() < deadline, "it went on: {last}");
        sleep(Duration::from_millis(20)).await;
        let now = count.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

/// Writes for as long as somebody takes it.
async fn pour(stream: &mut TcpStream, taken: &AtomicUsize) {
    let chunk = vec![b'x'; 64 << 10];
    for _ in 0..BODY / chunk.len() {
        if stream.write_all(&chunk).await.is_err() {
            return;
        }
        taken.fetch_add(chunk.len(), Ordering::Relaxed);
    }
}

/// A backend that answers with long bodies; what of them was taken from it.
async fn talkative() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, taken) = (
        listener.local_addr().unwrap(),
        Arc::new(AtomicUsize::new(0)),
    );
    let count = Arc::clone(&taken);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
                pour(&mut stream, &count).await;
            });
        }
    });
    (address, taken)
}

/// Clients that send this and read nothing.
async fn deaf(address: SocketAddr, request: &[u8]) -> Vec<TcpStream> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(request).await.unwrap();
        clients.push(client);
    }
    clients
}

/// GET with windows that never close.
fn http2_request() -> Vec<u8> {
    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    }
    let most = (1_u32 << 31) - 1;
    let window = [&[0, 4][..], &most.to_be_bytes()].concat();
    let more = (most - 65_535).to_be_bytes();
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &window),
        frame(8, 0, 0, &more),
        // HPACK: GET and http of the static table, a path and an authority as literals.
        frame(1, 5, 1, b"\x82\x86\x04\x02/a\x01\x01a"),
    ]
    .concat()
}

#[tokio::test]
async fn clients_that_do_not_read_hold_the_backend_back() {
    for request in [
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        http2_request(),
    ] {
        let (backend, taken) = talkative().await;
        let (proxy, address) = in_front_of(backend).await;
        let clients = deaf(address, &request).await;
        let each = settled(&taken).await / CLIENTS;
        assert!(each < MOST, "{each} bytes for each client");
        drop(clients);
        proxy.stop().await;
    }
}

#[tokio::test]
async fn a_backend_that_does_not_read_holds_clients_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (proxy, address) = in_front_of(listener.local_addr().unwrap()).await;
    let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {BODY}\r\n\r\n");
    let taken = Arc::new(AtomicUsize::new(0));
    let mut pouring = tokio::task::JoinSet::new();
    for mut client in deaf(address, head.as_bytes()).await {
        let taken = Arc::clone(&taken);
        pouring.spawn(async move { pour(&mut client, &taken).await });
    }
    let mut held = Vec::new();
    for _ in 0..CLIENTS {
        held.push(listener.accept().await.unwrap());
    }
    let each = settled(&taken).await / CLIENTS;
    assert!(each < MOST, "{each} bytes of each client");
    drop((pouring, held));
    proxy.stop().await;
}
