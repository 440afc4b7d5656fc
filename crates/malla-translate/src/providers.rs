//! Services that the mesh itself asks or tells: collectors, authorizers, servers of keys.
//!
//! A proxy reaches them whether or not its workload may call them.

use malla_model::service::ServicePort;
use malla_model::telemetry::Target;
use malla_model::{Host, Service};
use malla_xds_proto::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
use malla_xds_proto::core::{GrpcService, HeaderValue};

use crate::jwt;
use crate::names::outbound_cluster;
use crate::references::Missing;
use crate::view::View;

/// The service of a provider and its port, whoever may see it.
fn find<'a>(view: &View<'a>, target: &Target) -> Result<(&'a Service, &'a ServicePort), Missing> {
    let (namespace, host) = match target.service.split_once('/') {
        Some((namespace, host)) => (Some(namespace), host),
        None => (None, &*target.service),
    };
    let host = Host::new(host);
    let mut services = view.mesh.services.iter();
    let service = services.find(|service| {
        service.hostname == host && namespace.is_none_or(|it| service.namespace() == it)
    });
    let service = service.ok_or_else(|| Missing::Host(host.clone()))?;
    let port = service.port(target.port);
    let missing = || Missing::Port {
        host,
        port: target.port,
    };
    Ok((service, port.ok_or_else(missing)?))
}

/// What of a provider's address is not there.
pub(crate) fn missing(view: &View<'_>, target: &Target) -> Option<Missing> {
    find(view, target).err()
}

/// Services of providers that the node does not see among its own.
pub(crate) fn hidden<'a>(view: &View<'a>) -> Vec<(&'a Service, &'a ServicePort)> {
    let mut out: Vec<(&Service, &ServicePort)> = Vec::new();
    let targets = view.mesh.settings.telemetry.targets();
    let found = targets.filter_map(|target| find(view, target).ok());
    for (service, port) in found.chain(jwt::key_services(view)) {
        let known = view.service(&service.hostname);
        let seen = known.is_some_and(|it| view.ports(it).any(|at| at.port == port.port));
        let there = out
            .iter()
            .any(|(other, at)| other.hostname == service.hostname && at.port == port.port);
        if !seen && !there {
            out.push((service, port));
        }
    }
    out
}

/// The cluster to a provider; `None` where there is no such service or port.
pub(crate) fn cluster(view: &View<'_>, target: &Target) -> Option<(String, Host)> {
    let (service, port) = find(view, target).ok()?;
    let name = outbound_cluster(port.port, "", &service.hostname);
    Some((name, service.hostname.clone()))
}

/// A provider that is called by gRPC.
pub(crate) fn grpc_service(view: &View<'_>, target: &Target) -> Option<GrpcService> {
    let (cluster, host) = cluster(view, target)?;
    Some(grpc(cluster, &host))
}

/// The same where the cluster is known.
pub(crate) fn grpc(cluster_name: String, host: &Host) -> GrpcService {
    GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name,
            authority: host.to_string(),
            ..EnvoyGrpc::default()
        })),
        ..GrpcService::default()
    }
}

/// A header of each call to a provider.
pub(crate) fn header(name: &str, value: &str) -> HeaderValue {
    HeaderValue {
        key: name.to_owned(),
        value: value.to_owned(),
        ..HeaderValue::default()
    }
}
