//! What the tests share: a running proxy, backends, certificates, a running Envoy.
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use malla_proxy::app::{BoundProxy, ConfigSource, Options, Proxy, StartError};
use malla_runtime::drain::Stopped;
use malla_xds_proto::json::from_yaml;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// No test waits longer for anything.
pub const LIMIT: Duration = Duration::from_secs(20);

pub fn options() -> Options {
    Options {
        concurrency: 2,
        admin: Some("127.0.0.1:0".parse().unwrap()),
        ..Options::new(malla_identity::default_provider())
    }
}

pub async fn bind(yaml: &str) -> Result<BoundProxy, StartError> {
    let bootstrap = from_yaml(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    Proxy::bind(ConfigSource::Static(Box::new(bootstrap)), options()).await
}

/// A proxy that runs until it is stopped.
pub struct Running {
    pub admin: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Stopped>,
}

impl Running {
    /// Runs `yaml`, and tells where the listener named `listener` accepts.
    pub async fn start(yaml: &str, listener: &str) -> (Self, SocketAddr) {
        let bound = bind(yaml).await.unwrap();
        let address = bound.addr(listener).unwrap();
        (Self::run(bound), address)
    }

    pub fn run(bound: BoundProxy) -> Self {
        let admin = bound.admin_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(bound.run(async {
            let _ = stopped.await;
        }));
        Self { admin, stop, task }
    }

    pub async fn admin(&self, path: &str) -> String {
        http_get(self.admin, path).await
    }

    /// Waits until `/stats` has this line.
    pub async fn until_stat(&self, line: &str) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let stats = self.admin("/stats").await;
            if stats.lines().any(|have| have == line) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "waited in vain for `{line}` in:\n{stats}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops it; tells whether its work ended by itself.
    pub async fn stop(self) -> Stopped {
        self.stop.send(()).unwrap();
        timeout(LIMIT, self.task).await.unwrap().unwrap()
    }
}

/// Goes through the scenario while Envoy, or the proxy in this process, runs the configuration.
pub async fn under(with_envoy: bool, yaml: &str, scenario: impl AsyncFnOnce()) {
    if with_envoy {
        let _envoy = Envoy::start(yaml).await;
        scenario().await;
    } else {
        let proxy = Running::run(bind(yaml).await.unwrap());
        scenario().await;
        proxy.stop().await;
    }
}

/// The body of a GET, without its head.
pub async fn http_get(address: SocketAddr, path: &str) -> String {
    let work = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
            .split_once("\r\n\r\n")
            .map(|(_, body)| body.to_owned())
            .unwrap_or_default()
    };
    timeout(LIMIT, work).await.unwrap()
}

/// A server that says its name and then echoes until its client ends.
pub async fn echo(name: &str) -> SocketAddr {
    echo_at("127.0.0.1:0".parse().unwrap(), name).await
}

pub async fn echo_at(address: SocketAddr, name: &str) -> SocketAddr {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let greeting = name.to_owned().into_bytes();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let greeting = greeting.clone();
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                if write.write_all(&greeting).await.is_ok() {
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                }
            });
        }
    });
    address
}

/// Sends `text` and its end; everything that comes back.
pub async fn round_trip(address: SocketAddr, text: &str) -> String {
    exchange(TcpStream::connect(address).await.unwrap(), text).await
}

/// As [`round_trip`], from another address of this host.
pub async fn round_trip_from(source: &str, address: SocketAddr, text: &str) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    exchange(socket.connect(address).await.unwrap(), text).await
}

async fn exchange(mut stream: TcpStream, text: &str) -> String {
    let work = async {
        let mut got = Vec::new();
        // A proxy that closes at once is an empty answer, also where it resets.
        if stream.write_all(text.as_bytes()).await.is_ok() && stream.shutdown().await.is_ok() {
            let _ = stream.read_to_end(&mut got).await;
        }
        String::from_utf8(got).unwrap()
    };
    timeout(LIMIT, work).await.expect("an answer in time")
}

/// A static cluster.
pub fn cluster(name: &str, endpoints: &[SocketAddr], more: &str) -> String {
    let endpoints: Vec<String> = endpoints
        .iter()
        .map(|a| {
            format!(
                "{{ endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }} }}",
                a.ip(),
                a.port()
            )
        })
        .collect();
    format!(
        "  - name: {name}\n    connect_timeout: 1s\n    type: STATIC\n    load_assignment: {{ cluster_name: {name}, endpoints: [ {{ lb_endpoints: [ {} ] }} ] }}\n{more}",
        endpoints.join(", ")
    )
}

/// A TCP proxy filter for a chain.
pub fn tcp_proxy(cluster: &str, more: &str) -> String {
    format!(
        r#"{{ name: tcp, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: tcp, cluster: {cluster}{more} }} }}"#
    )
}

/// An HTTP connection manager for a chain, with these routes.
pub fn http(routes: &str, more: &str) -> String {
    format!(
        r#"{{ name: http, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: http, http_filters: [ {{ name: router, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }} ], route_config: {{ virtual_hosts: [ {{ name: all, domains: ["*"], routes: [ {routes} ] }} ] }}{more} }} }}"#
    )
}

/// A listener with one chain.
pub fn listener(name: &str, address: SocketAddr, filter: &str, more: &str) -> String {
    format!(
        "  - name: {name}\n    stat_prefix: {name}\n    address: {{ socket_address: {{ address: {}, port_value: {} }} }}\n    filter_chains:\n    - filters: [ {filter} ]\n{more}",
        address.ip(),
        address.port()
    )
}

pub fn bootstrap(listeners: &[String], clusters: &[String]) -> String {
    format!(
        "static_resources:\n  listeners:\n{}  clusters:\n{}",
        listeners.concat(),
        clusters.concat()
    )
}

/// Certificates of one mesh in a folder: `ca.pem`, and `NAME.pem`, `NAME.key` for each workload.
pub struct Certs {
    pub folder: tempfile::TempDir,
}

impl Certs {
    pub fn new(workloads: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "test mesh");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        for workload in workloads {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            let uri = format!("spiffe://cluster.local/ns/base/sa/{workload}");
            // Not rcgen's default, the same for all: OpenSSL would take each for self-signed.
            params
                .distinguished_name
                .push(DnType::CommonName, *workload);
            params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
            let certificate = params.signed_by(&key, &issuer).unwrap();
            std::fs::write(
                folder.path().join(format!("{workload}.pem")),
                certificate.pem(),
            )
            .unwrap();
            std::fs::write(
                folder.path().join(format!("{workload}.key")),
                key.serialize_pem(),
            )
            .unwrap();
        }
        Self { folder }
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn pair(&self, workload: &str) -> String {
        format!(
            "tls_certificates: [ {{ certificate_chain: {{ filename: {} }}, private_key: {{ filename: {} }} }} ]",
            self.path(&format!("{workload}.pem")).display(),
            self.path(&format!("{workload}.key")).display()
        )
    }

    fn trust(&self) -> String {
        format!(
            "trusted_ca: {{ filename: {} }}",
            self.path("ca.pem").display()
        )
    }

    /// A `transport_socket` that demands a client certificate, for a chain.
    pub fn downstream(&self, workload: &str) -> String {
        format!(
            "      transport_socket: {{ name: tls, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, require_client_certificate: true, common_tls_context: {{ alpn_protocols: [istio], {}, validation_context: {{ {} }} }} }} }}\n",
            self.pair(workload),
            self.trust()
        )
    }

    /// A `transport_socket` that expects `server`, for a cluster.
    pub fn upstream(&self, workload: &str, server: &str) -> String {
        format!(
            "    transport_socket: {{ name: tls, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, sni: web.test, common_tls_context: {{ alpn_protocols: [istio], {}, validation_context: {{ {}, match_typed_subject_alt_names: [ {{ san_type: URI, matcher: {{ exact: \"spiffe://cluster.local/ns/base/sa/{server}\" }} }} ] }} }} }} }}\n",
            self.pair(workload),
            self.trust()
        )
    }
}

/// The stock Envoy binary. A test that needs it and has none fails.
fn envoy_binary() -> PathBuf {
    let named = std::env::var_os("MALLA_ENVOY").map(PathBuf::from);
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|folder| folder.join("envoy"))
            .find(|file| file.is_file())
    };
    named
        .or_else(on_path)
        .expect("Envoy 1.40 as $MALLA_ENVOY or on the PATH")
}

/// A stock Envoy that runs until dropped.
pub struct Envoy {
    pub admin: SocketAddr,
    child: Child,
    _folder: tempfile::TempDir,
}

impl Envoy {
    pub async fn start(yaml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("envoy.yaml");
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let admin_file = folder.path().join("admin");
        let admin =
            "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\n";
        std::fs::write(&file, format!("{admin}{yaml}")).unwrap();
        let child = Command::new(envoy_binary())
            .args([
                "-c".as_ref(),
                file.as_os_str(),
                "--admin-address-path".as_ref(),
                admin_file.as_os_str(),
            ])
            .args(["--disable-hot-restart", "--concurrency", "1", "-l", "info"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut envoy = Self {
            admin: "127.0.0.1:0".parse().unwrap(),
            child,
            _folder: folder,
        };
        envoy.ready(&admin_file).await;
        envoy
    }

    async fn ready(&mut self, admin_file: &Path) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let text = std::fs::read_to_string(admin_file).unwrap_or_default();
            if let Ok(admin) = text.trim().parse()
                && http_get(admin, "/ready").await.contains("LIVE")
            {
                self.admin = admin;
                return;
            }
            let over = self.child.try_wait().unwrap().is_some() || Instant::now() > deadline;
            let log =
                || std::fs::read_to_string(self._folder.path().join("log")).unwrap_or_default();
            assert!(!over, "Envoy did not start:\n{}", log());
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port nobody listens on, and nobody else will.
pub fn free_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], super::ports::free_port()))
}
