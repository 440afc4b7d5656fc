//! Providers that decide about requests.
//!
//! Invariant: `None` where a field that decides cannot be read; policies that name such a provider refuse everything.

use std::sync::Arc;

use malla_model::authorizer::{Authorizer, Body, Http, Protocol, TIMEOUT};
use malla_model::telemetry::ProviderKind;
use malla_xds_proto::envoy_type::StatusCode;
use serde_json::Value;

use super::Fields;

pub(super) fn by_grpc(fields: &mut Fields<'_>) -> Option<ProviderKind> {
    read(fields, |_| Some(Protocol::Grpc))
}

pub(super) fn by_http(fields: &mut Fields<'_>) -> Option<ProviderKind> {
    read(fields, |fields| http(fields).map(Protocol::Http))
}

fn read(
    fields: &mut Fields<'_>,
    protocol: impl FnOnce(&mut Fields<'_>) -> Option<Protocol>,
) -> Option<ProviderKind> {
    let target = fields.target();
    let protocol = protocol(fields);
    let status_on_error = status(fields);
    let body = body(fields);
    let authorizer = Authorizer {
        timeout: fields.time("timeout").unwrap_or(TIMEOUT),
        fail_open: fields.flag("failOpen").unwrap_or(false),
        clear_route_cache: fields.flag("clearRouteCache").unwrap_or(false),
        target: target?,
        protocol: protocol?,
        status_on_error: status_on_error?,
        body: body?,
    };
    Some(ProviderKind::Authorizer(Box::new(authorizer)))
}

/// A text in Istio's API; `Some(None)` where it is not set.
fn status(fields: &mut Fields<'_>) -> Option<Option<u16>> {
    if !fields.left.contains_key("statusOnError") {
        return Some(None);
    }
    let why = "is not a status code that Envoy knows, such as \"503\"";
    fields
        .read("statusOnError", why, |value| {
            let number: u16 = match value.as_str() {
                Some(text) => text.parse().ok()?,
                None => u16::try_from(value.as_u64()?).ok()?,
            };
            // Envoy refuses codes that it has no name for.
            let known = number >= 200 && StatusCode::try_from(i32::from(number)).is_ok();
            known.then_some(number)
        })
        .map(Some)
}

/// `Some(None)` where it is not set.
fn body(fields: &mut Fields<'_>) -> Option<Option<Body>> {
    if !fields.left.contains_key("includeRequestBodyInCheck") {
        return Some(None);
    }
    let body = fields.object("includeRequestBodyInCheck", |fields| {
        let max = fields.number("maxRequestBytes").filter(|max| *max > 0);
        if max.is_none() {
            fields.note("maxRequestBytes", "is required: more than 0 bytes");
        }
        Some(Body {
            max: max?,
            partial: fields.flag("allowPartialMessage").unwrap_or(false),
            bytes: fields.flag("packAsBytes").unwrap_or(false),
        })
    });
    body.map(Some)
}

fn http(fields: &mut Fields<'_>) -> Option<Http> {
    let path_prefix = fields.text("pathPrefix").unwrap_or_default();
    if !path_prefix.is_empty() && !path_prefix.starts_with('/') {
        fields.note("pathPrefix", "does not begin with /");
        return None;
    }
    // The first is the field's older name.
    let older = fields.texts("includeHeadersInCheck");
    let shown = fields.texts("includeRequestHeadersInCheck");
    let added = fields.read(
        "includeAdditionalHeadersInCheck",
        "is not a mapping of headers to values",
        |value| {
            let pair = |(name, value): (&String, &Value)| {
                Some((Arc::from(name.as_str()), Arc::from(value.as_str()?)))
            };
            value.as_object()?.iter().map(pair).collect()
        },
    );
    Some(Http {
        path_prefix,
        shown: if shown.is_empty() { older } else { shown },
        added: added.unwrap_or_default(),
        to_upstream: fields.texts("headersToUpstreamOnAllow"),
        to_client_on_deny: fields.texts("headersToDownstreamOnDeny"),
        to_client_on_allow: fields.texts("headersToDownstreamOnAllow"),
    })
}
