//! How connections end, and that each request leaves exactly one line whatever happens to it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::cases::lab;
use crate::h2;
use crate::lab::{Lab, Side};
use crate::wire::mask;

fn connect(side: &Side) -> TcpStream {
    let stream = TcpStream::connect(side.address("plain")).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    stream
}

/// Does the same to both proxies, then compares the `count` lines it left.
fn check(lab: &Lab, count: usize, act: impl Fn(&Side)) {
    let before = [&lab.envoy, &lab.malla].map(|side| side.lines(0).len());
    let mut lines = Vec::new();
    for (side, before) in [&lab.envoy, &lab.malla].into_iter().zip(before) {
        act(side);
        let all = side.lines(before + count);
        lines.push(
            all[before..]
                .iter()
                .map(|line| mask(line))
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(lines[0].len(), count, "{:?}", lines[0]);
    assert_eq!(lines[0], lines[1], "left: Envoy, right: Malla");
}

#[test]
fn every_request_leaves_one_line() {
    let lab = lab();
    // The client goes while the endpoint is thinking.
    check(&lab, 1, |side| {
        let mut stream = connect(side);
        stream
            .write_all(b"GET /slow/1500 HTTP/1.1\r\nhost: test.example\r\n\r\n")
            .unwrap();
        std::thread::sleep(Duration::from_millis(200));
    });
    // The client goes in the middle of its own body.
    check(&lab, 1, |side| {
        let mut stream = connect(side);
        stream
            .write_all(b"POST / HTTP/1.1\r\nhost: test.example\r\ncontent-length: 100\r\n\r\nsome")
            .unwrap();
        std::thread::sleep(Duration::from_millis(200));
    });
    // The client goes in the middle of the answer.
    check(&lab, 1, |side| {
        let mut stream = connect(side);
        stream
            .write_all(b"GET /stall HTTP/1.1\r\nhost: test.example\r\n\r\n")
            .unwrap();
        let mut buffer = [0; 256];
        assert!(stream.read(&mut buffer).unwrap() > 0);
        std::thread::sleep(Duration::from_millis(100));
    });
    // Three requests on one connection, two of them sent at once.
    check(&lab, 3, |side| {
        let mut stream = connect(side);
        let get = "GET /status/200 HTTP/1.1\r\nhost: test.example\r\n\r\n";
        for part in [get.repeat(2), get.to_owned()] {
            stream.write_all(part.as_bytes()).unwrap();
            let mut seen = String::new();
            while seen.matches("status 200\n").count() < part.matches("GET").count() {
                let mut buffer = [0; 1024];
                let read = stream.read(&mut buffer).unwrap();
                assert!(read > 0, "{seen}");
                seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
        }
    });
    // A stream of HTTP/2 is given up.
    check(&lab, 1, |side| {
        h2::give_up(side.address("plain"), "/slow/1500")
    });
}
