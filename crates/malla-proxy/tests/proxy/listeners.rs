//! Listener filters and filter chains.
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::{
    Certs, Running, bind, bootstrap, cluster, echo, http, listener, round_trip, tcp_proxy,
};

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test]
async fn a_sniffed_port_serves_plain_and_tls_clients() {
    let certs = Certs::new(&["client", "server"]);
    let plain = echo("plain ").await;
    let secret = echo("secret ").await;
    let inspect = r#"
    listener_filters: [ { name: tls, typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector } } ]
"#;
    let chains = format!(
        "    - filter_chain_match: {{ transport_protocol: tls, application_protocols: [istio] }}\n      filters: [ {} ]\n{}",
        tcp_proxy("secret", ""),
        certs.downstream("server")
    );
    let yaml = bootstrap(
        &[listener(
            "in",
            anywhere(),
            &tcp_proxy("plain", ""),
            &format!("{chains}{inspect}"),
        )],
        &[
            cluster("plain", &[plain], ""),
            cluster("secret", &[secret], ""),
        ],
    );
    let (proxy, address) = Running::start(&yaml, "in").await;
    // The echo speaks first only after the client's first bytes have been looked at.
    assert_eq!(round_trip(address, "hello").await, "plain hello");
    let out = bootstrap(
        &[listener("out", anywhere(), &tcp_proxy("peer", ""), "")],
        &[cluster(
            "peer",
            &[address],
            &certs.upstream("client", "server"),
        )],
    );
    let (outer, through) = Running::start(&out, "out").await;
    assert_eq!(round_trip(through, "hello").await, "secret hello");
    outer.stop().await;
    proxy.stop().await;
}

#[tokio::test]
async fn chains_that_cannot_be_told_apart_are_refused() {
    let again = format!("    - filters: [ {} ]\n", tcp_proxy("app", ""));
    let yaml = bootstrap(
        &[listener("in", anywhere(), &tcp_proxy("app", ""), &again)],
        &[cluster("app", &[anywhere()], "")],
    );
    let text = bind(&yaml).await.unwrap_err().to_string();
    assert!(
        text.contains("filter_chains[1]") && text.contains("filter_chains[0]"),
        "{text}"
    );
}

#[tokio::test]
async fn a_drain_tells_busy_http_connections_and_closes_quiet_ones() {
    let hi = r#"{ match: { prefix: "/" }, direct_response: { status: 200, body: { inline_string: "hi" } } }"#;
    let yaml = bootstrap(&[listener("web", anywhere(), &http(hi, ""), "")], &[]);
    let yaml = yaml.replace("  clusters:\n", "");
    let (proxy, address) = Running::start(&yaml, "web").await;
    let mut busy = TcpStream::connect(address).await.unwrap();
    let mut quiet = TcpStream::connect(address).await.unwrap();
    for connection in [&mut busy, &mut quiet] {
        assert!(!ask(connection).await.contains("connection: close"));
    }
    tokio::join!(proxy.stop(), async {
        until_refused(address).await;
        assert!(ask(&mut busy).await.contains("connection: close"));
        for connection in [&mut busy, &mut quiet] {
            assert_eq!(connection.read(&mut [0]).await.unwrap(), 0);
        }
    });
}

/// One request on a connection that stays open; the answer's head and its two bytes.
async fn ask(connection: &mut TcpStream) -> String {
    connection
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nhi") {
        let byte = connection.read_u8().await.unwrap();
        answer.push(byte);
    }
    String::from_utf8(answer).unwrap()
}

async fn until_refused(address: SocketAddr) {
    while TcpStream::connect(address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
