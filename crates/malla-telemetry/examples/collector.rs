//! The collector alone, in a temporary folder: spans and access logs on the first argument's address.
//!
//! `cargo run --release -p malla-telemetry --example collector 127.0.0.1:4317`
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for developers"
)]

use std::sync::Arc;

use malla_telemetry::{Receivers, Telemetry, TelemetryConfig};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:0".to_owned());
    let folder = tempfile::tempdir().unwrap();
    let telemetry = Arc::new(Telemetry::open(TelemetryConfig::new(folder.path())).unwrap());
    let grpc = TcpListener::bind(address).await.unwrap();
    println!("listening on {}", grpc.local_addr().unwrap());
    let receivers = Receivers {
        grpc: Some(grpc),
        ..Receivers::default()
    };
    let stop = async {
        tokio::signal::ctrl_c().await.unwrap();
    };
    telemetry.serve(receivers, stop).await.unwrap();
}
