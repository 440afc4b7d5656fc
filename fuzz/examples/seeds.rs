//! Writes the seeds of binary formats into `corpus/`.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use malla_xds_proto::bootstrap::Bootstrap;
use malla_xds_proto::core::Node;
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
    Ok(())
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
