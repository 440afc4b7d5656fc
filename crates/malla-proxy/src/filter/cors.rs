//! Cross-origin resource sharing (the Fetch standard), as Envoy's filter does it.

use std::sync::Arc;

use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use malla_proxy_config::http_filter::CorsPolicy;
use malla_proxy_config::request::text;

use super::Note;
use crate::http::error::ProxyError;
use crate::http::exchange::Exchange;
use crate::upstream::Upstreams;

const PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-allow-private-network");

/// What CORS makes of a request.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// Not from another origin, or from one that is not allowed: goes on as it is.
    Pass,
    /// From this allowed origin: the answer is marked.
    Allowed(HeaderValue),
    /// A preflight: answered here with these headers.
    Preflight(Vec<(HeaderName, HeaderValue)>),
}

/// Answers preflights, and notes requests of allowed origins.
pub(crate) fn check_origin<U: Upstreams>(
    x: &mut Exchange<U>,
    index: usize,
    policy: &Arc<CorsPolicy>,
) -> Result<(), ProxyError> {
    if !policy.enabled.hit(x.cx.worker.random()) {
        return Ok(());
    }
    let stats = &x.cx.manager.stats;
    match check(&x.head.method, &x.head.headers, policy) {
        Outcome::Pass => {
            if x.head.headers.contains_key(header::ORIGIN) {
                stats.cors_origin_invalid.inc();
            }
            Ok(())
        }
        Outcome::Allowed(origin) => {
            stats.cors_origin_valid.inc();
            x.notes
                .push((index, Note::Cors(origin, Arc::clone(policy))));
            Ok(())
        }
        Outcome::Preflight(headers) => {
            if headers.is_empty() {
                stats.cors_origin_invalid.inc()
            } else {
                stats.cors_origin_valid.inc()
            }
            Err(ProxyError::Preflight { headers })
        }
    }
}

/// Looks at a request under a policy that is enabled for it.
pub fn check(method: &Method, headers: &HeaderMap, policy: &CorsPolicy) -> Outcome {
    let Some(origin) = headers
        .get(header::ORIGIN)
        .filter(|origin| !origin.is_empty())
    else {
        return Outcome::Pass;
    };
    let allowed = policy
        .origins
        .iter()
        .any(|matcher| matcher.is_match(text(origin)));
    let asked = headers
        .get(header::ACCESS_CONTROL_REQUEST_METHOD)
        .is_some_and(|asked| !asked.is_empty());
    let preflight = method == Method::OPTIONS && asked;
    match (allowed, preflight) {
        (true, false) => Outcome::Allowed(origin.clone()),
        (true, true) => Outcome::Preflight(preflight_headers(headers, origin, policy)),
        (false, true) if !policy.forward_unmatched_preflights => Outcome::Preflight(Vec::new()),
        (false, _) => Outcome::Pass,
    }
}

fn preflight_headers(
    request: &HeaderMap,
    origin: &HeaderValue,
    policy: &CorsPolicy,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut out = vec![(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone())];
    let mut add =
        |name, value: &Option<HeaderValue>| out.extend(value.clone().map(|value| (name, value)));
    add(
        header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
        &policy.credentials.then(|| HeaderValue::from_static("true")),
    );
    add(header::ACCESS_CONTROL_ALLOW_METHODS, &policy.methods);
    add(header::ACCESS_CONTROL_ALLOW_HEADERS, &policy.headers);
    add(header::ACCESS_CONTROL_MAX_AGE, &policy.max_age);
    add(header::ACCESS_CONTROL_EXPOSE_HEADERS, &policy.expose);
    let private = policy.private_network
        && request
            .get(PRIVATE_NETWORK)
            .is_some_and(|value| value == "true");
    add(
        ALLOW_PRIVATE_NETWORK,
        &private.then(|| HeaderValue::from_static("true")),
    );
    out
}

/// Marks the answer to a request from an allowed origin.
pub fn answer(headers: &mut HeaderMap, origin: &HeaderValue, policy: &CorsPolicy) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if policy.credentials {
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    }
    if let Some(expose) = &policy.expose {
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};
    use malla_proxy_config::http_filter::CorsPolicy;
    use malla_proxy_config::matcher::{Fraction, StringMatcher};

    use super::{Outcome, check};

    fn policy(forward: bool) -> CorsPolicy {
        CorsPolicy {
            origins: vec![StringMatcher::exact("http://good.example")],
            methods: Some("GET,POST".parse().unwrap()),
            headers: None,
            expose: None,
            max_age: Some("86400".parse().unwrap()),
            credentials: true,
            private_network: false,
            forward_unmatched_preflights: forward,
            enabled: Fraction::ALWAYS,
        }
    }

    fn request(origin: &str, asked: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("origin", origin.parse().unwrap());
        if asked {
            headers.insert("access-control-request-method", "POST".parse().unwrap());
        }
        headers
    }

    #[test]
    fn preflights_are_answered_for_allowed_origins() {
        let good = request("http://good.example", true);
        let Outcome::Preflight(headers) = check(&Method::OPTIONS, &good, &policy(true)) else {
            panic!("no preflight")
        };
        let names: Vec<_> = headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "access-control-allow-origin",
                "access-control-allow-credentials",
                "access-control-allow-methods",
                "access-control-max-age"
            ]
        );
        let bad = request("http://bad.example", true);
        assert_eq!(check(&Method::OPTIONS, &bad, &policy(true)), Outcome::Pass);
        assert_eq!(
            check(&Method::OPTIONS, &bad, &policy(false)),
            Outcome::Preflight(Vec::new())
        );
    }

    #[test]
    fn simple_requests_pass_and_are_marked() {
        let good = request("http://good.example", false);
        assert!(matches!(
            check(&Method::GET, &good, &policy(true)),
            Outcome::Allowed(_)
        ));
        let bad = request("http://bad.example", false);
        assert_eq!(check(&Method::GET, &bad, &policy(true)), Outcome::Pass);
    }
}
