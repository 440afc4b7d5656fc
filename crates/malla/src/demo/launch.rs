//! Starts the cluster in its sandbox, tells the user how it goes, and ends it.
//!
//! Invariant: whatever ends the launcher ends the cluster; whatever ends the cluster ends the launcher.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use malla_local::sandbox::{self, Sandbox};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};

use super::report::{Message, Ready};
use super::{home, inside};
use crate::output::Output;

/// How long pods may take to end.
const GRACE: Duration = Duration::from_secs(8);

/// What to start.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) data: Option<PathBuf>,
    pub(crate) ready_file: Option<PathBuf>,
    /// The control plane and the gateway, not only the cluster.
    pub(crate) mesh: bool,
    pub(crate) shop: bool,
    /// Somebody who visits the shop all the time.
    pub(crate) visitors: bool,
    /// Stock Envoy as the data plane.
    pub(crate) envoy: Option<PathBuf>,
}

pub(crate) fn launch(options: Options, out: &mut Output) -> Result<ExitCode> {
    let started = Instant::now();
    if let Some(file) = &options.ready_file {
        // One from an earlier run must not be taken for ours.
        drop(std::fs::remove_file(file));
    }
    let directory = home::claim(options.data.as_deref())?;
    let log = directory.path().join(inside::LOG);
    let for_inside = options.clone();
    let folder = directory.path().to_path_buf();
    let entered = sandbox::enter(move |inside| inside::run(inside, &for_inside, directory));
    if entered.is_err() && options.data.is_none() {
        drop(std::fs::remove_dir_all(&folder));
    }
    let sandbox = entered.context("start the cluster")?;
    // Threads come only now: the sandbox had to fork.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let code = runtime.block_on(follow(sandbox, &options, &log, started, out));
    if let Some(file) = &options.ready_file {
        drop(std::fs::remove_file(file));
    }
    if options.data.is_none() {
        home::leave();
    }
    code
}

/// Shows what the cluster says until it ends or the user ends it.
async fn follow(
    sandbox: Sandbox,
    options: &Options,
    log: &Path,
    started: Instant,
    out: &mut Output,
) -> Result<ExitCode> {
    let control = sandbox
        .control
        .try_clone()
        .context("listen to the cluster")?;
    control.set_nonblocking(true)?;
    let mut lines = BufReader::new(UnixStream::from_std(control)?).lines();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    loop {
        let line = tokio::select! {
            biased; // Stopping comes before news.
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = hang_up.recv() => break,
            line = lines.next_line() => line,
        };
        let Ok(Some(line)) = line else {
            drop(sandbox);
            bail!(
                "the cluster ended unexpectedly (its log: {})",
                log.display()
            );
        };
        match serde_json::from_str(&line).context("understand the cluster")? {
            Message::Done(step) => out.done(&format!(
                "{step} ({:.1} s)",
                started.elapsed().as_secs_f64()
            )),
            Message::Warning(text) => out.note(&format!("warning: {text}")),
            Message::Failed(text) => {
                drop(sandbox);
                bail!("{text}");
            }
            Message::Ready(mut ready) => {
                ready.pids.insert(
                    "launcher".to_owned(),
                    std::process::id().try_into().unwrap_or_default(),
                );
                if let Some(file) = &options.ready_file {
                    ready.write(file)?;
                }
                out.text(&welcome(&ready, started.elapsed()));
            }
        }
    }
    out.note("Stopping…");
    drop(sandbox.terminate());
    // The stream ends with the cluster; a second Ctrl-C, or the end of patience, kills what is left.
    let ended = async { while let Ok(Some(_)) = lines.next_line().await {} };
    tokio::select! {
        biased;
        _ = interrupt.recv() => {}
        _ = tokio::time::timeout(GRACE, ended) => {}
    }
    drop(sandbox);
    Ok(ExitCode::SUCCESS)
}

fn welcome(ready: &Ready, after: Duration) -> String {
    let cluster = ready.clusters.first();
    let kubeconfig = cluster
        .map(|c| c.kubeconfig.display().to_string())
        .unwrap_or_default();
    let mut text = format!("\nReady after {:.1} s.\n\n", after.as_secs_f64());
    if let Some(shop) = &ready.shop {
        text += &format!("  Shop        {shop}\n");
    }
    if let Some(ingress) = cluster
        .map(|c| &c.ingress)
        .filter(|ingress| !ingress.is_empty())
    {
        text += &format!("  Ingress     {ingress}\n");
    }
    if let Some(console) = &ready.console {
        text += &format!("  Console     {console}\n");
    }
    text += &format!(
        "  Kubeconfig  {kubeconfig}\n\nTry next, in another terminal:\n\n  export KUBECONFIG={kubeconfig}\n"
    );
    if ready.shop.is_some() {
        text += "  kubectl -n base get pods                               every pod has a sidecar: 2/2\n";
        text +=
            "  kubectl apply -f demo/lessons/q02-order-v2.yaml        a second version of order\n";
        text +=
            "  kubectl apply -f demo/lessons/q03-order-by-cookie.yaml VIPs get it, others don't\n";
    } else {
        text += "  kubectl get namespaces\n  kubectl create namespace hello\n  kubectl explain deployment.spec\n";
    }
    text += "\nCtrl-C stops everything and removes it.\n";
    text
}
