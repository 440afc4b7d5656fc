//! A real Envoy process, and the little HTTP these tests speak.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use malla_runtime::task::AbortOnDrop;
use malla_xds::Variant;
use malla_xds_proto::{any, json};
use prost::{Message, Name};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tracing::Span;

const PATIENCE: Duration = Duration::from_secs(20);

/// A message written as YAML, in bytes.
pub(crate) fn message<M: Message + Name + Default>(yaml: &str) -> Vec<u8> {
    any::encode(&json::from_yaml::<M>(yaml).unwrap())
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Answers every request with one text.
pub(crate) struct Backend {
    pub(crate) port: u16,
    _serving: AbortOnDrop<()>,
}

impl Backend {
    pub(crate) async fn start(body: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = AbortOnDrop::spawn(Span::none(), async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self {
            port,
            _serving: serving,
        }
    }
}

/// Envoy, killed when dropped.
pub(crate) struct EnvoyPeer {
    process: Child,
    admin: u16,
    _folder: tempfile::TempDir,
}

impl Drop for EnvoyPeer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl EnvoyPeer {
    pub(crate) async fn start(server: &SocketAddr, variant: Variant) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let admin = free_port();
        let path = folder.path().join("envoy.yaml");
        std::fs::write(&path, bootstrap(server, variant, admin)).unwrap();
        let log = std::fs::File::create(folder.path().join("envoy.log")).unwrap();
        let program = std::env::var("MALLA_ENVOY").unwrap_or_else(|_| "envoy".to_owned());
        let process = Command::new(&program)
            .arg("-c")
            .arg(&path)
            .args([
                "--disable-hot-restart",
                "--concurrency",
                "1",
                "-l",
                "warning",
            ])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {program:?} (set MALLA_ENVOY): {error}"));
        Self {
            process,
            admin,
            _folder: folder,
        }
    }

    pub(crate) async fn admin(&self, path: &str) -> String {
        get(self.admin, path).await.unwrap()
    }

    /// Asks again and again, and notes the answers, until it is dropped.
    pub(crate) async fn ask_all_the_time(&self, port: u16, answers: &mut Vec<String>) {
        loop {
            answers.push(get(port, "/").await.unwrap_or_default());
        }
    }

    /// Waits until the port answers with this text.
    pub(crate) async fn answers(&self, port: u16, expected: &str) {
        let deadline = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < deadline {
            last = get(port, "/").await;
            if last.as_deref() == Some(expected) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("expected {expected:?}, got {last:?}");
    }
}

async fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let chunked = head.contains("transfer-encoding: chunked");
    Some(if chunked {
        joined(body)
    } else {
        body.to_owned()
    })
}

/// The chunks of a body, joined.
fn joined(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        text.push_str(&rest[..length]);
        body = rest[length..].trim_start();
        if length == 0 {
            break;
        }
    }
    text
}

fn bootstrap(server: &SocketAddr, variant: Variant, admin: u16) -> String {
    let api_type = match variant {
        Variant::Delta => "DELTA_GRPC",
        Variant::Sotw => "GRPC",
    };
    let port = server.port();
    format!(
        r#"
node: {{ id: envoy-under-test, cluster: test }}
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {admin} }} }} }}
dynamic_resources:
  ads_config:
    api_type: {api_type}
    transport_api_version: V3
    grpc_services: [ {{ envoy_grpc: {{ cluster_name: xds }} }} ]
  cds_config: {{ ads: {{}}, resource_api_version: V3 }}
  lds_config: {{ ads: {{}}, resource_api_version: V3 }}
static_resources:
  clusters:
  - name: xds
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment:
      cluster_name: xds
      endpoints:
      - lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }} ]
"#
    )
}
