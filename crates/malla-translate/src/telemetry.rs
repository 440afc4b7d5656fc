//! What a node tells of its requests: which objects are in force for it, and where their providers are.

pub(crate) mod logs;
pub(crate) mod tracing;

use malla_model::service::ServicePort;
use malla_model::telemetry::{Side, Target};
use malla_model::{Host, Service};
use malla_xds_proto::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
use malla_xds_proto::core::{GrpcService, HeaderValue};

use crate::listener::Side as Place;
use crate::names::outbound_cluster;
use crate::node::NodeView;
use crate::view::View;

/// Labels that name a service across its versions, the strongest first (Istio's canonical service).
const CANONICAL_NAMES: [&str; 3] = [
    "service.istio.io/canonical-name",
    "app.kubernetes.io/name",
    "app",
];
const CANONICAL_REVISIONS: [&str; 3] = [
    "service.istio.io/canonical-revision",
    "app.kubernetes.io/version",
    "version",
];

/// The side of a call a filter is on.
pub(crate) fn side(of: Place) -> Side {
    match of {
        Place::Inbound => Side::Server,
        Place::Outbound | Place::Gateway => Side::Client,
    }
}

/// The service a node is part of, whatever its version.
fn canonical_service(node: &NodeView) -> &str {
    first_label(node, &CANONICAL_NAMES).unwrap_or(&node.name)
}

fn canonical_revision(node: &NodeView) -> &str {
    first_label(node, &CANONICAL_REVISIONS).unwrap_or("latest")
}

fn first_label<'n>(node: &'n NodeView, names: &[&str]) -> Option<&'n str> {
    let mut labels = names.iter().filter_map(|name| node.labels.get(*name));
    labels.find(|value| !value.is_empty()).map(String::as_str)
}

/// The service of a provider and its port, whoever may see it: proxies report even where their workloads may not call.
pub(crate) fn find<'a>(view: &View<'a>, target: &Target) -> Option<(&'a Service, &'a ServicePort)> {
    let (namespace, host) = match target.service.split_once('/') {
        Some((namespace, host)) => (Some(namespace), host),
        None => (None, &*target.service),
    };
    let host = Host::new(host);
    let service = view.mesh.services.iter().find(|service| {
        service.hostname == host && namespace.is_none_or(|it| service.namespace() == it)
    })?;
    Some((service, service.port(target.port)?))
}

/// Services of providers that the node does not see among its own.
pub(crate) fn hidden<'a>(view: &View<'a>) -> Vec<(&'a Service, &'a ServicePort)> {
    let mut out: Vec<(&Service, &ServicePort)> = Vec::new();
    for target in view.mesh.settings.telemetry.targets() {
        let Some((service, port)) = find(view, target) else {
            continue;
        };
        let seen = view.service(&service.hostname).is_some();
        let there = out
            .iter()
            .any(|(known, at)| known.hostname == service.hostname && at.port == port.port);
        if !seen && !there {
            out.push((service, port));
        }
    }
    out
}

/// The cluster to a provider; `None` where there is no such service or port.
fn cluster(view: &View<'_>, target: &Target) -> Option<(String, Host)> {
    let (service, port) = find(view, target)?;
    let name = outbound_cluster(port.port, "", &service.hostname);
    Some((name, service.hostname.clone()))
}

/// A provider that is called by gRPC.
fn grpc_service(view: &View<'_>, target: &Target) -> Option<GrpcService> {
    let (cluster_name, host) = cluster(view, target)?;
    Some(GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name,
            authority: host.to_string(),
            ..EnvoyGrpc::default()
        })),
        ..GrpcService::default()
    })
}

fn header(name: &str, value: &str) -> HeaderValue {
    HeaderValue {
        key: name.to_owned(),
        value: value.to_owned(),
        ..HeaderValue::default()
    }
}
