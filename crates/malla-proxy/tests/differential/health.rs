//! Active health checks, side by side: what endpoints are asked, what is made of the answers.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use crate::backend::{self, mirrored};
use crate::lab::{Lab, Side};
use crate::ports::free_port;
use crate::wire::{exchange, mask};

const PATIENCE: Duration = Duration::from_secs(15);

/// Cluster, its address, and how it is checked.
const CHECKS: &[(&str, &str, &str)] = &[
    (
        "ok",
        "{backend}",
        "http_health_check: { path: /probe/ok, host: probe-shadow, request_headers_to_add: [ { header: { key: x-proxy, value: '{proxy_name}' } } ] }",
    ),
    (
        "post",
        "{backend}",
        "http_health_check: { path: /probe/post, method: POST, host: probe-shadow, request_headers_to_add: [ { header: { key: x-proxy, value: '{proxy_name}' }, append_action: OVERWRITE_IF_EXISTS_OR_ADD } ], request_headers_to_remove: [ user-agent ] }",
    ),
    (
        "says_no",
        "{backend}",
        "http_health_check: { path: /status/503 }",
    ),
    (
        "retriable",
        "{backend}",
        "http_health_check: { path: /status/429, retriable_statuses: [ { start: 429, end: 430 } ] }",
    ),
    (
        "other_status",
        "{backend}",
        "http_health_check: { path: /status/404, expected_statuses: [ { start: 404, end: 405 } ] }",
    ),
    (
        "body",
        "{backend}",
        "http_health_check: { path: /status/200, receive: [ { text: '737461747573' }, { text: '323030' } ] }",
    ),
    (
        "wrong_body",
        "{backend}",
        "http_health_check: { path: /status/200, receive: [ { text: '303132' } ] }",
    ),
    (
        "never_ends",
        "{backend}",
        "http_health_check: { path: /slow/60000 }",
    ),
    (
        "garbage",
        "{backend}",
        "http_health_check: { path: /garbage }",
    ),
    ("reset", "{backend}", "http_health_check: { path: /reset }"),
    ("cut_off", "{backend}", "http_health_check: { path: /half }"),
    ("floods", "{flood}", "http_health_check: { path: / }"),
    (
        "endless_head",
        "{endless_head}",
        "http_health_check: { path: / }",
    ),
    ("dead", "{dead}", "http_health_check: { path: / }"),
    ("tcp", "{backend}", "tcp_health_check: {}"),
    ("tcp_dead", "{dead}", "tcp_health_check: {}"),
    // "GET /status/200 HTTP/1.1\r\n\r\n", and "HTTP" in the answer.
    (
        "tcp_talk",
        "{backend}",
        "tcp_health_check: { send: { text: '474554202f7374617475732f32303020485454502f312e310d0a0d0a' }, receive: [ { text: '48545450' } ] }",
    ),
    (
        "tcp_silent",
        "{backend}",
        "tcp_health_check: { receive: [ { text: '48' } ] }",
    ),
    (
        "grpc_to_http1",
        "{backend}",
        "grpc_health_check: { service_name: a }",
    ),
    (
        "http2_to_http1",
        "{backend}",
        "http_health_check: { path: /, codec_client_type: HTTP2 }",
    ),
];

fn start() -> Lab {
    let mut clusters = String::new();
    let mut routes = String::new();
    for (name, port, check) in CHECKS {
        let http2 = if name.starts_with("grpc") {
            ", http2_protocol_options: {}"
        } else {
            ""
        };
        clusters.push_str(&format!(
            "  - {{ name: {name}, connect_timeout: 0.5s{http2}, load_assignment: {{ cluster_name: {name}, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }} ] }} ] }}, common_lb_config: {{ healthy_panic_threshold: {{ value: 0 }} }}, health_checks: [ {{ timeout: 1.5s, interval: 0.2s, no_traffic_interval: 0.2s, unhealthy_threshold: 2, healthy_threshold: 1, {check} }} ] }}\n"
        ));
        routes.push_str(&format!("                - {{ match: {{ prefix: /{name}/ }}, route: {{ cluster: {name}, prefix_rewrite: /status/200 }} }}\n"));
    }
    let template = TEMPLATE
        .replace("{clusters}", &clusters)
        .replace("{routes}", &routes);
    let port = |address: SocketAddr| address.port().to_string();
    Lab::start(
        &template,
        &[
            ("backend", port(backend::start())),
            (
                "flood",
                port(hostile(
                    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
                    b"5\r\nhello\r\n",
                )),
            ),
            (
                "endless_head",
                port(hostile(
                    b"HTTP/1.1 200 OK\r\n",
                    b"x-more: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n",
                )),
            ),
            ("dead", free_port().to_string()),
        ],
    )
}

const TEMPLATE: &str = "
admin: { address: { socket_address: { address: 127.0.0.1, port_value: {port:admin} } } }
static_resources:
  listeners:
  - name: plain
    address: { socket_address: { address: 127.0.0.1, port_value: {port:plain} } }
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: plain
          route_config:
            name: r
            virtual_hosts:
            - name: all
              domains: ['*']
              routes:
{routes}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: { '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
  clusters:
{clusters}
";

/// A server that says `first` and then `again` for as long as somebody reads.
fn hostile(first: &'static [u8], again: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 1024]);
                let mut more = stream.write_all(first).is_ok();
                while more {
                    more = stream.write_all(again).is_ok();
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
    });
    address
}

fn admin(side: &Side, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    exchange(side.address("admin"), &request).body
}

/// Health flags by cluster.
fn flags(side: &Side) -> BTreeMap<String, String> {
    let text = admin(side, "/clusters");
    let rows = text.lines().filter_map(|line| {
        let (cluster, rest) = line.split_once("::")?;
        let (_, flags) = rest.split_once("::health_flags::")?;
        Some((cluster.to_owned(), flags.to_owned()))
    });
    rows.collect()
}

/// One lab for all: the proxies end with the thread that started them.
#[test]
fn health_checks_are_those_of_envoy() {
    let lab = start();
    counters_have_the_same_names(&lab);
    endpoints_are_judged_alike(&lab);
    probes_look_alike(&lab);
}

fn endpoints_are_judged_alike(lab: &Lab) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (envoy, malla) = (flags(&lab.envoy), flags(&lab.malla));
        if envoy == malla && envoy.len() == CHECKS.len() {
            assert_eq!(envoy["ok"], "healthy");
            assert_eq!(envoy["says_no"], "/failed_active_hc");
            assert_eq!(envoy["never_ends"], "/failed_active_hc/active_hc_timeout");
            break;
        }
        assert!(
            Instant::now() < deadline,
            "Envoy: {envoy:#?}\nMalla: {malla:#?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    for (name, ..) in CHECKS {
        lab.check(
            "plain",
            &format!("GET /{name}/ HTTP/1.1\r\nhost: a\r\n\r\n"),
        );
    }
}

fn probes_look_alike(lab: &Lab) {
    for path in ["/probe/ok", "/probe/post"] {
        let seen = |side: &Side| {
            let deadline = Instant::now() + PATIENCE;
            loop {
                if let Some(text) = mirrored(side.name, path) {
                    let text: Vec<String> = text.lines().map(mask).collect();
                    return text.join("\n").replace(side.name, "<proxy>");
                }
                assert!(
                    Instant::now() < deadline,
                    "{} does not ask for {path}",
                    side.name
                );
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        assert_eq!(
            seen(&lab.envoy),
            seen(&lab.malla),
            "left: Envoy, right: Malla"
        );
    }
}

fn counters_have_the_same_names(lab: &Lab) {
    let names = |side: &Side| -> Vec<String> {
        let text = admin(side, "/stats?filter=cluster.ok.health_check");
        let names = text.lines().filter_map(|line| line.split_once(':'));
        names.map(|(name, _)| name.to_owned()).collect()
    };
    assert_eq!(
        names(&lab.envoy),
        names(&lab.malla),
        "left: Envoy, right: Malla"
    );
}
