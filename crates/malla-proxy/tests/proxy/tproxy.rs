//! Transparent interception (TPROXY), in two network namespaces: clients in one, both proxies and the workload in the
//! other. The workload sees its clients' own addresses, and what it answers comes back through the proxy.
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use malla_redirect::{Plan, Settings, Tool};
use nix::sched::{CloneFlags, unshare};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::timeout;

use super::support::{Envoy, LIMIT, Running, http, tcp_proxy};

/// Brings Envoy its own connections; all else is as `malla init` makes it.
const RULES: &str = "
table ip test {
  chain prerouting {
    type filter hook prerouting priority mangle
    iifname lo return
    tcp dport { 7003, 7004 } tproxy to :15002 meta mark set 1337 accept
  }
}";

/// What `malla init -m TPROXY` does for a proxy at 15001 that runs as root, as all of this test does.
fn init() {
    let settings = Settings {
        mode: "TPROXY".into(),
        inbound_capture_port: 15001,
        inbound_ports: "7001,7002".into(),
        proxy_uid: "0".into(),
        ..Settings::default()
    };
    let plan = Plan::try_from(&settings).unwrap();
    malla_redirect::apply(&plan, Tool::Nft).unwrap();
    // As a restarted pod does it.
    malla_redirect::apply(&plan, Tool::Nft).unwrap();
}

fn run(program: &str, arguments: &str) {
    let status = Command::new(program)
        .args(arguments.split_whitespace())
        .status()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(status.success(), "{program} {arguments}");
}

fn proxy(name: &str, port: u16, of_tcp: u16, of_http: u16) -> String {
    format!(
        r#"static_resources:
  listeners:
  - name: {name}
    address: {{ socket_address: {{ address: 0.0.0.0, port_value: {port} }} }}
    transparent: true
    use_original_dst: true
    listener_filters:
    - name: dst
      typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst }}
    - name: src
      typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.listener.original_src.v3.OriginalSrc, mark: 1337 }}
    filter_chains:
    - filter_chain_match: {{ destination_port: {of_tcp} }}
      filters: [ {tcp_filter} ]
    - filter_chain_match: {{ destination_port: {of_http} }}
      filters: [ {http_filter} ]
  clusters:
  - name: passthrough
    connect_timeout: 2s
    type: ORIGINAL_DST
    lb_policy: CLUSTER_PROVIDED
"#,
        tcp_filter = tcp_proxy("passthrough", ""),
        http_filter = http(
            "{ match: { prefix: / }, route: { cluster: passthrough } }",
            ""
        ),
    )
}

/// Says who is there, over HTTP on even ports.
async fn workload(port: u16) {
    let listener = TcpListener::bind(("10.8.0.2", port)).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, peer) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut heard = [0; 4096];
                while let Ok(1..) = stream.read(&mut heard).await {
                    let who = peer.ip().to_string();
                    let answer = match port % 2 {
                        0 => format!(
                            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{who}",
                            who.len()
                        ),
                        _ => who,
                    };
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// What a client at `source` hears at the workload's `port`.
async fn ask(source: &str, port: u16) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    let to = SocketAddr::from(([10, 8, 0, 2], port));
    let mut stream = timeout(LIMIT, socket.connect(to)).await.unwrap().unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let mut heard = [0; 4096];
    let count = timeout(LIMIT, stream.read(&mut heard))
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8_lossy(&heard[..count]).into_owned();
    match text.rsplit_once("\r\n\r\n") {
        Some((_, body)) => body.to_owned(),
        None => text,
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        timeout(Duration::from_secs(60), work)
            .await
            .expect("in time")
    })
}

/// Both proxies and the workload, until told to stop.
async fn serve(ready: mpsc::Sender<()>, stop: mpsc::Receiver<()>) {
    for port in 7001..=7004 {
        workload(port).await;
    }
    let (malla, _) = Running::start(&proxy("malla", 15001, 7001, 7002), "malla").await;
    let envoy = Envoy::start(&proxy("envoy", 15002, 7003, 7004)).await;
    ready.send(()).unwrap();
    let stopped = tokio::task::spawn_blocking(move || stop.recv());
    let _ = timeout(Duration::from_secs(50), stopped).await;
    drop(envoy);
    malla.stop().await;
}

/// The namespace of the workload and its proxies, once the link to the clients is there.
fn pod(ready: mpsc::Sender<()>, stop: mpsc::Receiver<()>) {
    for name in ["all", "lo", "default"] {
        let _ = fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0");
    }
    run("ip", "link set lo up");
    run("ip", "addr add 10.8.0.2/24 dev pod0");
    run("ip", "link set pod0 up");
    init();
    let rules = tempfile::NamedTempFile::new().unwrap();
    fs::write(rules.path(), RULES).unwrap();
    run("nft", &format!("-f {}", rules.path().display()));
    block_on(serve(ready, stop));
}

/// The namespace of the clients; makes the other one and the link between them.
fn clients() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (run the tests as root)");
    let (tell, told) = mpsc::channel();
    let (go, wait) = mpsc::channel();
    let (ready, is_ready) = mpsc::channel();
    let (stop, stopped) = mpsc::channel();
    let other = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        tell.send(nix::unistd::gettid()).unwrap();
        wait.recv().unwrap();
        pod(ready, stopped);
    });
    let thread = told.recv().unwrap();
    run("ip", "link add clients0 type veth peer name pod0");
    run("ip", &format!("link set pod0 netns {thread}"));
    run("ip", "addr add 10.8.0.1/24 dev clients0");
    run("ip", "addr add 10.8.0.3/24 dev clients0");
    run("ip", "link set clients0 up");
    go.send(()).unwrap();
    is_ready.recv_timeout(LIMIT * 2).unwrap();
    block_on(async {
        for (port, way) in [
            (7001, "malla, TCP"),
            (7002, "malla, HTTP"),
            (7003, "envoy, TCP"),
            (7004, "envoy, HTTP"),
        ] {
            // Each client twice: connections that are kept are not lent to another client.
            for source in ["10.8.0.1", "10.8.0.3", "10.8.0.1", "10.8.0.3"] {
                assert_eq!(ask(source, port).await, source, "{way}");
            }
        }
    });
    drop(stop);
    other.join().unwrap();
}

#[test]
fn a_workload_sees_its_clients_addresses() {
    if let Err(panic) = std::thread::spawn(clients).join() {
        std::panic::resume_unwind(panic);
    }
}
