//! Limits on connections, and clusters by server name, side by side.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::lab::{Lab, Side};
use crate::ports::free_port;
use crate::wire::{exchange, mask};

const CONFIG: &str = include_str!("limits.yaml");
const PATIENCE: Duration = Duration::from_secs(5);

fn lab() -> Lab {
    Lab::start(
        CONFIG,
        &[
            ("echo", echo().port().to_string()),
            ("dead", free_port().to_string()),
        ],
    )
}

/// Sends back what it gets.
pub(crate) fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut writer = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut &stream, &mut writer);
            });
        }
    });
    address
}

fn same_lines(lab: &Lab, count: usize) {
    let lines = |side: &Side| -> Vec<String> {
        let mut lines: Vec<_> = side.lines(count).iter().map(|line| mask(line)).collect();
        lines.sort(); // Connections end in any order.
        lines
    };
    assert_eq!(lines(&lab.envoy), lines(&lab.malla), "left: Envoy");
}

/// What a client hears on a connection of its own that stays open, or that it was closed.
pub(crate) fn say_hello(address: SocketAddr) -> (TcpStream, &'static str) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut heard = [0; 5];
    let said = stream.write_all(b"hello").is_ok() && stream.read_exact(&mut heard).is_ok();
    let word = if said && heard == *b"hello" {
        "served"
    } else {
        "closed"
    };
    (stream, word)
}

fn counter(side: &Side, name: &str) -> Option<u64> {
    let answer = exchange(
        side.address("admin"),
        "GET /stats HTTP/1.1\r\nhost: admin\r\n\r\n",
    );
    let mut lines = answer.body.lines().filter_map(|line| line.split_once(": "));
    lines
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.parse().ok())
}

#[track_caller]
pub(crate) fn await_counter(side: &Side, name: &str, want: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let have = counter(side, name);
        // What nothing has happened to need not be there yet.
        if have.unwrap_or(0) == want {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{}: {name} is {have:?}, not {want}",
            side.name
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn connections_that_come_too_fast_are_closed() {
    let lab = lab();
    for side in [&lab.envoy, &lab.malla] {
        let words: Vec<_> = (0..3).map(|_| say_hello(side.address("rate")).1).collect();
        assert_eq!(words, ["served", "served", "closed"], "{}", side.name);
        await_counter(side, "local_rate_limit.fast.rate_limited", 1);
        let words: Vec<_> = (0..3)
            .map(|_| say_hello(side.address("rate-off")).1)
            .collect();
        assert_eq!(words, ["served"; 3], "{}", side.name);
    }
}

#[test]
fn connections_beyond_a_limit_are_closed_at_once_or_later() {
    let lab = lab();
    for side in [&lab.envoy, &lab.malla] {
        for (listener, prefix) in [("limit", "many"), ("limit-slow", "slow")] {
            let active = format!("connection_limit.{prefix}.active_connections");
            let limited = format!("connection_limit.{prefix}.limited_connections");
            await_counter(side, &active, 0);
            let (kept, word) = say_hello(side.address(listener));
            assert_eq!(word, "served", "{}", side.name);
            let start = Instant::now();
            let (refused, word) = say_hello(side.address(listener));
            assert_eq!(word, "closed", "{}", side.name);
            let waited = start.elapsed() >= Duration::from_millis(390);
            assert_eq!(
                waited,
                prefix == "slow",
                "{} after {:?}",
                side.name,
                start.elapsed()
            );
            drop(refused);
            assert_eq!(counter(side, &limited), Some(1), "{}", side.name);
            await_counter(side, &active, 1);
            drop(kept);
            await_counter(side, &active, 0);
            assert_eq!(
                say_hello(side.address(listener)).1,
                "served",
                "{}",
                side.name
            );
        }
    }
}

/// The first thing that a TLS client says.
fn client_hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut out = Vec::new();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    client.write_tls(&mut out).unwrap();
    out
}

#[test]
fn bytes_go_where_the_server_name_says() {
    let lab = lab();
    for side in [&lab.envoy, &lab.malla] {
        let echoed = |bytes: &[u8]| {
            let mut stream = TcpStream::connect(side.address("sni")).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(bytes).unwrap();
            let mut heard = vec![0; bytes.len()];
            stream.read_exact(&mut heard).is_ok() && heard == bytes
        };
        assert!(
            echoed(&client_hello("outbound_.80_._.echo.test")),
            "{}",
            side.name
        );
        assert!(
            !echoed(&client_hello("nowhere.test")),
            "{}: no such cluster",
            side.name
        );
        assert!(
            !echoed(b"no TLS at all, so the configured cluster counts"),
            "{}",
            side.name
        );
    }
    same_lines(&lab, 3);
}
