//! Istio's objects: what validation accepts can be lowered, translated, and is taken by the proxy.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use malla_api::lower::assemble;
use malla_api::lower::kubernetes::service;
use malla_api::{Config, Kind, World, analyze, crds, duration, lower, validate};
use malla_apimachinery::kind::{FieldValidation, ResourceKind};
use malla_apimachinery::{crd, meta};
use malla_model::mesh::MeshParts;
use malla_model::{Mesh, MeshSettings};
use malla_proxy_config::cluster::Cluster;
use malla_proxy_config::endpoints::EndpointSet;
use malla_proxy_config::listener::Listener;
use malla_proxy_config::route::RouteConfig;
use malla_translate::{NodeKind, NodeView, Profile, Resource, Resources, translate};
use malla_xds_proto::any;
use serde_json::{Value, json};

use crate::input::Input;
use crate::{proxy, values};

/// Lowering refuses these by design, whatever validation says (it cannot know what the mesh can do).
const REFUSED_BY_DESIGN: [&str; 2] = ["spec.targetRefs", "spec.resolution"];

/// Documents as users write them.
pub fn yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut world = World::default();
    let _ = world.add_yaml("fuzz.yaml", text);
    let mut parts = parts();
    let mut configs = Vec::new();
    for object in world.objects.iter().take(8) {
        let word = |field: &str| object.value[field].as_str().unwrap_or_default();
        if let Some(kind) = Kind::of(word("apiVersion"), word("kind")) {
            configs.extend(check(kind, &object.value, &parts.settings));
        }
    }
    let _ = analyze(&world);
    assemble::add(&mut parts, &configs);
    proxies_take(parts);
}

/// Objects made to fit their schemas.
pub fn object(data: &[u8]) {
    let mut input = Input::new(data);
    let mut parts = parts();
    let mut world = World::default();
    let mut configs = Vec::new();
    for _ in 0..=input.below(3) {
        let kind = *input.pick(&Kind::ALL);
        let object = json!({
            "apiVersion": format!("{}/{}", kind.group(), kind.storage_version()),
            "kind": kind.name(),
            "metadata": {"name": values::text(&mut input), "namespace": *input.pick(&["default", "istio-system", "x"])},
            "spec": values::fitting(kind.spec_schema(), &mut input, 12),
        });
        configs.extend(check(kind, &object, &parts.settings));
        world.add(object);
    }
    let _ = analyze(&world);
    assemble::add(&mut parts, &configs);
    proxies_take(parts);
}

/// What the object means, where it can come into the cluster.
fn check(kind: Kind, object: &Value, settings: &MeshSettings) -> Option<Config> {
    let report = validate(kind, object);
    let metadata: ObjectMeta =
        serde_json::from_value(object["metadata"].clone()).unwrap_or_default();
    let lowered = lower(kind, &metadata, &object["spec"], settings);
    let accepted = report.is_valid() && passes_schema(kind, object);
    match lowered {
        // The API server and the webhook let nothing else into the cluster.
        Ok(lowered) => accepted.then_some(lowered.value),
        Err(refused) => {
            assert!(
                !report.is_valid()
                    || !kind.is_translated()
                    || REFUSED_BY_DESIGN.contains(&refused.path.as_str()),
                "valid but refused: {refused}\n{object:#}"
            );
            None
        }
    }
}

/// Whether the CRD's schema and CEL rules take the object.
fn passes_schema(kind: Kind, object: &Value) -> bool {
    static KINDS: LazyLock<Vec<ResourceKind>> = LazyLock::new(|| {
        let all = crds()
            .into_iter()
            .map(|definition| serde_json::to_value(definition).expect("a definition is JSON"));
        all.flat_map(|definition| crd::kinds(&definition).expect("our own definitions compile"))
            .collect()
    });
    let known = KINDS
        .iter()
        .find(|known| known.kind == kind.name() && known.version == kind.storage_version());
    let known = known.expect("every kind has a definition");
    let mut object = object.clone();
    if known.decode(&mut object, FieldValidation::Strict).is_err() {
        return false;
    }
    let namespace = object["metadata"]["namespace"]
        .as_str()
        .unwrap_or("default")
        .to_owned();
    let creation = meta::Creation {
        namespace: &namespace,
        uid: "u",
        now: jiff::Timestamp::UNIX_EPOCH,
        suffix: "abcde",
    };
    if meta::prepare_create(&mut object, &creation, known.status).is_err() {
        return false;
    }
    known.default_object(&mut object);
    known.validate_create(&object).is_empty()
}

/// A mesh with one service and nobody in it.
fn parts() -> MeshParts {
    let settings = MeshSettings::default();
    let web = json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.11", "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80}, {"name": "tcp", "port": 9000}]},
    });
    let web = serde_json::from_value(web).expect("a Service");
    MeshParts {
        services: vec![Arc::new(service(&web, &settings))],
        settings,
        ..MeshParts::default()
    }
}

/// What we tell proxies, our own takes: every resource, for a sidecar and a gateway; and a request finds its way.
/// EnvoyFilters alone may make of it what proxies refuse.
fn proxies_take(parts: MeshParts) {
    let changed = !parts.envoy_filters.is_empty();
    let mesh = Mesh::new(parts);
    for kind in [NodeKind::Sidecar, NodeKind::Router] {
        let address = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1));
        let mut node = NodeView::new(kind, "web-0", "default", address);
        node.profile = Profile::Malla;
        node.labels = [
            ("app".to_owned(), "web".to_owned()),
            ("istio".to_owned(), "ingressgateway".to_owned()),
        ]
        .into();
        let resources = translate(&mesh, &node);
        assert_eq!(resources, translate(&mesh, &node), "a pure function");
        let Resources {
            listeners,
            routes,
            clusters,
            endpoints,
        } = resources;
        take(&listeners, changed, Listener::from_proto, |listener| {
            proxy::ask_listener(&listener)
        });
        take(&routes, changed, RouteConfig::from_proto, |routes| {
            proxy::ask_routes(&routes, b"")
        });
        take(&clusters, changed, Cluster::from_proto, drop);
        take(&endpoints, changed, EndpointSet::from_proto, drop);
    }
}

fn take<M, T>(
    resources: &[Resource],
    changed: bool,
    parse: impl Fn(M) -> Result<malla_proxy_config::Checked<T>, malla_proxy_config::Invalid>,
    mut ask: impl FnMut(T),
) where
    M: prost::Message + prost::Name + Default,
{
    for resource in resources {
        let message: M = any::unpack(&resource.body).expect("we packed it");
        match parse(message) {
            Ok(checked) => ask(checked.value),
            Err(_) if changed => {}
            Err(error) => panic!(
                "our own proxy refuses what we translate, {}: {error}\n{:#}",
                resource.name,
                malla_xds_proto::json::print_any(&resource.body)
            ),
        }
    }
}

/// MeshConfig.
pub fn mesh_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let defaults = MeshSettings::default();
    let Ok(lowered) = malla_api::lower::mesh_config::lower(text, &defaults) else {
        return;
    };
    let again =
        malla_api::lower::mesh_config::lower(text, &lowered.value).expect("it was read before");
    assert_eq!(
        again.value, lowered.value,
        "reading it over its own result changes nothing"
    );
    let mut parts = parts();
    parts.settings = lowered.value;
    // The format is refused by the proxy, as by Envoy; that listener says so. All else must be taken.
    parts.settings.access_log_format = None;
    proxies_take(parts);
}

/// Durations, against the CRDs' own reading of the same text.
pub fn durations(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(read) = duration::parse(text) {
        let nanos = read.as_nanos();
        assert!(nanos <= i64::MAX as u128);
        assert_eq!(duration::parse(&format!("{nanos}ns")), Ok(read), "{text}");
    }
}
