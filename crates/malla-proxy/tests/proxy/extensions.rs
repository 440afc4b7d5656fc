//! HTTP filters that come by name (ECDS), beside stock Envoy: over ADS, over a stream of their own, from a file.
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use malla_xds::resource::{self, ResourceMap};
use malla_xds_proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use malla_xds_proto::json::from_yaml;
use malla_xds_proto::pb::envoy::service::extension::v3::extension_config_discovery_service_server::{
    ExtensionConfigDiscoveryService, ExtensionConfigDiscoveryServiceServer,
};
use malla_xds_proto::type_url::{EXTENSION_CONFIG, LISTENER, ROUTE};
use malla_xds_proto::{any, core, listener as pb_listener, route as pb_route};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::{TcpListenerStream, WatchStream};
use tonic::{Request, Response, Status, Streaming};

use super::followed::Plane;
use super::sources::{Files, ads, serve_tcp};
use super::support::{Envoy, LIMIT, Running, bind, free_port, under};

const MUTATION: &str =
    "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation";
const LIMITER: &str =
    "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
const BUFFER: &str = "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer";
const ADS: &str = "config_source: { ads: {}, initial_fetch_timeout: 0s }";

/// A filter that writes `x-says: WORD` into answers.
fn says(word: &str) -> String {
    format!(
        "{{ \"@type\": {MUTATION}, mutations: {{ response_mutations: [ {{ append: {{ header: {{ key: x-says, value: {word} }} }} }} ] }} }}"
    )
}

fn extension(name: &str, config: &str) -> String {
    format!("{{ name: {name}, typed_config: {config} }}")
}

fn put(plane: &Plane, name: &str, config: &str) {
    let wire: core::TypedExtensionConfig = from_yaml(&extension(name, config)).unwrap();
    plane.change(|set| set.put(EXTENSION_CONFIG, name, any::encode(&wire)));
}

fn put_file(files: &Files, name: &str, word: &str) {
    let one = extension(name, &says(word));
    let one = one.replacen('{', &format!("{{ \"@type\": {EXTENSION_CONFIG},"), 1);
    files.put("ecds.yaml", &format!("resources: [ {one} ]"));
}

/// A listener that answers 200, with a seat for the filter `says`.
fn listener(name: &str, address: SocketAddr, seat: &str, routes: &str) -> String {
    format!(
        "{{ name: {name}, address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}, filter_chains: [ {{ filters: [ {{ name: http, typed_config: {{
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: {name}, {routes},
          http_filters: [
            {{ name: says, config_discovery: {{ type_urls: [ {MUTATION} ], {seat} }} }},
            {{ name: limits, typed_config: {{ \"@type\": {LIMITER}, stat_prefix: none }} }},
            {{ name: router, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }} ] }} }} ] }} ] }}",
        port = address.port()
    )
}

/// One route; of `/limited`, one request in an hour.
fn routes() -> String {
    let limit = format!(
        "typed_per_filter_config: {{ limits: {{ \"@type\": {LIMITER}, stat_prefix: one, token_bucket: {{ max_tokens: 1, fill_interval: 3600s }}, filter_enabled: {{ default_value: {{ numerator: 100 }} }}, filter_enforced: {{ default_value: {{ numerator: 100 }} }} }} }}"
    );
    format!(
        "{{ name: local, virtual_hosts: [ {{ name: all, domains: [\"*\"], routes: [ {{ match: {{ path: /limited }}, direct_response: {{ status: 200 }}, {limit} }}, {{ match: {{ prefix: / }}, direct_response: {{ status: 200 }} }} ] }} ] }}"
    )
}

/// Status and `x-says` of an answer; nothing while nobody answers.
async fn answer(address: SocketAddr, path: &str) -> String {
    let work = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        let mut part = [0; 4096];
        while !answer.contains("\r\n\r\n") {
            let length = stream
                .read(&mut part)
                .await
                .ok()
                .filter(|length| *length > 0)?;
            answer.push_str(&String::from_utf8_lossy(&part[..length]));
        }
        let status = answer.split(' ').nth(1)?;
        let said = answer
            .lines()
            .find_map(|line| line.strip_prefix("x-says: "));
        Some(format!("{status} {}", said.unwrap_or("-")))
    };
    let answer = timeout(Duration::from_millis(500), work).await;
    answer.ok().flatten().unwrap_or_default()
}

async fn until(address: SocketAddr, want: &str) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let got = answer(address, "/").await;
        if got == want {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{got:?} instead of {want:?} at {address}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct Listeners {
    /// Waits for its filter.
    patient: SocketAddr,
    /// Has a default.
    defaulting: SocketAddr,
    /// Finds nothing, at first.
    empty: SocketAddr,
    files: Files,
}

async fn prepared(plane: &Plane) -> Listeners {
    let all = Listeners {
        patient: free_port(),
        defaulting: free_port(),
        empty: free_port(),
        files: Files::new(),
    };
    let rds = "rds: { route_config_name: local, config_source: { ads: {} } }";
    let default = format!(
        "{ADS}, apply_default_config_without_warming: true, default_config: {}",
        says("default")
    );
    all.files.put("ecds.yaml", "resources: []");
    let path = all.files.path("ecds.yaml");
    let file = format!(
        "config_source: {{ path_config_source: {{ path: {} }}, initial_fetch_timeout: 0.2s }}",
        path.display()
    );
    let listeners = [
        ("patient", listener("patient", all.patient, ADS, rds)),
        (
            "defaulting",
            listener("defaulting", all.defaulting, &default, rds)
                .replace("name: says", "name: optional"),
        ),
        (
            "empty",
            listener("empty", all.empty, &file, rds).replace("name: says", "name: filed"),
        ),
    ];
    let wire: pb_route::RouteConfiguration = from_yaml(&routes()).unwrap();
    plane.change(|set| {
        set.put(ROUTE, "local", any::encode(&wire));
        for (name, yaml) in listeners {
            let wire: pb_listener::Listener = from_yaml(&yaml).unwrap();
            set.put(LISTENER, name, any::encode(&wire));
        }
    });
    all
}

async fn the_plane_is_followed(plane: &Plane, at: &Listeners, delta: bool) {
    // Without a filter: a default serves, a file that holds nothing is no wait, patience waits.
    until(at.defaulting, "200 default").await;
    until(at.empty, "500 -").await;
    if !delta {
        // In the other variant the server has said that there is none; Envoy then waits on, or does not.
        assert_eq!(answer(at.patient, "/").await, "");
    }
    put(plane, "says", &says("one"));
    until(at.patient, "200 one").await;
    put_file(&at.files, "filed", "found");
    until(at.empty, "200 found").await;
    put(plane, "optional", &says("other"));
    until(at.defaulting, "200 other").await;

    // Of another type than its users take, or with a field that is no good: the last one stays.
    for wrong in [
        format!("{{ \"@type\": {BUFFER}, max_request_bytes: 3 }}"),
        says("one").replace("key: x-says", "key: \":path\\n\""),
    ] {
        let before = plane.count("Nacked", EXTENSION_CONFIG);
        put(plane, "says", &wrong);
        plane.until_more("Nacked", EXTENSION_CONFIG, before).await;
        assert_eq!(answer(at.patient, "/").await, "200 one");
    }
    put(plane, "says", &says("two"));
    until(at.patient, "200 two").await;

    // The same routes once more, as control planes send them: what was used up stays used up.
    assert_eq!(answer(at.patient, "/limited").await, "200 two");
    assert_eq!(answer(at.patient, "/limited").await, "429 two");
    let before = plane.count("Acked", ROUTE);
    let wire: pb_route::RouteConfiguration = from_yaml(&routes()).unwrap();
    plane.change(|set| {
        let mut again = resource::Resource::hashed(any::encode(&wire).into());
        again.version = "again".into();
        set.set(ROUTE, ResourceMap::from([("local".into(), again)]));
    });
    plane.until_more("Acked", ROUTE, before).await;
    put(plane, "says", &says("three"));
    until(at.patient, "200 three").await;
    assert_eq!(answer(at.patient, "/limited").await, "429 three");

    if delta {
        plane.change(|set| set.remove(EXTENSION_CONFIG, "optional"));
        until(at.defaulting, "200 default").await;
        plane.change(|set| set.remove(EXTENSION_CONFIG, "says"));
        until(at.patient, "500 -").await;
    }
}

#[tokio::test]
async fn filters_come_by_name_over_ads_as_with_envoy() {
    for (api_type, with_envoy) in [
        ("DELTA_GRPC", true),
        ("GRPC", true),
        ("DELTA_GRPC", false),
        ("GRPC", false),
    ] {
        let plane = Plane::new();
        let (server, _task) = serve_tcp(&plane).await;
        let yaml = ads(
            api_type,
            &format!(
                "{{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }}",
                server.port()
            ),
        );
        let delta = api_type == "DELTA_GRPC";
        if with_envoy {
            let _envoy = Envoy::start(&yaml).await;
            let at = prepared(&plane).await;
            the_plane_is_followed(&plane, &at, delta).await;
        } else {
            let proxy = Running::run(bind(&yaml).await.unwrap());
            let at = prepared(&plane).await;
            the_plane_is_followed(&plane, &at, delta).await;
            let dump = proxy.admin("/config_dump?resource=ecds_filters").await;
            assert!(dump.contains("x-says"), "{dump}");
            let stats = proxy.admin("/stats?filter=extension_config").await;
            let rejected = "extension_config_discovery.http_filter.says.update_rejected: 2";
            assert!(stats.contains(rejected), "{stats}");
            proxy.stop().await;
        }
    }
}

/// A static listener whose filter comes from elsewhere.
fn fixed(address: SocketAddr, source: &str, more: &str) -> String {
    let routes = format!("route_config: {}", routes());
    let listener = listener("web", address, &format!("config_source: {source}"), &routes);
    format!(
        "node: {{ id: me, cluster: us }}\nstatic_resources:\n  listeners: [ {listener} ]\n{more}"
    )
}

#[tokio::test]
async fn filters_come_from_files_as_with_envoy() {
    for with_envoy in [true, false] {
        let (files, address) = (Files::new(), free_port());
        put_file(&files, "says", "one");
        let yaml = fixed(address, &files.source("ecds.yaml"), "");
        let scenario = async || {
            until(address, "200 one").await;
            put_file(&files, "says", "two");
            until(address, "200 two").await;
            files.put("ecds.yaml", "resources: [ {");
            put_file(&files, "says", "three");
            until(address, "200 three").await;
        };
        under(with_envoy, &yaml, scenario).await;
    }
}

/// A server of this type alone: it sends what it has, and again when that changes.
struct OneType(watch::Receiver<String>);

type Answers<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl ExtensionConfigDiscoveryService for OneType {
    type StreamExtensionConfigsStream = Answers<DiscoveryResponse>;
    type DeltaExtensionConfigsStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_extension_configs(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamExtensionConfigsStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_extension_configs(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaExtensionConfigsStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?;
        assert_eq!(first.unwrap().resource_names_subscribe, ["says"]);
        let words = WatchStream::new(self.0.clone());
        let answers = words.enumerate().map(move |(index, word)| {
            let _open = &requests;
            let wire: core::TypedExtensionConfig =
                from_yaml(&extension("says", &says(&word))).unwrap();
            Ok(DeltaDiscoveryResponse {
                type_url: EXTENSION_CONFIG.into(),
                nonce: index.to_string(),
                resources: vec![Resource {
                    name: "says".into(),
                    version: index.to_string(),
                    resource: Some(any::pack(&wire)),
                    ..Resource::default()
                }],
                ..DeltaDiscoveryResponse::default()
            })
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn fetch_extension_configs(
        &self,
        _: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("streams only"))
    }
}

#[tokio::test]
async fn filters_come_over_a_stream_of_their_own_as_with_envoy() {
    for with_envoy in [true, false] {
        let (word, words) = watch::channel("one".to_owned());
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let service = ExtensionConfigDiscoveryServiceServer::new(OneType(words));
        let _serving = tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(server)),
        );
        let address = free_port();
        let at = format!("{{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}");
        let all = ads("GRPC", &at);
        let clusters = all.split_once("static_resources:\n").unwrap().1;
        let source = "{ api_config_source: { api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [ { envoy_grpc: { cluster_name: xds } } ] } }";
        let yaml = fixed(address, source, clusters);
        let scenario = async || {
            until(address, "200 one").await;
            word.send_replace("two".into());
            until(address, "200 two").await;
        };
        under(with_envoy, &yaml, scenario).await;
    }
}
