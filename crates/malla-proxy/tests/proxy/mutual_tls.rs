//! Mutual TLS with ourselves, Envoy and OpenSSL.
use std::process::Stdio;

use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::support::{
    Certs, Envoy, LIMIT, Running, bind, bootstrap, cluster, echo, free_port, listener, round_trip,
    tcp_proxy,
};

/// Plain in, mutual TLS out to `server`.
fn client_side(
    certs: &Certs,
    at: std::net::SocketAddr,
    server: std::net::SocketAddr,
    expected: &str,
) -> String {
    let tls = certs.upstream("client", expected);
    bootstrap(
        &[listener("out", at, &tcp_proxy("peer", ""), "")],
        &[cluster("peer", &[server], &tls)],
    )
}

/// Mutual TLS in, plain out to `backend`.
fn server_side(certs: &Certs, at: std::net::SocketAddr, backend: std::net::SocketAddr) -> String {
    let tls = certs.downstream("server");
    bootstrap(
        &[listener("in", at, &tcp_proxy("app", ""), &tls)],
        &[cluster("app", &[backend], "")],
    )
}

fn anywhere() -> std::net::SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test]
async fn malla_calls_malla() {
    let certs = Certs::new(&["client", "server"]);
    let (inner, inner_address) =
        Running::start(&server_side(&certs, anywhere(), echo("hi ").await), "in").await;
    let (outer, address) = Running::start(
        &client_side(&certs, anywhere(), inner_address, "server"),
        "out",
    )
    .await;
    for _ in 0..3 {
        assert_eq!(round_trip(address, "there").await, "hi there");
    }
    inner.until_stat("listener.in.ssl.handshake: 3").await;
    outer.until_stat("cluster.peer.ssl.handshake: 3").await;
    let certificates = outer.admin("/certs").await;
    assert!(
        certificates.contains("spiffe://cluster.local/ns/base/sa/client"),
        "{certificates}"
    );
    outer.stop().await;
    inner.stop().await;
}

#[tokio::test]
async fn malla_calls_envoy() {
    let certs = Certs::new(&["client", "server"]);
    let at = free_port();
    let _envoy = Envoy::start(&server_side(&certs, at, echo("hi ").await)).await;
    let (proxy, address) =
        Running::start(&client_side(&certs, anywhere(), at, "server"), "out").await;
    assert_eq!(round_trip(address, "envoy").await, "hi envoy");
    proxy.stop().await;
}

#[tokio::test]
async fn envoy_calls_malla() {
    let certs = Certs::new(&["client", "server"]);
    let (proxy, inner) =
        Running::start(&server_side(&certs, anywhere(), echo("hi ").await), "in").await;
    let at = free_port();
    let _envoy = Envoy::start(&client_side(&certs, at, inner, "server")).await;
    assert_eq!(round_trip(at, "malla").await, "hi malla");
    proxy.stop().await;
}

#[tokio::test]
async fn the_wrong_server_is_refused() {
    let certs = Certs::new(&["client", "server"]);
    let (inner, inner_address) =
        Running::start(&server_side(&certs, anywhere(), echo("hi").await), "in").await;
    let yaml = client_side(&certs, anywhere(), inner_address, "somebody-else");
    let (outer, address) = Running::start(&yaml, "out").await;
    assert_eq!(round_trip(address, "").await, "");
    outer
        .until_stat("cluster.peer.ssl.fail_verify_error: 1")
        .await;
    outer.stop().await;
    inner.stop().await;
}

/// What `openssl s_client` reads from the listener before the listener ends; at most two bytes.
async fn s_client(address: std::net::SocketAddr, arguments: &[String]) -> String {
    let mut child = Command::new("openssl")
        .args([
            "s_client",
            "-quiet",
            "-connect",
            &address.to_string(),
            "-servername",
            "web.test",
        ])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("openssl on the PATH");
    let mut read = String::new();
    let stdout = child.stdout.take().unwrap();
    timeout(LIMIT, stdout.take(2).read_to_string(&mut read))
        .await
        .expect("an end")
        .unwrap();
    read
}

#[tokio::test]
async fn openssl_gets_in_with_the_right_certificate_only() {
    let certs = Certs::new(&["client", "server"]);
    let foreign = Certs::new(&["client"]);
    let (proxy, address) =
        Running::start(&server_side(&certs, anywhere(), echo("hi").await), "in").await;
    let pair = |certs: &Certs| {
        let path = |file: &str| certs.path(file).display().to_string();
        [
            "-cert".to_owned(),
            path("client.pem"),
            "-key".to_owned(),
            path("client.key"),
        ]
    };
    assert_eq!(s_client(address, &pair(&certs)).await, "hi");
    assert_eq!(s_client(address, &[]).await, "", "without a certificate");
    assert_eq!(
        s_client(address, &pair(&foreign)).await,
        "",
        "with one of another mesh"
    );
    proxy
        .until_stat("listener.in.ssl.fail_verify_no_cert: 1")
        .await;
    proxy
        .until_stat("listener.in.ssl.fail_verify_error: 1")
        .await;
    proxy.stop().await;
}

/// Anybody can make a certificate with a colleague's name in it.
#[tokio::test]
async fn a_certificate_nobody_vouches_for_is_no_identity() {
    let certs = Certs::new(&["client", "server"]);
    let rbac = r#"{ name: rbac, typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC, stat_prefix: rbac, rules: { action: ALLOW, policies: { named: { permissions: [ { any: true } ], principals: [ { authenticated: { principal_name: { prefix: "spiffe://" } } } ] } } } } }"#;
    let filters = format!("{rbac}, {}", tcp_proxy("app", ""));
    let trusting = certs.downstream("server");
    let trust = trusting.find(", validation_context").unwrap();
    let end = trust + trusting[trust..].find("} }").unwrap() + 3;
    let believing = format!("{}{}", &trusting[..trust], &trusting[end..]);
    for (tls, want) in [(trusting, "hi there"), (believing, "")] {
        let app = cluster("app", &[echo("hi ").await], "");
        let inside = bootstrap(&[listener("in", anywhere(), &filters, &tls)], &[app]);
        let (inner, inner_address) = Running::start(&inside, "in").await;
        let outside = client_side(&certs, anywhere(), inner_address, "server");
        let (outer, address) = Running::start(&outside, "out").await;
        assert_eq!(round_trip(address, "there").await, want, "{tls}");
        outer.stop().await;
        inner.stop().await;
    }
    let names = r#", validation_context: { match_typed_subject_alt_names: [ { san_type: URI, matcher: { prefix: "spiffe://" } } ] }"#;
    let naming = certs.downstream("server");
    let naming = format!("{}{names}{}", &naming[..trust], &naming[end..]);
    let app = cluster("app", &[], "");
    let yaml = bootstrap(&[listener("in", anywhere(), &filters, &naming)], &[app]);
    let Err(error) = bind(&yaml).await else {
        panic!("names without a CA were accepted");
    };
    let mut said = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = cause {
        said += &format!("{error}; ");
        cause = error.source();
    }
    assert!(said.contains("set trusted_ca"), "{said}");
}
