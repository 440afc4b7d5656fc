//! Requests that two readers could cut differently: whatever a proxy makes of them, the backend sees one request, or none.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::cases::lab;

/// All that comes back until the proxy closes or is silent for a moment.
fn pour(address: std::net::SocketAddr, bytes: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(400)))
        .unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    let mut out = Vec::new();
    let mut buffer = [0; 8192];
    while let Ok(read) = stream.read(&mut buffer) {
        if read == 0 {
            break;
        }
        out.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&out).into_owned()
}

const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nhost: test.example\r\n\r\n";

#[test]
fn nothing_is_smuggled() {
    let lab = lab();
    let address = lab.malla.address("plain");
    let head = "POST / HTTP/1.1\r\nhost: test.example\r\n";
    let chunked = "0\r\n\r\n";
    let mut served = Vec::new();
    for (name, request) in [
        (
            "CL.TE",
            format!(
                "{head}content-length: {}\r\ntransfer-encoding: chunked\r\n\r\n{chunked}{HIDDEN}",
                chunked.len() + HIDDEN.len()
            ),
        ),
        (
            "TE.CL",
            format!(
                "{head}transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n{chunked}{HIDDEN}"
            ),
        ),
        (
            "two lengths",
            format!(
                "{head}content-length: 0\r\ncontent-length: {}\r\n\r\n{HIDDEN}",
                HIDDEN.len()
            ),
        ),
        (
            "signed length",
            format!("{head}content-length: +{}\r\n\r\n{HIDDEN}", HIDDEN.len()),
        ),
        (
            "length list",
            format!(
                "{head}content-length: {0}, {0}\r\n\r\n{HIDDEN}",
                HIDDEN.len()
            ),
        ),
        (
            "odd coding",
            format!("{head}transfer-encoding: xchunked\r\n\r\n{HIDDEN}"),
        ),
        (
            "coding after chunked",
            format!("{head}transfer-encoding: chunked, identity\r\n\r\n{chunked}{HIDDEN}"),
        ),
        (
            "space before colon",
            format!("{head}content-length : {}\r\n\r\n{HIDDEN}", HIDDEN.len()),
        ),
        (
            "folded line",
            format!("{head}x-a: b\r\n transfer-encoding: chunked\r\n\r\n{HIDDEN}"),
        ),
        (
            "bare CR",
            format!("{head}x-a: b\rtransfer-encoding: chunked\r\n\r\n{HIDDEN}"),
        ),
        (
            "chunk overflow",
            format!("{head}transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n{HIDDEN}"),
        ),
        (
            "chunk with sign",
            format!("{head}transfer-encoding: chunked\r\n\r\n-1\r\n{HIDDEN}"),
        ),
        (
            "HTTP/1.0 chunked",
            "POST / HTTP/1.0\r\nhost: test.example\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_owned()
                + HIDDEN,
        ),
        (
            "two hosts",
            format!("GET / HTTP/1.1\r\nhost: test.example\r\nhost: other.example\r\n\r\n{HIDDEN}"),
        ),
        (
            "host with path",
            format!("GET / HTTP/1.1\r\nhost: test.example/x\r\n\r\n{HIDDEN}"),
        ),
        ("null in value", format!("{head}x-a: b\0c\r\n\r\n{HIDDEN}")),
    ] {
        let answer = pour(address, &request);
        let bodies = answer.matches("HTTP/1.1 200").count();
        let refused = answer.starts_with("HTTP/1.1 4")
            || answer.starts_with("HTTP/1.0 4")
            || answer.is_empty();
        // Either the whole is refused, or the framing was plain enough to say where the first request ended, in which
        // case a second one on the same connection is just that.
        let one_request = bodies == 1 && answer.contains("POST / HTTP/1.1");
        if !refused && !one_request {
            served.push(format!("{name}: {answer}"));
        }
        let hidden_in_body = answer.contains("body: GET /hidden");
        assert!(!hidden_in_body || name == "length list", "{name}: {answer}");
    }
    assert!(served.is_empty(), "{}", served.join("\n=====\n"));
}

#[test]
fn limits_hold() {
    let lab = lab();
    let address = lab.malla.address("plain");
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    let long = format!("x-long: {}\r\n", "a".repeat(70 * 1024));
    for (name, extra) in [("fields", many), ("bytes", long)] {
        let answer = pour(
            address,
            &format!("GET / HTTP/1.1\r\nhost: test.example\r\n{extra}\r\n"),
        );
        assert!(answer.starts_with("HTTP/1.1 431"), "{name}: {answer}");
    }
}
