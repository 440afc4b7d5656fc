//! Both proxies on one configuration.

use std::collections::HashMap;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use malla_proxy::app::{ConfigSource, Options, Proxy};
use malla_xds_proto::json;
use tempfile::TempDir;

use crate::h2::{self, Ask};
use crate::wire::{Answer, comparable, exchange};

/// How long a proxy may take to start, or a log line to appear.
const PATIENCE: Duration = Duration::from_secs(20);

/// One proxy under test.
pub(crate) struct Side {
    pub(crate) name: &'static str,
    ports: HashMap<String, u16>,
    pub(crate) log: PathBuf,
}

impl Side {
    /// Where a listener of the template accepts.
    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[listener]))
    }

    /// The log's lines, once there are at least `count`.
    pub(crate) fn lines(&self, count: usize) -> Vec<String> {
        Self::lines_of(&self.log, count)
    }

    /// The same for the JSON log.
    pub(crate) fn json_lines(&self, count: usize) -> Vec<String> {
        Self::lines_of(&self.log.with_extension("json"), count)
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
pub(crate) struct Lab {
    pub(crate) envoy: Side,
    pub(crate) malla: Side,
    _process: Process,
    _stop: tokio::sync::oneshot::Sender<()>,
    _folder: TempDir,
}

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
        let folder = tempfile::tempdir().unwrap();
        let (envoy_yaml, envoy) = fill("envoy", template, values, folder.path());
        let (malla_yaml, malla) = fill("malla", template, values, folder.path());
        let process = start_envoy(&envoy_yaml, folder.path());
        let stop = start_malla(&malla_yaml);
        for side in [&envoy, &malla] {
            for port in side.ports.values() {
                await_port(*port, side.name, folder.path());
            }
        }
        Self {
            envoy,
            malla,
            _process: Process(process),
            _stop: stop,
            _folder: folder,
        }
    }

    /// The same over HTTP/2.
    #[track_caller]
    pub(crate) fn check_h2(&self, listener: &str, ask: &Ask) -> Answer {
        let envoy = comparable(h2::exchange(self.envoy.address(listener), ask, "envoy"));
        let malla = comparable(h2::exchange(self.malla.address(listener), ask, "malla"));
        assert_eq!(
            show(&envoy),
            show(&malla),
            "\n--- request\n{} {} over HTTP/2 to {listener} {:?}\n--- left: Envoy, right: Malla",
            ask.method,
            ask.path,
            ask.headers
        );
        malla
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
    text = text.replace(
        "{json_log}",
        &log.with_extension("json").display().to_string(),
    );
    let mut ports = HashMap::new();
    while let Some(start) = text.find("{port:") {
        let end = start + text[start..].find('}').expect("a closing brace");
        let key = text[start + 6..end].to_owned();
        let port = free_port();
        text = text.replace(&format!("{{port:{key}}}"), &port.to_string());
        ports.insert(key, port);
    }
    (text, Side { name, ports, log })
}

/// A port nobody listens on at the moment: below those that outgoing connections take, and each only once.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id() % 10_000;
    for _ in 0..10_000 {
        let offset = (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        let port = 20_000 + u16::try_from(offset).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
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

fn start_envoy(yaml: &str, folder: &Path) -> Child {
    let file = folder.join("envoy.yaml");
    std::fs::write(&file, yaml).unwrap();
    Command::new(envoy_path())
        .args([
            "--use-dynamic-base-id",
            "--concurrency",
            "1",
            "--log-level",
            "warning",
            "--file-flush-interval-msec",
            "50",
        ])
        .arg("--log-path")
        .arg(folder.join("envoy.out"))
        .arg("-c")
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("envoy.err")).unwrap())
        .spawn()
        .expect("Envoy starts")
}

fn start_malla(yaml: &str) -> tokio::sync::oneshot::Sender<()> {
    let bootstrap = json::from_yaml(yaml).expect("the YAML parses");
    let (stop, stopped) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut options = Options::new(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
            options.concurrency = 1;
            let bound = Proxy::bind(ConfigSource::Static(Box::new(bootstrap)), options)
                .await
                .expect("Malla starts");
            bound
                .run(async {
                    // Dropping the sender stops it too.
                    let _ = stopped.await;
                })
                .await;
        });
    });
    stop
}

fn await_port(port: u16, name: &str, folder: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if Instant::now() > deadline {
            let mut text = String::new();
            for file in ["envoy.out", "envoy.err"] {
                if let Ok(mut file) = std::fs::File::open(folder.join(file)) {
                    let _ = file.read_to_string(&mut text);
                }
            }
            panic!("{name} does not listen on {port}\n{text}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
