//! The cluster's side of the sandbox: runs the cluster, brings the mesh up in it, and tells the launcher.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use malla_local::sandbox::Inside;
use malla_local::{Cluster, ClusterConfig, RunDirectory};
use malla_runtime::log::{self, Format};
use malla_runtime::signal::ShutdownSignals;
use nix::unistd::{Gid, Uid, chown};

use super::bring_up::{Plan, bring_up};
use super::home;
use super::images::{envoy_in_container, images, programs};
use super::launch::Options;
use super::report::{ClusterReady, Message, Ready};
use crate::output::in_words;

/// Where the cluster says it is; a zone, because two clusters will be in two.
const REGION: &str = "north";
const ZONE: &str = "north-a";
const NAME: &str = "local";

/// In the cluster's folder: what it has to say about itself.
pub(crate) const LOG: &str = "cluster.log";

/// Who the console runs as, in its manifest.
const CONSOLE_USER: u32 = 1337;

/// How long pods may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// Runs until told to stop; the exit code of the cluster process.
pub(crate) fn run(inside: Inside, options: &Options, directory: RunDirectory) -> i32 {
    let mut launcher = match inside.control.try_clone() {
        Ok(control) => Launcher(control),
        Err(_) => return 1,
    };
    match serve(&inside, &mut launcher, options, directory) {
        Ok(()) => 0,
        Err(error) => {
            launcher.tell(&Message::Failed(in_words(&error)));
            1
        }
    }
}

/// The launcher at the other end. When it has gone, this process is about to end too.
struct Launcher(UnixStream);

impl Launcher {
    fn tell(&mut self, message: &Message) {
        if let Ok(line) = serde_json::to_string(message) {
            drop(writeln!(self.0, "{line}"));
        }
    }
}

fn serve(
    inside: &Inside,
    launcher: &mut Launcher,
    options: &Options,
    directory: RunDirectory,
) -> Result<()> {
    log_to(&directory.path().join(LOG))?;
    let folder = directory.path().to_path_buf();
    let kubeconfig = home::kubeconfig(&folder);
    let _log = log::init(Format::Text, "info,malla_apiserver=warn,malla_local=info")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut signals = ShutdownSignals::listen()?;
        let mut config = ClusterConfig::new(NAME, directory);
        config.node.region = Some(REGION.to_owned());
        config.node.zone = Some(ZONE.to_owned());
        config.images = images();
        config.binaries = programs(options.shop, options.envoy.as_deref())?;
        let cluster = Cluster::start(config, inside)
            .await
            .context("start the cluster")?;
        write_private(&kubeconfig, &cluster.kubeconfig()?)?;
        launcher.tell(&Message::Done("cluster".to_owned()));
        let up = up(&cluster, launcher, options, &folder);
        tokio::select! {
            biased; // Stopping comes first, also while coming up.
            _ = signals.recv() => {}
            up = up => {
                launcher.tell(&Message::Ready(up?));
                signals.recv().await;
            }
        }
        cluster.stop(GRACE).await?;
        anyhow::Ok(())
    })
}

async fn up(
    cluster: &Cluster,
    launcher: &mut Launcher,
    options: &Options,
    folder: &Path,
) -> Result<Ready> {
    let mut ready = Ready {
        shop: None,
        console: None,
        clusters: vec![ClusterReady {
            name: NAME.to_owned(),
            zone: ZONE.to_owned(),
            kubeconfig: home::kubeconfig(folder),
            ingress: String::new(),
        }],
        pids: BTreeMap::new(),
    };
    if options.mesh {
        let plan = Plan {
            cluster_id: "Kubernetes".to_owned(),
            shop: options.shop,
            visitors: options.shop && options.visitors,
            proxy_args: proxy_args(options),
            console_folder: console_folder(folder)?,
        };
        let client = cluster.client("malla-demo");
        let reached = bring_up(&client, &plan, |step| {
            launcher.tell(&Message::Done(step.to_owned()))
        })
        .await?;
        let ingress = format!("http://{}", reached.ingress);
        ready.console = Some(format!("http://{}/", reached.console));
        if options.shop {
            ready.shop = Some(format!("{ingress}/"));
        }
        for cluster in &mut ready.clusters {
            cluster.ingress.clone_from(&ingress);
        }
    }
    ready.pids = cluster.pids();
    Ok(ready)
}

fn proxy_args(options: &Options) -> Vec<String> {
    match &options.envoy {
        Some(_) => vec!["--envoy-path".to_owned(), envoy_in_container()],
        None => Vec::new(),
    }
}

/// The console's part of the cluster's folder: its pod may not run as root.
fn console_folder(folder: &Path) -> Result<PathBuf> {
    let folder = folder.join("console");
    let failed = || format!("make the folder {}", folder.display());
    std::fs::create_dir_all(&folder).with_context(failed)?;
    let (user, group) = (Uid::from_raw(CONSOLE_USER), Gid::from_raw(CONSOLE_USER));
    chown(&folder, Some(user), Some(group)).with_context(failed)?;
    Ok(folder)
}

/// Everything this process and its libraries print goes to a file.
fn log_to(path: &Path) -> Result<()> {
    let file = std::fs::File::create(path)
        .with_context(|| format!("write {} (is the disk full?)", path.display()))?;
    nix::unistd::dup2_stdout(&file)?;
    nix::unistd::dup2_stderr(&file)?;
    Ok(())
}

/// A kubeconfig holds a key: for its owner only.
fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let failed = || format!("write {} (is the disk full?)", path.display());
    let mut file = std::fs::File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(failed)?;
    file.write_all(text.as_bytes()).with_context(failed)
}
