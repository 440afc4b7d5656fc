//! What users write becomes what they mean: YAML in, model out.

#![allow(clippy::unwrap_used)] // a test says what went wrong by failing

mod support;

use std::time::Duration;

use malla_api::lower::mesh_config;
use malla_api::{Config, Kind, lower};
use malla_model::MeshSettings;
use malla_model::matching::StringMatch;
use malla_model::policy::{Glob, MtlsMode, PolicyAction};
use malla_model::route::{HttpAction, PerMillion};
use malla_model::service::{Resolution, Visibility};
use malla_model::token::{KeySource, RequestAuthentication};
use malla_model::traffic::{Balance, HashKey};
use malla_model::workload::Address;
use support::{metadata, yaml};

#[track_caller]
fn lowered(kind: Kind, spec: &str) -> (Config, Vec<String>) {
    let lowered = lower(
        kind,
        &metadata("shop", "web"),
        &yaml(spec),
        &MeshSettings::default(),
    )
    .unwrap();
    let notes = lowered
        .not_honoured
        .iter()
        .map(ToString::to_string)
        .collect();
    (lowered.value, notes)
}

#[track_caller]
fn virtual_service(spec: &str) -> (std::sync::Arc<malla_model::VirtualService>, Vec<String>) {
    match lowered(Kind::VirtualService, spec) {
        (Config::VirtualService(value), notes) => (value, notes),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cookie_chooses_the_version() {
    let (service, notes) = virtual_service(
        "
hosts: [order]
http:
- match: [{headers: {Cookie: {exact: vip=true}}}]
  route: [{destination: {host: order, subset: v2}}]
  timeout: 3000ms
- fault: {delay: {fixedDelay: 7000ms, percentage: {value: 12.5}}}
  route: [{destination: {host: order.shop.svc.cluster.local, subset: v1, port: {number: 7000}}}]
",
    );
    assert!(notes.is_empty(), "{notes:?}");
    assert_eq!(service.hosts[0].as_str(), "order.shop.svc.cluster.local");
    assert_eq!(&*service.gateways[0], "mesh");
    let [first, second] = &service.http[..] else {
        panic!("{:?}", service.http)
    };
    assert_eq!(
        first.matches[0].headers["cookie"],
        StringMatch::Exact("vip=true".into())
    );
    assert_eq!(first.timeout, Some(Duration::from_secs(3)));
    assert_eq!(
        second.fault.as_ref().unwrap().delay,
        Some((Duration::from_secs(7), PerMillion(125_000)))
    );
    let HttpAction::Forward(to) = &second.action else {
        panic!("{:?}", second.action)
    };
    assert_eq!(to[0].destination.port, Some(7000));
    assert_eq!(to[0].destination.subset.as_deref(), Some("v1"));
}

#[test]
fn a_broken_match_never_becomes_a_match_of_everything() {
    let (service, notes) = virtual_service(
        "
hosts: [order]
http:
- match: [{uri: {regex: '('}}]
  route: [{destination: {host: canary}}]
- match: [{headers: {'@request.auth.claims[group': {exact: admin}}}]
  route: [{destination: {host: admin}}]
- match: [{port: 70000}]
  route: [{destination: {host: canary}}]
- route: [{destination: {host: order}}]
",
    );
    assert_eq!(service.http.len(), 1, "{:?}", service.http);
    assert_eq!(notes.len(), 3, "{notes:?}");
}

#[test]
fn gateways_are_named_with_their_namespace() {
    let (service, _) = virtual_service("{hosts: ['*'], gateways: [front, infra/edge, mesh]}");
    let names: Vec<&str> = service.gateways.iter().map(|name| &**name).collect();
    assert_eq!(names, ["shop/front", "infra/edge", "mesh"]);
}

#[test]
fn what_has_no_effect_is_reported() {
    let (_, notes) = lowered(
        Kind::DestinationRule,
        "
host: order
trafficPolicy:
  tunnel: {targetHost: a, targetPort: 1}
subsets:
- name: v1
  trafficPolicy: {connectionPool: {http: {http2KeepAlive: {interval: 1s}}}}
- name: v1
",
    );
    assert_eq!(
        notes,
        [
            "spec.subsets[0].trafficPolicy.connectionPool.http.http2KeepAlive: Malla does not act on it yet",
            "spec.subsets[1]: a subset of this name stands above, so this one is ignored",
            "spec.trafficPolicy.tunnel: Malla does not act on it yet",
        ]
    );
}

#[test]
fn a_destination_rule_keeps_istios_meaning_of_zero_and_of_old_names() {
    let (config, notes) = lowered(
        Kind::DestinationRule,
        "
host: cart
exportTo: ['.']
trafficPolicy:
  loadBalancer: {consistentHash: {httpHeaderName: UserID}}
  connectionPool: {http: {http1MaxPendingRequests: 1, http2MaxRequests: 0}}
  outlierDetection: {consecutiveErrors: 5, interval: 10000ms, minHealthPercent: 50}
",
    );
    let Config::DestinationRule(rule) = config else {
        panic!()
    };
    assert!(notes.is_empty(), "{notes:?}");
    let algorithm = &rule.policy.load_balancer.as_ref().unwrap().algorithm;
    assert!(
        matches!(algorithm, Balance::Hash { key: HashKey::Header(name), .. } if &**name == "userid")
    );
    let pool = rule.policy.connection_pool.as_ref().unwrap();
    assert_eq!(
        (pool.http1_max_pending_requests, pool.http2_max_requests),
        (Some(1), None)
    );
    let outlier = rule.policy.outlier.as_ref().unwrap();
    assert_eq!(outlier.consecutive_gateway_errors, Some(5));
    assert_eq!(outlier.consecutive_5xx, None);
    assert!(matches!(&rule.visibility, Visibility::Namespaces(names) if names.contains("shop")));
}

#[test]
fn a_gateway_server_says_whose_services_may_bind() {
    let (config, notes) = lowered(
        Kind::Gateway,
        "
selector: {istio: ingressgateway}
servers:
- {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*', ./a.example.com, ops/b.example.com]}
- {port: {number: 0, name: x, protocol: HTTP}, hosts: ['*']}
- {port: {number: 81, name: x, protocol: GOPHER}, hosts: ['*']}
",
    );
    let Config::Gateway(gateway) = config else {
        panic!()
    };
    assert_eq!(gateway.servers.len(), 1);
    let hosts = &gateway.servers[0].hosts;
    let namespaces: Vec<Option<&str>> = hosts.iter().map(|h| h.namespace.as_deref()).collect();
    assert_eq!(namespaces, [None, Some("shop"), Some("ops")]);
    assert_eq!(notes.len(), 2, "{notes:?}");
}

#[test]
fn a_service_entry_becomes_one_service_for_each_host() {
    let (config, notes) = lowered(
        Kind::ServiceEntry,
        "
hosts: [a.example.com, b.example.com]
ports: [{number: 443, name: tls, protocol: TLS}]
resolution: DNS
",
    );
    let Config::ServiceEntry(services) = config else {
        panic!()
    };
    assert!(notes.is_empty(), "{notes:?}");
    assert_eq!(services.len(), 2);
    assert!(services[1].external);
    assert_eq!(services[1].resolution, Resolution::Dns);
    let endpoint = &services[1].endpoints[0];
    assert_eq!(endpoint.address, Address::Dns("b.example.com".into()));
    assert_eq!(endpoint.port, 443);
}

#[test]
fn peer_authentication_ports_need_a_selector() {
    let spec = "{mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}}}";
    let (config, notes) = lowered(Kind::PeerAuthentication, spec);
    let Config::PeerAuthentication(policy) = config else {
        panic!()
    };
    assert_eq!(policy.mode, Some(MtlsMode::Strict));
    assert!(policy.ports.is_empty());
    assert_eq!(notes.len(), 1, "{notes:?}");
}

#[test]
fn what_a_policy_cannot_say_opens_nothing() {
    let rules = "
rules:
- from: [{source: {ipBlocks: [nonsense], namespaces: [test]}}]
- from: [{source: {namespaces: [test]}}]
  when: [{key: source.trustDomain, values: ['*x']}]
- to: [{operation: {methods: [GET]}}]
";
    let (allow, notes) = lowered(Kind::AuthorizationPolicy, rules);
    let Config::AuthorizationPolicy(allow) = allow else {
        panic!()
    };
    assert_eq!(allow.rules.len(), 1, "{:?}", allow.rules);
    assert_eq!(notes.len(), 4, "{notes:?}");

    let (deny, _) = lowered(Kind::AuthorizationPolicy, &format!("action: DENY\n{rules}"));
    let Config::AuthorizationPolicy(deny) = deny else {
        panic!()
    };
    assert_eq!(deny.action, PolicyAction::Deny);
    assert_eq!(deny.rules.len(), 3);
    assert!(deny.rules[0].from[0].ip_blocks.is_empty());
    assert_eq!(
        deny.rules[0].from[0].namespaces.any,
        [Glob::Exact("test".into())]
    );
    assert!(deny.rules[1].when.is_empty());
}

#[test]
fn a_malformed_object_is_refused_with_its_field() {
    let spec = yaml("{hosts: [a], http: [{timeout: soon}]}");
    let error = lower(
        Kind::VirtualService,
        &metadata("shop", "web"),
        &spec,
        &MeshSettings::default(),
    )
    .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("VirtualService shop/web has no effect: "),
        "{error}"
    );
    assert!(
        error.to_string().contains("\"soon\": is not a duration"),
        "{error}"
    );
    let spec = yaml("{hosts: a}");
    let error = lower(
        Kind::VirtualService,
        &metadata("shop", "web"),
        &spec,
        &MeshSettings::default(),
    )
    .unwrap_err();
    assert_eq!(error.path, "spec.hosts");
}

#[test]
fn nulls_are_absent_fields() {
    let (service, notes) = virtual_service(
        "{hosts: [a], gateways: null, http: [{route: [{destination: {host: a}}], timeout: null, match: null}]}",
    );
    assert_eq!(service.http.len(), 1);
    assert!(notes.is_empty());
}

#[test]
fn routes_ask_for_claims() {
    let (service, notes) = virtual_service(
        "
hosts: [order]
gateways: [front]
http:
- match:
  - headers: {'@request.auth.claims.realm.Group': {exact: admin}, X-A: {exact: b}}
    withoutHeaders: {'@request.auth.claims[sub][a.b]': {prefix: x}}
  route: [{destination: {host: admin}}]
",
    );
    assert!(notes.is_empty(), "{notes:?}");
    let [of] = &service.http[0].matches[..] else {
        panic!("{:?}", service.http)
    };
    let claims: Vec<_> = of
        .claims
        .iter()
        .map(|claim| (claim.path.join("/"), claim.invert))
        .collect();
    assert_eq!(
        claims,
        [
            ("realm/Group".to_owned(), false),
            ("sub/a.b".to_owned(), true)
        ]
    );
    assert_eq!(of.headers.len(), 1, "{:?}", of.headers);
}

#[track_caller]
fn believed(spec: &str) -> (std::sync::Arc<RequestAuthentication>, Vec<String>) {
    match lowered(Kind::RequestAuthentication, spec) {
        (Config::RequestAuthentication(value), notes) => (value, notes),
        other => panic!("{other:?}"),
    }
}

#[test]
fn tokens_are_believed_as_written() {
    let (policy, notes) = believed(
        "
selector: {matchLabels: {app: web}}
jwtRules:
- issuer: a
  audiences: [x]
  jwksUri: https://a.example.com/keys
  timeout: 2s
  fromHeaders: [{name: x-token, prefix: 'T '}]
  outputPayloadToHeader: x-payload
  outputClaimToHeaders: [{header: x-sub, claim: sub}]
- issuer: b
  jwks: '{\"keys\": [{\"kty\": \"oct\", \"k\": \"eA\"}]}'
",
    );
    assert!(notes.is_empty(), "{notes:?}");
    let [a, b] = &policy.rules[..] else {
        panic!("{policy:?}")
    };
    let KeySource::Remote { uri, timeout } = &a.keys else {
        panic!("{a:?}")
    };
    assert_eq!((uri.host.as_str(), uri.port), ("a.example.com", 443));
    assert_eq!(*timeout, Duration::from_secs(2));
    assert_eq!(a.locations.headers, [("x-token".into(), "T ".into())]);
    assert!(matches!(b.keys, KeySource::Inline(_)));
    assert!(b.locations.is_empty());
}

#[test]
fn keys_that_cannot_be_read_leave_an_issuer_without_any() {
    let encrypted = r#"{\"keys\": [{\"kty\": \"RSA\", \"use\": \"enc\"}]}"#;
    let check = |rule: &str, want: &str| {
        let (policy, notes) = believed(&format!("jwtRules: [{rule}]"));
        assert_eq!(policy.rules[0].keys, KeySource::Unknown, "{rule}");
        let told = notes.iter().any(|note| note.contains(want));
        assert!(told, "{rule}: {notes:?}");
    };
    check("{issuer: a}", "does not ask the issuer where its keys are");
    check("{issuer: a, jwksUri: nowhere}", "http:// or https://");
    check("{issuer: a, jwks: x}", "is not JSON");
    check("{issuer: a, jwks: '[]'}", "is not a JSON Web Key Set");
    check("{issuer: a, jwks: '{\"keys\": []}'}", "holds no keys");
    check(
        "{issuer: a, jwks: '{\"keys\": [{\"kty\": \"EC\", \"x\": \"a\"}]}'}",
        "no key that can verify a signature",
    );
    check(
        &format!("{{issuer: a, jwks: \"{encrypted}\"}}"),
        "encrypted tokens (JWE)",
    );
    check(
        "{jwks: '{\"keys\": []}'}",
        "jwtRules[0].issuer: is required",
    );
    check(
        "{issuer: a, jwks: '{\"keys\": []}', fromHeaders: [{name: ' '}]}",
        "fromHeaders",
    );
}

/// What a policy that asks provider `x` notes under a MeshConfig, and what of that has no effect.
#[track_caller]
fn asking(providers: &str) -> (Vec<String>, Vec<String>) {
    let mesh_config = format!("{{extensionProviders: {providers}}}");
    let mesh = mesh_config::lower(&mesh_config, &MeshSettings::default()).unwrap();
    let spec = yaml("{action: CUSTOM, provider: {name: x}, rules: [{}]}");
    let kind = Kind::AuthorizationPolicy;
    let policy = lower(kind, &metadata("shop", "ask"), &spec, &mesh.value).unwrap();
    let texts = |notes: &[malla_api::NotHonoured]| notes.iter().map(ToString::to_string).collect();
    (texts(&policy.not_honoured), texts(&mesh.not_honoured))
}

#[test]
fn authorizers_are_found_among_the_providers() {
    let target = "service: a.b.svc.cluster.local, port: 9000";
    let check = |providers: &str, policy: &str, mesh: &str| {
        let (of_policy, of_mesh) = asking(providers);
        for (notes, want) in [(&of_policy, policy), (&of_mesh, mesh)] {
            match want {
                "" => assert!(notes.is_empty(), "{providers}: {notes:?}"),
                want => assert!(
                    notes.iter().any(|it| it.contains(want)),
                    "{providers}: {notes:?}"
                ),
            }
        }
    };
    check(
        &format!("[{{name: x, envoyExtAuthzGrpc: {{{target}}}}}]"),
        "",
        "",
    );
    let whole = "timeout: 1s, pathPrefix: /a, failOpen: true, clearRouteCache: true, statusOnError: '503', \
        includeHeadersInCheck: [a], includeRequestHeadersInCheck: [b], includeAdditionalHeadersInCheck: {c: d}, \
        includeRequestBodyInCheck: {maxRequestBytes: 1}, headersToUpstreamOnAllow: [e], headersToDownstreamOnDeny: [f], \
        headersToDownstreamOnAllow: [g]";
    check(
        &format!("[{{name: x, envoyExtAuthzHttp: {{{target}, {whole}}}}}]"),
        "",
        "",
    );
    check("[]", "\"x\" is not among extensionProviders", "");
    check("[{name: x, prometheus: {}}]", "is no authorizer", "");
    for (broken, why) in [
        ("port: 1", "service: is required"),
        (
            &*format!("{target}, statusOnError: no"),
            "statusOnError: is not a status code",
        ),
        (
            &*format!("{target}, pathPrefix: a"),
            "pathPrefix: does not begin with /",
        ),
        (
            &*format!("{target}, includeRequestBodyInCheck: {{}}"),
            "maxRequestBytes: is required",
        ),
    ] {
        let providers = format!("[{{name: x, envoyExtAuthzHttp: {{{broken}}}}}]");
        check(
            &providers,
            "every request to these workloads is refused",
            why,
        );
    }
}

#[test]
fn only_decisions_can_be_tried() {
    let mut metadata = metadata("shop", "ask");
    metadata.annotations = Some([("istio.io/dry-run".to_owned(), "true".to_owned())].into());
    for action in ["ALLOW", "DENY", "AUDIT"] {
        let spec = yaml(&format!("{{action: {action}, rules: [{{}}]}}"));
        let settings = MeshSettings::default();
        let lowered = lower(Kind::AuthorizationPolicy, &metadata, &spec, &settings).unwrap();
        assert_eq!(
            lowered.not_honoured.len(),
            usize::from(action == "AUDIT"),
            "{action}"
        );
    }
}
