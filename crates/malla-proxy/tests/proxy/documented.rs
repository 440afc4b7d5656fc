//! The configurations that `docs/tasks` shows do what is said there.
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::support::{LIMIT, Running, free_port};

/// The first of a document's YAML that is a proxy's own, with these ports instead of its own.
fn shown(document: &str, ports: &[(&str, SocketAddr)]) -> String {
    let path = format!(
        "{}/../../docs/tasks/{document}.md",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(path).unwrap();
    let blocks = text.split("```yaml\n").skip(1);
    let mut blocks = blocks.map(|rest| rest.split_once("```").unwrap().0);
    let own = blocks.find(|yaml| yaml.contains("static_resources:"));
    let mut yaml = own.unwrap().to_owned();
    for (port, address) in ports {
        let theirs = format!("port_value: {port} ");
        assert!(yaml.contains(&theirs), "{theirs}");
        yaml = yaml.replace(&theirs, &format!("port_value: {} ", address.port()));
    }
    yaml
}

async fn status(address: SocketAddr, path: &str, field: &str) -> String {
    let work = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n{field}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    timeout(LIMIT, work).await.unwrap()
}

#[tokio::test]
async fn the_proxy_runs_alone_as_documented() {
    let (web, admin) = (free_port(), free_port());
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ports = [
        ("10000", web),
        ("9901", admin),
        ("8080", server.local_addr().unwrap()),
    ];
    let (proxy, _) = Running::start(&shown("proxy", &ports), "web").await;
    assert_eq!(status(web, "/", "").await, "200");
    let answer = async {
        let (mut stream, _) = server.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await.unwrap();
        let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        stream
    };
    let (_stream, status) = tokio::join!(answer, status(web, "/shop/", ""));
    assert_eq!(status, "204");
    proxy.until_stat("cluster.shop.upstream_rq_204: 1").await;
    proxy.stop().await;
}

const ANN: &str = "x-user: ann\r\n";

#[tokio::test]
async fn requests_are_limited_as_documented() {
    let (web, admin) = (free_port(), free_port());
    let yaml = shown("rate-limits", &[("10000", web), ("9901", admin)]);
    let (proxy, _) = Running::start(&yaml, "web").await;
    for want in ["200", "200", "200", "429"] {
        assert_eq!(status(web, "/", "").await, want);
    }
    for want in ["200", "429"] {
        assert_eq!(status(web, "/", ANN).await, want);
    }
    proxy
        .until_stat("web.http_local_rate_limit.rate_limited: 2")
        .await;
    proxy.stop().await;
}

/// The service of the document: who says to be Ann may pass.
async fn serve(listener: TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut request = [0; 4096];
            let length = stream.read(&mut request).await.unwrap_or(0);
            let known = String::from_utf8_lossy(&request[..length]).contains(ANN);
            let status = if known { "200 OK" } else { "403 Forbidden" };
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        });
    }
}

#[tokio::test]
async fn another_service_is_asked_as_documented() {
    let (web, admin) = (free_port(), free_port());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let check = listener.local_addr().unwrap();
    let serving = tokio::spawn(serve(listener));
    let ports = [("10000", web), ("9901", admin), ("9000", check)];
    let yaml = shown("external-authorization", &ports);
    let (proxy, _) = Running::start(&yaml, "web").await;
    assert_eq!(status(web, "/", "").await, "403");
    assert_eq!(status(web, "/", ANN).await, "200");
    assert_eq!(status(web, "/healthz", "").await, "200");
    serving.abort();
    let _ = serving.await;
    assert_eq!(status(web, "/", ANN).await, "403", "nobody answers");
    for line in ["ok: 1", "denied: 1", "error: 1"] {
        proxy
            .until_stat(&format!("http.web.ext_authz.{line}"))
            .await;
    }
    proxy.stop().await;
}
