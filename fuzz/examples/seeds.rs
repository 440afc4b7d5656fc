//! Writes the seeds of binary formats into `corpus/`.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use malla_xds_proto::bootstrap::Bootstrap;
use malla_xds_proto::core::Node;
use malla_xds_proto::pb::envoy::service::auth::v3::CheckResponse;
use malla_xds_proto::pb::envoy::service::ratelimit::v3::RateLimitResponse;
use malla_xds_proto::{any, json};
use prost::Message;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

const WORLD: &str = include_str!("../corpus/bootstrap_config/envoy.yaml");

fn main() -> Result<(), Box<dyn Error>> {
    let bootstrap: Bootstrap = json::from_yaml(WORLD)?;
    let resources = bootstrap.static_resources.unwrap_or_default();
    for (at, listener) in resources.listeners.iter().enumerate() {
        write(
            "envoy_proto",
            &format!("listener-{at}"),
            &[&[0], &*any::encode(listener)],
        )?;
        write(
            "xds_resource",
            &format!("listener-{at}"),
            &[&[0, b'\n'], &*any::encode(listener)],
        )?;
        for chain in &listener.filter_chains {
            for filter in &chain.filters {
                if let Some(malla_xds_proto::listener::filter::ConfigType::TypedConfig(config)) =
                    &filter.config_type
                {
                    let manager: Result<malla_xds_proto::hcm::HttpConnectionManager, _> =
                        any::unpack(config);
                    let Ok(manager) = manager else { continue };
                    write(
                        "envoy_proto",
                        &format!("manager-{at}"),
                        &[&[5], &*any::encode(&manager)],
                    )?;
                    if let Some(
                        malla_xds_proto::hcm::http_connection_manager::RouteSpecifier::RouteConfig(
                            routes,
                        ),
                    ) = &manager.route_specifier
                    {
                        write(
                            "envoy_proto",
                            &format!("routes-{at}"),
                            &[&[1], &*any::encode(routes)],
                        )?;
                        write(
                            "xds_resource",
                            &format!("routes-{at}"),
                            &[&[1], b"GET a.test /b?c=d\n", &*any::encode(routes)],
                        )?;
                    }
                }
            }
        }
    }
    for (at, cluster) in resources.clusters.iter().enumerate() {
        write(
            "envoy_proto",
            &format!("cluster-{at}"),
            &[&[2], &*any::encode(cluster)],
        )?;
        write(
            "xds_resource",
            &format!("cluster-{at}"),
            &[&[2, b'\n'], &*any::encode(cluster)],
        )?;
        if let Some(endpoints) = &cluster.load_assignment {
            write(
                "envoy_proto",
                &format!("endpoints-{at}"),
                &[&[3], &*any::encode(endpoints)],
            )?;
            write(
                "xds_resource",
                &format!("endpoints-{at}"),
                &[&[3, b'\n'], &*any::encode(endpoints)],
            )?;
        }
    }
    for (at, secret) in resources.secrets.iter().enumerate() {
        write(
            "envoy_proto",
            &format!("secret-{at}"),
            &[&[4], &*any::encode(secret)],
        )?;
        write(
            "xds_resource",
            &format!("secret-{at}"),
            &[&[4, b'\n'], &*any::encode(secret)],
        )?;
    }
    let node: Node = json::from_yaml(
        "{id: sidecar~10.1.0.1~web-0.default~default.svc.cluster.local, metadata: {NAMESPACE: default}}",
    )?;
    write("xds_node", "node", &[&node.encode_to_vec()])?;
    write("sniff", "hello", &[&hello()?])?;
    service_answers()
}

fn service_answers() -> Result<(), Box<dyn Error>> {
    let allowed: CheckResponse = json::from_yaml(
        "{status: {}, ok_response: {headers: [{header: {key: x-a, value: b}, append: true}, {header: {key: ':path', value: /x}}], \
         headers_to_remove: [x-b], response_headers_to_add: [{header: {key: x-c, raw_value: ZA==}, append_action: ADD_IF_ABSENT}], \
         query_parameters_to_set: [{key: c, value: '1'}], query_parameters_to_remove: [e], dynamic_metadata: {a: [1, {b: c}]}}}",
    )?;
    let denied: CheckResponse = json::from_yaml(
        "{status: {code: 7}, denied_response: {status: {code: 401}, body: no, headers: [{header: {key: www-authenticate, value: x}}]}}",
    )?;
    let limited: RateLimitResponse = json::from_yaml(
        "{overall_code: OVER_LIMIT, statuses: [{code: OVER_LIMIT, limit_remaining: 1, duration_until_reset: 5s, \
         current_limit: {name: a, requests_per_unit: 10, unit: MINUTE}}], response_headers_to_add: [{key: x-a, value: b}], \
         request_headers_to_add: [{key: host, value: b}], raw_body: bm8=}",
    )?;
    for (name, kind, bytes) in [
        ("allowed", 0, allowed.encode_to_vec()),
        ("denied", 0, denied.encode_to_vec()),
        ("limited", 1, limited.encode_to_vec()),
        ("serving", 2, vec![0, 0, 0, 0, 2, 8, 1]),
        ("starting", 2, vec![0, 0, 0, 0, 2, 8, 2]),
    ] {
        write("service_answers", name, &[&[kind], &bytes])?;
    }
    // One question for web.test, and its address, by a pointer to the name in the question.
    let dns: [&[u8]; 4] = [
        b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0",
        b"\x03web\x04test\0\0\x01\0\x01",
        b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04",
        &[10, 0, 0, 1],
    ];
    write("dns_answers", "address", &dns)?;
    let files = b"web\nnameserver 10.96.0.10\nsearch a.svc b\noptions ndots:5 timeout:1\n10.0.0.1 web # x\n::1 web.a.svc web\n";
    write("dns_answers", "files", &[files])
}

fn hello() -> Result<Vec<u8>, Box<dyn Error>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"istio".to_vec()];
    let mut client =
        ClientConnection::new(Arc::new(config), "web.example.com".to_owned().try_into()?)?;
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes)?;
    Ok(bytes)
}

fn write(target: &str, name: &str, parts: &[&[u8]]) -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), parts.concat())?;
    Ok(())
}
