//! Runs one async test per sandbox, and helps the tests say what they mean.

use std::fs::File;
use std::future::Future;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use malla_local::net::{NodeNetwork, PodNetwork};
use malla_local::process::{
    Capabilities, CommandSpec, ContainerSpec, Credentials, Mount, Process, RootSpec, Spawner, Stdio,
};
use malla_local::sandbox::{self, Inside};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

/// A test may take this long.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs tests one after the other and counts.
pub(crate) struct Tests {
    filters: Vec<String>,
    list: bool,
    passed: usize,
    failed: Vec<&'static str>,
}

impl Tests {
    pub(crate) fn from_arguments(arguments: impl Iterator<Item = String>) -> Self {
        let arguments: Vec<String> = arguments.collect();
        let list = arguments.iter().any(|argument| argument == "--list");
        let filters = arguments.into_iter().filter(|a| !a.starts_with('-'));
        Self {
            filters: filters.collect(),
            list,
            passed: 0,
            failed: Vec::new(),
        }
    }

    /// Runs `test` in a sandbox, unless it is filtered out.
    pub(crate) fn run<F, T>(&mut self, name: &'static str, test: T)
    where
        F: Future<Output = Result<()>>,
        T: FnOnce(Inside) -> F,
    {
        self.run_outside(name, || {
            let sandbox = sandbox::enter(|inside| run_inside(inside, test))?;
            match sandbox.wait()? {
                0 => Ok(()),
                code => Err(anyhow!("exit code {code}")),
            }
        });
    }

    /// Runs `test` in this process, unless it is filtered out.
    pub(crate) fn run_outside(&mut self, name: &'static str, test: impl FnOnce() -> Result<()>) {
        if !self.filters.is_empty() && !self.filters.iter().any(|filter| name.contains(filter)) {
            return;
        }
        if self.list {
            println!("{name}: test");
            return;
        }
        let begun = Instant::now();
        let verdict = match test() {
            Ok(()) => {
                self.passed += 1;
                "ok".to_owned()
            }
            Err(error) => {
                self.failed.push(name);
                format!("FAILED: {error}")
            }
        };
        println!("test {name} ... {verdict} ({:.2?})", begun.elapsed());
    }

    pub(crate) fn finish(self) -> ExitCode {
        println!(
            "{} passed; {} failed {:?}",
            self.passed,
            self.failed.len(),
            self.failed
        );
        if self.failed.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

fn run_inside<F, T>(inside: Inside, test: T) -> i32
where
    F: Future<Output = Result<()>>,
    T: FnOnce(Inside) -> F,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let result = runtime.block_on(async {
        tokio::time::timeout(DEADLINE, test(inside))
            .await
            .unwrap_or_else(|_| Err(anyhow!("not done after {DEADLINE:?}")))
    });
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error:?}");
            1
        }
    }
}

/// A node without a cluster.
pub(crate) struct Bench {
    pub(crate) spawner: std::sync::Arc<Spawner>,
    pub(crate) network: NodeNetwork,
    pub(crate) directory: tempfile::TempDir,
}

impl Bench {
    pub(crate) async fn new(inside: &Inside) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        std::fs::create_dir(directory.path().join("root"))?;
        Ok(Self {
            spawner: Spawner::of(inside)?,
            network: NodeNetwork::create("10.244.0.1".parse()?, "10.96.0.0/16".parse()?).await?,
            directory,
        })
    }

    pub(crate) async fn pod(&self, address: &str) -> Result<PodNetwork> {
        Ok(self.network.add_pod(address.parse()?).await?)
    }

    pub(crate) fn container(&self, script: &str, mounts: Vec<Mount>) -> ContainerSpec {
        ContainerSpec {
            hostname: "tester".to_owned(),
            root: RootSpec {
                scratch: self.directory.path().join("root"),
                hidden: self.directory.path().to_path_buf(),
                mounts,
                read_only: false,
            },
            command: shell(script),
        }
    }

    /// Runs a shell script in a container of its own; its exit code and output.
    pub(crate) async fn output(&self, pod: &PodNetwork, script: &str) -> Result<(i32, String)> {
        self.output_of(pod, &self.container(script, Vec::new()))
            .await
    }

    pub(crate) async fn output_of(
        &self,
        pod: &PodNetwork,
        spec: &ContainerSpec,
    ) -> Result<(i32, String)> {
        let (stdio, output) = pipes()?;
        let process = self.spawner.run(spec, stdio, pod.namespace.fd()).await?;
        finish(process, output).await
    }

    /// Runs a script that says `ready` when it serves, and leaves it running.
    pub(crate) async fn serve(&self, pod: &PodNetwork, script: &str) -> Result<Process> {
        let (stdio, output) = pipes()?;
        let spec = self.container(script, Vec::new());
        let process = self.spawner.run(&spec, stdio, pod.namespace.fd()).await?;
        let line = tokio::task::spawn_blocking(move || {
            let mut line = [0_u8; 6];
            File::from(output).read_exact(&mut line).map(|()| line)
        });
        let line = line
            .await?
            .context("the server ended before it was ready")?;
        assert_eq!(&line, b"ready\n");
        Ok(process)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

pub(crate) fn shell(script: &str) -> CommandSpec {
    CommandSpec {
        argv: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
        env: vec![(
            "PATH".to_owned(),
            "/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        )],
        cwd: PathBuf::from("/"),
        credentials: Credentials {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            capabilities: Capabilities::usual(),
            no_new_privileges: false,
        },
        terminal: false,
    }
}

/// Standard streams that all go to one reader.
pub(crate) fn pipes() -> Result<(Stdio, OwnedFd)> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    let stdio = Stdio {
        stdin: File::open("/dev/null")?.into(),
        stdout: theirs.try_clone()?,
        stderr: theirs,
    };
    Ok((stdio, ours))
}

pub(crate) async fn finish(process: Process, output: OwnedFd) -> Result<(i32, String)> {
    let reading = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        File::from(output).read_to_string(&mut text).map(|_| text)
    });
    let code = process.wait().await.code();
    Ok((code, reading.await??))
}

pub(crate) fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        target: PathBuf::from(target),
        kind: malla_local::process::MountKind::Bind {
            source: source.to_path_buf(),
        },
        read_only,
    }
}
