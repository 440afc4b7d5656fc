//! Listener filters and filter chains.
use super::support::{
    Certs, Running, bind, bootstrap, cluster, echo, listener, round_trip, tcp_proxy,
};

fn anywhere() -> std::net::SocketAddr {
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
