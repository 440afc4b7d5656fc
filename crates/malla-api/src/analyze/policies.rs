//! Policies: whom they reach.

use malla_model::MeshSettings;
use malla_model::id::Labels;

use super::Findings;
use super::message::{Code, Subject};
use super::world::Known;
use crate::istio::common::WorkloadSelector;

pub(super) fn check(known: &Known, settings: &MeshSettings, out: &mut Findings) {
    for policy in &known.peer_authentications {
        let selector = policy.spec.selector.as_ref();
        let selects = selector.is_some_and(|s| !s.match_labels.is_empty());
        if selects && policy.namespace() == &*settings.root_namespace {
            let text = format!(
                "The policy has no impact: a PeerAuthentication of the root namespace {} reaches the whole mesh and takes no selector.",
                settings.root_namespace
            );
            out.at(
                Code::IneffectivePolicy,
                &policy.subject,
                "spec.selector",
                text,
            );
            continue;
        }
        workloads(&policy.subject, selector, known, settings, out);
    }
    for policy in &known.request_authentications {
        let selector = policy.spec.selector.as_ref();
        workloads(&policy.subject, selector, known, settings, out);
    }
    for policy in &known.authorization_policies {
        workloads(
            &policy.subject,
            policy.spec.selector.as_ref(),
            known,
            settings,
            out,
        );
        namespaces(policy, known, out);
    }
}

fn workloads(
    subject: &Subject,
    selector: Option<&WorkloadSelector>,
    known: &Known,
    settings: &MeshSettings,
    out: &mut Findings,
) {
    let Some(labels) = selector
        .map(|s| &s.match_labels)
        .filter(|labels| !labels.is_empty())
    else {
        return;
    };
    let everywhere = subject.namespace == *settings.root_namespace;
    let namespace = (!everywhere).then_some(subject.namespace.as_str());
    if known.pods.is_empty() || known.selects_a_pod(labels, namespace) {
        return;
    }
    let text = format!(
        "No matching workloads for this resource with the following labels: {}",
        shown(labels)
    );
    out.at(
        Code::NoMatchingWorkloadsFound,
        subject,
        "spec.selector",
        text,
    );
}

fn shown(labels: &Labels) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

fn namespaces(
    policy: &super::world::Item<crate::istio::AuthorizationPolicySpec>,
    known: &Known,
    out: &mut Findings,
) {
    if known.namespaces.is_empty() {
        return;
    }
    for (at, rule) in policy.spec.rules.iter().enumerate() {
        for (from_at, from) in rule.from.iter().enumerate() {
            for name in from.source.iter().flat_map(|source| &source.namespaces) {
                let exists = name.contains('*')
                    || known
                        .namespaces
                        .iter()
                        .any(|namespace| namespace.name() == name);
                if !exists {
                    let field = format!("spec.rules[{at}].from[{from_at}].source.namespaces");
                    out.not_found(&policy.subject, field, "namespace", name);
                }
            }
        }
    }
}
