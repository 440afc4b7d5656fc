//! RequestAuthentication to the tokens that are believed.
//!
//! Invariant: what cannot be read believes nobody. Where keys or the places of tokens cannot be read, the issuer has no
//! keys, so each of its tokens is refused.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use malla_model::token::{
    FETCH_TIMEOUT, JwksUri, JwtRule, KeySource, RequestAuthentication, TokenLocations,
};
use serde_json::Value;

use super::meta::{meta, selector, text, texts};
use super::{Context, Lowered, Refused, by_selector_only, decode};
use crate::istio::request_authentication as raw;
use crate::kind::Kind;

/// Lowers a RequestAuthentication.
///
/// # Errors
/// When the spec is malformed, or the policy is attached by `targetRefs`.
pub fn lower(
    metadata: &ObjectMeta,
    spec: &Value,
) -> Result<Lowered<RequestAuthentication>, Refused> {
    let kind = Kind::RequestAuthentication;
    let written: raw::RequestAuthenticationSpec = decode(kind, metadata, spec)?;
    by_selector_only(
        kind,
        metadata,
        written.target_ref.as_ref(),
        &written.target_refs,
    )?;
    let mut cx = Context::new(metadata, "");
    let rules = written.jwt_rules.iter().enumerate();
    let rules = rules
        .map(|(at, written)| rule(written, &format!("spec.jwtRules[{at}]"), &mut cx))
        .collect();
    let value = RequestAuthentication {
        meta: meta(kind.name(), metadata),
        selector: selector(written.selector.as_ref().map(|s| &s.match_labels)),
        rules,
    };
    Ok(cx.finish(kind, spec, value))
}

fn rule(written: &raw::JwtRule, path: &str, cx: &mut Context<'_>) -> JwtRule {
    let issuer = text(&written.issuer);
    if issuer.is_none() {
        cx.note(
            format!("{path}.issuer"),
            "is required; until it is set, every token is refused",
        );
    }
    let locations = locations(written, path, cx);
    let keys = keys(written, path, cx);
    JwtRule {
        keys: match (&issuer, &locations) {
            (Some(_), Some(_)) => keys,
            _ => KeySource::Unknown,
        },
        issuer: issuer.unwrap_or_default(),
        audiences: texts(&written.audiences),
        locations: locations.unwrap_or_default(),
        payload_header: text(&written.output_payload_to_header)
            .filter(|name| is_header(name, || format!("{path}.outputPayloadToHeader"), cx)),
        forward: written.forward_original_token,
        claim_headers: claim_headers(written, path, cx),
        space_delimited: texts(&written.space_delimited_claims),
    }
}

fn keys(written: &raw::JwtRule, path: &str, cx: &mut Context<'_>) -> KeySource {
    if let Some(jwks) = text(&written.jwks) {
        return match check_jwks(&jwks) {
            Ok(unusable) => {
                for (at, why) in unusable {
                    cx.note(format!("{path}.jwks.keys[{at}]"), why);
                }
                KeySource::Inline(jwks)
            }
            Err(why) => {
                cx.note(
                    format!("{path}.jwks"),
                    format!("{why}, so every token of the issuer is refused"),
                );
                KeySource::Unknown
            }
        };
    }
    let Some(uri) = text(&written.jwks_uri).or_else(|| text(&written.jwks_uri_snake)) else {
        cx.note(
            format!("{path}.jwksUri"),
            "is not set, nor is jwks; Malla does not ask the issuer where its keys are, so every token of it is refused",
        );
        return KeySource::Unknown;
    };
    match JwksUri::parse(&uri) {
        Ok(uri) => KeySource::Remote {
            uri,
            timeout: written
                .timeout
                .map(|timeout| timeout.0)
                .filter(|timeout| !timeout.is_zero())
                .unwrap_or(FETCH_TIMEOUT),
        },
        Err(why) => {
            cx.note(
                format!("{path}.jwksUri"),
                format!("{why}, so every token of the issuer is refused"),
            );
            KeySource::Unknown
        }
    }
}

const ENCRYPTION: &str =
    "is for encrypted tokens (JWE), which are not supported; only signed ones are (RFC 7515)";
const UNUSABLE: &str =
    "is no key of signatures (RFC 7518, 6: kty RSA, EC, OKP or oct, and its parts)";

/// Keys that cannot verify a signature, by their places.
///
/// # Errors
/// Why the text is no key set, or of no use; proxies refuse a whole listener that has such a set.
pub(crate) fn check_jwks(jwks: &str) -> Result<Vec<(usize, &'static str)>, &'static str> {
    let parsed: Value = serde_json::from_str(jwks).map_err(|_| "is not JSON")?;
    let keys = parsed.get("keys").and_then(Value::as_array);
    let keys = keys.ok_or("is not a JSON Web Key Set, {\"keys\": [...]}")?;
    let unusable: Vec<(usize, &'static str)> = keys
        .iter()
        .enumerate()
        .filter_map(|(at, key)| Some((at, unusable(key)?)))
        .collect();
    if unusable.len() < keys.len() {
        return Ok(unusable);
    }
    Err(match unusable.first() {
        None => "holds no keys",
        Some((_, why)) if *why == ENCRYPTION => {
            "holds only keys for encrypted tokens (JWE), which are not supported"
        }
        Some(_) => "holds no key that can verify a signature (RFC 7518, 6)",
    })
}

/// Why a key cannot verify a signature.
fn unusable(key: &Value) -> Option<&'static str> {
    if key["use"] == "enc" {
        return Some(ENCRYPTION);
    }
    let parts: &[&str] = match key["kty"].as_str() {
        Some("RSA") => &["n", "e"],
        Some("EC") => &["crv", "x", "y"],
        Some("OKP") => &["crv", "x"],
        Some("oct") => &["k"],
        _ => return Some(UNUSABLE),
    };
    let there = |part: &&str| key[*part].as_str().is_some_and(|text| !text.is_empty());
    let certified = key["x5c"].is_array();
    (!certified && !parts.iter().all(there)).then_some(UNUSABLE)
}

/// `None` where places are named and none of them can be read.
fn locations(written: &raw::JwtRule, path: &str, cx: &mut Context<'_>) -> Option<TokenLocations> {
    let mut headers = Vec::new();
    for (at, header) in written.from_headers.iter().enumerate() {
        if is_header(
            &header.name,
            || format!("{path}.fromHeaders[{at}].name"),
            cx,
        ) {
            let prefix = text(&header.prefix).unwrap_or_default();
            headers.push((Arc::from(header.name.as_str()), prefix));
        }
    }
    let read = TokenLocations {
        headers,
        params: texts(&written.from_params),
        cookies: texts(&written.from_cookies),
    };
    if read.is_empty() && !written.from_headers.is_empty() {
        cx.note(
            format!("{path}.fromHeaders"),
            "names no header that can be, so every token of the issuer is refused",
        );
        return None;
    }
    Some(read)
}

fn claim_headers(
    written: &raw::JwtRule,
    path: &str,
    cx: &mut Context<'_>,
) -> Vec<(Arc<str>, Arc<str>)> {
    let mut out = Vec::new();
    for (at, item) in written.output_claim_to_headers.iter().enumerate() {
        let at = format!("{path}.outputClaimToHeaders[{at}]");
        if item.claim.is_empty() {
            cx.note(format!("{at}.claim"), "is required");
        } else if is_header(&item.header, || format!("{at}.header"), cx) {
            out.push((item.header.as_str().into(), item.claim.as_str().into()));
        }
    }
    out
}

/// Whether it is a header's name; proxies refuse a whole listener that has another.
fn is_header(name: &str, path: impl FnOnce() -> String, cx: &mut Context<'_>) -> bool {
    // A token of RFC 9110, 5.6.2.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let good = !name.is_empty() && name.bytes().all(plain);
    if !good {
        cx.note(path(), "is not a header's name, so it is left out");
    }
    good
}
