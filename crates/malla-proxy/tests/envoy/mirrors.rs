//! Mirrored requests: what the other cluster gets, side by side.

use std::time::{Duration, Instant};

use crate::backend::mirrored;
use crate::cases::lab;
use crate::wire::mask;

/// The mirrored request of a proxy, comparable; waits for it.
fn seen(proxy: &str, path: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(text) = mirrored(proxy, path) {
            return text
                .lines()
                .map(mask)
                .collect::<Vec<_>>()
                .join("\n")
                .replace(&format!("x-proxy: {proxy}"), "x-proxy: <proxy>");
        }
        assert!(
            Instant::now() < deadline,
            "no mirrored request of {proxy} to {path}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn copies_are_those_of_envoy() {
    let lab = lab();
    let head = "HTTP/1.1\r\nhost: test.example:8080\r\nx-proxy: {proxy}\r\n";
    for (path, request) in [
        ("/mirror/plain", format!("GET /mirror/plain?q=1 {head}\r\n")),
        (
            "/mirror/body",
            format!("POST /mirror/body {head}content-length: 5\r\n\r\nhello"),
        ),
        (
            "/mirror/chunks",
            format!(
                "POST /mirror/chunks {head}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
            ),
        ),
    ] {
        lab.check("plain", &request);
        assert_eq!(
            seen("envoy", path),
            seen("malla", path),
            "left: Envoy, right: Malla"
        );
    }
}
