//! Namespaces and pods: who gets a proxy.

use malla_model::id::Labels;

use super::Findings;
use super::message::Code;
use super::world::{Item, Known, World};

const INJECTION: &str = "istio-injection";
const REVISION: &str = "istio.io/rev";
const PROXY: &str = "istio-proxy";
/// Namespaces of the system itself.
const SYSTEM: [&str; 4] = [
    "kube-system",
    "kube-public",
    "kube-node-lease",
    "local-path-storage",
];

pub(super) fn check(known: &Known, world: &World, out: &mut Findings) {
    for namespace in &known.namespaces {
        if SYSTEM.contains(&namespace.name()) || namespace.name() == &*world.settings.root_namespace
        {
            continue;
        }
        injection(namespace, out);
        if let Some(revision) = namespace.labels().get(REVISION) {
            unknown_revision(namespace, revision, world, out);
        }
        if injects(namespace.labels()) {
            missing_proxies(namespace.name(), known, out);
        }
    }
    for pod in &known.pods {
        if let Some(revision) = pod.labels().get(REVISION)
            && !has_proxy(pod)
        {
            unknown_revision(pod, revision, world, out);
        }
    }
}

fn injects(labels: &Labels) -> bool {
    match labels.get(INJECTION).map(String::as_str) {
        Some("enabled") => true,
        Some(_) => false,
        None => labels.contains_key(REVISION),
    }
}

fn injection(namespace: &Item<()>, out: &mut Findings) {
    let labels = namespace.labels();
    match (
        labels.contains_key(INJECTION),
        labels.contains_key(REVISION),
    ) {
        (false, false) => {
            let name = namespace.name();
            let text = format!(
                "The namespace is not enabled for Istio injection. Run 'kubectl label namespace {name} istio-injection=enabled' to enable it, or 'kubectl label namespace {name} istio-injection=disabled' to explicitly mark it as not needing injection."
            );
            out.add(Code::NamespaceNotInjected, &namespace.subject, text);
        }
        (true, true) => {
            let text = format!(
                "The namespace has more than one type of injection labels [{INJECTION} {REVISION}], which may lead to undefined behavior. Make sure only one injection label exists."
            );
            out.add(
                Code::NamespaceMultipleInjectionLabels,
                &namespace.subject,
                text,
            );
        }
        _ => {}
    }
}

fn unknown_revision<T>(item: &Item<T>, revision: &str, world: &World, out: &mut Findings) {
    if world.revisions.is_empty() || world.revisions.iter().any(|known| known == revision) {
        return;
    }
    let text = format!(
        "No control plane has the revision {revision:?} (there is {}); Malla injects its own proxy all the same. Label it {REVISION}={} to say so.",
        world.revisions.join(", "),
        world
            .revisions
            .first()
            .map(String::as_str)
            .unwrap_or("default"),
    );
    out.at(
        Code::UnknownRevision,
        &item.subject,
        format!("metadata.labels.{REVISION}"),
        text,
    );
}

fn has_proxy(pod: &Item<k8s_openapi::api::core::v1::PodSpec>) -> bool {
    let init = pod.spec.init_containers.iter().flatten();
    pod.spec
        .containers
        .iter()
        .chain(init)
        .any(|container| container.name == PROXY)
}

fn missing_proxies(namespace: &str, known: &Known, out: &mut Findings) {
    for pod in known.pods.iter().filter(|pod| pod.namespace() == namespace) {
        let refused = pod
            .labels()
            .get("sidecar.istio.io/inject")
            .is_some_and(|value| value == "false")
            || pod.spec.host_network == Some(true);
        if !refused && !has_proxy(pod) {
            let text = format!(
                "The pod {namespace}/{} is missing the Istio proxy. This can often be resolved by restarting or redeploying the workload.",
                pod.name()
            );
            out.add(Code::PodMissingProxy, &pod.subject, text);
        }
    }
}
