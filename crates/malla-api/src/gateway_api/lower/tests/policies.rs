//! BackendTLSPolicies.

use super::super::GatewayKind;
use super::{CLASS, Cluster, GATEWAY, conditions, route, status};

#[test]
fn a_policy_of_a_backend_in_use_says_that_it_does_not_act() {
    let to = "parentRefs: [{name: edge, namespace: infra}]";
    let policy = |service: &str| {
        format!(
            "
kind: BackendTLSPolicy
metadata: {{name: p, namespace: shop}}
spec:
  targetRefs: [{{group: '', kind: Service, name: {service}}}]
  validation: {{hostname: a.com, wellKnownCACertificates: System}}
---
"
        )
    };
    let said = |backend: &str, service: &str| {
        let rules = format!("rules: [{{backendRefs: [{{name: {backend}, port: 8080}}]}}]");
        let yaml = [
            CLASS.to_owned(),
            GATEWAY.to_owned(),
            policy(service),
            route(&format!("{to}, {rules}")),
        ];
        let outcome = Cluster::new(&yaml.concat()).lower();
        status(&outcome, GatewayKind::BackendTlsPolicy, "p")
    };
    let used = said("web", "web");
    let ancestor = &used["ancestors"][0];
    assert_eq!(ancestor["ancestorRef"]["name"], "edge");
    assert_eq!(ancestor["ancestorRef"]["namespace"], "infra");
    assert_eq!(conditions(ancestor), ["Accepted=False Invalid"]);
    assert!(said("web", "other").is_null(), "nothing of ours uses it");
}
