//! What proxies share is what each would have been sent alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says what went wrong by failing

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use malla_model::workload::Address;
use malla_model::{Mesh, Service};
use malla_translate::{
    Distinctions, Interception, NodeKind, NodeView, Part, Profile, Resource, Resources, Upstreams,
    View, translate,
};
use support::{INGRESS, parts, world};

/// Things by which nodes are told apart: labels, machines, places, spans, patches for some, headless services.
const TOLD_APART: &str = "
kind: Settings
spec:
  meshConfig:
    enableTracing: true
    extensionProviders: [{name: zipkin, zipkin: {service: zipkin.tools.svc.cluster.local, port: 9411}}]
    defaultProviders: {tracing: [zipkin]}
---
kind: Namespace
metadata: {name: base, labels: {istio-injection: enabled}}
---
kind: Deployment
metadata: {name: web, namespace: base}
spec: {replicas: 2, template: {locality: r1/z1, metadata: {labels: {app: web, version: v1}}}}
---
kind: Deployment
metadata: {name: cart, namespace: base}
spec: {replicas: 2, template: {locality: r1/z2, metadata: {labels: {app: cart, version: v2, tier: gold}}}}
---
kind: Deployment
metadata: {name: user, namespace: other}
spec: {template: {locality: r2/z1, metadata: {labels: {app: user}}}}
---
kind: Service
metadata: {name: web, namespace: base}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: cart, namespace: base}
spec: {selector: {app: cart}, internalTrafficPolicy: Local, ports: [{name: http, port: 80}, {name: tcp, port: 81}]}
---
kind: Service
metadata: {name: pods, namespace: base}
spec: {selector: {app: cart}, clusterIP: None, ports: [{name: tcp-pods, port: 90}]}
---
kind: Service
metadata: {name: user, namespace: other}
spec: {selector: {app: user}, ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: zipkin, namespace: tools}
spec: {selector: {app: zipkin}, ports: [{name: http, port: 9411}]}
---
kind: DestinationRule
metadata: {name: near, namespace: base}
spec:
  host: user.other.svc.cluster.local
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 5}
    loadBalancer: {localityLbSetting: {enabled: true, failoverPriority: [tier, kubernetes.io/hostname]}}
---
kind: DestinationRule
metadata: {name: chosen, namespace: base}
spec:
  host: web
  workloadSelector: {matchLabels: {app: cart}}
  trafficPolicy: {connectionPool: {tcp: {maxConnections: 3}}}
---
kind: VirtualService
metadata: {name: web, namespace: base}
spec:
  hosts: [web]
  http:
  - match: [{sourceLabels: {version: v2}}]
    route: [{destination: {host: cart}}]
  - route: [{destination: {host: web}}]
---
kind: Sidecar
metadata: {name: narrow, namespace: other}
spec:
  workloadSelector: {labels: {app: user}}
  egress: [{hosts: [base/web.base.svc.cluster.local]}]
---
kind: Telemetry
metadata: {name: quiet, namespace: base}
spec:
  selector: {matchLabels: {app: web}}
  metrics: [{providers: [{name: prometheus}], overrides: [{disabled: true}]}]
---
kind: EnvoyFilter
metadata: {name: patched, namespace: base}
spec:
  workloadSelector: {labels: {app: cart}}
  configPatches:
  - applyTo: CLUSTER
    match: {context: ANY, proxy: {metadata: {TEAM: blue}}}
    patch: {operation: MERGE, value: {connect_timeout: 3s}}
  - applyTo: CLUSTER
    match: {context: SIDECAR_OUTBOUND}
    patch: {operation: MERGE, value: {dns_lookup_family: V4_ONLY}}
";

/// The worlds of all goldens, and the one above.
fn worlds() -> Vec<(String, Mesh)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/worlds");
    let mut worlds: Vec<(String, Mesh)> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "yaml"))
        .map(|path| {
            let text = format!("{INGRESS}\n---\n{}", fs::read_to_string(&path).unwrap());
            (path.display().to_string(), world(&text))
        })
        .collect();
    worlds.push(("told apart".into(), world(TOLD_APART)));
    worlds
}

/// Every workload as several proxies.
fn nodes(mesh: &Mesh) -> Vec<NodeView> {
    let mut nodes = Vec::new();
    for workload in &mesh.workloads {
        let (name, namespace) = (workload.meta.name(), workload.meta.namespace());
        let mut plain = NodeView::new(NodeKind::Sidecar, name, namespace, workload.addresses[0]);
        plain.labels = workload.meta.labels.clone();
        plain.machine = name.into();
        plain.service_account = name.into();
        plain.metadata.insert("NAME".into(), name.into());
        let mut placed = plain.clone();
        placed.locality = workload.locality.clone();
        placed.profile = Profile::Malla;
        placed.http10 = true;
        let team = ("TEAM".to_owned(), "blue".to_owned());
        placed.metadata.extend([team]);
        let mut uncaptured = plain.clone();
        uncaptured.interception = Interception::None;
        uncaptured.unprivileged = true;
        uncaptured.addresses = vec!["fd00::7".parse::<IpAddr>().unwrap()];
        let mut router = plain.clone();
        router.kind = NodeKind::Router;
        let mut stranger = router.clone();
        stranger.stranger = true;
        nodes.extend([plain, placed, uncaptured, router, stranger]);
    }
    nodes
}

/// One node's resources, put together from parts that were made for others too.
fn put_together(mesh: &Mesh, node: &NodeView, distinctions: &Distinctions) -> Resources {
    let reduced = |part| distinctions.reduced(mesh, node, part);
    let of_upstreams = reduced(Part::Upstreams);
    let (of_listeners, of_routes) = (reduced(Part::Listeners), reduced(Part::Routes));
    let own = View::new(mesh, node);
    let Upstreams {
        mut clusters,
        endpoints,
    } = View::new(mesh, &of_upstreams).upstreams();
    let mut listeners = View::new(mesh, &of_listeners).shared_listeners();
    clusters.extend(own.own_clusters());
    listeners.extend(own.own_listeners());
    for list in [&mut clusters, &mut listeners] {
        list.sort_by(|a, b| a.name.cmp(&b.name));
    }
    Resources {
        listeners,
        routes: View::new(mesh, &of_routes).routes(),
        clusters,
        endpoints,
    }
}

#[test]
fn shared_parts_and_own_ones_are_the_whole() {
    for (name, mesh) in worlds() {
        let distinctions = Distinctions::of(&mesh);
        for node in nodes(&mesh) {
            let alone = translate(&mesh, &node);
            let shared = put_together(&mesh, &node, &distinctions);
            let names = |list: &[Resource]| -> Vec<String> {
                list.iter()
                    .map(|it| format!("{} {}", it.name, it.version))
                    .collect()
            };
            let of = |what: &str| format!("{what} of {:?} {} in {name}", node.kind, node.name);
            assert_eq!(
                names(&shared.clusters),
                names(&alone.clusters),
                "{}",
                of("clusters")
            );
            assert_eq!(
                names(&shared.endpoints),
                names(&alone.endpoints),
                "{}",
                of("endpoints")
            );
            assert_eq!(
                names(&shared.listeners),
                names(&alone.listeners),
                "{}",
                of("listeners")
            );
            assert_eq!(
                names(&shared.routes),
                names(&alone.routes),
                "{}",
                of("routes")
            );
        }
    }
}

#[test]
fn nodes_share_what_nothing_tells_apart() {
    let mesh = world(TOLD_APART);
    let distinctions = Distinctions::of(&mesh);
    let count = |kinds: &dyn Fn(&NodeView) -> bool, part| {
        let nodes = nodes(&mesh).into_iter().filter(kinds);
        let reduced = nodes.map(|mut node| {
            node.machine = "one".into();
            format!("{:?}", distinctions.reduced(&mesh, &node, part))
        });
        reduced.collect::<BTreeSet<_>>().len()
    };
    let plain = |node: &NodeView| {
        node.kind == NodeKind::Sidecar
            && node.profile == Profile::PlainEnvoy
            && node.interception == Interception::Redirect
    };
    let web =
        |node: &NodeView| plain(node) && &*node.namespace == "base" && node.labels["app"] == "web";
    for part in [Part::Upstreams, Part::Listeners, Part::Routes] {
        assert_eq!(count(&web, part), 1, "{part:?}");
    }
    // Pods of the headless service have listeners for each other, but not for themselves.
    let cart = |node: &NodeView| plain(node) && node.labels["app"] == "cart";
    assert_eq!(count(&cart, Part::Routes), 1);
    assert_eq!(count(&cart, Part::Listeners), 2);
}

/// The mesh with an endpoint less in that service.
fn without_an_endpoint(mesh: &Mesh, at: usize) -> Mesh {
    let mut parts = parts(mesh);
    let mut service: Service = (*parts.services[at]).clone();
    service.endpoints = Arc::new(service.endpoints.iter().skip(1).cloned().collect());
    parts.services[at] = Arc::new(service);
    Mesh::new(parts)
}

/// The list with those of `news` in the place of what has their names.
fn replaced(mut list: Vec<Resource>, news: Vec<Resource>) -> Vec<Resource> {
    for resource in news {
        let at = list
            .iter()
            .position(|it| it.name == resource.name)
            .expect("a new name");
        list[at] = resource;
    }
    list
}

#[test]
fn a_change_of_endpoints_alone_is_made_of_these_alone() {
    for (name, before) in worlds() {
        for at in 0..before.services.len() {
            if before.services[at].endpoints.is_empty() {
                continue;
            }
            let after = without_an_endpoint(&before, at);
            let changed = after.endpoints_since(&before).expect("endpoints only");
            assert_eq!(changed.len(), 1);
            let distinctions = Distinctions::of(&before);
            for node in nodes(&before) {
                let reduced = distinctions.reduced(&after, &node, Part::Upstreams);
                let (old, new) = (View::new(&before, &reduced), View::new(&after, &reduced));
                let all = new.upstreams();
                if let Some(some) = new.upstreams_of(&changed) {
                    let old = old.upstreams();
                    let host = &changed[0].hostname;
                    assert_eq!(
                        replaced(old.clusters, some.clusters),
                        all.clusters,
                        "{host} in {name}"
                    );
                    assert_eq!(
                        replaced(old.endpoints, some.endpoints),
                        all.endpoints,
                        "{host} in {name}"
                    );
                }
                assert_eq!(
                    View::new(&before, &node).routes(),
                    View::new(&after, &node).routes()
                );
                let of = |mesh, part| distinctions.reduced(mesh, &node, part);
                if !changed[0].headless {
                    let listeners =
                        |mesh| View::new(mesh, &of(mesh, Part::Listeners)).shared_listeners();
                    assert_eq!(listeners(&before), listeners(&after), "{name}");
                }
                let is_own = |mesh: &Mesh| {
                    let mut own = mesh.services[at].endpoints.iter();
                    own.any(
                        |it| matches!(it.address, Address::Ip(ip) if node.addresses.contains(&ip)),
                    )
                };
                if !is_own(&before) && !is_own(&after) {
                    let own = |mesh| {
                        let view = View::new(mesh, &node);
                        (view.own_clusters(), view.own_listeners())
                    };
                    assert_eq!(own(&before), own(&after), "{name}");
                }
            }
        }
    }
}
