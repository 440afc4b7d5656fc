//! Where requests go: Services and hosts of the mesh, and what is wrong with a reference to one.

use malla_model::Host;
use malla_model::route::Destination;

use super::super::types::BackendRef;
use super::grants::{self, Target};
use super::listeners::Why;
use super::{Objects, Surroundings};

/// A name that no cluster has: requests for it are answered with 500, as the Gateway API asks for
/// backends that do not exist.
pub(super) const NOBODY: &str = "invalid-backend.malla.invalid";

/// The group and kind of a backend that is a host of the mesh (Istio's).
const HOSTNAME: (&str, &str) = ("networking.istio.io", "Hostname");

/// The destination of a reference, or why there is none.
pub(super) fn resolve(
    reference: &BackendRef,
    kind: &str,
    namespace: &str,
    objects: &Objects,
    around: &Surroundings<'_>,
) -> Result<Destination, Why> {
    let group = reference.group.as_deref().unwrap_or_default();
    let to_kind = reference.kind.as_deref().unwrap_or("Service");
    let name = reference.name.as_str();
    let host = match (group, to_kind) {
        ("" | "core", "Service") => {
            let target = reference.namespace.as_deref().unwrap_or(namespace);
            let to = Target {
                group: "",
                kind: to_kind,
                namespace: target,
                name,
            };
            if !grants::allows(objects, kind, namespace, to) {
                return Err((
                    "RefNotPermitted",
                    format!(
                        "backendRefs: no ReferenceGrant in {target} lets {kind}s of {namespace} use Service {name}"
                    ),
                ));
            }
            Host::new(&format!("{name}.{target}.svc.{}", around.settings.domain))
        }
        HOSTNAME => Host::new(name),
        _ => {
            return Err((
                "InvalidKind",
                format!("backendRefs: {to_kind} {name} is neither a Service nor a Hostname"),
            ));
        }
    };
    let Some(port) = reference.port else {
        return Err((
            "UnsupportedValue",
            format!("backendRefs: {to_kind} {name} needs a port"),
        ));
    };
    let service = around.services.iter().find(|service| {
        service.hostname == host
            && (service.namespace() == namespace || service.visibility.allows(namespace))
    });
    let Some(service) = service else {
        return Err((
            "BackendNotFound",
            format!("backendRefs: there is no {to_kind} {host}"),
        ));
    };
    if service.port(port).is_none() {
        return Err((
            "BackendNotFound",
            format!("backendRefs: {to_kind} {host} has no port {port}"),
        ));
    }
    Ok(Destination {
        host,
        subset: None,
        port: Some(port),
    })
}

/// Where requests for a broken reference go.
pub(super) fn nobody() -> Destination {
    Destination {
        host: Host::new(NOBODY),
        subset: None,
        port: Some(80),
    }
}
