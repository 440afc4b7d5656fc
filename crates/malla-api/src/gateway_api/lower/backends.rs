//! Where requests go: Services and hosts of the mesh, and what is wrong with a reference to one.

use malla_model::Host;
use malla_model::route::Destination;

use super::super::types::BackendRef;
use super::grants::{self, Target};
use super::listeners::Why;
use super::rules::Context;

/// A name that no cluster has: what goes there is refused, as the Gateway API asks for backends that
/// do not exist.
const NOBODY: &str = "invalid-backend.malla.invalid";

/// The group and kind of a backend that is a host of the mesh (Istio's).
const HOSTNAME: (&str, &str) = ("networking.istio.io", "Hostname");

/// The destination of a reference. One that is broken leads to nobody.
pub(super) fn of(reference: &BackendRef, cx: &mut Context<'_>) -> Destination {
    found(reference, cx).unwrap_or_else(|| Destination {
        host: Host::new(NOBODY),
        subset: None,
        port: Some(80),
    })
}

/// The destination of a reference; why there is none is kept for the route's status.
pub(super) fn found(reference: &BackendRef, cx: &mut Context<'_>) -> Option<Destination> {
    match resolve(reference, cx) {
        Ok(destination) => Some(destination),
        Err(why) => {
            cx.unresolved.get_or_insert(why);
            None
        }
    }
}

fn resolve(reference: &BackendRef, cx: &Context<'_>) -> Result<Destination, Why> {
    let Context {
        namespace,
        objects,
        around,
        ..
    } = cx;
    let kind = cx.kind.name();
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
            && (service.namespace() == *namespace || service.visibility.allows(namespace))
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
