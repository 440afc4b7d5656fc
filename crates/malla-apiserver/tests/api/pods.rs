//! Logs, exec, attach and port-forward through a node that runs commands as plain processes.

use std::process::Stdio;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;
use malla_apiserver::outside::{
    BoxedStream, ByteStream, ExecOptions, ExecSession, Exit, LogOptions,
};
use malla_apiserver::{ApiError, NodeRuntime};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::watcher::{PATIENCE, client};

/// Asking for as many lines of a log meets a bug.
const PANICS: u64 = 13;

/// Runs commands on this machine; logs are the options they were asked with.
struct Shell;

impl NodeRuntime for Shell {
    fn logs(
        &self,
        _: Arc<Value>,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<ByteStream, ApiError>> {
        Box::pin(async move {
            assert_ne!(options.tail_lines, Some(PANICS), "a bug in the node");
            let first = Bytes::from(format!("{options:?}\n"));
            let lines = stream::iter([Ok(first)]);
            let lines: ByteStream = match options.follow {
                // A log that goes on for ever, until the client has had enough.
                true => {
                    Box::pin(lines.chain(stream::repeat_with(|| Ok(Bytes::from("more\n"))).take(3)))
                }
                false => Box::pin(lines),
            };
            Ok(lines)
        })
    }

    fn exec(
        &self,
        _: Arc<Value>,
        options: ExecOptions,
    ) -> BoxFuture<'_, Result<ExecSession, ApiError>> {
        Box::pin(async move {
            let (program, arguments) = options.command.split_first().unwrap();
            let mut command = Command::new(program);
            command.args(arguments).kill_on_drop(true);
            command.stdin(if options.stdin {
                Stdio::piped()
            } else {
                Stdio::null()
            });
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command
                .spawn()
                .map_err(|error| ApiError::bad_request(format!("start {program}: {error}")))?;
            let (resize, mut sizes) = mpsc::channel(4);
            let stdout = child.stdout.take().unwrap();
            Ok(ExecSession {
                stdin: child.stdin.take().map(|stdin| Box::pin(stdin) as _),
                stdout: Some(Box::pin(stdout)),
                stderr: Some(Box::pin(child.stderr.take().unwrap())),
                resize: options.tty.then_some(resize),
                exit: Box::pin(async move {
                    while let Ok(size) = sizes.try_recv() {
                        tracing::info!(?size, "resized");
                    }
                    match child.wait().await {
                        Ok(status) => Exit::Code(status.code().unwrap_or(137)),
                        Err(error) => Exit::Failed(error.to_string()),
                    }
                }),
            })
        })
    }

    fn attach(
        &self,
        pod: Arc<Value>,
        mut options: ExecOptions,
    ) -> BoxFuture<'_, Result<ExecSession, ApiError>> {
        options.command = vec!["echo".to_owned(), "attached".to_owned()];
        self.exec(pod, options)
    }

    fn port_forward(
        &self,
        _: Arc<Value>,
        port: u16,
    ) -> BoxFuture<'_, Result<BoxedStream, ApiError>> {
        Box::pin(async move {
            if port != 7 {
                return Err(ApiError::bad_request(format!("nothing listens on {port}")));
            }
            let (near, far) = tokio::io::duplex(1024);
            let (mut reader, mut writer) = tokio::io::split(far);
            tokio::spawn(async move { tokio::io::copy(&mut reader, &mut writer).await });
            Ok(Box::new(near) as BoxedStream)
        })
    }
}

pub(crate) async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.server.attach_node(Arc::new(Shell));
    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: a, image: x}, {name: b, image: z}]}",
    )
    .await;
    cluster
        .client()
        .bind("default", "p", "node-1")
        .await
        .unwrap();
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_logs_passes_every_option() {
    let cluster = cluster().await;
    let printed = cluster
        .ok(&[
            "logs",
            "p",
            "-c",
            "b",
            "--tail=5",
            "--since=10s",
            "--timestamps",
            "--limit-bytes=99",
        ])
        .await;
    for part in [
        "container: \"b\"",
        "tail_lines: Some(5)",
        "since_seconds: Some(10)",
        "timestamps: true",
        "limit_bytes: Some(99)",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    assert!(
        cluster
            .ok(&["logs", "p", "-c", "a", "--previous"])
            .await
            .contains("previous: true")
    );
    let followed = cluster.ok(&["logs", "-f", "p", "-c", "a"]).await;
    assert_eq!(followed.lines().filter(|line| *line == "more").count(), 3);
    let missing = cluster.fails(&["logs", "p", "-c", "zz"]).await;
    assert!(
        missing.contains("container zz is not valid for pod p"),
        "{missing}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_exec_carries_streams_and_exit_codes() {
    let cluster = cluster().await;
    assert_eq!(
        cluster
            .ok(&["exec", "p", "-c", "a", "--", "echo", "hello world"])
            .await,
        "hello world"
    );
    let both = cluster
        .run(&[
            "exec",
            "p",
            "-c",
            "a",
            "--",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 3",
        ])
        .await;
    assert_eq!(both.out, "out");
    assert!(
        both.err.contains("err") && both.err.contains("exit code 3"),
        "{}",
        both.err
    );
    let fed = cluster
        .feed(
            &["exec", "-i", "p", "-c", "a", "--", "wc", "-c"],
            &"x".repeat(300_000),
        )
        .await;
    assert_eq!(fed.out.trim(), "300000", "{}", fed.err);
    let large = cluster
        .ok(&["exec", "p", "-c", "a", "--", "seq", "1", "50000"])
        .await;
    assert_eq!(large.lines().count(), 50_000);
    let missing = cluster
        .fails(&["exec", "p", "-c", "a", "--", "/no/such/program"])
        .await;
    assert!(missing.contains("start /no/such/program"), "{missing}");
    let nobody = cluster
        .fails(&["exec", "p", "-c", "zz", "--", "true"])
        .await;
    assert!(
        nobody.contains("container zz is not valid for pod p"),
        "{nobody}"
    );
    assert!(
        cluster
            .ok(&["attach", "p", "-c", "a"])
            .await
            .contains("attached")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_without_a_node_says_so() {
    let cluster = cluster().await;
    cluster.ok(&["run", "q", "--image=x"]).await;
    let refused = cluster.fails(&["logs", "q"]).await;
    assert!(
        refused.contains("pod q does not have a host assigned"),
        "{refused}"
    );
}

/// What a command prints; it dies when nobody holds this.
type Printed = Lines<BufReader<ChildStdout>>;

/// Starts `kubectl port-forward`, and gives the local port it prints.
async fn forwarding(cluster: &Cluster, websockets: &str, port: u16) -> (Child, Printed, u16) {
    let arguments = ["port-forward", "p", &format!(":{port}")];
    let mut kubectl = Command::from(cluster.command(&arguments))
        .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(kubectl.stdout.take().unwrap()).lines();
    let line = timeout(PATIENCE, lines.next_line()).await.unwrap();
    // Forwarding from 127.0.0.1:40001 -> 7
    let line = line.unwrap().expect("kubectl says where it listens");
    let local = line.split(&[':', ' ']).find_map(|word| word.parse().ok());
    (kubectl, lines, local.expect(&line))
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_forwards_ports_over_websocket_and_spdy() {
    let cluster = cluster().await;
    let running = malla_apiserver::Patch::Strategic(json!({"status": {"phase": "Running"}}));
    let client = cluster.client();
    client
        .patch_status(&malla_apiserver::kinds::PODS, Some("default"), "p", running)
        .await
        .unwrap();
    for websockets in ["true", "false"] {
        let (_kubectl, _printed, local) = forwarding(&cluster, websockets, 7).await;
        let connections = (0..4_u8).map(|number| async move {
            let mut stream = TcpStream::connect(("127.0.0.1", local)).await.unwrap();
            let (mut reader, mut writer) = stream.split();
            // More than all buffers on the way hold together.
            let sent = vec![number; 3_000_000];
            let mut read = Vec::new();
            let write = async {
                writer.write_all(&sent).await.unwrap();
                writer.shutdown().await.unwrap();
            };
            let (_, all) = tokio::join!(write, reader.read_to_end(&mut read));
            all.unwrap();
            assert!(read == sent, "{} of {} bytes", read.len(), sent.len());
        });
        let all = futures_util::future::join_all(connections);
        timeout(PATIENCE, all).await.unwrap();

        let (mut kubectl, _printed, local) = forwarding(&cluster, websockets, 8).await;
        let mut nobody = TcpStream::connect(("127.0.0.1", local)).await.unwrap();
        let end = timeout(PATIENCE, nobody.read_to_end(&mut Vec::new())).await;
        drop(end.expect("the connection ends"));
        let mut errors = BufReader::new(kubectl.stderr.take().unwrap()).lines();
        let told = async {
            while let Some(line) = errors.next_line().await.unwrap() {
                if line.contains("nothing listens on 8") {
                    return true;
                }
            }
            false
        };
        assert!(timeout(PATIENCE, told).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_fails_its_own_request_only() {
    let cluster = cluster().await;
    let pods: Api<Pod> = Api::namespaced(client(&cluster).await, "default");
    let bug = LogParams {
        container: Some("a".to_owned()),
        tail_lines: Some(PANICS.try_into().unwrap()),
        ..LogParams::default()
    };
    let failed = pods.logs("p", &bug).await.unwrap_err();
    assert!(
        matches!(&failed, kube::Error::Api(status) if status.code == 500),
        "an answer, not a broken connection: {failed}"
    );
    pods.get("p").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_end_gracefully() {
    let cluster = cluster().await;
    cluster.ok(&["delete", "pod", "p", "--wait=false"]).await;
    let ending = cluster.json(&["pod", "p"]).await;
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 30);
    assert!(ending["metadata"]["deletionTimestamp"].is_string());
    let table = cluster.ok(&["get", "pods"]).await;
    assert!(table.contains("Terminating"), "{table}");
    // What the node says when the containers have stopped.
    let now = malla_apiserver::DeleteParams {
        grace_period_seconds: Some(0),
        ..Default::default()
    };
    cluster
        .client()
        .delete(&malla_apiserver::kinds::PODS, Some("default"), "p", &now)
        .await
        .unwrap();
    assert!(
        cluster
            .fails(&["get", "pod", "p"])
            .await
            .contains("NotFound")
    );
    // A pod no node has seen goes at once.
    cluster.ok(&["run", "q", "--image=x"]).await;
    cluster.ok(&["delete", "pod", "q"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_get_their_account_and_token() {
    let cluster = cluster().await;
    let pod = cluster.json(&["pod", "p"]).await;
    assert_eq!(pod["spec"]["serviceAccountName"], "default");
    assert_eq!(pod["spec"]["nodeName"], "node-1");
    let mount = &pod["spec"]["containers"][1]["volumeMounts"][0];
    assert_eq!(
        mount["mountPath"],
        "/var/run/secrets/kubernetes.io/serviceaccount"
    );
    let refused = cluster
        .feed(&["create", "-f", "-"], "apiVersion: v1\nkind: Pod\nmetadata: {name: z}\nspec: {serviceAccountName: ghost, containers: [{name: a, image: x}]}")
        .await;
    assert!(
        refused.err.contains(
            "error looking up service account default/ghost: serviceaccount \"ghost\" not found"
        ),
        "{}",
        refused.err
    );
    let status = json!({"status": {"phase": "Running", "podIP": "10.244.0.5"}});
    let client = cluster.client();
    let patch = malla_apiserver::Patch::Strategic(status);
    client
        .patch_status(&malla_apiserver::kinds::PODS, Some("default"), "p", patch)
        .await
        .unwrap();
    assert!(
        cluster
            .ok(&["get", "pod", "p", "-o", "wide"])
            .await
            .contains("10.244.0.5")
    );
    let running = cluster
        .ok(&[
            "get",
            "pods",
            "--field-selector=status.phase=Running",
            "-o",
            "name",
        ])
        .await;
    assert_eq!(running, "pod/p");
}
