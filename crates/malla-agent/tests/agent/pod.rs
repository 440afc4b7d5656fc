//! A pod's surroundings: its files, its environment, its application, and calls from outside.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use malla_agent::settings::Paths;
use malla_agent::{AgentError, Companion, EnvoyAgent, EnvoyOptions, Ports, Role, Settings};
use malla_identity::credential::Credential;
use malla_identity::key::PrivateKey;
use malla_identity::source::CertSource;
use malla_identity::tls::{ClientOptions, client_config};
use malla_identity::verify::AnyOf;
use malla_identity::{bundle::TrustBundle, csr};
use malla_model::SpiffeId;
use malla_runtime::task::AbortOnDrop;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tracing::Span;

use crate::plane::Plane;

pub(crate) const TOKEN: &str = "the pod's token";
pub(crate) const IDENTITY: &str = "spiffe://cluster.local/ns/base/sa/cart";
const PATIENCE: Duration = Duration::from_secs(20);

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Waits until it is so.
pub(crate) async fn until(what: &str, so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so().await {
        assert!(Instant::now() < deadline, "it did not come to pass: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) struct Pod {
    pub(crate) ports: Ports,
    pub(crate) inbound: u16,
    settings: Settings,
    _folder: tempfile::TempDir,
    _application: AbortOnDrop<()>,
}

/// What a call over mutual TLS found.
pub(crate) struct Call {
    pub(crate) body: String,
    /// Of the server's certificate.
    pub(crate) serial: String,
}

impl Pod {
    pub(crate) fn new(plane: &Plane) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let paths = files(folder.path(), plane);
        let application = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let app_port = application.local_addr().unwrap().port();
        let probes = format!(
            r#"{{"/app-health/cart/readyz": {{"httpGet": {{"path": "/up", "port": {app_port}}}}},
                "/app-health/cart/livez": {{"httpGet": {{"path": "/up", "port": {}}}}}}}"#,
            free_port()
        );
        let annotations =
            format!(r#"{{"scrape": "true", "path": "/metrics", "port": "{app_port}"}}"#);
        let control_plane = format!("localhost:{}", plane.address.port());
        let environment: BTreeMap<String, String> = [
            ("POD_NAME", "cart-1"),
            ("POD_NAMESPACE", "base"),
            ("INSTANCE_IP", "127.0.0.1"),
            ("SERVICE_ACCOUNT", "cart"),
            ("CA_ADDR", &control_plane),
            ("ISTIO_KUBE_APP_PROBERS", &probes),
            ("ISTIO_PROMETHEUS_ANNOTATIONS", &annotations),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let mut settings = Settings::read(Role::Sidecar, None, &environment, paths).unwrap();
        settings.ports = Ports {
            admin: free_port(),
            agent: free_port(),
            ready: free_port(),
            stats: free_port(),
        };
        Self {
            ports: settings.ports,
            inbound: free_port(),
            settings,
            _folder: folder,
            _application: AbortOnDrop::spawn(Span::none(), serve_application(application)),
        }
    }

    pub(crate) fn identity(&self) -> SpiffeId {
        IDENTITY.parse().unwrap()
    }

    pub(crate) fn start(&self) -> EnvoyAgent {
        let program = std::env::var("MALLA_ENVOY").unwrap_or_else(|_| "envoy".to_owned());
        self.start_program(&program)
            .expect("Envoy runs (set MALLA_ENVOY)")
    }

    pub(crate) fn companion(&self) -> Companion {
        let provider = malla_identity::default_provider();
        Companion::bind(self.settings.clone(), provider).unwrap()
    }

    pub(crate) fn start_program(&self, program: &str) -> Result<EnvoyAgent, AgentError> {
        let mut options = EnvoyOptions::new(program.into());
        options.drain = Duration::from_millis(100);
        options.program.concurrency = Some(1);
        let provider = malla_identity::default_provider();
        EnvoyAgent::start(self.settings.clone(), options, provider)
    }

    /// By the port that load balancers ask, which is Envoy's.
    pub(crate) async fn is_ready(&self) {
        until("the pod is ready", async || {
            let answer = self.get(self.ports.ready, "/healthz/ready").await;
            answer.is_some_and(|(code, _)| code == 200)
        })
        .await;
    }

    pub(crate) async fn get(&self, port: u16, path: &str) -> Option<(u16, String)> {
        exchange(
            TcpStream::connect(("127.0.0.1", port)).await.ok()?,
            "GET",
            path,
        )
        .await
    }

    pub(crate) async fn post(&self, port: u16, path: &str) -> Option<(u16, String)> {
        exchange(
            TcpStream::connect(("127.0.0.1", port)).await.ok()?,
            "POST",
            path,
        )
        .await
    }

    /// As another workload of the mesh.
    pub(crate) async fn call_over_mutual_tls(&self, plane: &Plane) -> Result<Call, String> {
        let provider = malla_identity::default_provider();
        let authority = plane.authority.load_full();
        let user: SpiffeId = "spiffe://cluster.local/ns/base/sa/user".parse().unwrap();
        let key = PrivateKey::generate().unwrap();
        let request = csr::request(&key, &user).unwrap();
        let request = csr::Request::from_pem(request.as_bytes()).unwrap();
        let (hour, now) = (Duration::from_secs(3600), SystemTime::now());
        let chain = authority.certify(&request, &user, hour, now).unwrap();
        let credential = Credential::new(chain, key.to_der(), &provider).unwrap();
        let bundle = TrustBundle::new(authority.roots().to_vec()).unwrap();
        let source = CertSource::fixed(Some(Arc::new(credential)), bundle);
        let options = ClientOptions::mesh(Arc::new(AnyOf(vec![self.identity()])), &[]);
        let config = client_config(&source, options, &provider).unwrap();

        let refuse = |error: std::io::Error| malla_identity::verify::reason(&error);
        let tcp = TcpStream::connect(("127.0.0.1", self.inbound))
            .await
            .map_err(refuse)?;
        let connector = TlsConnector::from(Arc::new(config));
        let name = "cart.base".try_into().unwrap();
        let stream = connector.connect(name, tcp).await.map_err(refuse)?;
        let chain = stream.get_ref().1.peer_certificates().unwrap().to_vec();
        let theirs = serial(&chain);
        let (_, body) = exchange(stream, "GET", "/").await.ok_or("no answer")?;
        Ok(Call {
            body,
            serial: theirs,
        })
    }
}

fn serial(chain: &[rustls_pki_types::CertificateDer<'_>]) -> String {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut openssl = Command::new("openssl")
        .args(["x509", "-inform", "DER", "-noout", "-serial"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    openssl.stdin.take().unwrap().write_all(&chain[0]).unwrap();
    let text = String::from_utf8(openssl.wait_with_output().unwrap().stdout).unwrap();
    let digits = text.trim().strip_prefix("serial=").unwrap().to_lowercase();
    let pairs: Vec<String> = digits
        .as_bytes()
        .chunks(2)
        .map(|pair| String::from_utf8_lossy(pair).into_owned())
        .collect();
    pairs.join(":")
}

fn files(folder: &Path, plane: &Plane) -> Paths {
    let paths = Paths {
        token: folder.join("token"),
        root: folder.join("root-cert.pem"),
        pod_info: folder.to_owned(),
        run: folder.join("run"),
    };
    std::fs::write(&paths.token, TOKEN).unwrap();
    std::fs::write(&paths.root, plane.authority.load().roots_pem()).unwrap();
    std::fs::write(folder.join("labels"), "app=\"cart\"\n").unwrap();
    paths
}

/// `/metrics` has a metric, everything else is 204.
async fn serve_application(listener: std::net::TcpListener) {
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let length = stream.read(&mut request).await.unwrap_or_default();
        let answer = if request[..length].starts_with(b"GET /metrics") {
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nshop_orders_total 7\n# EOF\n"
        } else {
            "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"
        };
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    method: &str,
    path: &str,
) -> Option<(u16, String)> {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: cart\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    // Envoy may close without saying so in TLS.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.split(' ').nth(1)?.parse().ok()?;
    Some((code, body.to_owned()))
}
