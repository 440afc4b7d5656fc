//! PeerAuthentication.

use super::names;
use crate::istio::PeerAuthenticationSpec;
use crate::report::Report;

pub(super) fn check(spec: &PeerAuthenticationSpec, report: &mut Report) {
    names::selector(spec.selector.as_ref(), "spec.selector", report);
    let selects = spec
        .selector
        .as_ref()
        .is_some_and(|s| !s.match_labels.is_empty());
    if !spec.port_level_mtls.is_empty() && !selects {
        report
            .error(
                "spec.portLevelMtls",
                "needs spec.selector, because a port is one of a workload",
            )
            .fix("add spec.selector.matchLabels");
    }
    for key in spec.port_level_mtls.keys() {
        let path = format!("spec.portLevelMtls.{key}");
        match key.parse::<u32>() {
            Ok(number) => names::port(number, &path, report),
            Err(_) => report.error(path, "is not a port number").done(),
        }
    }
}
