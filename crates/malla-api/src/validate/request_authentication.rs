//! RequestAuthentication.

use malla_model::token::JwksUri;

use super::names;
use crate::istio::RequestAuthenticationSpec;
use crate::lower::request_authentication::check_jwks;
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
            && let Err(why) = JwksUri::parse(uri)
        {
            report
                .error(format!("{path}.jwksUri"), why)
                .value(format!("{uri:?}"))
                .fix("write it as https://issuer.example.com/keys");
        }
        if let Some(Err(why)) = rule.jwks.as_deref().map(check_jwks) {
            report
                .error(format!("{path}.jwks"), why)
                .fix("write {\"keys\": [...]} with keys of signatures (RFC 7517)");
        }
    }
}
