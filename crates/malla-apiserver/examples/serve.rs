//! Serves a cluster without a node: `cargo run -p malla-apiserver --example serve -- DIRECTORY [PORT]`.
//!
//! Writes `DIRECTORY/kubeconfig`; objects are kept in `DIRECTORY/store`. Pods stay pending: nobody runs them.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use anyhow::Context;
use malla_apiserver::{Config, Server};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter("info").init();
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().context("usage: serve DIRECTORY [PORT]")?;
    let directory = PathBuf::from(directory);
    let port = arguments.next().map_or(Ok(6443), |port| port.parse())?;
    std::fs::create_dir_all(&directory)?;
    let server = Server::open(Config::new(directory.join("store"))).await?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("bind 127.0.0.1:{port}"))?;
    let url = format!("https://{}", listener.local_addr()?);
    let kubeconfig = directory.join("kubeconfig");
    std::fs::write(&kubeconfig, server.admin_kubeconfig("malla", &url)?)?;
    tracing::info!(url, kubeconfig = %kubeconfig.display(), "serving; end with Ctrl-C");
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    server.serve(vec![listener], stop).await?;
    Ok(())
}
