//! The data plane: accepts connections, decides, forwards, records.
//!
//! ```text
//! accept → sniff → filter chain → TLS → http::serve  → upstream → endpoint
//!   listener/              tls/      tcp::serve        balance/, upstream/
//! ```
//!
//! Worker model: one single-threaded tokio runtime for each worker, each with its own listening sockets
//! (`SO_REUSEPORT`), its own upstream pools and its own statistics. Nothing on the request path takes a lock or crosses
//! threads, so request state is `Rc`/`Cell` and futures need not be `Send` (they run on the worker's `LocalSet`).
//! Beside the workers, on the control side: [`sources`] follows files, streams and control planes, [`apply`] turns what they
//! bring into the next snapshot, and [`admin`] shows it.
//! What workers share is immutable or atomic: the current [`Snapshot`](malla_proxy_config::Snapshot), its endpoint and
//! secret cells, and counters that are written by one worker and summed by the admin endpoint.

pub mod admin;
pub mod app;
pub mod apply;
pub mod balance;
pub mod call;
pub mod connection;
pub mod filter;
pub mod handlers;
pub mod http;
pub mod inventory;
pub mod jwt;
pub mod listener;
pub mod live;
pub mod overload;
pub mod peers;
pub mod policy;
mod runtime;
pub mod sources;
pub mod tcp;
pub mod telemetry;
pub mod tls;
pub mod transport;
pub mod upstream;
pub mod worker;

#[cfg(fuzzing)]
#[doc(hidden)]
pub use http::fuzzing;
