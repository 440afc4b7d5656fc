//! Cross-origin requests: all policy is per route.

use bytes::Bytes;
use http::HeaderValue;

use crate::checked::{Cx, Invalid, ignorable};
use crate::matcher::{Fraction, StringMatcher};
use crate::pb::extensions::filters::http as ext;
use crate::pb::route as pb;

/// `envoy.extensions.filters.http.cors.v3.CorsPolicy`.
#[derive(Debug, Clone, PartialEq)]
pub struct CorsPolicy {
    /// Allowed origins.
    pub origins: Vec<StringMatcher>,
    /// `access-control-allow-methods`.
    pub methods: Option<HeaderValue>,
    /// `access-control-allow-headers`.
    pub headers: Option<HeaderValue>,
    /// `access-control-expose-headers`.
    pub expose: Option<HeaderValue>,
    /// `access-control-max-age`.
    pub max_age: Option<HeaderValue>,
    /// `access-control-allow-credentials: true`.
    pub credentials: bool,
    /// `access-control-allow-private-network: true`.
    pub private_network: bool,
    /// A preflight with an origin that is not allowed goes upstream.
    pub forward_unmatched_preflights: bool,
    /// Share of requests it applies to.
    pub enabled: Fraction,
}

/// Values of the headers a policy adds, checked once.
fn header_value(field: &str, text: String, cx: &Cx) -> Result<Option<HeaderValue>, Invalid> {
    if text.is_empty() {
        return Ok(None);
    }
    HeaderValue::from_maybe_shared(Bytes::from(text))
        .map(Some)
        .map_err(|_| cx.invalid(field, "has characters that no header may have"))
}

impl CorsPolicy {
    pub(super) fn parse(wire: ext::cors::v3::CorsPolicy, cx: &mut Cx) -> Result<Self, Invalid> {
        let ext::cors::v3::CorsPolicy {
            allow_origin_string_match,
            allow_methods,
            allow_headers,
            expose_headers,
            max_age,
            allow_credentials,
            filter_enabled,
            shadow_enabled,
            allow_private_network_access,
            forward_not_matching_preflights,
        } = wire;
        ignorable!(cx; shadow_enabled);
        let enabled = match filter_enabled {
            Some(share) => cx.field("filter_enabled", |cx| Fraction::parse_runtime(share, cx))?,
            None => Fraction::ALWAYS,
        };
        Ok(Self {
            origins: cx.each(
                "allow_origin_string_match",
                allow_origin_string_match,
                StringMatcher::parse,
            )?,
            methods: header_value("allow_methods", allow_methods, cx)?,
            headers: header_value("allow_headers", allow_headers, cx)?,
            expose: header_value("expose_headers", expose_headers, cx)?,
            max_age: header_value("max_age", max_age, cx)?,
            credentials: allow_credentials.is_some_and(|value| value.value),
            private_network: allow_private_network_access.is_some_and(|value| value.value),
            forward_unmatched_preflights: forward_not_matching_preflights
                .is_none_or(|value| value.value),
            enabled,
        })
    }

    pub(super) fn parse_legacy(wire: pb::CorsPolicy, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::cors_policy::EnabledSpecifier;
        let pb::CorsPolicy {
            allow_origin_string_match,
            allow_methods,
            allow_headers,
            expose_headers,
            max_age,
            allow_credentials,
            shadow_enabled,
            allow_private_network_access,
            forward_not_matching_preflights,
            enabled_specifier,
        } = wire;
        let filter_enabled = enabled_specifier.map(|EnabledSpecifier::FilterEnabled(share)| share);
        Self::parse(
            ext::cors::v3::CorsPolicy {
                allow_origin_string_match,
                allow_methods,
                allow_headers,
                expose_headers,
                max_age,
                allow_credentials,
                filter_enabled,
                shadow_enabled,
                allow_private_network_access,
                forward_not_matching_preflights,
            },
            cx,
        )
    }
}
