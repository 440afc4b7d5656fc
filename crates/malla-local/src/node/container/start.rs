//! From a container's specification to its running command.

use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use tokio::net::unix::pipe;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::events::Severity;
use crate::node::env::{Environment, Sources};
use crate::node::images::Image;
use crate::node::logs::{RunLog, Stream};
use crate::node::pod::PodShared;
use crate::node::{NodeShared, files, identity};
use crate::process::{
    CommandSpec, ContainerSpec, ExitStatus, Mount, MountKind, Process, RootSpec, RunError, Stdio,
    Terminal,
};

/// Bytes of a termination message that are kept (the kubelet's limit).
const MOST_MESSAGE: u64 = 4096;
const DEFAULT_MESSAGE_PATH: &str = "/dev/termination-log";
const PATH: &str = "/malla/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a container is not running.
#[derive(Debug, thiserror::Error)]
pub(in crate::node) enum StartError {
    #[error("{0}")]
    Image(String),
    #[error("{0}")]
    Config(String),
    /// The command itself could not be run.
    #[error("{0}")]
    Run(String),
}

impl StartError {
    /// What the status says at first, and while waiting to try again.
    pub(super) fn reasons(&self) -> (&'static str, &'static str) {
        match self {
            Self::Image(_) => ("ErrImagePull", "ImagePullBackOff"),
            Self::Config(_) => ("CreateContainerConfigError", "CreateContainerConfigError"),
            Self::Run(_) => ("RunContainerError", "CrashLoopBackOff"),
        }
    }
}

/// A container that runs.
#[derive(Debug)]
pub(in crate::node) struct Running {
    pub(in crate::node) id: String,
    pub(in crate::node) since: Timestamp,
    pub(in crate::node) process: Process,
    pub(in crate::node) log: Arc<RunLog>,
    /// The main command, for others to be run in the same way.
    pub(in crate::node) command: CommandSpec,
    /// With `stdin: true`: where attached clients write to.
    pub(in crate::node) stdin: Mutex<Option<pipe::Sender>>,
    pub(in crate::node) terminal: Option<Terminal>,
    _pump: AbortOnDropHandle<()>,
}

/// Starts `container` for the `run`th time.
pub(super) async fn start(
    node: &Arc<NodeShared>,
    pod: &Arc<PodShared>,
    container: &Container,
    run: i32,
) -> Result<Running, StartError> {
    let image = find_image(node, container)?;
    let shown = image.command.iter().chain(&image.args).map(String::as_str);
    let message = format!(
        "Container image \"{}\" runs on this machine as: {}",
        container.image.as_deref().unwrap_or_default(),
        shown.collect::<Vec<_>>().join(" ")
    );
    let events = &node.events;
    events.record(
        "kubelet",
        Severity::Normal,
        pod.subject.clone(),
        "Pulled",
        message,
    );
    let (spec, environment) = command(node, pod, container, &image)?;
    let mounts = mounts(node, pod, container, &environment)?;
    let spec = ContainerSpec {
        hostname: files::hostname(&pod.current()),
        root: RootSpec {
            scratch: node.settings.scratch.clone(),
            hidden: node.settings.hidden.clone(),
            mounts,
            read_only: container
                .security_context
                .as_ref()
                .and_then(|context| context.read_only_root_filesystem)
                .unwrap_or(false),
        },
        command: CommandSpec {
            env: environment.into_pairs(),
            ..spec
        },
    };
    let fail = |error: io::Error| StartError::Run(format!("failed to start container: {error}"));
    let logs = pod.logs(&container.name).ok_or_else(|| {
        StartError::Config(format!("container {} is not of this pod", container.name))
    })?;
    let log = logs.begin(run).map_err(fail)?;
    spawn(node, pod, container, spec, log).await
}

async fn spawn(
    node: &NodeShared,
    pod: &PodShared,
    container: &Container,
    spec: ContainerSpec,
    log: Arc<RunLog>,
) -> Result<Running, StartError> {
    let fail = |error: io::Error| StartError::Run(format!("failed to start container: {error}"));
    let network = pod
        .network()
        .ok_or_else(|| StartError::Config("the pod has no network yet".to_owned()))?;
    let pipes = Pipes::new(container.stdin.unwrap_or(false)).map_err(fail)?;
    let process = node
        .spawner
        .run(&spec, pipes.theirs, network.namespace.fd())
        .await;
    let mut process = process.map_err(|error| match error {
        RunError::Start(message) => StartError::Run(message),
        RunError::Io(error) => fail(error),
    })?;
    let terminal = process
        .terminal
        .take()
        .map(Terminal::new)
        .transpose()
        .map_err(fail)?;
    let written = Arc::clone(&log);
    let reading = terminal.clone();
    let (out, err) = (pipes.out, pipes.err);
    // Ends by itself with the last holder of the streams.
    let pump = AbortOnDropHandle::new(tokio::spawn(async move {
        match reading {
            Some(terminal) => written.pump(terminal, Stream::Out).await,
            None => {
                tokio::join!(
                    written.pump(out, Stream::Out),
                    written.pump(err, Stream::Err)
                );
            }
        }
        written.close();
    }));
    Ok(Running {
        id: new_id(),
        since: Timestamp::now(),
        process,
        log,
        command: spec.command,
        stdin: Mutex::new(pipes.stdin),
        terminal,
        _pump: pump,
    })
}

/// 64 hexadecimal digits, as runtimes name containers.
pub(super) fn new_id() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

fn find_image(node: &NodeShared, container: &Container) -> Result<Image, StartError> {
    let name = container.image.as_deref().unwrap_or_default();
    node.images.find(name).ok_or_else(|| {
        StartError::Image(format!(
            "image {name:?} is not mapped to a command of this machine; run: malla local image add {name} -- COMMAND"
        ))
    })
}

/// The command line over the image's, as Docker's ENTRYPOINT and CMD combine.
fn command(
    node: &Arc<NodeShared>,
    pod: &Arc<PodShared>,
    container: &Container,
    image: &Image,
) -> Result<(CommandSpec, Environment), StartError> {
    let config = |error: String| StartError::Config(error);
    let current = pod.current();
    let spec = current.spec.clone().unwrap_or_default();
    let credentials = identity::credentials(&spec, container);
    let credentials = credentials.map_err(|error| config(error.to_string()))?;
    let place = pod.place(node);
    let sources = Sources {
        client: &node.client,
        pod: &current,
        place: &place,
        capacity: node.settings.capacity,
    };
    let terminal = container.tty.unwrap_or(false);
    let home = if credentials.uid == 0 { "/root" } else { "/" };
    let mut base = vec![
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOME".to_owned(), home.to_owned()),
        ("HOSTNAME".to_owned(), files::hostname(&current)),
    ];
    if terminal {
        base.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    let environment = sources.environment(container, &base);
    let environment = environment.map_err(|error| config(error.to_string()))?;
    let given = |words: &Option<Vec<String>>| -> Option<Vec<String>> {
        let words = words.as_ref().filter(|words| !words.is_empty())?;
        Some(words.iter().map(|word| environment.expand(word)).collect())
    };
    let (command, args) = (given(&container.command), given(&container.args));
    let own_args = if command.is_none() {
        image.args.clone()
    } else {
        Vec::new()
    };
    let mut argv = command.unwrap_or_else(|| image.command.clone());
    argv.extend(args.unwrap_or(own_args));
    if argv.is_empty() {
        return Err(config("no command specified".to_owned()));
    }
    let directory = container
        .working_dir
        .as_deref()
        .filter(|path| !path.is_empty());
    let command = CommandSpec {
        argv,
        env: Vec::new(),
        cwd: PathBuf::from(directory.unwrap_or("/")),
        credentials,
        terminal,
    };
    Ok((command, environment))
}

fn mounts(
    node: &NodeShared,
    pod: &PodShared,
    container: &Container,
    environment: &Environment,
) -> Result<Vec<Mount>, StartError> {
    let volumes = pod
        .volumes()
        .ok_or_else(|| StartError::Config("the pod's volumes are not ready yet".to_owned()))?;
    let own = volumes.mounts(container, environment);
    let own = own.map_err(|error| StartError::Config(error.to_string()))?;
    let bind = |source: PathBuf, target: &str, read_only: bool| Mount {
        target: PathBuf::from(target),
        kind: MountKind::Bind { source },
        read_only,
    };
    let etc = pod.directory.join("etc");
    let mut mounts: Vec<Mount> = ["hosts", "hostname", "resolv.conf"]
        .into_iter()
        .map(|name| bind(etc.join(name), &format!("/etc/{name}"), false))
        .collect();
    for (name, binary) in &node.settings.binaries {
        mounts.push(bind(binary.clone(), &format!("/malla/bin/{name}"), true));
    }
    let message = message_file(pod, container)
        .map_err(|error| StartError::Config(format!("termination message: {error}")))?;
    mounts.push(bind(message, message_path(container), false));
    // What the pod mounts itself takes the place of the node's.
    mounts.retain(|mount| !own.iter().any(|mine| mine.target == mount.target));
    mounts.extend(own);
    Ok(mounts)
}

fn message_path(container: &Container) -> &str {
    let wished = container.termination_message_path.as_deref();
    wished
        .filter(|path| !path.is_empty())
        .unwrap_or(DEFAULT_MESSAGE_PATH)
}

/// An empty file that any user of the container can write.
fn message_file(pod: &PodShared, container: &Container) -> io::Result<PathBuf> {
    let directory = pod.directory.join("termination");
    fs::create_dir_all(&directory)?;
    let path = directory.join(&container.name);
    fs::write(&path, "")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    Ok(path)
}

/// What the container left as its last words.
pub(super) fn termination_message(
    pod: &PodShared,
    container: &Container,
    running: &Running,
    exit: ExitStatus,
) -> String {
    let path = pod.directory.join("termination").join(&container.name);
    let written = read_some(&path).unwrap_or_default();
    let policy = container.termination_message_policy.as_deref();
    if written.is_empty() && exit.code() != 0 && policy == Some("FallbackToLogsOnError") {
        return running.log.tail(80, 2048); // The kubelet's limits.
    }
    written
}

fn read_some(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(MOST_MESSAGE)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Both ends of a command's standard streams.
struct Pipes {
    theirs: Stdio,
    out: pipe::Receiver,
    err: pipe::Receiver,
    stdin: Option<pipe::Sender>,
}

impl Pipes {
    fn new(with_stdin: bool) -> io::Result<Self> {
        let pair = || -> io::Result<(OwnedFd, OwnedFd)> { Ok(pipe2(OFlag::O_CLOEXEC)?) };
        let (out, their_out) = pair()?;
        let (err, their_err) = pair()?;
        let (their_stdin, stdin) = if with_stdin {
            let (theirs, ours) = pair()?;
            (theirs, Some(pipe::Sender::from_owned_fd(ours)?))
        } else {
            (fs::File::open("/dev/null")?.into(), None)
        };
        Ok(Self {
            theirs: Stdio {
                stdin: their_stdin,
                stdout: their_out,
                stderr: their_err,
            },
            out: pipe::Receiver::from_owned_fd(out)?,
            err: pipe::Receiver::from_owned_fd(err)?,
            stdin,
        })
    }
}
