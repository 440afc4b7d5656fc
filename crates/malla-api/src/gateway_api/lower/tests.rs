//! What a few objects mean together, and what their statuses say.

mod grpc;
mod listener_sets;
mod mesh;
mod policies;
mod streams;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use malla_model::secret::{Keys, Material};
use malla_model::service::{Distribution, Resolution, ServicePort};
use malla_model::{Host, Protocol};
use serde_json::{Value, json};

use super::*;
use crate::lower::kubernetes::secret::material;
use crate::lower::meta::meta;

const CLASS: &str = "
kind: GatewayClass
metadata: {name: istio}
spec: {controllerName: istio.io/gateway-controller}
---
";

const GATEWAY: &str = "
kind: Gateway
metadata: {name: edge, namespace: infra, uid: u1}
spec:
  gatewayClassName: istio
  listeners:
  - {name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
---
";

#[derive(Default)]
struct Cluster {
    objects: Objects,
    services: Vec<Arc<Service>>,
    secrets: Secrets,
    namespaces: BTreeMap<String, Labels>,
    addresses: BTreeMap<(String, String), Vec<Address>>,
}

impl Cluster {
    fn new(yaml: &str) -> Self {
        let mut cluster = Self::default();
        for text in yaml.split("\n---").filter(|text| !text.trim().is_empty()) {
            let value: Value = serde_saphyr::from_str(text).unwrap();
            cluster.add(&value);
        }
        cluster
    }

    fn add(&mut self, value: &Value) {
        let metadata: ObjectMeta = serde_json::from_value(value["metadata"].clone()).unwrap();
        let name = metadata.name.clone().unwrap();
        let namespace = metadata.namespace.clone().unwrap_or_default();
        match value["kind"].as_str().unwrap() {
            "Namespace" => drop(
                self.namespaces
                    .insert(name, metadata.labels.unwrap_or_default()),
            ),
            "Service" => {
                self.services.push(Arc::new(service(&metadata, value)));
                let ip = value["ip"]
                    .as_str()
                    .map(|ip| Address::Ip(ip.parse().unwrap()));
                self.addresses
                    .insert((namespace, name), ip.into_iter().collect());
            }
            "Secret" => {
                let data: BTreeMap<String, String> =
                    serde_json::from_value(value["stringData"].clone()).unwrap();
                let keys = self.secrets.namespaces.entry(namespace.into()).or_default();
                let secrets: &mut BTreeMap<Arc<str>, Arc<Material>> =
                    &mut Arc::<Keys>::make_mut(keys).secrets;
                secrets.insert(name.into(), Arc::new(material(&data)));
            }
            kind => {
                let kind = GatewayKind::parse(kind).unwrap_or_else(|| panic!("{kind}"));
                assert!(self.objects.put(kind, &metadata, value).unwrap());
            }
        }
    }

    fn lower(&self) -> Outcome {
        let settings = MeshSettings::default();
        lower(
            &self.objects,
            &Surroundings {
                settings: &settings,
                services: &self.services,
                secrets: &self.secrets,
                namespaces: &self.namespaces,
                addresses: &self.addresses,
                now: "2026-01-01T00:00:00Z",
            },
        )
    }
}

fn service(metadata: &ObjectMeta, value: &Value) -> Service {
    let meta = meta("Service", metadata);
    Service {
        hostname: Host::new(&format!(
            "{}.{}.svc.cluster.local",
            meta.name(),
            meta.namespace()
        )),
        addresses: vec![],
        ports: vec![ServicePort {
            name: "http".into(),
            port: 8080,
            target_port: None,
            target_name: None,
            protocol: Protocol::Http,
        }],
        resolution: Resolution::Static,
        external: false,
        headless: false,
        alias_of: None,
        distribution: Distribution::Any,
        same_machine: false,
        visibility: Default::default(),
        selector: serde_json::from_value(value["selector"].clone()).unwrap_or_default(),
        subject_alt_names: BTreeSet::new(),
        endpoints: Arc::default(),
        meta,
    }
}

/// `Type=True Reason` of each condition.
fn conditions(holder: &Value) -> Vec<String> {
    let text = |c: &Value, key: &str| c[key].as_str().unwrap_or_default().to_owned();
    let list = holder["conditions"].as_array().unwrap();
    list.iter()
        .map(|c| {
            format!(
                "{}={} {}",
                text(c, "type"),
                text(c, "status"),
                text(c, "reason")
            )
        })
        .collect()
}

fn status(outcome: &Outcome, kind: GatewayKind, name: &str) -> Value {
    let found = outcome
        .statuses
        .iter()
        .find(|s| s.kind == kind && s.name == name);
    found.map(|s| s.status.clone()).unwrap_or_default()
}

/// Of the route `r`, for its first parent.
fn route_conditions(yaml: &str) -> Vec<String> {
    let outcome = Cluster::new(yaml).lower();
    let is_route = |status: &&Status| status.kind.name().ends_with("Route") && status.name == "r";
    let found = outcome.statuses.iter().find(is_route).unwrap();
    conditions(&found.status["parents"][0])
}

fn route(spec: &str) -> String {
    format!(
        "
kind: HTTPRoute
metadata: {{name: r, namespace: shop}}
spec: {{{spec}}}
---
kind: Service
metadata: {{name: web, namespace: shop}}
---
"
    )
}

#[test]
fn a_gateway_gets_pods_and_says_where_it_is_reached() {
    let yaml = format!("{CLASS}{GATEWAY}");
    let pending = Cluster::new(&yaml).lower();
    let gateway = status(&pending, GatewayKind::Gateway, "edge");
    assert_eq!(
        conditions(&gateway),
        [
            "Accepted=True Accepted",
            "Programmed=False AddressNotAssigned"
        ]
    );
    let managed = pending.managed.first().unwrap();
    assert_eq!(managed.name(), "edge-istio");
    assert_eq!(managed.ports, BTreeMap::from([(80, "http-80".to_owned())]));

    let service = "kind: Service\nmetadata: {name: edge-istio, namespace: infra}\nip: 127.0.0.9";
    let there = Cluster::new(&format!("{yaml}{service}")).lower();
    let gateway = status(&there, GatewayKind::Gateway, "edge");
    assert_eq!(
        conditions(&gateway),
        ["Accepted=True Accepted", "Programmed=True Programmed"]
    );
    assert_eq!(
        gateway["addresses"],
        json!([{"type": "IPAddress", "value": "127.0.0.9"}])
    );
    let class = status(&there, GatewayKind::GatewayClass, "istio");
    assert_eq!(conditions(&class), ["Accepted=True Accepted"]);
    let lowered = there.gateways.first().unwrap();
    assert_eq!(lowered.pods_in.as_deref(), Some("infra"));
    assert_eq!(lowered.selector[super::super::NAME_LABEL], "edge");
}

#[test]
fn a_gateway_asks_for_the_address_that_it_is_to_have() {
    let check = |address: &str, asked: Option<&str>, want: &str| {
        let spec = format!("gatewayClassName: istio\n  addresses: [{address}]");
        let gateway = GATEWAY.replace("gatewayClassName: istio", &spec);
        let service =
            "kind: Service\nmetadata: {name: edge-istio, namespace: infra}\nip: 192.0.2.1";
        let outcome = Cluster::new(&format!("{CLASS}{gateway}{service}")).lower();
        let managed = outcome.managed.first();
        assert_eq!(
            managed.and_then(|m| m.address.as_deref()),
            asked,
            "{address}"
        );
        let status = status(&outcome, GatewayKind::Gateway, "edge");
        assert_eq!(conditions(&status)[1], want, "{address}");
    };
    let good = "Programmed=True Programmed";
    check("{value: 192.0.2.1}", Some("192.0.2.1"), good);
    let other = "{type: IPAddress, value: 192.0.2.2}";
    let lacking = "Programmed=False AddressNotUsable";
    check(other, Some("192.0.2.2"), lacking);
    check("{type: example.com/Name, value: a}", None, lacking);
}

#[test]
fn another_controllers_gateways_are_left_alone() {
    let yaml = format!("{CLASS}{GATEWAY}").replace("istio.io/gateway", "example.com/gateway");
    let outcome = Cluster::new(&format!(
        "{yaml}{}",
        route("parentRefs: [{name: edge, namespace: infra}]")
    ))
    .lower();
    assert!(outcome.gateways.is_empty() && outcome.managed.is_empty());
    assert_eq!(outcome.statuses, []);
}

#[test]
fn a_route_says_what_became_of_it() {
    let base = format!("{CLASS}{GATEWAY}");
    let own = base.replace("{namespaces: {from: All}}", "{}");
    let to = "parentRefs: [{name: edge, namespace: infra}]";
    let web = "rules: [{backendRefs: [{name: web, port: 8080}]}]";
    let both = |accepted: &str, resolved: &str| {
        vec![
            format!("Accepted={accepted}"),
            format!("ResolvedRefs={resolved}"),
        ]
    };
    let good = "True ResolvedRefs";
    for (base, spec, want) in [
        (&base, format!("{to}, {web}"), both("True Accepted", good)),
        (
            &own,
            format!("{to}, {web}"),
            both("False NotAllowedByListeners", good),
        ),
        (
            &base,
            format!("parentRefs: [{{name: edge, namespace: infra, sectionName: x}}], {web}"),
            both("False NoMatchingParent", good),
        ),
        (
            &base,
            format!("{to}, rules: [{{backendRefs: [{{name: none, port: 8080}}]}}]"),
            both("True Accepted", "False BackendNotFound"),
        ),
        (
            &base,
            format!("{to}, rules: [{{backendRefs: [{{name: web, port: 1}}]}}]"),
            both("True Accepted", "False BackendNotFound"),
        ),
        (
            &base,
            format!("{to}, rules: [{{backendRefs: [{{name: web, kind: Pod, port: 1}}]}}]"),
            both("True Accepted", "False InvalidKind"),
        ),
        (
            &base,
            format!("{to}, rules: [{{backendRefs: [{{name: web, namespace: bank, port: 8080}}]}}]"),
            both("True Accepted", "False RefNotPermitted"),
        ),
        (
            &base,
            format!("{to}, rules: [{{filters: [{{type: ExtensionRef}}]}}]"),
            both("False IncompatibleFilters", good),
        ),
    ] {
        assert_eq!(
            route_conditions(&format!("{base}{}", route(&spec))),
            want,
            "{spec}"
        );
    }
}

#[test]
fn a_grant_lets_a_reference_cross_namespaces() {
    let yaml = format!(
        "{CLASS}{GATEWAY}{}kind: Service
metadata: {{name: ledger, namespace: bank}}
---
kind: ReferenceGrant
metadata: {{name: g, namespace: bank}}
spec:
  from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}}]
  to: [{{group: '', kind: Service, name: ledger}}]
",
        route(
            "parentRefs: [{name: edge, namespace: infra}], rules: [{backendRefs: [{name: ledger, namespace: bank, port: 8080}]}]"
        )
    );
    assert_eq!(route_conditions(&yaml)[1], "ResolvedRefs=True ResolvedRefs");
    for (of, to) in [
        ("namespace: shop}]", "namespace: other}]"),
        ("name: ledger}]", "name: other}]"),
        ("kind: HTTPRoute,", "kind: TCPRoute,"),
    ] {
        assert!(yaml.contains(of));
        let refused = route_conditions(&yaml.replace(of, to));
        assert_eq!(refused[1], "ResolvedRefs=False RefNotPermitted", "{to}");
    }
}

#[test]
fn an_https_listener_needs_a_certificate_it_may_use() {
    let check = |reference: &str, more: &str| {
        let listener = format!(
            "{{name: https, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{reference}]}}}}"
        );
        let gateway = GATEWAY.replace(
            "{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}",
            &listener,
        );
        let secrets = "
kind: Secret
metadata: {name: pair, namespace: infra}
stringData: {tls.crt: c, tls.key: k}
---
kind: Secret
metadata: {name: pair, namespace: bank}
stringData: {tls.crt: c, tls.key: k}
---
";
        let outcome = Cluster::new(&format!("{CLASS}{gateway}{secrets}{more}")).lower();
        let status = status(&outcome, GatewayKind::Gateway, "edge");
        let listener = conditions(&status["listeners"][0]);
        let granted = outcome
            .gateways
            .first()
            .and_then(|gateway| gateway.servers.first()?.tls.clone());
        let granted: Vec<String> = granted
            .iter()
            .flat_map(|tls| &tls.granted)
            .map(|s| format!("{}/{}", s.namespace, s.name))
            .collect();
        (listener[3].clone(), granted.join(" "))
    };
    let good = "ResolvedRefs=True ResolvedRefs".to_owned();
    let refused = |reason: &str| (format!("ResolvedRefs=False {reason}"), String::new());
    assert_eq!(
        check("{name: pair}", ""),
        (good.clone(), "infra/pair".to_owned())
    );
    assert_eq!(check("{name: none}", ""), refused("InvalidCertificateRef"));
    assert_eq!(
        check("{name: pair, kind: ConfigMap}", ""),
        refused("InvalidCertificateRef")
    );
    let foreign = "{name: pair, namespace: bank}";
    assert_eq!(check(foreign, ""), refused("RefNotPermitted"));
    let grant = "
kind: ReferenceGrant
metadata: {name: g, namespace: bank}
spec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: infra}], to: [{group: '', kind: Secret}]}
";
    assert_eq!(check(foreign, grant), (good, "bank/pair".to_owned()));
}

#[test]
fn of_listeners_that_clash_the_first_stays() {
    let listeners = "  - {name: a, port: 80, protocol: HTTP, hostname: a.com}
  - {name: b, port: 80, protocol: HTTP, hostname: a.com}
  - {name: c, port: 80, protocol: HTTPS, hostname: c.com}
  - {name: d, port: 81, protocol: UDP}
";
    let gateway = GATEWAY.replace(
        "  - {name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}\n",
        listeners,
    );
    let outcome = Cluster::new(&format!("{CLASS}{gateway}")).lower();
    let status = status(&outcome, GatewayKind::Gateway, "edge");
    let reasons: Vec<String> = (0..4)
        .map(|at| conditions(&status["listeners"][at])[0].clone())
        .collect();
    assert_eq!(
        reasons,
        [
            "Accepted=True Accepted",
            "Accepted=False HostnameConflict",
            "Accepted=False ProtocolConflict",
            "Accepted=False UnsupportedProtocol",
        ]
    );
    assert_eq!(conditions(&status)[0], "Accepted=True ListenersNotValid");
}

#[test]
fn rules_of_several_routes_are_tried_by_the_specs_order() {
    let route = |name: &str, created: &str, matches: &str| {
        format!(
            "
kind: HTTPRoute
metadata: {{name: {name}, namespace: shop, creationTimestamp: '{created}'}}
spec: {{parentRefs: [{{name: edge, namespace: infra}}], rules: [{{matches: [{matches}]}}]}}
---
"
        )
    };
    let yaml = [
        CLASS.to_owned(),
        GATEWAY.to_owned(),
        route("new", "2026-01-02T00:00:00Z", "{path: {value: /}}"),
        route(
            "old",
            "2026-01-01T00:00:00Z",
            "{path: {value: /}}, {path: {value: /longer}}",
        ),
        route(
            "exact",
            "2026-01-03T00:00:00Z",
            "{path: {type: Exact, value: /a}}",
        ),
        route(
            "method",
            "2026-01-03T00:00:00Z",
            "{path: {value: /longer}, method: GET}",
        ),
        route(
            "header",
            "2026-01-03T00:00:00Z",
            "{path: {value: /longer}, headers: [{name: a, value: b}]}",
        ),
    ];
    let outcome = Cluster::new(&yaml.concat()).lower();
    let [rules] = &outcome.virtual_services[..] else {
        panic!("{outcome:?}")
    };
    let names: Vec<&str> = rules.http.iter().map(|route| &*route.name).collect();
    assert_eq!(
        names,
        [
            "shop.exact.0.0",
            "shop.method.0.0",
            "shop.header.0.0",
            "shop.old.0.1",
            "shop.old.0.0",
            "shop.new.0.0"
        ]
    );
}

#[test]
fn a_closer_listener_has_its_names_for_itself() {
    let listeners = "  - {name: any, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
  - {name: own, port: 80, protocol: HTTP, hostname: '*.own.com', allowedRoutes: {namespaces: {from: All}}}
";
    let gateway = GATEWAY.replace(
        "  - {name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}\n",
        listeners,
    );
    let spec = "parentRefs: [{name: edge, namespace: infra, sectionName: any}], hostnames: [a.own.com, b.com], rules: [{backendRefs: [{name: web, port: 8080}]}]";
    let outcome = Cluster::new(&format!("{CLASS}{gateway}{}", route(spec))).lower();
    let hosts: Vec<String> = outcome
        .virtual_services
        .iter()
        .flat_map(|vs| &vs.hosts)
        .map(ToString::to_string)
        .collect();
    assert_eq!(hosts, ["b.com"]);
}

#[test]
fn a_condition_that_holds_on_keeps_its_time() {
    let yaml = format!("{CLASS}{GATEWAY}");
    let mut cluster = Cluster::new(&yaml);
    let first = status(&cluster.lower(), GatewayKind::Gateway, "edge");
    for known in cluster.objects.gateways.values_mut() {
        let known = Arc::make_mut(known);
        known.status = first.clone();
        known.status["conditions"][0]["lastTransitionTime"] = json!("2025-01-01T00:00:00Z");
    }
    let second = status(&cluster.lower(), GatewayKind::Gateway, "edge");
    assert_eq!(
        second["conditions"][0]["lastTransitionTime"],
        "2025-01-01T00:00:00Z"
    );
    assert_eq!(second["conditions"][1], first["conditions"][1]);
}

#[test]
fn an_object_that_says_the_same_changes_nothing() {
    let gateway: Value = serde_saphyr::from_str(GATEWAY.trim_end_matches("---\n")).unwrap();
    let mut metadata: ObjectMeta = serde_json::from_value(gateway["metadata"].clone()).unwrap();
    let mut objects = Objects::default();
    let mut put = |metadata: &ObjectMeta, gateway: &Value| {
        objects
            .put(GatewayKind::Gateway, metadata, gateway)
            .unwrap()
    };
    assert!(put(&metadata, &gateway));
    metadata.resource_version = Some("7".to_owned());
    assert!(!put(&metadata, &gateway));
    let mut told = gateway.clone();
    told["status"] = json!({"conditions": []});
    assert!(put(&metadata, &told), "writers compare against statuses");
    let name = ("infra".to_owned(), "edge".to_owned());
    let broken = json!({"spec": {"listeners": 7}});
    assert!(
        objects
            .put(GatewayKind::Gateway, &metadata, &broken)
            .is_err()
    );
    assert!(
        !objects.remove(GatewayKind::Gateway, &name),
        "what is broken is not there"
    );
}
