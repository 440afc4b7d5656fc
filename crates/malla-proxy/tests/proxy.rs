//! The proxy in process, over real sockets, with real peers: Envoy, OpenSSL, the kernel's redirection.
#[path = "proxy/support.rs"]
mod support;

#[path = "proxy/hashing.rs"]
mod hashing;
#[path = "proxy/listeners.rs"]
mod listeners;
#[path = "proxy/mutual_tls.rs"]
mod mutual_tls;
#[path = "proxy/original_dst.rs"]
mod original_dst;
#[path = "proxy/followed.rs"]
mod followed;
#[path = "proxy/tcp.rs"]
mod tcp;
