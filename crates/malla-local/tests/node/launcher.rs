//! The launcher from outside: what becomes of a cluster whose launcher is killed.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use malla_apiserver::kinds;
use malla_local::sandbox::{self, Inside};
use malla_local::{Cluster, ClusterConfig, Image, RunDirectory};
use serde_json::{Value, json};

use super::support::Tests;

/// Argument that makes this program a launcher; its state file follows.
pub(crate) const ARGUMENT: &str = "--launcher";
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn all(tests: &mut Tests) {
    tests.run_outside("a_killed_launcher_takes_everything_along", killed);
}

/// A launcher: starts a cluster with one pod, writes what there is to `state`, and waits.
pub(crate) fn launch(state: &Path) -> Result<()> {
    let parent = state.parent().context("no parent")?;
    let directory = RunDirectory::temporary(parent)?;
    let state = state.to_path_buf();
    let sandbox = sandbox::enter(|inside| {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        match runtime.block_on(serve(inside, directory, &state)) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("{error:?}");
                1
            }
        }
    })?;
    let code = sandbox.wait()?;
    Err(anyhow!("the cluster ended by itself with {code}"))
}

async fn serve(inside: Inside, directory: RunDirectory, state: &Path) -> Result<()> {
    let mut config = ClusterConfig::new("test", directory);
    config.images = vec![Image::new("shell", &["sh"])];
    let cluster = Cluster::start(config, &inside).await?;
    let pod = json!({"metadata": {"name": "app"}, "spec": {"containers": [
        {"name": "main", "image": "shell", "args": ["-c", "setsid sleep 1000 & exec sleep 1000"]}]}});
    let created = cluster
        .client("test")
        .create(&kinds::PODS, Some("default"), pod)
        .await;
    created.map_err(|error| anyhow!("{}", error.message()))?;
    while cluster.pids().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let told = json!({"pids": cluster.pids().into_values().collect::<Vec<_>>(),
                      "directory": cluster.directory().path(), "url": cluster.url()});
    let draft = state.with_extension("draft");
    fs::write(&draft, told.to_string())?;
    fs::rename(draft, state)?;
    let mut control = inside.control;
    tokio::task::spawn_blocking(move || control.read(&mut [0_u8])).await??;
    Ok(())
}

struct Running {
    launcher: Child,
    state: Value,
}

fn start(parent: &Path, name: &str) -> Result<Running> {
    let state = parent.join(name);
    let mut launcher = Command::new(std::env::current_exe()?);
    let launcher = launcher.arg(ARGUMENT).arg(&state).spawn()?;
    let begun = Instant::now();
    while !state.exists() {
        ensure!(begun.elapsed() < PATIENCE, "the launcher did not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    let state = serde_json::from_str(&fs::read_to_string(state)?)?;
    Ok(Running { launcher, state })
}

impl Running {
    fn directory(&self) -> PathBuf {
        PathBuf::from(self.state["directory"].as_str().unwrap_or_default())
    }

    fn kill(mut self) -> Result<Value> {
        self.launcher.kill()?;
        self.launcher.wait()?;
        Ok(self.state.take())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _already_killed = self.launcher.kill();
        let _already_reaped = self.launcher.wait();
    }
}

fn killed() -> Result<()> {
    let parent = tempfile::tempdir()?;
    let first = start(parent.path(), "first")?;
    let second = start(parent.path(), "second")?;
    ensure!(
        first.state["url"] != second.state["url"],
        "two clusters share a port"
    );
    let left_behind = first.directory();
    let state = first.kill()?;
    let pids: Vec<i64> = state["pids"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_i64)
        .collect();
    ensure!(!pids.is_empty(), "{state}");
    let begun = Instant::now();
    while pids
        .iter()
        .any(|pid| Path::new(&format!("/proc/{pid}")).exists())
    {
        ensure!(
            begun.elapsed() < PATIENCE,
            "processes outlive their launcher: {pids:?}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    ensure!(
        left_behind.exists(),
        "nothing was left behind, so nothing is tested"
    );
    // The next start removes it, and leaves the one that runs alone.
    let third = start(parent.path(), "third")?;
    ensure!(
        !left_behind.exists(),
        "{} is still there",
        left_behind.display()
    );
    ensure!(
        second.directory().join("pods").exists(),
        "a running cluster was swept"
    );
    let own = third.directory();
    third.kill()?;
    second.kill()?;
    ensure!(own.exists());
    Ok(())
}
