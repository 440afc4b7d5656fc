//! Clients and servers that others wrote, through both proxies: gRPC's interoperability cases with grpcio, and WebSocket
//! cases after the Autobahn suite. The scripts are in `tests/interop`; `MALLA_PYTHON` names the folder of their libraries.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::lab::{Lab, Side};

const CONFIG: &str = include_str!("interop.yaml");

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn python(script: &str) -> Command {
    let libraries = std::env::var_os("MALLA_PYTHON")
        .expect("MALLA_PYTHON names the folder of grpcio and websockets (scripts/setup.sh)");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/interop");
    let mut command = Command::new("python3");
    command
        .env("PYTHONPATH", libraries)
        .arg(format!("{folder}/{script}"));
    command
}

/// Runs a script's client through each proxy against its server, and directly to see that the two agree.
fn check(script: &str, listeners: &[&str], cases: usize) {
    let server = python(script)
        .arg("serve")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut server = Server(server.expect("python3 is there"));
    let mut port = String::new();
    let output = server.0.stdout.take().expect("it was piped");
    BufReader::new(output).read_line(&mut port).unwrap();
    let lab = Lab::start(CONFIG, &[("server", port.trim().to_owned())]);
    let run = |port: String| {
        let output = python(script).arg("run").arg(port).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        String::from_utf8_lossy(&output.stdout).into_owned() + &errors
    };
    let through = |side: &Side, listener| run(side.address(listener).port().to_string());
    let alone = run(port.trim().to_owned());
    let passed = |text: &str| text.lines().filter(|line| line.ends_with(": ok")).count();
    assert_eq!(passed(&alone), cases, "without a proxy:\n{alone}");
    for listener in listeners {
        let [envoy, malla] = [&lab.envoy, &lab.malla].map(|side| through(side, listener));
        assert_eq!(
            alone, malla,
            "{listener}: left: without a proxy, right: Malla"
        );
        assert_eq!(
            alone, envoy,
            "{listener}: left: without a proxy, right: Envoy"
        );
    }
}

#[test]
fn grpc_cases_pass() {
    check("grpc_interop.py", &["grpc"], 15);
}

#[test]
fn websocket_cases_pass() {
    check("websocket.py", &["websocket"], 38);
}
