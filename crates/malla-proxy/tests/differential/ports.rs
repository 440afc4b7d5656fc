//! Ports that are this process's own while it runs.
//!
//! A process holds one slot: a locking port that it listens on, and a range of ports below those that the kernel gives
//! to outgoing connections. So neither another run nor anybody's connection takes a port between its choice and its use.

use std::net::TcpListener;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// The locking port of slot 0; the others' follow it.
const LOCKS: u16 = 19_980;
/// The first port of slot 0.
const FIRST: u16 = 20_000;
/// How many ports a slot has, and how many slots there are: up to port 32,000.
const PORTS: u16 = 600;
const SLOTS: u16 = 20;

/// This process's slot.
struct Slot {
    _lock: TcpListener,
    first: u16,
}

impl Slot {
    fn take() -> Self {
        for slot in 0..SLOTS {
            if let Ok(lock) = TcpListener::bind(("127.0.0.1", LOCKS + slot)) {
                let first = FIRST + slot * PORTS;
                return Self { _lock: lock, first };
            }
        }
        panic!("all {SLOTS} slots of ports are taken: other tests run");
    }
}

/// A port nobody listens on, and each only once.
pub(crate) fn free_port() -> u16 {
    static SLOT: OnceLock<Slot> = OnceLock::new();
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = SLOT.get_or_init(Slot::take).first;
    for _ in 0..PORTS {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
    panic!("no port of the slot from {first} on is free");
}
