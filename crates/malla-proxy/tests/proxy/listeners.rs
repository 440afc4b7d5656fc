//! Listener filters and filter chains.
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::{
    Certs, LIMIT, Running, bind, bootstrap, cluster, echo, http, listener, round_trip, tcp_proxy,
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

/// A greeting tells that a connection was let in.
async fn is_served(address: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut greeting = [0; 5];
    stream.read_exact(&mut greeting).await.ok().map(|_| stream)
}

#[tokio::test]
async fn connections_beyond_a_runtime_limit_are_closed() {
    for key in [
        "envoy.resource_limits.listener.in.connection_limit",
        "overload.global_downstream_max_connections",
    ] {
        let greeter = echo("hello").await;
        let yaml = bootstrap(
            &[listener("in", anywhere(), &tcp_proxy("app", ""), "")],
            &[cluster("app", &[greeter], "")],
        );
        let runtime = format!(
            "layered_runtime: {{ layers: [ {{ name: one, static_layer: {{ {key}: 1 }} }} ] }}\n"
        );
        let (proxy, address) = Running::start(&format!("{runtime}{yaml}"), "in").await;
        let first = is_served(address).await.expect("the first one is let in");
        assert!(is_served(address).await.is_none(), "{key}");
        drop(first);
        // The place is free once the proxy has seen the end.
        let deadline = tokio::time::Instant::now() + LIMIT;
        while is_served(address).await.is_none() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{key}: the place stays taken"
            );
        }
        proxy.stop().await;
    }
}

#[tokio::test]
async fn socket_options_are_set_or_refused() {
    let app = echo("hello").await;
    let yaml = |name: u32| {
        // SOL_TCP and an option of it.
        let options = format!(
            "    socket_options: [ {{ level: 6, name: {name}, int_value: 7 }} ]\n    tcp_backlog_size: 16\n"
        );
        bootstrap(
            &[listener("in", anywhere(), &tcp_proxy("app", ""), &options)],
            &[cluster("app", &[app], "")],
        )
    };
    // TCP_KEEPIDLE.
    let (proxy, address) = Running::start(&yaml(4), "in").await;
    assert!(is_served(address).await.is_some());
    proxy.stop().await;
    let error = bind(&yaml(9999)).await.unwrap_err().to_string();
    assert!(error.contains("socket option 6/9999"), "{error}");
}

#[tokio::test]
async fn an_ipv6_listener_takes_ipv4_where_it_is_told_to() {
    let app = echo("hello").await;
    let yaml = |compat: bool| {
        let port = std::net::TcpListener::bind("[::]:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let listener = listener("in", port, &tcp_proxy("app", ""), "");
        let listener = listener
            .replace("address: ::,", "address: \"::\",")
            .replace(
                "port_value:",
                &format!("ipv4_compat: {compat}, port_value:"),
            );
        (
            bootstrap(&[listener], &[cluster("app", &[app], "")]),
            port.port(),
        )
    };
    for compat in [true, false] {
        let (yaml, port) = yaml(compat);
        let (proxy, _) = Running::start(&yaml, "in").await;
        let four = SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(TcpStream::connect(four).await.is_ok(), compat);
        proxy.stop().await;
    }
}

#[tokio::test]
async fn connections_wait_while_a_resource_is_short() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pressure");
    std::fs::write(&file, "0").unwrap();
    let yaml = bootstrap(
        &[listener("tcp", anywhere(), &tcp_proxy("app", ""), "")],
        &[cluster("app", &[echo("hello").await], "")],
    );
    let manager = format!(
        r#"
overload_manager:
  refresh_interval: 0.02s
  resource_monitors: [ {{ name: file, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig, filename: {} }} }} ]
  actions: [ {{ name: envoy.overload_actions.stop_accepting_connections, triggers: [ {{ name: file, threshold: {{ value: 0.9 }} }} ] }} ]
"#,
        file.display()
    );
    let (proxy, address) = Running::start(&(yaml + &manager), "tcp").await;
    assert!(is_served(address).await.is_some());
    std::fs::write(&file, "0.95").unwrap();
    let active = "overload.envoy.overload_actions.stop_accepting_connections.active";
    proxy.until_stat(&format!("{active}: 1")).await;
    let mut waiting = TcpStream::connect(address).await.unwrap();
    let mut greeting = [0; 5];
    let early = tokio::time::timeout(
        Duration::from_millis(150),
        waiting.read_exact(&mut greeting),
    );
    assert!(early.await.is_err(), "it is in the kernel's hands");
    std::fs::write(&file, "0.5").unwrap();
    tokio::time::timeout(LIMIT, waiting.read_exact(&mut greeting))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&greeting, b"hello");
    proxy.until_stat(&format!("{active}: 0")).await;
}
