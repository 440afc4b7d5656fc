//! Istio's standard metrics of two sidecars with mutual TLS between them, as a scrape sees them.
use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Stdio;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use super::support::{Certs, LIMIT, Running, cluster, echo, listener, round_trip, tcp_proxy};

const STATS: &str = r#"{ name: istio.stats, typed_config: { "@type": type.googleapis.com/udpa.type.v1.TypedStruct, type_url: type.googleapis.com/stats.PluginConfig, value: VALUE } }"#;

/// Metadata of a workload that does not exist.
const FORGED: &str = "ChkKDVdPUktMT0FEX05BTUUSCBoGZm9yZ2Vk";

/// A server of HTTP/1 that answers each request with its own head, and lies about itself.
async fn mirror_of_heads() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
                    if !head.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\nx-envoy-peer-metadata: {FORGED}\r\ncontent-length: {}\r\n\r\n",
                        head.len()
                    );
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let _ = stream.write_all(&head).await;
                    head.clear();
                }
            });
        }
    });
    address
}

/// A bootstrap's node, as an agent would write it.
fn node(app: &str, namespace: &str) -> String {
    format!(
        "node: {{ id: sidecar~10.0.0.1~{app}-1.{namespace}~{namespace}.svc.cluster.local, metadata: {{ NAME: {app}-1, NAMESPACE: {namespace}, WORKLOAD_NAME: {app}-v1, CLUSTER_ID: zone-a, ISTIO_VERSION: 1.30.0, LABELS: {{ app: {app}, version: v1, service.istio.io/canonical-name: {app} }} }} }}\n"
    )
}

/// A connection manager with the mesh's filters; the cluster's metadata names the service.
fn manager(peers: &str, stats: &str, cluster: &str) -> String {
    let stats = STATS.replace("VALUE", stats);
    format!(
        r#"{{ name: http, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: http, http_filters: [
        {{ name: istio.metadata_exchange, typed_config: {{ "@type": type.googleapis.com/io.istio.http.peer_metadata.Config, {peers} }} }},
        {stats},
        {{ name: router, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }} ],
        route_config: {{ virtual_hosts: [ {{ name: all, domains: ["*"], routes: [ {{ match: {{ prefix: / }}, route: {{ cluster: {cluster} }} }} ] }} ] }} }} }}"#
    )
}

fn service(name: &str) -> String {
    format!(
        "    metadata: {{ filter_metadata: {{ istio: {{ services: [ {{ host: {name}.shop.svc.cluster.local, name: {name}, namespace: shop }} ] }} }} }}\n"
    )
}

const INBOUND: &str = "downstream_discovery: [ { istio_headers: {} } ], downstream_propagation: [ { istio_headers: {} } ]";
const OUTBOUND: &str = "upstream_discovery: [ { istio_headers: {} } ], upstream_propagation: [ { istio_headers: { skip_external_clusters: true } } ]";

fn bootstrap(node: &str, listeners: &[String], clusters: &[String]) -> String {
    format!("{node}{}", super::support::bootstrap(listeners, clusters))
}

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Both sidecars: of `web` in `base`, which calls `cart` in `shop`.
struct Pair {
    caller: Running,
    called: Running,
    outbound: SocketAddr,
}

async fn pair(certs: &Certs, app: SocketAddr) -> Pair {
    let tls = certs.downstream("server");
    let inbound = manager(INBOUND, "{ disable_host_header_fallback: true }", "app");
    let called = bootstrap(
        &node("cart", "shop"),
        &[listener(
            "in",
            anywhere(),
            &inbound,
            &format!("{tls}    traffic_direction: INBOUND\n"),
        )],
        &[cluster("app", &[app], &service("cart"))],
    );
    let (called, inbound) = Running::start(&called, "in").await;
    let tls = certs.upstream("client", "server");
    let outbound = manager(OUTBOUND, "{}", "cart");
    let caller = bootstrap(
        &node("web", "base"),
        &[listener(
            "out",
            anywhere(),
            &outbound,
            "    traffic_direction: OUTBOUND\n",
        )],
        &[cluster(
            "cart",
            &[inbound],
            &format!("{tls}{}", service("cart")),
        )],
    );
    let (caller, outbound) = Running::start(&caller, "out").await;
    Pair {
        caller,
        called,
        outbound,
    }
}

/// Status line, headers and body of a GET.
async fn get(address: SocketAddr, more: &str) -> String {
    let work = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request =
            format!("GET /a HTTP/1.1\r\nhost: cart:80\r\nconnection: close\r\n{more}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.to_ascii_lowercase()
    };
    timeout(LIMIT, work).await.unwrap()
}

/// The value of the only series of a metric that has all these labels, once there is one.
async fn series(proxy: &Running, metric: &str, labels: &[(&str, &str)]) -> f64 {
    let deadline = Instant::now() + LIMIT;
    loop {
        let text = proxy.admin("/stats/prometheus").await;
        let has = |line: &&str| {
            line.starts_with(&format!("{metric}{{"))
                && labels
                    .iter()
                    .all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")))
        };
        let found: Vec<&str> = text.lines().filter(has).collect();
        if let [line] = found[..] {
            return line.rsplit_once(' ').unwrap().1.parse().unwrap();
        }
        assert!(Instant::now() < deadline, "{metric} {labels:?} in:\n{text}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Debian's `promtool check metrics`: exit code 3 is a matter of taste (Istio's names have no base units), 1 is not.
async fn check_by_promtool(proxy: &Running) {
    let text = proxy.admin("/stats/prometheus").await;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool on the PATH (Debian package prometheus)");
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .await
        .unwrap();
    let done = timeout(LIMIT, promtool.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(matches!(done.status.code(), Some(0 | 3)), "{said}\n{text}");
    for line in said
        .lines()
        .filter(|line| line.starts_with("istio_") || line.starts_with("malla_"))
    {
        assert!(line.contains("use base unit"), "{line}");
    }
}

const MESH: &[(&str, &str)] = &[
    ("source_workload", "web-v1"),
    ("source_canonical_service", "web"),
    ("source_canonical_revision", "v1"),
    ("source_workload_namespace", "base"),
    ("source_app", "web"),
    ("source_version", "v1"),
    ("source_cluster", "zone-a"),
    (
        "source_principal",
        "spiffe://cluster.local/ns/base/sa/client",
    ),
    ("destination_workload", "cart-v1"),
    ("destination_app", "cart"),
    ("destination_version", "v1"),
    (
        "destination_principal",
        "spiffe://cluster.local/ns/base/sa/server",
    ),
    ("destination_service", "cart.shop.svc.cluster.local"),
    ("destination_service_name", "cart"),
    ("destination_service_namespace", "shop"),
    ("destination_canonical_service", "cart"),
    ("destination_cluster", "zone-a"),
    ("request_protocol", "http"),
    ("response_code", "200"),
    ("grpc_response_status", ""),
    ("response_flags", "-"),
];

fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    MESH.iter().chain(more).copied().collect()
}

#[tokio::test]
async fn both_ends_of_a_request_name_both_ends() {
    let certs = Certs::new(&["client", "server"]);
    let pair = pair(&certs, mirror_of_heads().await).await;
    for _ in 0..3 {
        let forged = format!("x-envoy-peer-metadata: {FORGED}\r\n");
        let answer = get(pair.outbound, &forged).await;
        assert!(answer.starts_with("http/1.1 200"), "{answer}");
        assert!(
            !answer.contains("peer-metadata"),
            "neither application sees any of it: {answer}"
        );
    }
    let source = with(&[
        ("reporter", "source"),
        ("connection_security_policy", "unknown"),
    ]);
    let destination = with(&[
        ("reporter", "destination"),
        ("connection_security_policy", "mutual_tls"),
    ]);
    for (proxy, labels) in [(&pair.caller, &source), (&pair.called, &destination)] {
        assert_eq!(series(proxy, "istio_requests_total", labels).await, 3.0);
        for metric in [
            "istio_request_duration_milliseconds",
            "istio_request_bytes",
            "istio_response_bytes",
        ] {
            assert_eq!(series(proxy, &format!("{metric}_count"), labels).await, 3.0);
            assert!(series(proxy, &format!("{metric}_sum"), labels).await > 0.0);
        }
        assert_eq!(
            series(proxy, "istio_build", &[("tag", "1.30.0")]).await,
            1.0
        );
        check_by_promtool(proxy).await;
    }
    pair.caller.stop().await;
    pair.called.stop().await;
}

#[tokio::test]
async fn what_cannot_be_reached_has_its_flags_and_strangers_are_unknown() {
    let nowhere = super::support::free_port();
    let inbound = manager(INBOUND, "{ disable_host_header_fallback: true }", "app");
    let yaml = bootstrap(
        &node("cart", "shop"),
        &[listener(
            "in",
            anywhere(),
            &inbound,
            "    traffic_direction: INBOUND\n",
        )],
        &[cluster("app", &[nowhere], "")],
    );
    let (proxy, address) = Running::start(&yaml, "in").await;
    let answer = get(
        address,
        "x-envoy-peer-metadata: ////\r\nx-envoy-peer-metadata-id: me\r\n",
    )
    .await;
    assert!(answer.starts_with("http/1.1 503"), "{answer}");
    let labels = [
        ("reporter", "destination"),
        ("source_workload", "unknown"),
        ("source_principal", "unknown"),
        ("source_canonical_revision", "latest"),
        ("destination_service", "cart"),
        ("destination_service_namespace", "shop"),
        ("response_code", "503"),
        ("response_flags", "UF"),
        ("connection_security_policy", "none"),
    ];
    assert_eq!(series(&proxy, "istio_requests_total", &labels).await, 1.0);
    // Who tells of itself is told of us, whatever it told.
    assert!(
        answer.contains("x-envoy-peer-metadata-id: sidecar~10.0.0.1~cart-1.shop"),
        "{answer}"
    );
    assert!(!get(address, "").await.contains("peer-metadata"));
    proxy.stop().await;
}

#[tokio::test]
async fn the_outside_is_told_nothing() {
    let outside = mirror_of_heads().await;
    let external = "    metadata: { filter_metadata: { istio: { external: true, services: [ { host: example.com, name: example.com, namespace: base } ] } } }\n";
    let yaml = bootstrap(
        &node("web", "base"),
        &[listener(
            "out",
            anywhere(),
            &manager(OUTBOUND, "{}", "outside"),
            "",
        )],
        &[cluster("outside", &[outside], external)],
    );
    let (proxy, address) = Running::start(&yaml, "out").await;
    let answer = get(address, "x-envoy-peer-metadata: forged\r\n").await;
    assert!(!answer.contains("peer-metadata"), "{answer}");
    assert_eq!(
        series(
            &proxy,
            "istio_requests_total",
            &[
                ("destination_service", "example.com"),
                ("destination_workload", "unknown")
            ]
        )
        .await,
        1.0
    );
    proxy.stop().await;
}

#[tokio::test]
async fn labels_can_be_changed_and_metrics_dropped() {
    let app = mirror_of_heads().await;
    let stats = r#"{ metrics: [ { dimensions: { method: request.method, team: "'shop'", asked: "request.headers['x-team'] + '/' + request.host", own: "node.metadata['LABELS']['app']" }, tags_to_remove: [source_principal] }, { name: request_bytes, drop: true } ] }"#;
    let yaml = bootstrap(
        &node("web", "base"),
        &[listener(
            "out",
            anywhere(),
            &manager(OUTBOUND, stats, "nameless"),
            "",
        )],
        &[cluster("nameless", &[app], "")],
    );
    let (proxy, address) = Running::start(&yaml, "out").await;
    get(address, "x-team: a\"b\r\n").await;
    let labels = [
        ("method", "GET"),
        ("team", "shop"),
        ("asked", "a\\\"b/cart:80"),
        ("own", "web"),
        ("destination_service", "cart:80"),
    ];
    assert_eq!(series(&proxy, "istio_requests_total", &labels).await, 1.0);
    let text = proxy.admin("/stats/prometheus").await;
    assert!(!text.contains("source_principal"), "{text}");
    assert!(!text.contains("istio_request_bytes"), "{text}");
    check_by_promtool(&proxy).await;
    proxy.stop().await;
}

#[tokio::test]
async fn open_connections_are_counted_before_they_end() {
    let stats = STATS.replace("VALUE", "{ tcp_reporting_duration: 0.1s }");
    let filters = format!("{stats}, {}", tcp_proxy("db", ""));
    let yaml = bootstrap(
        &node("web", "base"),
        &[listener("out", anywhere(), &filters, "")],
        &[cluster("db", &[echo("hi ").await], &service("db"))],
    );
    let (proxy, address) = Running::start(&yaml, "out").await;
    let mut open = TcpStream::connect(address).await.unwrap();
    open.write_all(b"there").await.unwrap();
    let mut back = [0; 8];
    timeout(LIMIT, open.read_exact(&mut back))
        .await
        .unwrap()
        .unwrap();
    let labels = [
        ("request_protocol", "tcp"),
        ("destination_service_name", "db"),
    ];
    let deadline = Instant::now() + LIMIT;
    while series(&proxy, "istio_tcp_sent_bytes_total", &labels).await < 8.0 {
        assert!(Instant::now() < deadline, "an open connection is counted");
    }
    assert_eq!(
        series(&proxy, "istio_tcp_received_bytes_total", &labels).await,
        5.0
    );
    assert_eq!(
        series(&proxy, "istio_tcp_connections_opened_total", &labels).await,
        1.0
    );
    assert_eq!(
        series(&proxy, "istio_tcp_connections_closed_total", &labels).await,
        0.0
    );
    drop(open);
    assert_eq!(round_trip(address, "you").await, "hi you");
    while series(&proxy, "istio_tcp_connections_closed_total", &labels).await < 2.0 {
        assert!(Instant::now() < deadline, "an end is counted");
    }
    check_by_promtool(&proxy).await;
    proxy.stop().await;
}

/// A gRPC server that answers every call with three messages, or with an error and none.
async fn grpc_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = |request: Request<Incoming>| async move {
        let fails = request.uri().path().ends_with("/Fail");
        let _ = request.into_body().collect().await;
        let messages = if fails { 0 } else { 3 };
        let data = Bytes::from([0, 0, 0, 0, 1, 7].repeat(messages));
        let status = if fails { "14" } else { "0" };
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.parse().unwrap());
        let body = Full::new(data).with_trailers(std::future::ready(Some(Ok(trailers))));
        let mut response = Response::new(body);
        let kind = "application/grpc".parse().unwrap();
        response.headers_mut().insert("content-type", kind);
        Ok::<_, Infallible>(response)
    };
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            tokio::spawn(serving);
        }
    });
    address
}

#[tokio::test]
async fn calls_have_a_status_and_their_messages_are_counted() {
    const HTTP2: &str = r#"    typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: { http2_protocol_options: {} } } }
"#;
    let more = format!("{HTTP2}{}", service("cart"));
    let yaml = bootstrap(
        &node("web", "base"),
        &[listener(
            "out",
            anywhere(),
            &manager(OUTBOUND, "{}", "cart"),
            "",
        )],
        &[cluster("cart", &[grpc_server().await], &more)],
    );
    let (proxy, address) = Running::start(&yaml, "out").await;
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    for method in ["Good", "Good", "Fail"] {
        let request = Request::post(format!("http://cart/shop.Cart/{method}"))
            .header("content-type", "application/grpc")
            .body(Full::new(Bytes::from([0, 0, 0, 0, 1, 7].repeat(2))))
            .unwrap();
        let answer = timeout(LIMIT, client.send_request(request))
            .await
            .unwrap()
            .unwrap();
        timeout(LIMIT, answer.into_body().collect())
            .await
            .unwrap()
            .unwrap();
    }
    for (status, calls) in [("0", 2.0), ("14", 1.0)] {
        let labels = [
            ("request_protocol", "grpc"),
            ("response_code", "200"),
            ("grpc_response_status", status),
            ("destination_service_name", "cart"),
        ];
        assert_eq!(series(&proxy, "istio_requests_total", &labels).await, calls);
    }
    let labels = [("destination_service_name", "cart")];
    assert_eq!(
        series(&proxy, "istio_request_messages_total", &labels).await,
        6.0
    );
    assert_eq!(
        series(&proxy, "istio_response_messages_total", &labels).await,
        6.0
    );
    check_by_promtool(&proxy).await;
    proxy.stop().await;
}

const EXCHANGE: &str = r#"{ name: istio.metadata_exchange, typed_config: { "@type": type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange, protocol: istio-peer-exchange } }"#;

/// Bytes over mutual TLS; each side does the exchange or does not.
async fn bytes_between(caller_tells: bool, called_tells: bool) -> (Running, Running) {
    let certs = Certs::new(&["client", "server"]);
    let alpn = |tls: String, tells: bool| match tells {
        true => tls.replace("[istio]", "[istio-peer-exchange, istio]"),
        false => tls,
    };
    let stats = STATS.replace("VALUE", "{}");
    let filters = format!("{EXCHANGE}, {stats}, {}", tcp_proxy("db", ""));
    let tls = alpn(certs.downstream("server"), called_tells);
    let called = bootstrap(
        &node("db", "shop"),
        &[listener(
            "in",
            anywhere(),
            &filters,
            &format!("{tls}    traffic_direction: INBOUND\n"),
        )],
        &[cluster("db", &[echo("hi ").await], &service("db"))],
    );
    let (called, inbound) = Running::start(&called, "in").await;
    let filters = format!("{stats}, {}", tcp_proxy("db", ""));
    let tls = alpn(certs.upstream("client", "server"), caller_tells);
    let more = format!("{tls}{}    filters: [ {EXCHANGE} ]\n", service("db"));
    let caller = bootstrap(
        &node("web", "base"),
        &[listener(
            "out",
            anywhere(),
            &filters,
            "    traffic_direction: OUTBOUND\n",
        )],
        &[cluster("db", &[inbound], &more)],
    );
    let (caller, outbound) = Running::start(&caller, "out").await;
    assert_eq!(round_trip(outbound, "there").await, "hi there");
    assert_eq!(round_trip(outbound, "").await, "hi ");
    (caller, called)
}

#[tokio::test]
async fn proxies_tell_each_other_before_bytes() {
    let (caller, called) = bytes_between(true, true).await;
    for (proxy, reporter, policy) in [
        (&caller, "source", "unknown"),
        (&called, "destination", "mutual_tls"),
    ] {
        let labels = [
            ("reporter", reporter),
            ("source_workload", "web-v1"),
            ("source_workload_namespace", "base"),
            ("destination_workload", "db-v1"),
            ("destination_app", "db"),
            ("destination_service", "db.shop.svc.cluster.local"),
            ("connection_security_policy", policy),
        ];
        assert_eq!(
            series(proxy, "istio_tcp_connections_opened_total", &labels).await,
            2.0
        );
        let deadline = Instant::now() + LIMIT;
        while series(proxy, "istio_tcp_connections_closed_total", &labels).await < 2.0 {
            assert!(Instant::now() < deadline);
        }
        assert_eq!(
            series(proxy, "istio_tcp_sent_bytes_total", &labels).await,
            11.0,
            "no byte of the preambles"
        );
        assert_eq!(
            series(proxy, "istio_tcp_received_bytes_total", &labels).await,
            5.0
        );
    }
    caller.stop().await;
    called.stop().await;
}

#[tokio::test]
async fn who_does_not_tell_is_known_by_its_certificate() {
    for (caller_tells, called_tells) in [(true, false), (false, true)] {
        let (caller, called) = bytes_between(caller_tells, called_tells).await;
        let labels = [
            ("source_workload", "unknown"),
            ("source_workload_namespace", "base"),
            (
                "source_principal",
                "spiffe://cluster.local/ns/base/sa/client",
            ),
        ];
        assert_eq!(
            series(&called, "istio_tcp_connections_opened_total", &labels).await,
            2.0
        );
        caller.stop().await;
        called.stop().await;
    }
}
