//! The proxy in process, over real sockets, with real peers: Envoy, OpenSSL, the kernel's redirection.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test may panic, its helpers too"
)]
#[path = "differential/ports.rs"]
mod ports;
#[path = "proxy/support.rs"]
mod support;

#[path = "proxy/admin.rs"]
mod admin;
#[path = "proxy/deadlines.rs"]
mod deadlines;
#[path = "proxy/documented.rs"]
mod documented;
#[path = "proxy/draining.rs"]
mod draining;
#[path = "proxy/extensions.rs"]
mod extensions;
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
#[path = "proxy/planes.rs"]
mod planes;
#[path = "proxy/runtime_files.rs"]
mod runtime_files;
#[path = "proxy/scale.rs"]
mod scale;
#[path = "proxy/slow.rs"]
mod slow;
#[path = "proxy/sources.rs"]
mod sources;
#[path = "proxy/tcp.rs"]
mod tcp;
#[path = "proxy/tickets.rs"]
mod tickets;
#[path = "proxy/tproxy.rs"]
mod tproxy;
