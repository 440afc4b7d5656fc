//! What the control plane knows of the cluster: services, endpoints, objects.

use std::collections::BTreeMap;

use malla_api::Kind;
use malla_model::service::{Resolution, Service, Visibility};
use malla_model::workload::{Address, Endpoint};
use malla_translate::unresolved;
use serde_json::{Map, Value, json};

use crate::index::World;

/// A page by its name; [`super::PAGES`] has been looked at.
pub(super) fn page(name: &str, world: &World) -> Value {
    let mesh = &world.mesh;
    match name {
        "registryz" => mesh.services.iter().map(|s| service(s, world)).collect(),
        "endpointz" | "endpointShardz" => shards(world),
        "configz" => world.configs.iter().map(|c| json!(*c.object)).collect(),
        "resourcesz" => Kind::ALL
            .iter()
            .map(|kind| json!({"Group": kind.group(), "Version": kind.storage_version(), "Kind": kind.name()}))
            .collect(),
        "push_status" => push_status(world),
        "clusterz" => {
            json!([{"id": &*mesh.settings.cluster_id, "secretName": "", "syncStatus": "synced"}])
        }
        // networkz: no network has a gateway here.
        _ => json!([]),
    }
}

/// istiod's numbers for how endpoints come about (`model.Resolution`).
fn resolution(service: &Service) -> u8 {
    match (service.resolution, &service.alias_of) {
        (_, Some(_)) => 4,
        (Resolution::Static, None) => 0,
        (Resolution::Dns, None) => 1,
        (Resolution::Passthrough, None) => 2,
        (Resolution::DnsRoundRobin, None) => 3,
    }
}

/// Where a service is known from, in istiod's words.
fn registry(service: &Service) -> &'static str {
    match service.is_kubernetes() {
        true => "Kubernetes",
        false => "External",
    }
}

fn service(service: &Service, world: &World) -> Value {
    let addresses: Vec<String> = service
        .addresses
        .iter()
        .map(|net| match net.prefix_len() == net.max_prefix_len() {
            true => net.addr().to_string(),
            false => net.to_string(),
        })
        .collect();
    let export: Map<String, Value> = match &service.visibility {
        Visibility::Public => [("*".to_owned(), json!({}))].into_iter().collect(),
        Visibility::Namespaces(names) => names
            .iter()
            .map(|name| (name.to_string(), json!({})))
            .collect(),
        Visibility::Nobody => [("~".to_owned(), json!({}))].into_iter().collect(),
    };
    let ports = service.ports.iter().map(|port| {
        json!({"name": *port.name, "port": port.port, "protocol": format!("{:?}", port.protocol)})
    });
    let cluster = world.mesh.settings.cluster_id.to_string();
    json!({
        "Attributes": {
            "ServiceRegistry": registry(service), "Name": *service.meta.object.name, "Namespace": service.namespace(),
            "Labels": service.meta.labels, "LabelSelectors": service.selector, "ExportTo": export,
        },
        "hostname": service.hostname.as_str(),
        "ports": ports.collect::<Vec<_>>(),
        "clusterVIPs": {"Addresses": {cluster: addresses}},
        "defaultAddress": addresses.first().map_or("0.0.0.0", String::as_str),
        "Resolution": resolution(service),
        "MeshExternal": service.external,
    })
}

/// Endpoints by host, namespace and shard, which is the registry and its cluster.
fn shards(world: &World) -> Value {
    let cluster = &world.mesh.settings.cluster_id;
    let mut hosts: BTreeMap<&str, BTreeMap<&str, Value>> = BTreeMap::new();
    for service in &world.mesh.services {
        let registry = registry(service);
        let endpoints = service.endpoints.iter().map(endpoint);
        let shards =
            json!({"Shards": {format!("{registry}/{cluster}"): endpoints.collect::<Vec<_>>()}});
        let namespaces = hosts.entry(service.hostname.as_str()).or_default();
        namespaces.insert(service.namespace(), shards);
    }
    json!(hosts)
}

/// istiod's `IstioEndpoint`. Its workload is `name;namespace;…`.
fn endpoint(endpoint: &Endpoint) -> Value {
    let mut workload = endpoint.workload.split(';');
    let name = workload.next().unwrap_or_default();
    let address = match &endpoint.address {
        Address::Ip(ip) => ip.to_string(),
        Address::Dns(name) => name.to_string(),
        Address::Unix(path) => format!("unix://{path}"),
    };
    let locality = &endpoint.locality;
    let locality = [&*locality.region, &*locality.zone, &*locality.subzone].join("/");
    json!({
        "Addresses": [address], "EndpointPort": endpoint.port,
        "ServicePortName": *endpoint.port_name, "Labels": *endpoint.labels,
        "WorkloadName": name, "Namespace": workload.next().unwrap_or_default(), "NodeName": *endpoint.node,
        "ServiceAccount": endpoint.identity.as_ref().map(ToString::to_string).unwrap_or_default(),
        "Locality": {"Label": locality.trim_end_matches('/')}, "Network": *endpoint.network,
        "LbWeight": endpoint.weight, "TLSMode": format!("{:?}", endpoint.tls_mode).to_lowercase(),
        "HealthStatus": format!("{:?}", endpoint.health),
    })
}

/// What of the last push was in doubt, by kind of doubt and object, as istiod's `PushContext.StatusJSON`.
fn push_status(world: &World) -> Value {
    let missing: Map<String, Value> = unresolved(&world.mesh)
        .iter()
        .map(|unresolved| {
            let object = &unresolved.object;
            let key = format!(
                "{}/{}/{} {}",
                object.kind, object.namespace, object.name, unresolved.field
            );
            (key, json!({"message": unresolved.missing.to_string()}))
        })
        .collect();
    let notes: Map<String, Value> = world
        .mesh_config_notes
        .iter()
        .map(|note| (note.clone(), json!({"message": note})))
        .collect();
    json!({"world": {"number": {"message": world.number.to_string()}}, "unresolved": missing, "meshConfig": notes})
}
