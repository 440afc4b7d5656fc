//! Which rules bear on the nodes of the graph, in one word each.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use malla_api::Kind;
use malla_telemetry::graph::{Graph, Node, NodeKind};
use serde_json::Value;

use crate::api::security::effective;
use crate::api::services::{host, resolved, workload};
use crate::mirror::{Mirror, Object, Watched, selects};
use crate::pods::PodIndex;

type Words = BTreeSet<&'static str>;

/// Puts the badges on.
pub(crate) fn put_on(graph: &mut Graph, mirror: &Mirror, root_namespace: &str) {
    let pods = mirror.list(Watched::Pod);
    let rules = Rules::new(mirror, root_namespace);
    let index = PodIndex::new(&pods);
    let mut by_workload: HashMap<(&str, String), &Arc<Object>> = HashMap::new();
    for pod in &pods {
        let key = (pod.namespace(), workload(pod));
        by_workload.entry(key).or_insert(pod);
    }
    for node in &mut graph.nodes {
        let mut words = Words::new();
        let service = mirror.get(Watched::Service, &node.namespace, &node.name);
        if let Some(service) = &service {
            words.extend(rules.of_host(host(service).as_str()));
        }
        let pod = match (node.kind, &service) {
            (NodeKind::External | NodeKind::Unknown, _) => None,
            (NodeKind::Service | NodeKind::Version, Some(service)) => {
                let behind = index.behind(service);
                behind.into_iter().find(|pod| is_of_version(pod, node))
            }
            _ => by_workload
                .get(&(node.namespace.as_str(), node.name.clone()))
                .map(|pod| Arc::clone(pod)),
        };
        if let Some(pod) = pod {
            words.extend(rules.of_pod(&pod));
        }
        node.badges = words.into_iter().map(str::to_owned).collect();
    }
}

fn is_of_version(pod: &Object, node: &Node) -> bool {
    match (&node.version, pod.label("version")) {
        (Some(wanted), Some(version)) => wanted == version,
        _ => true,
    }
}

/// All rules, by what they are about.
struct Rules<'a> {
    root: &'a str,
    by_host: HashMap<String, Words>,
    peer: Vec<Arc<Object>>,
    authorization: Vec<Arc<Object>>,
    tokens: Vec<Arc<Object>>,
    gateways: Vec<Arc<Object>>,
}

impl<'a> Rules<'a> {
    fn new(mirror: &Mirror, root: &'a str) -> Self {
        let all = |kind: Kind| mirror.list(Watched::Istio(kind));
        let mut by_host: HashMap<String, Words> = HashMap::new();
        for rule in all(Kind::VirtualService) {
            for (host, words) in virtual_service(&rule) {
                let host = resolved(&rule, host);
                by_host
                    .entry(host.as_str().to_owned())
                    .or_default()
                    .extend(words);
            }
        }
        for rule in all(Kind::DestinationRule) {
            let host = resolved(&rule, rule.text("/spec/host"));
            by_host
                .entry(host.as_str().to_owned())
                .or_default()
                .extend(destination_rule(&rule));
        }
        Self {
            root,
            by_host,
            peer: all(Kind::PeerAuthentication),
            authorization: all(Kind::AuthorizationPolicy),
            tokens: all(Kind::RequestAuthentication),
            gateways: all(Kind::Gateway),
        }
    }

    fn of_host(&self, host: &str) -> Words {
        self.by_host.get(host).cloned().unwrap_or_default()
    }

    fn of_pod(&self, pod: &Object) -> Words {
        let chosen = |policies: &[Arc<Object>]| {
            let in_reach = |policy: &&Arc<Object>| {
                policy.namespace() == self.root || policy.namespace() == pod.namespace()
            };
            let mut policies = policies.iter().filter(in_reach);
            policies.any(|policy| {
                let selector = policy.value.pointer("/spec/selector/matchLabels");
                selector.is_none_or(|selector| selects(selector, &pod.value))
            })
        };
        let opens = |gateway: &Arc<Object>| {
            let selector = gateway.value.pointer("/spec/selector");
            selector.is_some_and(|selector| selects(selector, &pod.value))
        };
        let strict = effective(&self.peer, pod, self.root).0 == "STRICT";
        let words = [
            (strict, "mtls-strict"),
            (chosen(&self.authorization), "authz"),
            (chosen(&self.tokens), "jwt"),
            (self.gateways.iter().any(opens), "gateway"),
        ];
        let words = words.into_iter().filter(|(holds, _)| *holds);
        words.map(|(_, word)| word).collect()
    }
}

/// The hosts a VirtualService names or sends to, and what it does with their requests.
fn virtual_service(rule: &Object) -> Vec<(&str, Words)> {
    let list = |value: &'_ Value, pointer: &str| -> Vec<Value> {
        let found = value.pointer(pointer).and_then(Value::as_array);
        found.cloned().unwrap_or_default()
    };
    let hosts = rule.value.pointer("/spec/hosts").and_then(Value::as_array);
    let hosts = hosts.into_iter().flatten().filter_map(Value::as_str);
    let targets = crate::api::services::destinations(&rule.value);
    let mut words = Words::from(["vs"]);
    for route in list(&rule.value, "/spec/http") {
        let has = |field: &str| route.get(field).is_some_and(|value| !value.is_null());
        let found = [
            (has("fault"), "fault"),
            (has("timeout"), "timeout"),
            (has("retries"), "retry"),
            (has("mirror") || has("mirrors"), "mirror"),
        ];
        let found = found.into_iter().filter(|(holds, _)| *holds);
        words.extend(found.map(|(_, word)| word));
    }
    let all = hosts.chain(targets);
    all.map(|host| (host, words.clone())).collect()
}

fn destination_rule(rule: &Object) -> Words {
    let mut words = Words::from(["dr"]);
    let subsets = rule
        .value
        .pointer("/spec/subsets")
        .and_then(Value::as_array);
    let of_subsets = subsets
        .into_iter()
        .flatten()
        .filter_map(|subset| subset.get("trafficPolicy"));
    let own = rule.value.pointer("/spec/trafficPolicy");
    for policy in own.into_iter().chain(of_subsets) {
        let has = |pointer: &str| {
            policy
                .pointer(pointer)
                .is_some_and(|value| !value.is_null())
        };
        if has("/outlierDetection") || has("/connectionPool") {
            words.insert("breaker");
        }
        if has("/loadBalancer/consistentHash") {
            words.insert("affinity");
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Arc<Object> {
        Arc::new(Object {
            value,
            writer: None,
        })
    }

    fn words(words: Words) -> String {
        words.into_iter().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn virtual_services_show_on_all_they_are_about() {
        let rule = object(json!({"spec": {"hosts": ["order"], "http": [
            {"route": [{"destination": {"host": "order"}}], "timeout": "1s"},
            {"route": [{"destination": {"host": "other"}}], "fault": {"delay": {}}, "retries": null},
        ]}}));
        let found = virtual_service(&rule);
        let hosts: Vec<&str> = found.iter().map(|(host, _)| *host).collect();
        assert_eq!(hosts, ["order", "order", "other"]);
        for (_, found) in found {
            assert_eq!(words(found), "fault timeout vs");
        }
    }

    #[test]
    fn destination_rules_say_what_they_limit() {
        let check = |spec: Value, want: &str| {
            assert_eq!(
                words(destination_rule(&object(json!({ "spec": spec })))),
                want
            );
        };
        check(json!({"host": "a"}), "dr");
        check(
            json!({"subsets": [{"trafficPolicy": {"connectionPool": {}}}]}),
            "breaker dr",
        );
        check(
            json!({"trafficPolicy": {"loadBalancer": {"consistentHash": {}}}}),
            "affinity dr",
        );
    }

    #[test]
    fn policies_show_on_the_pods_they_choose() {
        let pod = object(json!({"metadata": {"namespace": "base", "labels": {"app": "cart"}}}));
        let policy = |namespace: &str, spec: Value| {
            object(json!({"metadata": {"namespace": namespace}, "spec": spec}))
        };
        let chosen = |policy: Arc<Object>| {
            let rules = Rules {
                root: "istio-system",
                by_host: HashMap::new(),
                peer: Vec::new(),
                authorization: vec![policy],
                tokens: Vec::new(),
                gateways: Vec::new(),
            };
            words(rules.of_pod(&pod))
        };
        let cart = || json!({"selector": {"matchLabels": {"app": "cart"}}});
        assert_eq!(chosen(policy("base", cart())), "authz");
        assert_eq!(chosen(policy("base", json!({}))), "authz");
        assert_eq!(chosen(policy("istio-system", json!({}))), "authz");
        assert_eq!(chosen(policy("other", json!({}))), "");
        assert_eq!(
            chosen(policy(
                "base",
                json!({"selector": {"matchLabels": {"app": "x"}}})
            )),
            ""
        );
    }
}
