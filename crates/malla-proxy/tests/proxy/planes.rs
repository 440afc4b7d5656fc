//! Control planes behind TLS, and several of them: each type from its own.
use malla_runtime::drain::DrainWatch;
use malla_xds::server::{AdsServer, ServerOptions};
use malla_xds::transport::grpc::service;
use malla_xds_proto::cluster as pb_cluster;
use malla_xds_proto::json::from_yaml;
use malla_xds_proto::{any, type_url};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tower::util::MapRequestLayer;

use super::followed::Plane;
use super::sources::{ads, echoes, serve_tcp, until};
use super::support::{
    Certs, Envoy, Running, bind, bootstrap, cluster, echo, free_port, listener, tcp_proxy, under,
};

fn at(port: u16) -> String {
    format!("{{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}")
}

/// What is in front of a control plane: mutual TLS, ended by a proxy.
async fn behind_tls(certs: &Certs, plane: &Plane) -> (Running, u16) {
    let (server, _) = serve_tcp(plane).await;
    let tls = certs.downstream("server").replace("[istio]", "[h2]");
    let front = listener(
        "in",
        "127.0.0.1:0".parse().unwrap(),
        &tcp_proxy("app", ""),
        &tls,
    );
    let yaml = bootstrap(&[front], &[cluster("app", &[server], "")]);
    let (front, address) = Running::start(&yaml, "in").await;
    (front, address.port())
}

#[tokio::test]
async fn a_control_plane_behind_mutual_tls_is_followed() {
    let certs = Certs::new(&["client", "server"]);
    for (api_type, with_envoy) in [("DELTA_GRPC", true), ("DELTA_GRPC", false), ("GRPC", false)] {
        let (plane, address) = (Plane::new(), free_port());
        plane.put_cluster("app");
        plane.put_endpoint("app", echo("a ").await);
        plane.put_listener("in", address, &[("{}", "app")]);
        let (front, port) = behind_tls(&certs, &plane).await;
        let tls = |server: &str| certs.upstream("client", server).replace("[istio]", "[h2]");
        let yaml = ads(api_type, &at(port));
        let scenario = async || {
            echoes(address, "a x").await;
            plane.put_endpoint("app", echo("b ").await);
            echoes(address, "b x").await;
        };
        let good = format!("{yaml}{}", tls("server"));
        if with_envoy {
            let _envoy = Envoy::start(&good).await;
            scenario().await;
        } else {
            let proxy = Running::run(bind(&good).await.unwrap());
            scenario().await;
            proxy.stop().await;
            // Somebody else's certificate: it is asked again, and never told who we are.
            let other = Running::run(bind(&format!("{yaml}{}", tls("client"))).await.unwrap());
            until("more attempts", async || {
                let stats = front.admin("/stats?filter=ssl.connection_error").await;
                let count = stats.trim().rsplit(' ').next().unwrap_or_default();
                count.parse::<u64>().is_ok_and(|count| count >= 2)
            })
            .await;
            assert!(TcpStream::connect(address).await.is_err());
            other.stop().await;
        }
        front.stop().await;
    }
}

/// Serves a plane by the streams of single types: each is the stream of all types, on which only one is asked for.
async fn serve_single_types(plane: &Plane) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = AdsServer::new(plane.clone(), ServerOptions::new(DrainWatch::never()));
    let rename = MapRequestLayer::new(|mut request: http::Request<_>| {
        assert!(request.uri().path().contains("/Delta"), "{}", request.uri());
        let all = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
        *request.uri_mut() = all.parse().unwrap();
        request
    });
    let task = tokio::spawn(async move {
        tonic::transport::Server::builder()
            .layer(rename)
            .add_service(service(server))
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    });
    (port, task)
}

/// Clusters and endpoints from the plane `a`, listeners from `b`.
fn each_its_own(a: u16, b: u16) -> String {
    let source = |name: &str| {
        format!(
            "{{ resource_api_version: V3, api_config_source: {{ api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [ {{ envoy_grpc: {{ cluster_name: {name} }} }} ] }} }}"
        )
    };
    let clusters: Vec<String> = [("a", a), ("b", b)]
        .iter()
        .map(|(name, port)| {
            let all = ads("DELTA_GRPC", &at(*port));
            let (_, cluster) = all.split_once("  clusters:\n").unwrap();
            cluster.replace("xds", name)
        })
        .collect();
    format!(
        "node: {{ id: me, cluster: us }}\ndynamic_resources: {{ cds_config: {}, lds_config: {} }}\nstatic_resources:\n  clusters:\n{}",
        source("a"),
        source("b"),
        clusters.concat()
    )
}

#[tokio::test]
async fn each_type_may_come_from_a_control_plane_of_its_own() {
    for with_envoy in [true, false] {
        let (a, b, address) = (Plane::new(), Plane::new(), free_port());
        let put_cluster = |app: std::net::SocketAddr| {
            let port = app.port();
            let yaml = format!(
                "{{ name: app, type: STATIC, connect_timeout: 1s, load_assignment: {{ cluster_name: app, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {} }} }} ] }} ] }} }}",
                at(port)
            );
            let cluster: pb_cluster::Cluster = from_yaml(&yaml).unwrap();
            a.change(|set| set.put(type_url::CLUSTER, "app", any::encode(&cluster)));
        };
        put_cluster(echo("one ").await);
        b.put_listener("in", address, &[("{}", "app")]);
        let (server_a, _keep) = serve_single_types(&a).await;
        let (server_b, task_b) = serve_single_types(&b).await;
        let yaml = each_its_own(server_a, server_b);
        let scenario = async || {
            echoes(address, "one x").await;
            assert_eq!(b.count("Acked", type_url::CLUSTER), 0);
            assert_eq!(a.count("Acked", type_url::LISTENER), 0);
            // One may be gone: what the other says is followed.
            task_b.abort();
            put_cluster(echo("two ").await);
            echoes(address, "two x").await;
        };
        under(with_envoy, &yaml, scenario).await;
    }
}
