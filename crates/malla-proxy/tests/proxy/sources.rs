//! `malla proxy -c FILE` where the file says that the rest comes from elsewhere: files, streams of one type, a Unix socket.
//! What a user sees is the same as with stock Envoy on the same YAML.
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use malla_proxy::app::{BootstrapFile, validate};
use malla_runtime::drain::DrainWatch;
use malla_xds::server::{AdsServer, ServerOptions};
use malla_xds::transport::grpc::service;
use malla_xds_proto::type_url::{ENDPOINTS, LISTENER, ROUTE};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};

use super::followed::Plane;
use super::support::{
    Certs, Envoy, LIMIT, Running, echo, free_port, http_get, options, round_trip, under,
};

const HCM: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "http_filters: [ { name: router, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } } ]";

/// A folder of configuration files that are only ever replaced by moves.
pub struct Files(tempfile::TempDir);

impl Files {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn put(&self, name: &str, text: &str) {
        let new = self.path(&format!(".{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    pub fn source(&self, name: &str) -> String {
        format!(
            "{{ path_config_source: {{ path: {} }} }}",
            self.path(name).display()
        )
    }

    fn put_routes(&self, text: &str) {
        let virtual_host = format!(
            "{{ name: all, domains: [\"*\"], routes: [ {{ match: {{ path: /text }}, direct_response: {{ status: 200, body: {{ inline_string: {text} }} }} }} ] }}"
        );
        self.put(
            "rds.yaml",
            &format!("resources: [ {{ \"@type\": {ROUTE}, name: local, virtual_hosts: [ {virtual_host} ] }} ]"),
        );
    }

    fn put_endpoint(&self, address: SocketAddr) {
        let port = address.port();
        self.put(
            "eds.yaml",
            &format!("resources: [ {{ \"@type\": {ENDPOINTS}, cluster_name: app, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }} ] }} ] }} ]"),
        );
    }

    fn put_listeners(&self, web: SocketAddr, tcp: &[SocketAddr]) {
        let address = |at: SocketAddr| {
            format!(
                "address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }}",
                at.port()
            )
        };
        let rds = format!(
            "rds: {{ route_config_name: local, config_source: {} }}",
            self.source("rds.yaml")
        );
        let mut resources = vec![format!(
            "{{ \"@type\": {LISTENER}, name: web, {}, filter_chains: [ {{ filters: [ {{ name: http, typed_config: {{ \"@type\": {HCM}, stat_prefix: web, {rds}, {ROUTER} }} }} ] }} ] }}",
            address(web)
        )];
        for at in tcp {
            resources.push(format!(
                "{{ \"@type\": {LISTENER}, name: \"{at}\", {}, filter_chains: [ {{ filters: [ {} ] }} ] }}",
                address(*at),
                super::support::tcp_proxy("app", "")
            ));
        }
        self.put(
            "lds.yaml",
            &format!("resources: [ {} ]", resources.join(", ")),
        );
    }

    fn bootstrap(&self) -> String {
        self.put(
            "cds.yaml",
            &format!(
                "resources: [ {{ \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: app, type: EDS, connect_timeout: 1s, eds_cluster_config: {{ eds_config: {} }} }} ]",
                self.source("eds.yaml")
            ),
        );
        format!(
            "node: {{ id: me, cluster: us }}\ndynamic_resources: {{ cds_config: {}, lds_config: {} }}\n",
            self.source("cds.yaml"),
            self.source("lds.yaml")
        )
    }
}

pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn answers(address: SocketAddr, want: &str) {
    until(&format!("`{want}` at {address}"), async || {
        TcpStream::connect(address).await.is_ok() && http_get(address, "/text").await == want
    })
    .await;
}

pub async fn echoes(address: SocketAddr, want: &str) {
    until(&format!("`{want}` at {address}"), async || {
        TcpStream::connect(address).await.is_ok() && round_trip(address, "x").await == want
    })
    .await;
}

/// Everything a file can say and unsay.
async fn files_are_followed(files: &Files, web: SocketAddr, tcp: [SocketAddr; 2]) {
    answers(web, "one").await;
    echoes(tcp[0], "a x").await;
    files.put_routes("two");
    answers(web, "two").await;
    files.put_endpoint(echo("b ").await);
    echoes(tcp[0], "b x").await;
    // A listener more, and one less.
    files.put_listeners(web, &[tcp[1]]);
    echoes(tcp[1], "b x").await;
    until("the removed listener to refuse", async || {
        TcpStream::connect(tcp[0]).await.is_err()
    })
    .await;
    // What cannot be used changes nothing; what comes after it does.
    files.put("rds.yaml", "resources: [ {");
    files.put("rds.yaml", &format!("resources: [ {{ \"@type\": {ROUTE}, name: local, virtual_hosts: [ {{ name: x, domains: [] }} ] }} ]"));
    assert_eq!(http_get(web, "/text").await, "two");
    files.put_routes("three");
    answers(web, "three").await;
}

async fn prepared() -> (Files, SocketAddr, [SocketAddr; 2], String) {
    let files = Files::new();
    let (web, tcp) = (free_port(), [free_port(), free_port()]);
    files.put_routes("one");
    files.put_endpoint(echo("a ").await);
    files.put_listeners(web, &[tcp[0]]);
    let yaml = files.bootstrap();
    (files, web, tcp, yaml)
}

#[tokio::test]
async fn files_are_followed_as_envoy_does() {
    let (files, web, tcp, yaml) = prepared().await;
    let _envoy = Envoy::start(&yaml).await;
    files_are_followed(&files, web, tcp).await;

    let (files, web, tcp, yaml) = prepared().await;
    let (proxy, address) = Running::start(&yaml, "web").await;
    assert_eq!(address, web);
    files_are_followed(&files, web, tcp).await;
    proxy.stop().await;
}

/// Serves the plane over gRPC on a port.
pub async fn serve_tcp(plane: &Plane) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = AdsServer::new(plane.clone(), ServerOptions::new(DrainWatch::never()));
    let task = tokio::spawn(async move {
        tonic::transport::Server::builder()
            .add_service(service(server))
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    });
    (address, task)
}

fn serve_unix(plane: &Plane, path: &Path) -> JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    let server = AdsServer::new(plane.clone(), ServerOptions::new(DrainWatch::never()));
    tokio::spawn(async move {
        tonic::transport::Server::builder()
            .add_service(service(server))
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await
            .unwrap();
    })
}

pub fn ads(api_type: &str, endpoint: &str) -> String {
    format!(
        "node: {{ id: me, cluster: us }}
dynamic_resources:
  ads_config: {{ api_type: {api_type}, transport_api_version: V3, grpc_services: [ {{ envoy_grpc: {{ cluster_name: xds }} }} ] }}
  cds_config: {{ ads: {{}} }}
  lds_config: {{ ads: {{}} }}
static_resources:
  clusters:
  - name: xds
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment: {{ cluster_name: xds, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {endpoint} }} }} ] }} ] }}
"
    )
}

async fn the_stream_is_followed(plane: &Plane, address: SocketAddr) {
    echoes(address, "a x").await;
    plane.put_endpoint("app", echo("b ").await);
    echoes(address, "b x").await;
    plane.put_listener("in", address, &[("{}", "app"), ("{}", "app")]);
    plane.until_refused("in").await;
    assert_eq!(
        round_trip(address, "x").await,
        "b x",
        "the last good one serves on"
    );
}

#[tokio::test]
async fn a_control_plane_named_in_the_file_is_followed_in_both_variants() {
    for (api_type, with_envoy) in [
        ("DELTA_GRPC", true),
        ("GRPC", true),
        ("DELTA_GRPC", false),
        ("GRPC", false),
    ] {
        let (plane, address) = (Plane::new(), free_port());
        plane.put_cluster("app");
        plane.put_endpoint("app", echo("a ").await);
        plane.put_listener("in", address, &[("{}", "app")]);
        let (server, _task) = serve_tcp(&plane).await;
        let at = format!(
            "{{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }}",
            server.port()
        );
        let yaml = ads(api_type, &at);
        if with_envoy {
            let _envoy = Envoy::start(&yaml).await;
            the_stream_is_followed(&plane, address).await;
        } else {
            let proxy = Running::run(super::support::bind(&yaml).await.unwrap());
            the_stream_is_followed(&plane, address).await;
            proxy
                .until_stat("cluster_manager.cds.update_success: 1")
                .await;
            proxy
                .until_stat("listener_manager.lds.update_rejected: 1")
                .await;
            proxy.until_stat("control_plane.connected_state: 1").await;
            proxy.stop().await;
        }
    }
}

#[tokio::test]
async fn a_control_plane_at_a_unix_socket_may_go_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("xds");
    let (plane, address) = (Plane::new(), free_port());
    plane.put_cluster("app");
    plane.put_endpoint("app", echo("a ").await);
    plane.put_listener("in", address, &[("{}", "app")]);
    let server = serve_unix(&plane, &path);
    let yaml = ads(
        "DELTA_GRPC",
        &format!("{{ pipe: {{ path: {} }} }}", path.display()),
    );
    let proxy = Running::run(super::support::bind(&yaml).await.unwrap());
    echoes(address, "a x").await;
    server.abort();
    let _ = server.await;
    std::fs::remove_file(&path).unwrap();
    assert_eq!(
        round_trip(address, "x").await,
        "a x",
        "nothing changes meanwhile"
    );
    plane.put_endpoint("app", echo("b ").await);
    let _server = serve_unix(&plane, &path);
    echoes(address, "b x").await;
    proxy.stop().await;
}

/// The common name of the certificate a TLS listener shows.
async fn shown(address: SocketAddr) -> String {
    let output = tokio::process::Command::new("sh")
        .arg("-c")
        .arg(format!("openssl s_client -connect {address} </dev/null 2>/dev/null | openssl x509 -noout -subject"))
        .output()
        .await
        .unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .trim()
        .replace(' ', "")
}

async fn shows(address: SocketAddr, want: &str) {
    until(&format!("the certificate {want}"), async || {
        shown(address).await.ends_with(want)
    })
    .await;
}

/// A listener whose certificate is a secret in a file, made of two files in a watched folder.
fn rotating(files: &Files, address: SocketAddr, app: SocketAddr) -> String {
    std::fs::create_dir(files.path("keys")).unwrap();
    let keys = files.path("keys");
    files.put(
        "sds.yaml",
        &format!(
            "resources: [ {{ \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret, name: own, tls_certificate: {{ certificate_chain: {{ filename: {0}/now/cert.pem }}, private_key: {{ filename: {0}/now/key.pem }}, watched_directory: {{ path: {0} }} }} }} ]",
            keys.display()
        ),
    );
    format!(
        "node: {{ id: me, cluster: us }}
static_resources:
  listeners:
  - name: tls
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }}
    filter_chains:
    - filters: [ {} ]
      transport_socket: {{ name: tls, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: {{ tls_certificate_sds_secret_configs: [ {{ name: own, sds_config: {} }} ] }} }} }}
  clusters:
{}",
        address.port(),
        super::support::tcp_proxy("app", ""),
        files.source("sds.yaml"),
        super::support::cluster("app", &[app], "")
    )
}

/// What Kubernetes does to a mounted secret: a new folder, then one move of a link.
fn rotate(files: &Files, certs: &Certs, certificate: &str, key: &str) {
    let folder = files.path(&format!("keys/{certificate}-{key}"));
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(
        certs.path(&format!("{certificate}.pem")),
        folder.join("cert.pem"),
    )
    .unwrap();
    std::fs::copy(certs.path(&format!("{key}.key")), folder.join("key.pem")).unwrap();
    let link = files.path("keys/.new");
    std::os::unix::fs::symlink(&folder, &link).unwrap();
    std::fs::rename(link, files.path("keys/now")).unwrap();
}

async fn certificates_rotate(files: &Files, certs: &Certs, address: SocketAddr) {
    shows(address, "CN=first").await;
    rotate(files, certs, "second", "second");
    shows(address, "CN=second").await;
    // A key that does not fit is not used, and does no harm.
    rotate(files, certs, "third", "first");
    shows(address, "CN=second").await;
    rotate(files, certs, "third", "third");
    shows(address, "CN=third").await;
}

#[tokio::test]
async fn certificates_in_files_rotate_as_with_envoy() {
    let certs = Certs::new(&["first", "second", "third"]);
    for with_envoy in [true, false] {
        let (files, address) = (Files::new(), free_port());
        let yaml = rotating(&files, address, echo("").await);
        rotate(&files, &certs, "first", "first");
        let scenario = async || certificates_rotate(&files, &certs, address).await;
        under(with_envoy, &yaml, scenario).await;
    }
}

#[test]
fn a_bootstrap_that_asks_nobody_or_nothing_is_refused() {
    let files = Files::new();
    let check = |yaml: &str, want: &str| {
        files.put("envoy.yaml", yaml);
        let bootstrap = BootstrapFile::at(files.path("envoy.yaml")).read().unwrap();
        let error = validate(bootstrap, &options()).unwrap_err();
        assert!(error.to_string().contains(want), "{yaml}\n{error}");
    };
    let gone = files.source("gone.yaml");
    check(
        &format!("node: {{ id: me, cluster: us }}\ndynamic_resources: {{ cds_config: {gone} }}"),
        "paths must refer to an existing path in the system",
    );
    files.put("cds.yaml", "resources: []");
    check(
        &format!(
            "dynamic_resources: {{ cds_config: {} }}",
            files.source("cds.yaml")
        ),
        "node `id` and `cluster` are required",
    );
    check(
        &ads("GRPC", "{ pipe: { path: /x } }").replace("- name: xds", "- name: other"),
        "must have a statically defined non-EDS cluster: 'xds'",
    );
}
