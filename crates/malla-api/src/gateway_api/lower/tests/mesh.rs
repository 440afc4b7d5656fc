//! Routes on services.

use std::collections::BTreeSet;
use std::sync::Arc;

use malla_model::Host;
use malla_model::service::Visibility;

use super::super::{GatewayKind, Outcome};
use super::{Cluster, conditions, route_conditions, status};

/// A service of the namespace `shop`, of which routes are told what became of them.
fn mesh_route(namespace: &str, parent: &str) -> (Outcome, Vec<String>) {
    let yaml = format!(
        "
kind: HTTPRoute
metadata: {{name: r, namespace: {namespace}}}
spec:
  parentRefs: [{{group: '', kind: Service, {parent}}}]
  rules: [{{matches: [{{path: {{value: /a}}}}], backendRefs: [{{name: web, namespace: shop, port: 8080}}]}}]
---
kind: Service
metadata: {{name: web, namespace: shop}}
---
kind: ReferenceGrant
metadata: {{name: all, namespace: shop}}
spec:
  from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: client}}]
  to: [{{group: '', kind: Service}}]
"
    );
    let outcome = Cluster::new(&yaml).lower();
    let said = conditions(&status(&outcome, GatewayKind::HttpRoute, "r")["parents"][0]);
    (outcome, said)
}

#[test]
fn a_route_on_a_service_is_for_the_clients_that_its_namespace_may_speak_for() {
    let (outcome, said) = mesh_route("shop", "name: web");
    assert_eq!(
        said,
        ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]
    );
    let [rules] = &outcome.virtual_services[..] else {
        panic!("{outcome:?}")
    };
    assert_eq!(rules.hosts, [Host::new("web.shop.svc.cluster.local")]);
    assert_eq!(*rules.gateways, [Arc::from("mesh")]);
    assert_eq!(rules.visibility, Visibility::Public);
    assert_eq!(rules.http[0].matches[0].scope.port, None);

    let (outcome, said) = mesh_route("client", "name: web, namespace: shop, port: 8080");
    assert_eq!(said[0], "Accepted=True Accepted");
    let [rules] = &outcome.virtual_services[..] else {
        panic!("{outcome:?}")
    };
    let clients = BTreeSet::from([Arc::from("client")]);
    assert_eq!(rules.visibility, Visibility::Namespaces(clients));
    assert_eq!(rules.http[0].matches[0].scope.port, Some(8080));
}

#[test]
fn a_route_on_a_service_that_is_not_there_says_so() {
    for parent in [
        "name: web, namespace: other",
        "name: none",
        "name: web, port: 1",
        "name: web, sectionName: none",
        "name: web, sectionName: http, port: 1",
    ] {
        let (outcome, said) = mesh_route("shop", parent);
        assert_eq!(said[0], "Accepted=False NoMatchingParent", "{parent}");
        assert!(outcome.virtual_services.is_empty(), "{parent}");
    }
    let (_, said) = mesh_route("shop", "name: web, sectionName: http");
    assert_eq!(said[0], "Accepted=True Accepted");
}

#[test]
fn a_tcp_route_on_a_service_needs_a_port_without_http() {
    let yaml = "
kind: TCPRoute
metadata: {name: r, namespace: shop}
spec: {parentRefs: [{group: '', kind: Service, name: web}], rules: [{backendRefs: [{name: web, port: 8080}]}]}
---
kind: Service
metadata: {name: web, namespace: shop}
";
    assert_eq!(
        route_conditions(yaml)[0],
        "Accepted=False UnsupportedProtocol"
    );
}
