//! Worlds for tests, from the YAML that users write.
//!
//! Deployments become workloads with addresses 10.1.0.1 and up, Services get virtual IPs 10.96.0.11
//! and up, both in the order in which they are written. A namespace labelled for injection gives
//! its workloads a proxy. `kind: Settings` changes the mesh's settings.

#![allow(dead_code)] // each test file uses its own part

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use malla_api::gateway_api::GatewayKind;
use malla_api::gateway_api::lower::{Objects, Surroundings};
use malla_api::lower::assemble;
use malla_api::lower::kubernetes::{secret, service};
use malla_api::{Config, Kind, gateway_api, lower};
use malla_model::id::{Labels, Meta, selects};
use malla_model::mesh::MeshParts;
use malla_model::service::Resolution;
use malla_model::settings::OutboundPolicy;
use malla_model::workload::{Address, Endpoint, Health, Locality, TlsMode};
use malla_model::{Mesh, MeshSettings, ObjectRef, Service, SpiffeId, Workload};
use malla_translate::{NodeKind, NodeView, Resource, Resources, translate};
use malla_xds_proto::json;
use serde_json::{Map, Value};

/// A workload with a service, and a service without.
pub(crate) const WEB_AND_API: &str = "
---
kind: Deployment
metadata: {name: web, namespace: base}
spec: {template: {metadata: {labels: {app: web}}}}
---
kind: Service
metadata: {name: web, namespace: base}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: api, namespace: base}
spec: {ports: [{name: http, port: 80}]}
---
";

/// The gateway's own Deployment and Service.
pub(crate) const INGRESS: &str = "
kind: Deployment
metadata: {name: istio-ingressgateway, namespace: istio-system}
spec:
  template:
    metadata: {labels: {app: istio-ingressgateway, istio: ingressgateway}}
---
kind: Service
metadata: {name: istio-ingressgateway, namespace: istio-system}
spec:
  selector: {app: istio-ingressgateway}
  ports:
  - {name: http, port: 80}
  - {name: https, port: 443, targetPort: 8443}
";

#[derive(Default)]
struct Builder {
    parts: MeshParts,
    injected: BTreeSet<String>,
    services: Vec<(Service, BTreeMap<String, u16>)>,
    configs: Vec<Config>,
    gateway_api: Objects,
}

/// What a mesh is made of, to make another.
pub(crate) fn parts(mesh: &Mesh) -> MeshParts {
    MeshParts {
        settings: mesh.settings.clone(),
        services: mesh.services.clone(),
        workloads: mesh.workloads.clone(),
        virtual_services: mesh.virtual_services.clone(),
        destination_rules: mesh.destination_rules.clone(),
        gateways: mesh.gateways.clone(),
        sidecars: mesh.sidecars.clone(),
        envoy_filters: mesh.envoy_filters.clone(),
        peer_authentications: mesh.peer_authentications.clone(),
        authorization_policies: mesh.authorization_policies.clone(),
        request_authentications: mesh.request_authentications.clone(),
        telemetries: mesh.telemetries.clone(),
        secrets: mesh.secrets.clone(),
    }
}

/// Reads documents separated by `---`.
#[track_caller]
pub(crate) fn world(text: &str) -> Mesh {
    let documents: Vec<Value> = text
        .split("\n---")
        .map(|document| {
            serde_saphyr::from_str(document).unwrap_or_else(|e| panic!("{e}\n{document}"))
        })
        .filter(|document: &Value| document.is_object())
        .collect();
    let mut builder = Builder::default();
    for document in documents.iter().filter(|d| d["kind"] == "Settings") {
        builder.settings(document);
    }
    for document in documents.iter().filter(|d| d["kind"] == "Namespace") {
        if document["metadata"]["labels"]["istio-injection"] == "enabled" {
            builder
                .injected
                .insert(text_of(&document["metadata"]["name"]));
        }
    }
    for (at, document) in documents.iter().enumerate() {
        builder.object(document, i64::try_from(at).unwrap());
    }
    builder.finish()
}

impl Builder {
    fn settings(&mut self, document: &Value) {
        let settings: &mut MeshSettings = &mut self.parts.settings;
        let spec = &document["spec"];
        if spec["meshConfig"].is_object() {
            // JSON is YAML.
            let text = spec["meshConfig"].to_string();
            let lowered = malla_api::lower::mesh_config::lower(&text, settings).unwrap();
            assert_eq!(lowered.not_honoured, []);
            *settings = lowered.value;
        }
        if let Some(file) = spec["accessLogFile"].as_str() {
            settings.access_log_file = Some(file.into());
        }
        if spec["outbound"] == "REGISTRY_ONLY" {
            settings.outbound = OutboundPolicy::RegistryOnly;
        }
        settings.access_log_json = spec["accessLogEncoding"] == "JSON";
        for alias in spec["trustDomainAliases"].as_array().into_iter().flatten() {
            settings
                .trust_domain_aliases
                .push(malla_model::TrustDomain::new(&text_of(alias)));
        }
    }

    #[track_caller]
    fn object(&mut self, document: &Value, created: i64) {
        let version = document["apiVersion"].as_str().unwrap_or_default();
        if version.starts_with(gateway_api::GROUP) {
            return self.gateway_api(document, created);
        }
        match document["kind"].as_str().unwrap() {
            "Namespace" | "Settings" | "ServiceAccount" => {}
            "Deployment" => self.deployment(document),
            "Service" => self.service(document),
            "Secret" => self.secret(document),
            kind => self.istio(kind, document, created),
        }
    }

    fn gateway_api(&mut self, document: &Value, created: i64) {
        let metadata = metadata(document, created);
        let kind = document["kind"].as_str().unwrap();
        let kind = GatewayKind::parse(kind).unwrap_or_else(|| panic!("{kind}"));
        let new = self.gateway_api.put(kind, &metadata, document).unwrap();
        assert!(new, "written twice");
    }

    /// `readers` are the service accounts that may list the Secrets of the namespace.
    fn secret(&mut self, document: &Value) {
        let secrets = Arc::make_mut(&mut self.parts.secrets);
        let namespace = text_of(&document["metadata"]["namespace"]);
        let keys = secrets.namespaces.entry(namespace.into()).or_default();
        let keys = Arc::make_mut(keys);
        let data = document["stringData"].as_object().into_iter().flatten();
        let data = data.map(|(key, value)| (key.clone(), text_of(value)));
        let material = secret::material(&data.collect());
        let name = text_of(&document["metadata"]["name"]);
        keys.secrets.insert(name.into(), Arc::new(material));
        for (account, may) in document["readers"].as_object().into_iter().flatten() {
            keys.readers.insert(account.as_str().into(), *may == true);
        }
    }

    fn deployment(&mut self, document: &Value) {
        let template = &document["spec"]["template"];
        let namespace = text_of(&document["metadata"]["namespace"]);
        let owner = text_of(&document["metadata"]["name"]);
        let labels = labels_of(&template["metadata"]["labels"]);
        let account = template["spec"]["serviceAccountName"]
            .as_str()
            .unwrap_or("default");
        let injected = match labels.get("sidecar.istio.io/inject") {
            Some(own) => own == "true",
            None => self.injected.contains(&namespace),
        };
        for replica in 0..document["spec"]["replicas"].as_u64().unwrap_or(1) {
            let ip: IpAddr = [
                10,
                1,
                0,
                u8::try_from(self.parts.workloads.len() + 1).unwrap(),
            ]
            .into();
            self.parts.workloads.push(Arc::new(Workload {
                meta: Meta {
                    object: ObjectRef::new("Pod", &namespace, &format!("{owner}-{replica}")),
                    created: 0,
                    generation: 1,
                    labels: labels.clone(),
                    annotations: Labels::new(),
                },
                addresses: vec![ip],
                identity: SpiffeId::new(&self.parts.settings.trust_domain, &namespace, account),
                node: "node-1".into(),
                locality: Locality::parse(template["locality"].as_str().unwrap_or_default()),
                network: "".into(),
                tls_mode: if injected {
                    TlsMode::Istio
                } else {
                    TlsMode::Disabled
                },
                owner: owner.as_str().into(),
            }));
        }
    }

    fn service(&mut self, document: &Value) {
        let mut document = document.clone();
        let spec = document["spec"].as_object_mut().unwrap();
        let needs_ip = !spec.contains_key("clusterIP") && !spec.contains_key("externalName");
        if needs_ip {
            spec.insert(
                "clusterIP".into(),
                format!("10.96.0.{}", self.services.len() + 11).into(),
            );
        }
        let targets = spec.get("ports").and_then(Value::as_array).cloned();
        let targets = targets
            .iter()
            .flatten()
            .map(|port| {
                let target = port["targetPort"]
                    .as_u64()
                    .or(port["port"].as_u64())
                    .unwrap();
                (
                    port["name"].as_str().unwrap_or_default().to_owned(),
                    u16::try_from(target).unwrap(),
                )
            })
            .collect();
        let object = serde_json::from_value(document).unwrap();
        self.services
            .push((service(&object, &self.parts.settings), targets));
    }

    #[track_caller]
    fn istio(&mut self, kind: &str, document: &Value, created: i64) {
        let kind = Kind::ALL
            .into_iter()
            .find(|known| known.to_string() == kind)
            .unwrap_or_else(|| panic!("unknown kind {kind}"));
        let metadata = metadata(document, created);
        let lowered = lower(kind, &metadata, &document["spec"], &self.parts.settings).unwrap();
        self.configs.push(lowered.value);
    }

    fn finish(mut self) -> Mesh {
        for (mut service, targets) in std::mem::take(&mut self.services) {
            let mut endpoints = Vec::new();
            for workload in &self.parts.workloads {
                let selected = !service.selector.is_empty()
                    && selects(&service.selector, &workload.meta.labels)
                    && workload.meta.namespace() == service.namespace();
                if selected {
                    endpoints.extend(
                        service
                            .ports
                            .iter()
                            .map(|port| endpoint(workload, &port.name, targets[&*port.name])),
                    );
                }
            }
            assert!(matches!(
                service.resolution,
                Resolution::Static | Resolution::Passthrough
            ));
            service.endpoints = Arc::new(endpoints);
            self.parts.services.push(Arc::new(service));
        }
        assemble::add(&mut self.parts, &self.configs);
        let outcome = gateway_api::lower::lower(
            &self.gateway_api,
            &Surroundings {
                settings: &self.parts.settings,
                services: &self.parts.services,
                secrets: &self.parts.secrets,
                namespaces: &BTreeMap::new(),
                addresses: &BTreeMap::new(),
                now: "",
            },
        );
        self.parts.gateways.extend(outcome.gateways);
        self.parts.virtual_services.extend(outcome.virtual_services);
        Mesh::new(self.parts)
    }
}

fn endpoint(workload: &Workload, port_name: &str, port: u16) -> Endpoint {
    let unready = workload
        .meta
        .labels
        .get("ready")
        .is_some_and(|ready| ready == "false");
    Endpoint {
        port_name: port_name.into(),
        address: Address::Ip(workload.addresses[0]),
        port,
        labels: Arc::new(workload.meta.labels.clone()),
        health: if unready {
            Health::Unhealthy
        } else {
            Health::Healthy
        },
        weight: 1,
        locality: workload.locality.clone(),
        network: workload.network.clone(),
        tls_mode: workload.tls_mode,
        identity: Some(workload.identity.clone()),
        workload: format!(
            "{};{};{};{};Kubernetes",
            workload.owner,
            workload.meta.namespace(),
            workload.canonical_name(),
            workload.canonical_revision()
        )
        .into(),
        node: workload.node.clone(),
    }
}

/// `created` is in seconds since the Unix epoch.
#[track_caller]
fn metadata(document: &Value, created: i64) -> ObjectMeta {
    let created = k8s_openapi::jiff::Timestamp::from_second(created).unwrap();
    let mut metadata: ObjectMeta = serde_json::from_value(document["metadata"].clone()).unwrap();
    metadata.creation_timestamp = Some(Time(created));
    metadata
}

fn text_of(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
        .to_owned()
}

fn labels_of(value: &Value) -> Labels {
    let labels = value.as_object().into_iter().flatten();
    labels
        .map(|(key, value)| (key.clone(), text_of(value)))
        .collect()
}

/// The view of the workload `OWNER-REPLICA.NAMESPACE`.
#[track_caller]
pub(crate) fn node(mesh: &Mesh, kind: NodeKind, name: &str) -> NodeView {
    let (name, namespace) = name.split_once('.').unwrap();
    let workload = mesh
        .workloads
        .iter()
        .find(|w| (w.meta.name(), w.meta.namespace()) == (name, namespace))
        .unwrap_or_else(|| panic!("no workload {name} in {namespace}"));
    let mut node = NodeView::new(kind, name, namespace, workload.addresses[0]);
    node.labels = workload.meta.labels.clone();
    node.service_account = workload.identity.service_account.clone();
    node.locality = workload.locality.clone();
    node.machine = workload.node.clone();
    node
}

#[track_caller]
pub(crate) fn sidecar(mesh: &Mesh, name: &str) -> Resources {
    translate(mesh, &node(mesh, NodeKind::Sidecar, name))
}

#[track_caller]
pub(crate) fn router(mesh: &Mesh, name: &str) -> Resources {
    translate(mesh, &node(mesh, NodeKind::Router, name))
}

/// The resources as JSON, by type and name.
pub(crate) fn dump(resources: &Resources) -> Value {
    let list = |resources: &[Resource]| -> Value {
        let mut out = Map::new();
        for resource in resources {
            let mut body = json::print_any(&resource.body);
            body.as_object_mut().unwrap().remove("@type");
            out.insert(resource.name.to_string(), body);
        }
        Value::Object(out)
    };
    serde_json::json!({
        "listeners": list(&resources.listeners),
        "routes": list(&resources.routes),
        "clusters": list(&resources.clusters),
        "endpoints": list(&resources.endpoints),
    })
}
