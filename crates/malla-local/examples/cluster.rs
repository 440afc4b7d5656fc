//! A cluster whose images are shell commands: for trying the node with `kubectl`.
//!
//! `cargo run -p malla-local --example cluster [DIRECTORY]` prints the path of a kubeconfig.
//! Images: `shell/NAME` runs `sh`, `web` a small web server; `malla local image add` is not here,
//! but the ConfigMap `kube-system/malla-images` is.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example for a terminal"
)]

use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use malla_local::sandbox::{self, Inside};
use malla_local::{Cluster, ClusterConfig, Image, RunDirectory};

fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let begun = Instant::now();
    let directory = match std::env::args().nth(1) {
        Some(path) => RunDirectory::kept(&PathBuf::from(path))?,
        None => RunDirectory::temporary(&std::env::temp_dir())?,
    };
    let mut sandbox = sandbox::enter(|inside| run(inside, directory, begun))?;
    // Anything on standard input, or its end, stops the cluster.
    let mut stop = [0_u8];
    let _end = std::io::stdin().read(&mut stop)?;
    sandbox.control.write_all(b"stop")?;
    std::process::exit(sandbox.wait()?);
}

fn run(inside: Inside, directory: RunDirectory, begun: Instant) -> i32 {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads can be started");
    match runtime.block_on(serve(inside, directory, begun)) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error:?}");
            1
        }
    }
}

async fn serve(inside: Inside, directory: RunDirectory, begun: Instant) -> Result<()> {
    let mut config = ClusterConfig::new("example", directory);
    let web = "import http.server as h, os\nclass H(h.BaseHTTPRequestHandler):\n \
               def do_GET(s):\n  s.send_response(200); s.end_headers(); s.wfile.write((os.environ['HOSTNAME'] + '\\n').encode())\n\
               h.ThreadingHTTPServer(('', 80), H).serve_forever()";
    config.images = Image::everyday();
    config.images.extend([
        Image::new("shell/*", &["sh"]),
        Image::new("web", &["python3", "-c", web]),
    ]);
    let cluster = Cluster::start(config, &inside).await?;
    let path = std::env::temp_dir().join(format!(
        "malla-example-{}.kubeconfig",
        cluster.url().rsplit(':').next().unwrap_or("")
    ));
    std::fs::write(&path, cluster.kubeconfig()?)?;
    println!(
        "up after {:.2?}: export KUBECONFIG={}",
        begun.elapsed(),
        path.display()
    );
    let mut control = inside.control;
    tokio::task::spawn_blocking(move || control.read(&mut [0_u8; 4]))
        .await?
        .context("the launcher's stream broke")?;
    cluster.stop(Duration::from_secs(2)).await?;
    std::fs::remove_file(path)?;
    Ok(())
}
