//! Connections spread over several workers (`exact_balance`), side by side.

use std::net::TcpStream;

use crate::lab::{Lab, Side};
use crate::limits::{await_counter, echo, say_hello};

const CONFIG: &str = include_str!("spread.yaml");
const WORKERS: u32 = 3;

fn open(side: &Side, listener: &str, count: usize) -> Vec<TcpStream> {
    let open = |_| {
        let (stream, word) = say_hello(side.address(listener));
        assert_eq!(word, "served", "{}: {listener}", side.name);
        stream
    };
    (0..count).map(open).collect()
}

/// Waits until each worker has so many connections.
#[track_caller]
fn each_has(side: &Side, listener: &str, active: u64) {
    for worker in 0..WORKERS {
        let name = format!("listener.{listener}.worker_{worker}.downstream_cx_active");
        await_counter(side, &name, active);
    }
}

#[test]
fn every_worker_has_as_many_connections_as_the_others() {
    let lab = Lab::start_with_workers(CONFIG, &[("echo", echo().port().to_string())], WORKERS);
    for side in [&lab.envoy, &lab.malla] {
        for listener in ["own-sockets", "one-socket"] {
            let mut kept = open(side, listener, 9);
            each_has(side, listener, 3);
            // Whichever went, what comes makes up for it.
            kept.drain(2..7);
            let total = format!("listener.{listener}.downstream_cx_active");
            await_counter(side, &total, 4);
            kept.extend(open(side, listener, 8));
            each_has(side, listener, 4);
            drop(kept);
            each_has(side, listener, 0);
        }
    }
}
