//! DestinationRule to traffic policy.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use malla_model::traffic::{DestinationRule, Subset};
use malla_model::{Host, MeshSettings};
use serde_json::Value;

use super::meta::{meta, object_ref, selector, visibility_or};
use super::{Context, Lowered, Refused, decode, traffic_policy};
use crate::istio::DestinationRuleSpec;
use crate::kind::Kind;

/// Lowers a DestinationRule.
///
/// # Errors
/// When the spec is malformed or names no host.
pub fn lower(
    metadata: &ObjectMeta,
    spec: &Value,
    settings: &MeshSettings,
) -> Result<Lowered<DestinationRule>, Refused> {
    let written: DestinationRuleSpec = decode(Kind::DestinationRule, metadata, spec)?;
    if written.host.is_empty() {
        return Err(Refused {
            object: object_ref(Kind::DestinationRule, metadata),
            path: "spec.host".into(),
            reason: "is required".into(),
        });
    }
    let mut cx = Context::new(metadata, &settings.domain);
    let mut seen = BTreeSet::new();
    let mut subsets = Vec::new();
    for (at, subset) in written.subsets.iter().enumerate() {
        let path = format!("spec.subsets[{at}]");
        if !seen.insert(subset.name.as_str()) {
            cx.note(
                path,
                "a subset of this name stands above, so this one is ignored",
            );
            continue;
        }
        let policy_path = format!("{path}.trafficPolicy");
        subsets.push(Subset {
            name: subset.name.as_str().into(),
            labels: subset.labels.clone(),
            policy: traffic_policy::lower(subset.traffic_policy.as_ref(), &policy_path, &mut cx),
        });
    }
    let labels = written.workload_selector.as_ref().map(|s| &s.match_labels);
    let value = DestinationRule {
        meta: meta(Kind::DestinationRule.name(), metadata),
        host: Host::resolve(&written.host, cx.namespace, cx.domain),
        policy: traffic_policy::lower(
            written.traffic_policy.as_ref(),
            "spec.trafficPolicy",
            &mut cx,
        ),
        subsets,
        visibility: visibility_or(
            written.export_to.iter().map(String::as_str),
            &settings.export.destination_rules,
            cx.namespace,
        ),
        workload_selector: selector(labels),
    };
    Ok(cx.finish(Kind::DestinationRule, spec, value))
}
