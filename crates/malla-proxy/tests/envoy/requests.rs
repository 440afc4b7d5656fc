//! The requests that are compared, by listener.
//!
//! `{proxy}` tells the backend which proxy is asking.

/// Plain GETs.
pub(crate) const PLAIN_PATHS: &[&str] = &[
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
    "/stream-limit",
    "/stream-unlimited",
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
    "/sticky",
    "/tls-only",
    "/grpc-only",
    "/query",
    "/query?key=v",
    "/header-match",
];

/// GETs with further header lines.
pub(crate) const PLAIN_HEADERS: &[(&str, &str)] = &[
    ("/sticky", "cookie: other=1; stick=\"mine\""),
    ("/cluster-header", "x-cluster: backend"),
    ("/cluster-header", "x-cluster: nope"),
    ("/header-match", "x-kind: a"),
    ("/header-match", "x-kind: b\r\nx-kind: c"),
    ("/header-match", "x-kind: z\r\nx-kind: a"),
    ("/header-match", "x-kind: z,a"),
    ("/cors", "origin: http://good.example"),
    ("/cors", "origin: http://bad.example"),
    ("/denied", "x-allow: yes"),
    ("/denied", "x-allow: no\r\nx-allow: yes"),
    ("/", "connection: close"),
    ("/", "connection: x-mine\r\nx-mine: 1"),
    (
        "/",
        "te: trailers\r\nkeep-alive: timeout=1\r\nproxy-connection: keep-alive",
    ),
    ("/", "x-forwarded-for: 1.2.3.4\r\nx-forwarded-proto: https"),
    ("/", "x-forwarded-for: 10.0.0.1"),
    ("/", "x-request-id: my-own-id"),
    (
        "/",
        "x-envoy-upstream-rq-timeout-ms: 5000\r\nx-envoy-retry-on: 5xx",
    ),
    ("/", "x-forwarded-client-cert: By=spiffe://x"),
    ("/", "x-envoy-internal: true"),
    (
        "/",
        "x-envoy-original-host: b\r\nx-envoy-decorator-operation: c",
    ),
    ("/", "upgrade: websocket\r\nconnection: upgrade"),
    ("/grpc-only", "content-type: application/grpc"),
    ("/nowhere-cluster", "content-type: application/grpc"),
    ("/dead", "content-type: application/grpc"),
    ("/denied", "content-type: application/grpc"),
    ("/", "user-agent: test/1.0\r\nx_under: 1"),
];

/// GETs from an internal client, with what only such a one may ask for.
pub(crate) const INTERNAL: &[(&str, &str)] = &[
    ("/", "x-a: b"),
    ("/slow/1000", "x-envoy-upstream-rq-timeout-ms: 200"),
    (
        "/slow/1000",
        "x-envoy-upstream-rq-timeout-ms: 200\r\nx-envoy-upstream-rq-timeout-alt-response: 1",
    ),
    ("/flaky/503/1/i", "x-envoy-retry-on: 5xx"),
    (
        "/flaky/503/3/j",
        "x-envoy-retry-on: gateway-error\r\nx-envoy-max-retries: 3",
    ),
    (
        "/flaky/418/1/k",
        "x-envoy-retry-on: retriable-status-codes\r\nx-envoy-retriable-status-codes: 418,419",
    ),
    (
        "/slow/1000",
        "x-envoy-retry-on: 5xx\r\nx-envoy-upstream-rq-per-try-timeout-ms: 200",
    ),
];

/// Anything else.
pub(crate) const PLAIN_RAW: &[&str] = &[
    "OPTIONS /cors HTTP/1.1\r\nhost: test.example\r\norigin: http://good.example\r\naccess-control-request-method: POST\r\n\r\n",
    "OPTIONS /cors HTTP/1.1\r\nhost: test.example\r\norigin: http://bad.example\r\naccess-control-request-method: POST\r\ncontent-length: 0\r\n\r\n",
    "HEAD / HTTP/1.1\r\nhost: test.example\r\n\r\n",
    "HEAD /direct HTTP/1.1\r\nhost: test.example\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: other.example\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: TEST.example\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: test.example:8080\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: a.wild.example\r\n\r\n",
    "GET / HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\nhost:\r\n\r\n",
    "GET / HTTP/1.0\r\nhost: test.example\r\n\r\n",
    "GET http://test.example/abs HTTP/1.1\r\nhost: ignored.example\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nhost: test.example\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: test.example\r\ncontent-length: 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nhost: test.example\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: test.example\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "DELETE / HTTP/1.1\r\nhost: test.example\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST /retry/flaky/503/1/e HTTP/1.1\r\nhost: test.example\r\nx-proxy: {proxy}\r\ncontent-length: 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nhost: test.example\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\nhello",
];

/// Plain GETs to the edge listener, which normalises paths.
pub(crate) const EDGE_PATHS: &[&str] = &[
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
];

/// GETs with further header lines.
pub(crate) const EDGE_HEADERS: &[(&str, &str)] = &[
    ("/", "x-forwarded-for: 1.2.3.4"),
    (
        "/",
        "x-forwarded-for: 10.0.0.1\r\nx-forwarded-proto: https\r\nx-request-id: mine\r\nx-envoy-retry-on: 5xx",
    ),
    ("/", "x_under: 1"),
];

/// Anything else.
pub(crate) const EDGE_RAW: &[&str] = &[
    "GET / HTTP/1.1\r\nhost: test.example:80\r\n\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "GET / HTTP/1.0\r\nhost: test.example\r\nconnection: keep-alive\r\n\r\n",
    "GET /chunked HTTP/1.0\r\nhost: test.example\r\n\r\n",
];

/// All of them, in order.
pub(crate) fn all() -> Vec<(&'static str, String)> {
    let get = |path: &str, lines: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: test.example\r\nx-proxy: {{proxy}}\r\n{lines}\r\n")
    };
    let mut out = Vec::new();
    for (listener, paths, headers, raw) in [
        ("plain", PLAIN_PATHS, PLAIN_HEADERS, PLAIN_RAW),
        ("edge", EDGE_PATHS, EDGE_HEADERS, EDGE_RAW),
    ] {
        out.extend(paths.iter().map(|path| (listener, get(path, ""))));
        out.extend(
            headers
                .iter()
                .map(|(path, lines)| (listener, get(path, &format!("{lines}\r\n")))),
        );
        if listener == "plain" {
            let from = "x-forwarded-for: 10.0.0.1\r\n";
            out.extend(
                INTERNAL
                    .iter()
                    .map(|(path, lines)| (listener, get(path, &format!("{from}{lines}\r\n")))),
            );
        }
        out.extend(raw.iter().map(|request| (listener, (*request).to_owned())));
    }
    out
}
