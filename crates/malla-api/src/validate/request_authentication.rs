//! RequestAuthentication.

use super::names;
use crate::istio::RequestAuthenticationSpec;
use crate::report::Report;

pub(super) fn check(spec: &RequestAuthenticationSpec, report: &mut Report) {
    names::selector(spec.selector.as_ref(), "spec.selector", report);
    for (at, rule) in spec.jwt_rules.iter().enumerate() {
        let path = format!("spec.jwtRules[{at}]");
        if rule.issuer.as_deref().unwrap_or_default().is_empty() {
            report.error(format!("{path}.issuer"), "is required").done();
        }
        let uri = rule.jwks_uri.as_deref().or(rule.jwks_uri_snake.as_deref());
        if let Some(uri) = uri
            && !uri.starts_with("http://")
            && !uri.starts_with("https://")
        {
            report
                .error(
                    format!("{path}.jwksUri"),
                    "must begin with http:// or https://",
                )
                .value(format!("{uri:?}"))
                .done();
        }
        if let Some(jwks) = &rule.jwks {
            let parsed: Result<serde_json::Value, _> = serde_json::from_str(jwks);
            let has_keys = parsed
                .is_ok_and(|value| value.get("keys").is_some_and(serde_json::Value::is_array));
            if !has_keys {
                report
                    .error(format!("{path}.jwks"), "is not a JSON Web Key Set")
                    .fix("write {\"keys\": [...]}");
            }
        }
    }
}
