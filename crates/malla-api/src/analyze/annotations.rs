//! Annotations of Istio's that nobody knows.

use serde_json::Value;

use super::Findings;
use super::message::Code;
use super::world::{RawObject, subject};

/// Istio's annotations (its registry as of 1.31); a name that ends in `/` stands for all below it.
const KNOWN: [&str; 70] = [
    "alpha.istio.io/canonical-serviceaccounts",
    "alpha.istio.io/kubernetes-serviceaccounts",
    "ambient.istio.io/bypass-inbound-capture",
    "ambient.istio.io/dns-capture",
    "ambient.istio.io/redirection",
    "galley.istio.io/analyze-suppress",
    "gateway.istio.io/controller-version",
    "gateway.istio.io/name-override",
    "gateway.istio.io/service-account",
    "inject.istio.io/templates",
    "install.operator.istio.io/chart-owner",
    "install.operator.istio.io/owner-generation",
    "install.operator.istio.io/version",
    "internal.istio.io/",
    "istio.io/autoRegistrationGroup",
    "istio.io/connect-strategy",
    "istio.io/connectedAt",
    "istio.io/disconnectedAt",
    "istio.io/dry-run",
    "istio.io/reroute-virtual-interfaces",
    "istio.io/rev",
    "istio.io/use-waypoint-canary-weight",
    "istio.io/workloadController",
    "networking.istio.io/cluster",
    "networking.istio.io/exportTo",
    "networking.istio.io/service-type",
    "networking.istio.io/traffic-distribution",
    "operator.istio.io/",
    "prometheus.istio.io/merge-metrics",
    "proxy.istio.io/config",
    "proxy.istio.io/overrides",
    "readiness.status.sidecar.istio.io/applicationPorts",
    "readiness.status.sidecar.istio.io/failureThreshold",
    "readiness.status.sidecar.istio.io/initialDelaySeconds",
    "readiness.status.sidecar.istio.io/periodSeconds",
    "security.istio.io/autoMTLS",
    "sidecar.istio.io/agentLogLevel",
    "sidecar.istio.io/bootstrapOverride",
    "sidecar.istio.io/componentLogLevel",
    "sidecar.istio.io/controlPlaneAuthPolicy",
    "sidecar.istio.io/discoveryAddress",
    "sidecar.istio.io/enableCoreDump",
    "sidecar.istio.io/extraStatTags",
    "sidecar.istio.io/inject",
    "sidecar.istio.io/interceptionMode",
    "sidecar.istio.io/logLevel",
    "sidecar.istio.io/nativeSidecar",
    "sidecar.istio.io/proxyCPU",
    "sidecar.istio.io/proxyCPULimit",
    "sidecar.istio.io/proxyImage",
    "sidecar.istio.io/proxyImageType",
    "sidecar.istio.io/proxyMemory",
    "sidecar.istio.io/proxyMemoryLimit",
    "sidecar.istio.io/rewriteAppHTTPProbers",
    "sidecar.istio.io/statsCompression",
    "sidecar.istio.io/statsEvictionInterval",
    "sidecar.istio.io/statsFlushInterval",
    "sidecar.istio.io/statsHistogramBins",
    "sidecar.istio.io/statsHistogramBuckets",
    "sidecar.istio.io/statsInclusionPrefixes",
    "sidecar.istio.io/statsInclusionRegexps",
    "sidecar.istio.io/statsInclusionSuffixes",
    "sidecar.istio.io/status",
    "sidecar.istio.io/userVolume",
    "sidecar.istio.io/userVolumeMount",
    "status.sidecar.istio.io/port",
    "topology.istio.io/controlPlaneClusters",
    "topology.istio.io/network",
    "traffic.istio.io/nodeSelector",
    "traffic.sidecar.istio.io/",
];

pub(super) fn check(object: &RawObject, out: &mut Findings) {
    let annotations = |value: &Value| -> Vec<String> {
        let map = value
            .get("metadata")
            .and_then(|m| m.get("annotations"))
            .and_then(Value::as_object);
        map.map(|map| map.keys().cloned().collect())
            .unwrap_or_default()
    };
    let own = annotations(&object.value);
    let template = object
        .value
        .get("spec")
        .and_then(|spec| spec.get("template"));
    let pods = template.map(annotations).unwrap_or_default();
    for name in own.iter().chain(&pods) {
        let domain = name.split('/').next().unwrap_or_default();
        let is_istios = domain == "istio.io" || domain.ends_with(".istio.io");
        if is_istios && !is_known(name) {
            let text = format!("Unknown annotation: {name}");
            out.at(
                Code::UnknownAnnotation,
                &subject(object),
                format!("metadata.annotations.{name}"),
                text,
            );
        }
    }
}

fn is_known(name: &str) -> bool {
    KNOWN.iter().any(|known| match known.strip_suffix('/') {
        Some(_) => name.starts_with(known),
        None => name == *known,
    })
}
