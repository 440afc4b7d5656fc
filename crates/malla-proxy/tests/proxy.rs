//! The proxy in process, over real sockets, with real peers: Envoy, OpenSSL, the kernel's redirection.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test may panic, its helpers too"
)]
#[path = "proxy/support.rs"]
mod support;

#[path = "proxy/deadlines.rs"]
mod deadlines;
#[path = "proxy/followed.rs"]
mod followed;
#[path = "proxy/hashing.rs"]
mod hashing;
#[path = "proxy/listeners.rs"]
mod listeners;
#[path = "proxy/mesh_metrics.rs"]
mod mesh_metrics;
#[path = "proxy/mutual_tls.rs"]
mod mutual_tls;
#[path = "proxy/original_dst.rs"]
mod original_dst;
#[path = "proxy/tcp.rs"]
mod tcp;
