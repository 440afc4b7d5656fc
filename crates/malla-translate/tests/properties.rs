//! What holds of every translation.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says what went wrong by failing

mod support;

use malla_model::{Host, Mesh};
use malla_translate::access_log::{JSON_FORMAT, TEXT_FORMAT};
use malla_translate::{Interception, NodeKind, View, translate, unresolved};
use malla_xds_proto::any;
use malla_xds_proto::nds::NameTable;
use support::{INGRESS, node, parts, world};

fn worlds() -> Vec<(Mesh, NodeKind, &'static str)> {
    let gateway = format!("{INGRESS}\n---\n{}", include_str!("worlds/gateway.yaml"));
    vec![
        (
            world(include_str!("worlds/routes.yaml")),
            NodeKind::Sidecar,
            "web-0.base",
        ),
        (
            world(include_str!("worlds/clusters.yaml")),
            NodeKind::Sidecar,
            "web-0.base",
        ),
        (
            world(include_str!("worlds/inbound.yaml")),
            NodeKind::Sidecar,
            "app-0.base",
        ),
        (
            world(&gateway),
            NodeKind::Router,
            "istio-ingressgateway-0.istio-system",
        ),
    ]
}

fn reversed(mesh: &Mesh) -> Mesh {
    let mut parts = parts(mesh);
    parts.services.reverse();
    parts.workloads.reverse();
    parts.virtual_services.reverse();
    parts.destination_rules.reverse();
    parts.gateways.reverse();
    parts.sidecars.reverse();
    parts.envoy_filters.reverse();
    parts.request_authentications.reverse();
    parts.authorization_policies.reverse();
    parts.telemetries.reverse();
    Mesh::new(parts)
}

#[test]
fn the_same_mesh_gives_the_same_bytes() {
    for (mesh, kind, name) in worlds() {
        let node = node(&mesh, kind, name);
        let first = translate(&mesh, &node);
        for _ in 0..3 {
            assert!(translate(&mesh, &node) == first, "{name}");
        }
        assert!(
            translate(&reversed(&mesh), &node) == first,
            "{name}: order of objects matters"
        );
    }
}

#[test]
fn parts_are_the_same_as_the_whole() {
    for (mesh, kind, name) in worlds() {
        let node = node(&mesh, kind, name);
        let all = translate(&mesh, &node);
        for route in &all.routes {
            assert_eq!(
                View::new(&mesh, &node).route(&route.name).as_ref(),
                Some(route)
            );
        }
        for endpoints in &all.endpoints {
            assert_eq!(
                View::new(&mesh, &node).endpoints(&endpoints.name).as_ref(),
                Some(endpoints)
            );
        }
        assert_eq!(View::new(&mesh, &node).route("no such"), None);
        for unknown in ["", "inbound|80||", "outbound|1||no.such", "outbound|x||y"] {
            assert_eq!(View::new(&mesh, &node).endpoints(unknown), None);
        }
    }
}

#[test]
fn a_changed_endpoint_changes_that_assignment_alone() {
    let before = world(include_str!("worlds/routes.yaml"));
    let after = world(&include_str!("worlds/routes.yaml").replacen(
        "app: api, version: v1",
        "app: api, version: v2",
        1,
    ));
    let node = node(&before, NodeKind::Sidecar, "web-0.base");
    let (before, after) = (translate(&before, &node), translate(&after, &node));
    assert!(
        before.clusters == after.clusters
            && before.routes == after.routes
            && before.listeners == after.listeners
    );
    assert!(before.endpoints != after.endpoints);
}

#[test]
fn names_of_nothing_are_reported_with_their_place() {
    let mesh = world(
        "
kind: Service
metadata: {name: api, namespace: base}
spec: {ports: [{name: http, port: 80}, {name: admin, port: 81}]}
---
kind: VirtualService
metadata: {name: v, namespace: base}
spec:
  hosts: [api]
  gateways: [mesh, gone]
  http:
  - match: [{uri: {exact: /}}]
    delegate: {name: nobody, namespace: base}
  - route:
    - {destination: {host: api, subset: v9, port: {number: 80}}, weight: 1}
    - {destination: {host: api}, weight: 1}
    - {destination: {host: api, port: {number: 82}}, weight: 1}
    mirrors: [{destination: {host: lost}}]
---
kind: DestinationRule
metadata: {name: d, namespace: base}
spec: {host: lost}
",
    );
    let found: Vec<String> = unresolved(&mesh).iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "VirtualService base/v: spec.gateways[1]: there is no Gateway base/gone",
            "VirtualService base/v: spec.http[0].delegate: there is no VirtualService base/nobody to delegate to",
            "VirtualService base/v: spec.http[1].route[0].destination.subset: no DestinationRule of host api.base.svc.cluster.local has the subset \"v9\"",
            "VirtualService base/v: spec.http[1].route[1].destination.port: host api.base.svc.cluster.local has several ports: say which with destination.port.number",
            "VirtualService base/v: spec.http[1].route[2].destination.port.number: host api.base.svc.cluster.local has no port 82",
            "VirtualService base/v: spec.http[1].mirrors[0].destination.host: host \"lost.base.svc.cluster.local\" is no service of the mesh",
            "DestinationRule base/d: spec.host: host \"lost.base.svc.cluster.local\" is no service of the mesh",
        ]
    );
}

#[test]
fn the_name_table_has_every_name_once() {
    let mesh = world(
        "
kind: Deployment
metadata: {name: db, namespace: base}
spec: {replicas: 2, template: {metadata: {labels: {app: db}}}}
---
kind: Service
metadata: {name: web, namespace: base}
spec: {clusterIP: 10.96.0.7, ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: db, namespace: base}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: tcp, port: 1}, {name: http, port: 80}]}
---
kind: Service
metadata: {name: alias, namespace: base}
spec: {type: ExternalName, externalName: web.base.svc.cluster.local}
---
kind: ServiceEntry
metadata: {name: out, namespace: base}
spec: {hosts: [a.example.com, '*.b.example.com'], addresses: [240.240.0.1], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: x.example.com}]}
",
    );
    let table = View::new(&mesh, &node(&mesh, NodeKind::Sidecar, "db-0.base")).name_table();
    let table: NameTable = any::unpack(&table.body).unwrap();
    let mut names: Vec<String> = table
        .table
        .iter()
        .map(|(name, info)| {
            format!(
                "{name} {} {} {}",
                info.ips.join(","),
                info.registry,
                info.shortname
            )
        })
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "*.b.example.com 240.240.0.1 External ",
            "a.example.com 240.240.0.1 External ",
            "alias.base.svc.cluster.local 10.96.0.7 Kubernetes alias",
            "db.base.svc.cluster.local 10.1.0.1,10.1.0.2 Kubernetes db",
            "web.base.svc.cluster.local 10.96.0.7 Kubernetes web",
        ]
    );
}

#[test]
fn without_capture_http_is_spoken_to_the_proxy_itself() {
    let mesh = world(include_str!("worlds/routes.yaml"));
    let mut node = node(&mesh, NodeKind::Sidecar, "web-0.base");
    node.interception = Interception::None;
    let names: Vec<String> = translate(&mesh, &node)
        .listeners
        .iter()
        .map(|l| l.name.to_string())
        .collect();
    assert_eq!(names, ["127.0.0.1_80", "127.0.0.1_81"]);
}

#[test]
fn access_logs_look_like_istios() {
    assert_eq!(
        TEXT_FORMAT,
        "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
    );
    assert_eq!(JSON_FORMAT.len(), 24);
}

#[test]
fn a_thousand_services_take_little_time() {
    let mut text = String::from(
        "kind: Deployment\nmetadata: {name: web, namespace: base}\nspec: {template: {metadata: {labels: {app: web}}}}",
    );
    for i in 0..1000 {
        text.push_str(&format!(
            "\n---\nkind: Service\nmetadata: {{name: s{i}, namespace: base}}\nspec: {{clusterIP: 10.97.{}.{}, selector: {{app: web}}, ports: [{{name: http, port: 80}}]}}",
            i / 250,
            i % 250
        ));
        text.push_str(&format!(
            "\n---\nkind: VirtualService\nmetadata: {{name: s{i}, namespace: base}}\nspec: {{hosts: [s{i}], http: [{{route: [{{destination: {{host: s{i}}}}}]}}]}}"
        ));
        text.push_str(&format!(
            "\n---\nkind: DestinationRule\nmetadata: {{name: s{i}, namespace: base}}\nspec: {{host: s{i}, trafficPolicy: {{loadBalancer: {{simple: RANDOM}}}}}}"
        ));
    }
    let mesh = world(&text);
    let node = node(&mesh, NodeKind::Sidecar, "web-0.base");
    let started = std::time::Instant::now();
    let resources = translate(&mesh, &node);
    let took = started.elapsed();
    assert_eq!(resources.endpoints.len(), 1000);
    assert!(
        mesh.service(&Host::new("s7.base.svc.cluster.local"), "base")
            .is_some()
    );
    println!("{took:?}");
    // Two orders of magnitude above what it takes: this is about quadratic slips, not speed.
    assert!(took.as_secs() < 60, "{took:?}");
}
