//! Fields that the API has and Malla does not act on yet.
//!
//! One table: a field leaves it in the change that makes it work. `[]` stands for every item of a
//! list and `{}` for every value of a map.

use std::borrow::Cow;

use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use super::NotHonoured;
use crate::kind::Kind;

/// (path below `spec`, why)
type Gap = (&'static str, &'static str);

const NEVER: &str = "Istio has never implemented it either";
const NOT_YET: &str = "Malla does not act on it yet";

const VIRTUAL_SERVICE: &[Gap] = &[
    ("http[].fault.delay.exponentialDelay", NEVER),
    ("http[].fault.abort.http2Error", NEVER),
    ("tcp[].match[].sourceSubnet", NEVER),
];

/// Below each place where a traffic policy stands.
const TRAFFIC_POLICY: &[Gap] = &[
    ("loadBalancer.zoneAwareLbSetting", NOT_YET),
    ("loadBalancer.consistentHash.httpCookie.attributes", NOT_YET),
    ("connectionPool.http.http2KeepAlive", NOT_YET),
    ("outlierDetection.outlierDetectionHttpErrorCodes", NOT_YET),
    ("tls.caCrl", NOT_YET),
    ("tunnel", NOT_YET),
    ("proxyProtocol", NOT_YET),
    ("retryBudget.budgetInterval", NOT_YET),
];

const TRAFFIC_POLICY_PLACES: [&str; 4] = [
    "trafficPolicy",
    "trafficPolicy.portLevelSettings[]",
    "subsets[].trafficPolicy",
    "subsets[].trafficPolicy.portLevelSettings[]",
];

const GATEWAY: &[Gap] = &[
    ("servers[].defaultEndpoint", NEVER),
    ("servers[].port.targetPort", NEVER),
    ("servers[].tls.caCrl", NOT_YET),
    ("servers[].tls.tlsCertificates", NOT_YET),
    ("servers[].tls.verifyCertificateSpki", NOT_YET),
    ("servers[].tls.verifyCertificateHash", NOT_YET),
    ("servers[].tls.insecureSkipVerify", NOT_YET),
    ("servers[].tls.ecdhCurves", NOT_YET),
];

const REQUEST_AUTHENTICATION: &[Gap] = &[("jwtRules[].presence", NEVER)];

/// Every field of `spec` that is set and not acted on.
#[must_use]
pub fn find(kind: Kind, spec: &Value) -> Vec<NotHonoured> {
    let mut found = Vec::new();
    match kind {
        Kind::VirtualService => table(spec, "", VIRTUAL_SERVICE, &mut found),
        Kind::Gateway => table(spec, "", GATEWAY, &mut found),
        Kind::RequestAuthentication => table(spec, "", REQUEST_AUTHENTICATION, &mut found),
        Kind::DestinationRule => {
            for place in TRAFFIC_POLICY_PLACES {
                table(spec, place, TRAFFIC_POLICY, &mut found);
            }
        }
        Kind::ServiceEntry
        | Kind::WorkloadEntry
        | Kind::Sidecar
        | Kind::EnvoyFilter
        | Kind::PeerAuthentication
        | Kind::AuthorizationPolicy
        | Kind::Telemetry => {}
        Kind::WorkloadGroup | Kind::ProxyConfig | Kind::WasmPlugin => found.push(NotHonoured {
            path: "spec".into(),
            why: format!("Malla does not act on {kind} yet").into(),
        }),
    }
    found
}

/// What of a Kubernetes Service has a meaning in Istio and none here yet.
#[must_use]
pub fn of_service(service: &core::Service) -> Vec<NotHonoured> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let sctp = spec
        .ports
        .iter()
        .flatten()
        .any(|port| port.protocol.as_deref() == Some("SCTP"));
    [(sctp, "spec.ports", "the mesh does not carry SCTP")]
        .into_iter()
        .filter(|(set, ..)| *set)
        .map(|(_, path, why)| NotHonoured {
            path: path.to_owned(),
            why: Cow::Borrowed(why),
        })
        .collect()
}

fn table(spec: &Value, place: &str, gaps: &[Gap], found: &mut Vec<NotHonoured>) {
    for (field, why) in gaps {
        let pattern: Vec<&str> = place
            .split('.')
            .chain(field.split('.'))
            .filter(|segment| !segment.is_empty())
            .collect();
        walk(spec, &pattern, "spec".to_owned(), &mut |path| {
            found.push(NotHonoured {
                path,
                why: Cow::Borrowed(why),
            });
        });
    }
}

/// Calls `hit` with the path of every value that the pattern reaches.
fn walk(value: &Value, pattern: &[&str], path: String, hit: &mut impl FnMut(String)) {
    let Some((segment, rest)) = pattern.split_first() else {
        if is_set(value) {
            hit(path);
        }
        return;
    };
    if let Some(name) = segment.strip_suffix("[]") {
        let items = value.get(name).and_then(Value::as_array);
        for (at, item) in items.into_iter().flatten().enumerate() {
            walk(item, rest, format!("{path}.{name}[{at}]"), hit);
        }
    } else if let Some(inner) = value.get(segment) {
        walk(inner, rest, format!("{path}.{segment}"), hit);
    }
}

/// Whether a value says anything, in protobuf's sense.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::Object(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows a pattern through a schema.
    fn exists(schema: &Value, pattern: &str) -> bool {
        let mut at = schema;
        for segment in pattern.split('.').filter(|s| !s.is_empty()) {
            let name = segment.trim_end_matches("[]");
            let Some(next) = at.get("properties").and_then(|p| p.get(name)) else {
                return false;
            };
            at = if segment.ends_with("[]") {
                &next["items"]
            } else {
                next
            };
        }
        true
    }

    #[test]
    fn every_gap_is_a_field_of_the_schema() {
        for (kind, gaps) in [
            (Kind::VirtualService, VIRTUAL_SERVICE),
            (Kind::Gateway, GATEWAY),
            (Kind::RequestAuthentication, REQUEST_AUTHENTICATION),
        ] {
            for (pattern, _) in gaps {
                assert!(exists(kind.spec_schema(), pattern), "{kind} {pattern}");
            }
        }
        for (field, _) in TRAFFIC_POLICY {
            let pattern = format!("subsets[].trafficPolicy.{field}");
            assert!(
                exists(Kind::DestinationRule.spec_schema(), &pattern),
                "{pattern}"
            );
        }
    }
}
