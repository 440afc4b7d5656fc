//! The proxy in process, over real sockets, without HTTP.
use std::net::SocketAddr;
use std::time::Duration;

use malla_proxy::app::{BoundProxy, ConfigSource, Options, Proxy, StartError};
use malla_xds_proto::json::from_yaml;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

fn options() -> Options {
    Options { concurrency: 2, admin: Some("127.0.0.1:0".parse().unwrap()), ..Options::new(malla_identity::default_provider()) }
}

async fn bind(yaml: &str) -> Result<BoundProxy, StartError> {
    Proxy::bind(ConfigSource::Static(Box::new(from_yaml(yaml).unwrap())), options()).await
}

fn tcp_yaml(port: u16, backend: SocketAddr, more: &str) -> String {
    format!(
        r#"
static_resources:
  listeners:
  - name: tcp
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          cluster: backend
  clusters:
  - name: backend
    connect_timeout: 1s
    type: STATIC{more}
    load_assignment:
      cluster_name: backend
      endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }} ] }} ]
"#,
        backend.port()
    )
}

/// Echoes until its client ends.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

async fn admin(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn round_trip(address: SocketAddr, text: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    got
}

#[tokio::test]
async fn bytes_go_through_and_are_counted() {
    let backend = echo().await;
    let proxy = bind(&tcp_yaml(0, backend, "")).await.unwrap();
    let (address, admin_address) = (proxy.addr("tcp").unwrap(), proxy.admin_addr().unwrap());
    assert!(proxy.readiness().is_ready());
    let (stop, stopped) = oneshot::channel();
    let running = tokio::spawn(proxy.run(async {
        let _ = stopped.await;
    }));
    let work = async {
        for _ in 0..20 {
            assert_eq!(round_trip(address, b"hello").await, b"hello");
        }
        assert!(admin(admin_address, "/ready").await.ends_with("LIVE\n"));
        let stats = admin(admin_address, "/stats?filter=tcp.tcp").await;
        assert!(stats.contains("tcp.tcp.downstream_cx_total: 20\n"), "{stats}");
        assert!(stats.contains("tcp.tcp.downstream_cx_rx_bytes_total: 100\n"), "{stats}");
        let clusters = admin(admin_address, "/clusters").await;
        assert!(clusters.contains(&format!("backend::{backend}::cx_total::20\n")), "{clusters}");
        let listeners = admin(admin_address, "/listeners").await;
        assert!(listeners.ends_with(&format!("tcp::{address}\n")), "{listeners}");
        let dump = admin(admin_address, "/config_dump").await;
        assert!(dump.contains("envoy.admin.v3.ClustersConfigDump"), "{dump}");
    };
    timeout(LIMIT, work).await.unwrap();
    stop.send(()).unwrap();
    timeout(LIMIT, running).await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "the port is free again");
}

#[tokio::test]
async fn an_endpoint_that_refuses_closes_the_connection() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let proxy = bind(&tcp_yaml(0, free, "")).await.unwrap();
    let address = proxy.addr("tcp").unwrap();
    let running = tokio::spawn(proxy.run(std::future::pending()));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut got = Vec::new();
    timeout(LIMIT, stream.read_to_end(&mut got)).await.unwrap().unwrap();
    assert!(got.is_empty());
    running.abort();
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = bind(&tcp_yaml(port, "127.0.0.1:1".parse().unwrap(), "")).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("listener `tcp`") && text.contains(&format!("127.0.0.1:{port}")), "{text}");
}

#[tokio::test]
async fn a_missing_certificate_file_is_named() {
    let tls = r#"
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context: { validation_context: { trusted_ca: { filename: /nowhere/ca.pem } } }"#;
    let error = bind(&tcp_yaml(0, "127.0.0.1:1".parse().unwrap(), tls)).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("cluster `backend`") && text.contains("/nowhere/ca.pem"), "{text}");
}
