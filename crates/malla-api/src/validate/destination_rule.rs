//! DestinationRule.

use std::collections::BTreeSet;

use super::virtual_service::subset_name;
use super::{Subject, names, traffic_policy};
use crate::istio::DestinationRuleSpec;
use crate::report::Report;

pub(super) fn check(spec: &DestinationRuleSpec, subject: &Subject<'_>, report: &mut Report) {
    if !spec.host.is_empty() {
        names::host_or_ip(&spec.host, "spec.host", report);
    }
    if let Some(policy) = &spec.traffic_policy {
        traffic_policy::check(policy, "spec.trafficPolicy", report);
    }
    let mut seen = BTreeSet::new();
    for (at, subset) in spec.subsets.iter().enumerate() {
        let path = format!("spec.subsets[{at}]");
        if !seen.insert(subset.name.as_str()) {
            report
                .error(format!("{path}.name"), "another subset above has this name")
                .value(format!("{:?}", subset.name))
                .fix("rename one of them");
        }
        if !subset.name.is_empty() {
            subset_name(&subset.name, &format!("{path}.name"), report);
        }
        names::labels(&subset.labels, &format!("{path}.labels"), report);
        if let Some(policy) = &subset.traffic_policy {
            traffic_policy::check(policy, &format!("{path}.trafficPolicy"), report);
        }
    }
    names::export_to(&spec.export_to, subject.namespace, false, report);
    names::selector(
        spec.workload_selector.as_ref(),
        "spec.workloadSelector",
        report,
    );
    let elsewhere = |name: &String| name != "." && name != subject.namespace;
    if spec.workload_selector.is_some() && spec.export_to.iter().any(elsewhere) {
        report
            .error(
                "spec.exportTo",
                "a rule with workloadSelector holds in its own namespace only",
            )
            .fix("write [\".\"], or remove exportTo");
    }
}
