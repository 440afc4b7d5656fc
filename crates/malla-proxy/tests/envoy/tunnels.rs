//! WebSocket upgrades, side by side.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::cases::lab;
use crate::wire::{comparable, read_answer};

fn upgrade(address: SocketAddr, path: &str) -> (crate::wire::Answer, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: test.example\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: eA==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let answer = comparable(read_answer(&mut stream, false));
    let mut echoed = String::new();
    if answer.status == "101" {
        for word in ["hello ", "again"] {
            stream.write_all(word.as_bytes()).unwrap();
            let mut buffer = [0; 64];
            let read = stream.read(&mut buffer).unwrap();
            echoed.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    }
    (answer, echoed)
}

#[test]
fn a_tunnel_opens_only_when_the_endpoint_agrees() {
    let lab = lab();
    let envoy = upgrade(lab.envoy.address("plain"), "/ws/upgrade");
    let malla = upgrade(lab.malla.address("plain"), "/ws/upgrade");
    assert_eq!(crate::lab::show(&envoy.0), crate::lab::show(&malla.0));
    assert_eq!(
        (envoy.1.as_str(), malla.1.as_str()),
        ("HELLO AGAIN", "HELLO AGAIN")
    );
    // Refused by the endpoint: an answer like any other. (Envoy drops its body.)
    let (answer, _) = upgrade(lab.malla.address("plain"), "/ws/plain");
    assert_eq!(answer.status, "200");
    assert!(
        answer.body.contains("upgrade: websocket"),
        "{}",
        answer.body
    );
    let lines = |side: &crate::lab::Side| {
        let lines = side.lines(1);
        lines
            .iter()
            .take(1)
            .map(|line| crate::wire::mask(line))
            .collect::<Vec<_>>()
    };
    assert_eq!(lines(&lab.envoy), lines(&lab.malla));
}
