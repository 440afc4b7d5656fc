//! Connections and probes of the agent's port, over real sockets.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use malla_runtime::task::AbortOnDrop;

use super::*;
use crate::settings::{Paths, Role};

const PATIENCE: Duration = Duration::from_secs(20);

struct Ready;

impl Proxy for Ready {
    fn ready(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn metrics(&self) -> BoxFuture<'_, Result<String, String>> {
        Box::pin(std::future::ready(Ok(String::new())))
    }
}

async fn start() -> (SocketAddr, AbortOnDrop<()>) {
    let variables = [
        ("POD_NAME", "cart-1"),
        ("POD_NAMESPACE", "base"),
        ("INSTANCE_IP", "127.0.0.1"),
    ];
    let environment = variables
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let settings = Settings::read(Role::Sidecar, None, &environment, Paths::default()).unwrap();
    let status = Status::new(
        &settings,
        Arc::new(Ready),
        Readiness::new(),
        Registry::new(),
        malla_identity::default_provider(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = AbortOnDrop::spawn(Span::none(), serve(listener, status));
    (address, serving)
}

async fn probe(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = b"GET /healthz/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn silent_connections_do_not_keep_probes_out() {
    let (address, _serving) = start().await;
    let mut silent = Vec::new();
    for _ in 0..2 * LIMITS.total {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    // Sooner than the silent ones would be cut off for their silence.
    let answer = tokio::time::timeout(HEAD_TIMEOUT / 2, probe(address)).await;
    let answer = answer.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut byte = [0];
    let oldest = tokio::time::timeout(PATIENCE, silent[0].read(&mut byte)).await;
    assert!(!matches!(oldest.unwrap(), Ok(1..)), "it made room");
}
