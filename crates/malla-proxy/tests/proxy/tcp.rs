//! The TCP proxy: bytes, counters, refusals.
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::support::{
    Running, bind, bootstrap, cluster, echo, free_port, listener, round_trip, tcp_proxy,
};

fn one_hop(at: std::net::SocketAddr, backend: std::net::SocketAddr, more: &str) -> String {
    bootstrap(
        &[listener("tcp", at, &tcp_proxy("backend", ""), "")],
        &[cluster("backend", &[backend], more)],
    )
}

fn anywhere() -> std::net::SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test]
async fn bytes_go_through_and_are_counted() {
    let backend = echo("").await;
    let (proxy, address) = Running::start(&one_hop(anywhere(), backend, ""), "tcp").await;
    for _ in 0..20 {
        assert_eq!(round_trip(address, "hello").await, "hello");
    }
    assert_eq!(proxy.admin("/ready").await, "LIVE\n");
    for line in [
        "tcp.tcp.downstream_cx_total: 20",
        "tcp.tcp.downstream_cx_rx_bytes_total: 100",
    ] {
        proxy.until_stat(line).await;
    }
    let clusters = proxy.admin("/clusters").await;
    assert!(
        clusters.contains(&format!("backend::{backend}::cx_total::20\n")),
        "{clusters}"
    );
    assert_eq!(proxy.admin("/listeners").await, format!("tcp::{address}\n"));
    let dump: serde_json::Value = serde_json::from_str(&proxy.admin("/config_dump").await).unwrap();
    let cluster = dump.pointer("/configs/1/static_clusters/0/cluster/name");
    assert_eq!(
        cluster.and_then(|name| name.as_str()),
        Some("backend"),
        "{dump:#}"
    );
    let prometheus = proxy.admin("/stats/prometheus").await;
    assert!(
        prometheus.contains("envoy_cluster_upstream_cx_total{envoy_cluster_name=\"backend\"} 20\n"),
        "{prometheus}"
    );
    proxy.stop().await;
    assert!(
        TcpStream::connect(address).await.is_err(),
        "the port is free again"
    );
}

#[tokio::test]
async fn an_endpoint_that_refuses_closes_the_connection() {
    let (proxy, address) = Running::start(&one_hop(anywhere(), free_port(), ""), "tcp").await;
    assert_eq!(round_trip(address, "hello").await, "");
    proxy
        .until_stat("cluster.backend.upstream_cx_connect_fail: 1")
        .await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_drain_waits_for_connections_and_no_longer() {
    let (proxy, address) = Running::start(&one_hop(anywhere(), echo("").await, ""), "tcp").await;
    let mut open = TcpStream::connect(address).await.unwrap();
    open.write_all(b"ping").await.unwrap();
    let mut echoed = [0; 4];
    open.read_exact(&mut echoed).await.unwrap();
    let started = Instant::now();
    let last_words = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        open.write_all(b"last").await.unwrap();
        open.read_exact(&mut echoed).await.unwrap();
        drop(open);
    };
    tokio::join!(proxy.stop(), last_words);
    assert_eq!(&echoed, b"last");
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "it ended as the last connection did"
    );
}

#[tokio::test]
async fn an_unknown_cluster_is_no_route() {
    let yaml = bootstrap(
        &[listener("tcp", anywhere(), &tcp_proxy("nowhere", ""), "")],
        &[cluster("other", &[], "")],
    );
    let (proxy, address) = Running::start(&yaml, "tcp").await;
    assert_eq!(round_trip(address, "hello").await, "");
    proxy.until_stat("tcp.tcp.downstream_cx_no_route: 1").await;
    proxy.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_breaker_are_closed() {
    let limits = "    circuit_breakers: { thresholds: [ { max_connections: 1 } ] }\n";
    let (proxy, address) =
        Running::start(&one_hop(anywhere(), echo("hi").await, limits), "tcp").await;
    let first = TcpStream::connect(address).await.unwrap();
    first.readable().await.unwrap();
    assert_eq!(round_trip(address, "").await, "");
    proxy
        .until_stat("cluster.backend.upstream_cx_overflow: 1")
        .await;
    drop(first);
    proxy
        .until_stat("cluster.backend.upstream_cx_active: 0")
        .await;
    assert_eq!(round_trip(address, "").await, "hi");
    proxy.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let text = bind(&one_hop(address, address, ""))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("listener `tcp`") && text.contains(&address.to_string()),
        "{text}"
    );
}

#[tokio::test]
async fn a_missing_certificate_file_is_named() {
    let tls = "    transport_socket: { name: tls, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: { validation_context: { trusted_ca: { filename: /nowhere/ca.pem } } } } }\n";
    let text = bind(&one_hop(anywhere(), anywhere(), tls))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("cluster `backend`") && text.contains("/nowhere/ca.pem"),
        "{text}"
    );
}
