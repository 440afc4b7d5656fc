//! What is compared.

use crate::backend;
use crate::lab::{Lab, free_port};

const CONFIG: &str = include_str!("config.yaml");

fn lab() -> Lab {
    let backend = backend::start();
    Lab::start(
        CONFIG,
        &[
            ("backend", backend.port().to_string()),
            ("dead", free_port().to_string()),
        ],
    )
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test.example\r\nx-proxy: {{proxy}}\r\n\r\n")
}

fn with(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test.example\r\nx-proxy: {{proxy}}\r\n{headers}\r\n\r\n")
}

/// Runs every request and reports all differences at once.
#[test]
fn both_proxies_answer_alike() {
    let lab = lab();
    let mut failures = Vec::new();
    for (listener, request) in requests() {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            lab.check(listener, &request)
        }));
        if let Err(panic) = result {
            failures.push(panic.downcast_ref::<String>().cloned().unwrap_or_default());
        }
    }
    failures.extend(log_differences(&lab));
    assert!(
        failures.is_empty(),
        "{} differences\n{}",
        failures.len(),
        failures.join("\n=========\n")
    );
}

fn requests() -> Vec<(&'static str, String)> {
    let mut out: Vec<(&'static str, String)> = Vec::new();
    let mut plain = |request: String| out.push(("plain", request));
    for path in [
        "/",
        "/?q=1",
        "/status/404",
        "/status/500",
        "/status/204",
        "/status/304",
        "/chunked",
        "/until-close",
        "/half",
        "/reset",
        "/garbage",
        "/a/../b",
        "//a",
        "/%41",
        "/prefix/x?y=1",
        "/exact",
        "/exact?z",
        "/exactly",
        "/regex/123/x",
        "/regex/abc/x",
        "/sep",
        "/sep/a",
        "/sepa",
        "/redirect",
        "/redirect-prefix/a?b=c",
        "/redirect-https",
        "/direct",
        "/direct-empty",
        "/nowhere-cluster",
        "/dead",
        "/dead-retry",
        "/timeout",
        "/per-try",
        "/attempts",
        "/weighted",
        "/headers",
        "/rewrite-host",
        "/rewrite-regex/a/b?c",
        "/cluster-header",
        "/fault-abort",
        "/fault-delay",
        "/cors",
        "/denied",
        "/empty-cluster",
        "/retry/flaky/503/1/a",
        "/retry/flaky/503/5/b",
        "/retry/flaky/reset/1/c",
        "/retry/flaky/429/1/d",
        "/case/ABC",
        "/idle",
        "/tls-only",
        "/grpc-only",
        "/query",
        "/query?key=v",
    ] {
        plain(get(path));
    }
    plain(with("/cluster-header", "x-cluster: backend"));
    plain(with("/cluster-header", "x-cluster: nope"));
    plain(with("/header-match", "x-kind: a"));
    plain(with("/header-match", "x-kind: b\r\nx-kind: c"));
    plain(get("/header-match"));
    plain(with("/cors", "origin: http://good.example"));
    plain(with("/cors", "origin: http://bad.example"));
    plain("OPTIONS /cors HTTP/1.1\r\nhost: test.example\r\norigin: http://good.example\r\naccess-control-request-method: POST\r\n\r\n".into());
    plain("OPTIONS /cors HTTP/1.1\r\nhost: test.example\r\norigin: http://bad.example\r\naccess-control-request-method: POST\r\ncontent-length: 0\r\n\r\n".into());
    plain(with("/denied", "x-allow: yes"));
    plain("HEAD / HTTP/1.1\r\nhost: test.example\r\n\r\n".into());
    plain("HEAD /direct HTTP/1.1\r\nhost: test.example\r\n\r\n".into());
    plain("GET / HTTP/1.1\r\nhost: other.example\r\n\r\n".into());
    plain("GET / HTTP/1.1\r\nhost: TEST.example\r\n\r\n".into());
    plain("GET / HTTP/1.1\r\nhost: test.example:8080\r\n\r\n".into());
    plain("GET / HTTP/1.1\r\nhost: a.wild.example\r\n\r\n".into());
    plain("GET / HTTP/1.1\r\n\r\n".into());
    plain("GET / HTTP/1.1\r\nhost:\r\n\r\n".into());
    plain("GET / HTTP/1.0\r\nhost: test.example\r\n\r\n".into());
    plain("GET http://test.example/abs HTTP/1.1\r\nhost: ignored.example\r\n\r\n".into());
    plain("OPTIONS * HTTP/1.1\r\nhost: test.example\r\n\r\n".into());
    plain("POST / HTTP/1.1\r\nhost: test.example\r\ncontent-length: 5\r\n\r\nhello".into());
    plain("POST / HTTP/1.1\r\nhost: test.example\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".into());
    plain("POST /retry/flaky/503/1/e HTTP/1.1\r\nhost: test.example\r\nx-proxy: {proxy}\r\ncontent-length: 5\r\n\r\nhello".into());
    plain(with("/", "connection: close"));
    plain(with("/", "connection: x-mine\r\nx-mine: 1"));
    plain(with(
        "/",
        "te: trailers\r\nkeep-alive: timeout=1\r\nproxy-connection: keep-alive",
    ));
    plain(with(
        "/",
        "x-forwarded-for: 1.2.3.4\r\nx-forwarded-proto: https",
    ));
    plain(with("/", "x-forwarded-for: 10.0.0.1"));
    plain(with("/", "x-request-id: my-own-id"));
    plain(with(
        "/",
        "x-envoy-upstream-rq-timeout-ms: 5000\r\nx-envoy-retry-on: 5xx",
    ));
    plain(with("/", "x-forwarded-client-cert: By=spiffe://x"));
    plain(with("/", "x-envoy-internal: true"));
    plain(with("/", "upgrade: websocket\r\nconnection: upgrade"));
    plain("POST / HTTP/1.1\r\nhost: test.example\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\nhello".into());
    plain(with("/grpc-only", "content-type: application/grpc"));
    plain(with("/nowhere-cluster", "content-type: application/grpc"));
    plain(with("/dead", "content-type: application/grpc"));
    plain(with("/denied", "content-type: application/grpc"));
    plain(with("/", "user-agent: test/1.0\r\nx_under: 1"));

    let mut edge = |request: String| out.push(("edge", request));
    for path in [
        "/",
        "/a/../b",
        "/a/%2e%2e/b",
        "//a//b",
        "/a%2Fb",
        "/a%5cb",
        "/a\\b",
        "/%41%7e",
        "/a/./b/",
        "/..",
        "/a%zz",
        "/x%20y",
    ] {
        edge(get(path));
    }
    edge(with("/", "x-forwarded-for: 1.2.3.4"));
    edge(with(
        "/",
        "x-forwarded-for: 10.0.0.1\r\nx-forwarded-proto: https\r\nx-request-id: mine\r\nx-envoy-retry-on: 5xx",
    ));
    edge("GET / HTTP/1.1\r\nhost: test.example:80\r\n\r\n".into());
    edge("GET / HTTP/1.0\r\n\r\n".into());
    edge("GET / HTTP/1.0\r\nhost: test.example\r\nconnection: keep-alive\r\n\r\n".into());
    edge("GET /chunked HTTP/1.0\r\nhost: test.example\r\n\r\n".into());
    edge(with("/", "x_under: 1"));
    out
}

/// Envoy's codec refuses before it knows what was asked for; here the request is known by then.
fn comparable_line(line: &str) -> String {
    let line = crate::wire::mask(line);
    match line.find(" DPE ") {
        Some(at) => line
            .get(at - 3..)
            .and_then(|line| line.split(" - ").next())
            .unwrap_or_default()
            .to_owned(),
        None => line,
    }
}

/// The same number of lines, equal but for times and ports.
fn log_differences(lab: &Lab) -> Vec<String> {
    let wanted = requests().len();
    let envoy = lab.envoy.lines(wanted);
    let malla = lab.malla.lines(wanted);
    let lines = |lines: Vec<String>| {
        lines
            .iter()
            .map(|line| comparable_line(line))
            .collect::<Vec<_>>()
    };
    let (envoy, malla) = (lines(envoy), lines(malla));
    let mut failures = Vec::new();
    for (left, right) in envoy.iter().zip(&malla) {
        if left != right {
            failures.push(format!("envoy {left}\nmalla {right}"));
        }
    }
    if envoy.len() != malla.len() {
        failures.push(format!(
            "envoy wrote {} lines, malla {}",
            envoy.len(),
            malla.len()
        ));
    }
    failures
}
