//! A server on a free port, with what the controllers of a real cluster would have made.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use malla_apiserver::{Client, Config, Server, kinds};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A running server; ends with the test.
pub(crate) struct Cluster {
    pub(crate) server: Server,
    directory: TempDir,
    port: u16,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
}

/// What a command printed, trimmed.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) ok: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(adjust: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::new(directory.path().join("store"));
        config.limits.bookmark_every = Duration::from_millis(200);
        adjust(&mut config);
        let server = Server::open(config).await.unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut cluster = Self {
            server,
            directory,
            port,
            stop: None,
            serving: None,
        };
        cluster.serve(listener);
        let url = cluster.url();
        let kubeconfig = cluster.server.admin_kubeconfig("test", &url).unwrap();
        std::fs::write(cluster.kubeconfig(), kubeconfig).unwrap();
        cluster.make_account("default").await;
        cluster
    }

    fn serve(&mut self, listener: TcpListener) {
        let (stop, stopped) = oneshot::channel();
        let server = self.server.clone();
        self.stop = Some(stop);
        self.serving = Some(tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            server.serve(vec![listener], stopped).await.unwrap();
        }));
    }

    /// Stops serving, closes the store, opens it again and serves at the same port.
    pub(crate) async fn restart(mut self) -> Self {
        self.stop.take().unwrap().send(()).unwrap();
        self.serving.take().unwrap().await.unwrap();
        let path = self.directory.path().join("store");
        drop(self.server);
        let mut config = Config::new(path);
        config.limits.bookmark_every = Duration::from_millis(200);
        self.server = open_again(config).await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        self.serve(listener);
        self
    }

    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn client(&self) -> Client {
        self.server.client("test")
    }

    /// What the service-account controller does for a new namespace.
    pub(crate) async fn make_account(&self, namespace: &str) {
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        let client = self.client();
        client
            .create(&kinds::SERVICE_ACCOUNTS, Some(namespace), account)
            .await
            .unwrap();
    }

    /// A kubectl command that is not started yet.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        kubectl(self.path(), arguments)
    }

    /// Runs kubectl to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Printed {
        finish(self.command(arguments), None).await
    }

    /// Runs kubectl with `input` on its standard input.
    pub(crate) async fn feed(&self, arguments: &[&str], input: &str) -> Printed {
        finish(self.command(arguments), Some(input.to_owned())).await
    }

    /// Runs kubectl, which must succeed; returns what it printed.
    pub(crate) async fn ok(&self, arguments: &[&str]) -> String {
        let printed = self.run(arguments).await;
        assert!(
            printed.ok,
            "kubectl {arguments:?}: {}\n{}",
            printed.err, printed.out
        );
        printed.out
    }

    /// Runs kubectl, which must fail; returns its complaint.
    pub(crate) async fn fails(&self, arguments: &[&str]) -> String {
        let printed = self.run(arguments).await;
        assert!(
            !printed.ok,
            "kubectl {arguments:?} succeeded: {}",
            printed.out
        );
        printed.err
    }

    /// `kubectl apply -f -`, which must succeed.
    pub(crate) async fn apply(&self, yaml: &str) -> String {
        let printed = self.feed(&["apply", "-f", "-"], yaml).await;
        assert!(printed.ok, "apply: {}\n{yaml}", printed.err);
        printed.out
    }

    /// `kubectl get -o json`, parsed.
    pub(crate) async fn json(&self, what: &[&str]) -> Value {
        let mut arguments = vec!["get", "-o", "json"];
        arguments.extend(what);
        serde_json::from_str(&self.ok(&arguments).await).unwrap()
    }
}

/// A kubectl command with the `kubeconfig` of a directory.
pub(crate) fn kubectl(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("kubectl");
    command
        .arg("--kubeconfig")
        .arg(directory.join("kubeconfig"))
        .args(arguments)
        .env("KUBECACHEDIR", directory.join("cache"))
        .stdin(Stdio::null());
    command
}

async fn open_again(config: Config) -> Server {
    // Watches that are ending hold the store a moment longer.
    for _ in 0..200 {
        match Server::open(config.clone()).await {
            Ok(server) => return server,
            Err(error) if error.to_string().contains("in use") => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the store is never closed");
}

async fn finish(mut command: Command, input: Option<String>) -> Printed {
    let output = tokio::task::spawn_blocking(move || run(&mut command, input)).await;
    let output = output.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    Printed {
        ok: output.status.success(),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}

fn run(command: &mut Command, input: Option<String>) -> Output {
    use std::io::Write;
    let Some(input) = input else {
        return command.output().expect("kubectl must be installed");
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl must be installed");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}
