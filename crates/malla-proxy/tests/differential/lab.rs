//! Both proxies on one configuration.

use std::collections::HashMap;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use malla_proxy::app::{ConfigSource, Options, Proxy};
use malla_xds_proto::json;
use tempfile::TempDir;

use crate::ports::free_port;
use crate::wire::{Answer, comparable, exchange};

/// How long a proxy may take to start, or a log line to appear.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often both write their logs.
const LOG_FLUSH: Duration = Duration::from_millis(10);

/// One proxy under test.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) name: &'static str,
    pub(crate) ports: HashMap<String, u16>,
    /// Unix sockets.
    pub(crate) sockets: HashMap<String, PathBuf>,
    pub(crate) log: PathBuf,
}

/// Where somebody is to listen.
#[derive(Debug)]
enum Place<'a> {
    Port(u16),
    Path(&'a Path),
}

impl Side {
    fn places(&self) -> impl Iterator<Item = Place<'_>> {
        let ports = self.ports.values().map(|port| Place::Port(*port));
        ports.chain(self.sockets.values().map(|path| Place::Path(path)))
    }

    /// Where a listener of the template accepts.
    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[listener]))
    }

    /// Whether there is such a listener.
    pub(crate) fn has(&self, listener: &str) -> bool {
        self.ports.contains_key(listener) || self.sockets.contains_key(listener)
    }

    /// The Unix socket of a listener, if it has one.
    pub(crate) fn socket(&self, listener: &str) -> Option<&Path> {
        self.sockets.get(listener).map(PathBuf::as_path)
    }

    /// The log's lines, once there are at least `count`.
    pub(crate) fn lines(&self, count: usize) -> Vec<String> {
        Self::lines_of(&self.log, count)
    }

    fn lines_of(log: &Path, count: usize) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            if lines.len() >= count || Instant::now() > deadline {
                return lines;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Both, running.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) envoy: Side,
    pub(crate) malla: Side,
    _process: Process,
    _stop: tokio::sync::oneshot::Sender<()>,
    pub(crate) folder: TempDir,
}

/// What the proxies say that do not start.
#[derive(Debug)]
pub(crate) struct Refusals {
    pub(crate) envoy: Option<String>,
    pub(crate) malla: Option<String>,
}

#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Lab {
    /// Starts both on `template`; `{port:NAME}` becomes a free port for each, `{log}` a file for each, and each of
    /// `values` its value.
    pub(crate) fn start(template: &str, values: &[(&str, String)]) -> Self {
        Self::start_with_workers(template, values, 1)
    }

    /// The same with so many workers for each.
    pub(crate) fn start_with_workers(
        template: &str,
        values: &[(&str, String)],
        workers: u32,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let envoy = fill("envoy", template, values, folder.path());
        let malla = fill("malla", template, values, folder.path());
        Self::launch(envoy, malla, folder, workers)
            .unwrap_or_else(|refusals| panic!("{refusals:#?}"))
    }

    /// Starts each on its text.
    ///
    /// # Errors
    /// What each of those says that do not come up.
    pub(crate) fn launch(
        (envoy_yaml, envoy): (String, Side),
        (malla_yaml, malla): (String, Side),
        folder: TempDir,
        workers: u32,
    ) -> Result<Self, Refusals> {
        let mut process = start_envoy(&envoy_yaml, folder.path(), workers);
        let stop = start_malla(&malla_yaml, workers);
        let mut stopped = || matches!(process.0.try_wait(), Ok(Some(_)));
        let started = envoy.places().all(|place| accepts(&place, &mut stopped));
        let envoy_says = (!started).then(|| words(folder.path()));
        let stop = stop.and_then(|stop| {
            match malla.places().find(|place| !accepts(place, &mut || false)) {
                None => Ok(stop),
                Some(place) => Err(format!("nothing listens on {place:?}")),
            }
        });
        match (envoy_says, stop) {
            (None, Ok(stop)) => Ok(Self {
                envoy,
                malla,
                _process: process,
                _stop: stop,
                folder,
            }),
            (envoy, stop) => Err(Refusals {
                envoy,
                malla: stop.err(),
            }),
        }
    }

    /// Sends the same bytes to both and compares the answers.
    #[track_caller]
    pub(crate) fn check(&self, listener: &str, request: &str) -> Answer {
        let envoy = comparable(exchange(
            self.envoy.address(listener),
            &tagged(request, "envoy"),
        ));
        let malla = comparable(exchange(
            self.malla.address(listener),
            &tagged(request, "malla"),
        ));
        assert_eq!(
            show(&envoy),
            show(&malla),
            "\n--- request\n{request}\n--- left: Envoy, right: Malla"
        );
        malla
    }
}

/// Tells the backend which proxy is asking, for its counters; not shown in echoes because both names are masked.
fn tagged(request: &str, name: &str) -> String {
    request.replace("{proxy}", name)
}

/// An answer as text, so that a difference is easy to see.
pub(crate) fn show(answer: &Answer) -> String {
    let mut out = format!("{}\n", answer.status);
    for (name, value) in &answer.headers {
        out.push_str(&format!("{name}: {value}\n"));
    }
    let body = answer
        .body
        .replace("x-proxy: envoy", "x-proxy: <proxy>")
        .replace("x-proxy: malla", "x-proxy: <proxy>");
    out.push_str(&format!(
        "\n{body}\n[{}]\n",
        match answer.headers.get("connection").map(String::as_str) {
            // Announced: when exactly does not matter.
            Some("close") => "closing",
            _ if answer.closed => "closed",
            _ => "open",
        }
    ));
    out
}

fn fill(
    name: &'static str,
    template: &str,
    values: &[(&str, String)],
    folder: &Path,
) -> (String, Side) {
    let mut text = template.to_owned();
    for (key, value) in values {
        text = text.replace(&format!("{{{key}}}"), value);
    }
    let log = folder.join(format!("{name}.log"));
    text = text.replace("{proxy_name}", name);
    text = text.replace("{log}", &log.display().to_string());
    let mut ports = HashMap::new();
    while let Some(start) = text.find("{port:") {
        let end = start + text[start..].find('}').expect("a closing brace");
        let key = text[start + 6..end].to_owned();
        let port = free_port();
        text = text.replace(&format!("{{port:{key}}}"), &port.to_string());
        ports.insert(key, port);
    }
    let side = Side {
        name,
        ports,
        sockets: HashMap::new(),
        log,
    };
    (text, side)
}

fn envoy_path() -> PathBuf {
    if let Some(path) = std::env::var_os("MALLA_ENVOY") {
        return path.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join("envoy"))
        .find(|file| file.is_file())
        .expect("Envoy is needed: put `envoy` on PATH or set MALLA_ENVOY")
}

fn start_envoy(yaml: &str, folder: &Path, workers: u32) -> Process {
    let file = folder.join("envoy.yaml");
    std::fs::write(&file, yaml).unwrap();
    let child = Command::new(envoy_path())
        .args([
            "--use-dynamic-base-id",
            "--concurrency",
            &workers.to_string(),
            "--log-level",
            "warning",
            "--file-flush-interval-msec",
            &LOG_FLUSH.as_millis().to_string(),
        ])
        .arg("--log-path")
        .arg(folder.join("envoy.out"))
        .arg("-c")
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("envoy.err")).unwrap())
        .spawn()
        .expect("Envoy starts");
    Process(child)
}

/// Runs Malla in a thread until the sender is dropped.
fn start_malla(yaml: &str, workers: u32) -> Result<tokio::sync::oneshot::Sender<()>, String> {
    let bootstrap = json::from_yaml(yaml).map_err(|error| error.to_string())?;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut options = Options::new(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
            options.concurrency = workers as usize;
            options.log_flush = LOG_FLUSH;
            match Proxy::bind(ConfigSource::Static(Box::new(bootstrap)), options).await {
                Err(error) => {
                    let _ = tell.send(Err(format!("{:#}", anyhow::Error::new(error))));
                }
                Ok(bound) => {
                    let _ = tell.send(Ok(()));
                    bound
                        .run(async {
                            // Dropping the sender stops it too.
                            let _ = stopped.await;
                        })
                        .await;
                }
            }
        });
    });
    told.recv()
        .unwrap_or_else(|_| Err("it panicked".into()))
        .map(|()| stop)
}

/// True once somebody listens; false if nobody does for too long, or `stopped` says so.
fn accepts(place: &Place<'_>, stopped: &mut impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !place.is_listening() {
        if Instant::now() > deadline || stopped() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

impl Place<'_> {
    /// Whether somebody listens there; asking leaves no trace in logs, as connecting would.
    fn is_listening(&self) -> bool {
        match self {
            Self::Port(port) => is_listening(*port),
            Self::Path(path) => is_listening_at(path),
        }
    }
}

fn is_listening_at(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    table.lines().any(|line| {
        // Num RefCount Protocol Flags Type St Inode Path; 00010000 is listening, `@` begins an abstract name.
        let mut words = line.split_whitespace().skip(3);
        let listening = words.next() == Some("00010000");
        let own = words.nth(3).map(|name| name.trim_start_matches('@'));
        listening && own.is_some_and(|own| Path::new(own) == path)
    })
}

fn is_listening(port: u16) -> bool {
    let wanted = format!(":{port:04X}");
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| {
        let table = std::fs::read_to_string(table).unwrap_or_default();
        table.lines().any(|line| {
            // sl local_address rem_address st …; 0A is LISTEN.
            let mut words = line.split_whitespace().skip(1);
            let local = words.next().is_some_and(|local| local.ends_with(&wanted));
            local && words.nth(1) == Some("0A")
        })
    })
}

/// What Envoy has to say.
fn words(folder: &Path) -> String {
    let mut text = String::new();
    for file in ["envoy.out", "envoy.err"] {
        if let Ok(mut file) = std::fs::File::open(folder.join(file)) {
            let _ = file.read_to_string(&mut text);
        }
    }
    text
}
