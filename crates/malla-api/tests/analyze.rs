//! What the analyzer says of whole configurations.

#![allow(clippy::unwrap_used)] // a test says what went wrong by failing

use malla_api::analyze::Code;
use malla_api::{World, analyze};

const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: order, namespace: shop}
spec:
  selector: {app: order}
  ports: [{name: http, port: 7000}]
---
apiVersion: v1
kind: Service
metadata: {name: two-ports, namespace: shop}
spec: {ports: [{name: http, port: 80}, {name: http-admin, port: 81}]}
";

#[track_caller]
fn messages(text: &str) -> Vec<String> {
    let mut world = World {
        revisions: vec!["default".into()],
        ..World::default()
    };
    world.add_yaml("shop.yaml", text).unwrap();
    analyze(&world).iter().map(ToString::to_string).collect()
}

/// The messages of `text` beside the shop's services, without the file's name and lines.
#[track_caller]
fn check(text: &str, want: &[&str]) {
    let plain = |message: String| {
        let (head, tail) = message.split_once(" shop.yaml:").unwrap();
        let (_, tail) = tail.split_once(')').unwrap();
        format!("{head}){tail}")
    };
    let got: Vec<String> = messages(&format!("{SHOP}---\n{text}"))
        .into_iter()
        .map(plain)
        .collect();
    assert_eq!(got, want, "{text}");
}

#[test]
fn messages_print_as_istioctls_with_file_and_line() {
    let got = messages(
        "# a comment first
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {name: order-vs, namespace: shop}
spec: {hosts: [order], gateways: [missing], http: [{route: [{destination: {host: order}}]}]}
",
    );
    assert_eq!(
        got,
        [
            "Error [IST0101] (VirtualService shop/order-vs shop.yaml:2) Referenced gateway not found: \"missing\"",
            "Error [IST0101] (VirtualService shop/order-vs shop.yaml:2) Referenced host not found: \"order\"",
        ]
    );
}

#[test]
fn virtual_services_refer_to_what_exists() {
    check(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: order, namespace: shop}
spec: {host: order, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: order-vs, namespace: shop}
spec:
  hosts: [order]
  http:
  - match: [{uri: {prefix: /a}}]
    route: [{destination: {host: order, subset: v1, port: {number: 7000}}}]
  - match: [{uri: {prefix: /b}}]
    route: [{destination: {host: order.shop.svc.cluster.local, subset: v3}}]
  - route: [{destination: {host: order, port: {number: 7001}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: two, namespace: shop}
spec: {hosts: [two-ports], http: [{route: [{destination: {host: two-ports}}]}]}
",
        &[
            "Error [IST0101] (VirtualService shop/order-vs) Referenced host+subset in destinationrule not found: \"order.shop.svc.cluster.local+v3\"",
            "Error [IST0101] (VirtualService shop/order-vs) Referenced host:port not found: \"order:7001\"",
            "Error [IST0112] (VirtualService shop/two) This VirtualService routes to a service \"two-ports.shop.svc.cluster.local\" that exposes multiple ports [80, 81]. Specifying a port in the destination is required to disambiguate.",
        ],
    );
}

#[test]
fn of_two_virtual_services_for_a_host_the_older_is_heard() {
    let one = |name: &str, created: &str| {
        format!(
            "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: shop, creationTimestamp: '{created}'}}
spec: {{hosts: [order], http: [{{route: [{{destination: {{host: order}}}}]}}]}}
"
        )
    };
    let text = format!(
        "{}---\n{}",
        one("newer", "2026-02-01T00:00:00Z"),
        one("older", "2026-01-01T00:00:00Z")
    );
    let conflict = "The VirtualServices shop/older,shop/newer associated with mesh gateway define the same host order.shop.svc.cluster.local which can lead to undefined behavior. This can be fixed by merging the conflicting VirtualServices into a single resource.";
    check(
        &text,
        &[
            &format!("Error [IST0109] (VirtualService shop/newer) {conflict}"),
            &format!("Error [IST0109] (VirtualService shop/older) {conflict}"),
            "Warning [MAL0004] (VirtualService shop/newer) Sidecars ignore this VirtualService for the host order.shop.svc.cluster.local: the older shop/older has it, and VirtualServices are not merged in the mesh.",
        ],
    );
}

#[test]
fn gateways_and_their_virtual_services_agree() {
    let gateway = |name: &str| {
        format!(
            "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: [a.example.com]}}]
"
        )
    };
    let text = format!(
        "{}---\n{}---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web, namespace: shop}}
spec: {{hosts: [b.example.com], gateways: [front], http: [{{route: [{{destination: {{host: order}}}}]}}]}}
",
        gateway("front"),
        gateway("rival")
    );
    check(
        &text,
        &[
            "Error [IST0145] (Gateway shop/front) Conflict with gateways shop/rival (workload selector istio=ingressgateway, port 80, hosts [a.example.com]).",
            "Error [IST0145] (Gateway shop/rival) Conflict with gateways shop/front (workload selector istio=ingressgateway, port 80, hosts [a.example.com]).",
            "Warning [IST0132] (VirtualService shop/web) one or more host [b.example.com] defined in VirtualService web not found in Gateway shop/front.",
        ],
    );
}

#[test]
fn routes_by_claims_need_somebody_who_checks_tokens() {
    let gateway = |policy_namespace: &str| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: edge-1, namespace: edge, labels: {{istio: ingressgateway}}}}
spec: {{containers: [{{name: istio-proxy}}]}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: front, namespace: shop}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['*']}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web, namespace: shop}}
spec:
  hosts: [a.example.com]
  gateways: [front]
  http: [{{match: [{{headers: {{'@request.auth.claims[group]': {{exact: x}}}}}}], route: [{{destination: {{host: order}}}}]}}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: tokens, namespace: {policy_namespace}}}
spec: {{jwtRules: [{{issuer: a, jwksUri: https://a.example.com/keys}}]}}
"
        )
    };
    check(&gateway("edge"), &[]);
    check(&gateway("istio-system"), &[]);
    check(
        &gateway("shop"),
        &[
            "Error [IST0149] (VirtualService shop/web) The virtual service uses the JWT claim based routing (key: @request.auth.claims[group]) but found no request authentication for the gateway (shop/front) pod (edge-1). The request authentication must first be applied for the gateway pods to validate the JWT token and make the claims available for routing.",
        ],
    );
}

#[test]
fn policies_of_tokens_reach_somebody() {
    check(
        "
apiVersion: v1
kind: Pod
metadata: {name: order-1, namespace: shop, labels: {app: order}}
spec: {containers: [{name: istio-proxy}]}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: shop}
spec: {selector: {matchLabels: {app: ordr}}, jwtRules: [{issuer: a}]}
",
        &[
            "Warning [IST0127] (RequestAuthentication shop/tokens) No matching workloads for this resource with the following labels: app=ordr",
            "Warning [MAL0001] (RequestAuthentication shop/tokens) This field has no effect: spec.jwtRules[0].jwksUri: is not set, nor is jwks; Malla does not ask the issuer where its keys are, so every token of it is refused.",
        ],
    );
}

#[test]
fn destination_rules_that_do_not_act_as_meant() {
    check(
        "
apiVersion: v1
kind: Pod
metadata: {name: order-1, namespace: shop, labels: {app: order, version: v1}}
spec: {containers: [{name: istio-proxy}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: order, namespace: shop}
spec:
  host: order
  trafficPolicy:
    tls: {mode: SIMPLE}
    connectionPool: {tcp: {maxConnections: 1}}
    tunnel: {targetHost: a.com, targetPort: 1}
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ghost, namespace: shop}
spec: {host: ghost, trafficPolicy: {outlierDetection: {consecutiveErrors: 5}}}
",
        &[
            "Error [IST0173] (DestinationRule shop/order) The Subset v2 defined in the DestinationRule does not select any pods. Which may lead to 503 UH (NoHealthyUpstream).",
            "Warning [IST0002] (DestinationRule shop/ghost) Deprecated: spec.trafficPolicy.outlierDetection.consecutiveErrors: is deprecated; Malla reads it as consecutiveGatewayErrors, current Istio ignores it; use consecutiveGatewayErrors (502, 503, 504) or consecutive5xxErrors",
            "Warning [IST0174] (DestinationRule shop/ghost) The host ghost defined in the DestinationRule does not match any services in the mesh.",
            "Warning [MAL0001] (DestinationRule shop/order) This field has no effect: spec.trafficPolicy.tunnel: Malla does not act on it yet.",
            "Warning [MAL0010] (DestinationRule shop/order) tls.mode SIMPLE switches the mesh's own mutual TLS off, but PeerAuthentication demands it of order.shop.svc.cluster.local, so calls will fail. Remove tls, or use ISTIO_MUTUAL.",
            "Info [MAL0006] (DestinationRule shop/order) maxConnections limits connections, but HTTP/1.1 requests then wait for one without limit. For a circuit breaker set http.http1MaxPendingRequests too.",
        ],
    );
}

#[test]
fn namespaces_and_pods() {
    check(
        "
{apiVersion: v1, kind: Namespace, metadata: {name: plain}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: other, labels: {istio.io/rev: 1-12-5}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: inside, labels: {istio-injection: enabled}}}
---
apiVersion: v1
kind: Pod
metadata: {name: bare, namespace: inside, annotations: {sidecar.istio.io/injct: 'true'}}
spec: {containers: [{name: app}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: inside}
spec: {action: DENY, selector: {matchLabels: {app: x}}, rules: [{from: [{source: {namespaces: [nowhere]}}]}]}
",
        &[
            "Error [IST0101] (AuthorizationPolicy inside/deny) Referenced namespace not found: \"nowhere\"",
            "Warning [IST0127] (AuthorizationPolicy inside/deny) No matching workloads for this resource with the following labels: app=x",
            "Warning [MAL0003] (Namespace other) No control plane has the revision \"1-12-5\" (there is default); Malla injects its own proxy all the same. Label it istio.io/rev=default to say so.",
            "Warning [IST0103] (Pod inside/bare) The pod inside/bare is missing the Istio proxy. This can often be resolved by restarting or redeploying the workload.",
            "Warning [IST0108] (Pod inside/bare) Unknown annotation: sidecar.istio.io/injct",
            "Info [IST0102] (Namespace plain) The namespace is not enabled for Istio injection. Run 'kubectl label namespace plain istio-injection=enabled' to enable it, or 'kubectl label namespace plain istio-injection=disabled' to explicitly mark it as not needing injection.",
        ],
    );
}

#[test]
fn services_and_service_entries() {
    check(
        "
apiVersion: v1
kind: Service
metadata: {name: order-grpc, namespace: shop}
spec: {selector: {app: order}, ports: [{name: grpc, port: 7000}, {name: web, port: 7002, targetPort: 7000}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: order, namespace: shop}
spec: {selector: {}, template: {metadata: {labels: {app: order}}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: shop}
spec: {hosts: [db.example.com], ports: [{number: 5432, name: tcp, protocol: TCP}], resolution: DNS}
",
        &[
            "Warning [IST0116] (Deployment shop/order) This deployment order is associated with multiple services using port 7000 but different protocols: [order order-grpc]",
            "Warning [IST0137] (Deployment shop/order) This deployment order is associated with multiple services [order order-grpc] using targetPort \"7000\" but different ports: [7000, 7002].",
            "Warning [IST0134] (ServiceEntry shop/db) ServiceEntry addresses are required for this protocol. Malla does not allocate addresses yet.",
            "Info [IST0118] (Service shop/order-grpc) Port name web (port: 7002, targetPort: 7000) doesn't follow the naming convention of Istio port.",
        ],
    );
}

#[test]
fn objects_that_do_nothing_say_so_and_can_be_silenced() {
    let sidecar = |annotations: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {{name: s, namespace: shop, annotations: {{{annotations}}}}}, spec: {{egress: [{{hosts: ['./*']}}]}}}}"
        )
    };
    check(
        &sidecar(""),
        &[
            "Warning [MAL0002] (Sidecar shop/s) Malla does not act on Sidecar yet, so this object has no effect.",
        ],
    );
    check(&sidecar("galley.istio.io/analyze-suppress: 'MAL0002'"), &[]);
    check(
        "{apiVersion: networking.istio.io/v2, kind: Gateway, metadata: {name: g, namespace: shop}, spec: {}}",
        &[
            "Error [IST0106] (Gateway shop/g) Schema validation error: apiVersion \"networking.istio.io/v2\" with kind \"Gateway\" is not served; use networking.istio.io/v1 or networking.istio.io/v1beta1 or networking.istio.io/v1alpha3",
        ],
    );
}

#[test]
fn every_code_is_documented() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/reference/analyzer.md"
    );
    let text = std::fs::read_to_string(path).unwrap();
    for code in Code::ALL {
        let row = format!("| {} | {} | {} |", code.as_str(), code.level(), code.name());
        assert!(
            text.contains(&row),
            "docs/reference/analyzer.md has no row that begins {row}"
        );
    }
}
