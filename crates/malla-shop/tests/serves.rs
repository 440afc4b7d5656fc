//! The program itself: a service answers where it is told to listen, and ends when it is told to.
#![allow(clippy::unwrap_used, reason = "a test panics")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::Duration;

use malla_testkit::eventually;

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_service_answers_where_it_is_told_to_listen() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let port = port.unwrap().port();
    let _shop = Running(
        Command::new(env!("CARGO_BIN_EXE_malla-shop"))
            .args(["user", "--port", &port.to_string(), "--pod", "user-1"])
            .spawn()
            .unwrap(),
    );
    let mut stream = eventually("the shop listens", Duration::from_secs(20), || {
        TcpStream::connect(("127.0.0.1", port))
    });
    let request = "GET /user HTTP/1.1\r\nhost: user\r\nuserid: 1\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(r#""Name":"Kevin""#), "{answer}");
    assert!(answer.contains("user-1"), "{answer}");
}
