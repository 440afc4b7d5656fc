//! What a descriptor of a request is made of: `envoy.config.route.v3.RateLimit.Action`.

use std::sync::Arc;

use ipnet::IpNet;

use crate::address::cidr;
use crate::checked::{Cx, Invalid, refuse, type_name};
use crate::metadata_path::MetadataPath;
use crate::pb::{google, route as pb};
use crate::request::{HeaderMatcher, QueryMatcher};

/// One action: adds an entry to the descriptor, nothing, or gives the whole descriptor up.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// `source_cluster`: the node's own cluster.
    SourceCluster,
    /// `destination_cluster`: the route's.
    DestinationCluster,
    /// The value of a header.
    RequestHeader {
        /// Which.
        name: crate::format::Field,
        /// Key of the entry.
        key: Arc<str>,
        /// Without it the entry is left out, not the descriptor.
        skip_if_absent: bool,
    },
    /// The value of a query parameter.
    QueryParameter {
        /// Which.
        name: String,
        /// Key of the entry.
        key: Arc<str>,
        /// Without it the entry is left out, not the descriptor.
        skip_if_absent: bool,
    },
    /// `remote_address`: the client's.
    RemoteAddress,
    /// `masked_remote_address`: the client's network.
    MaskedRemoteAddress {
        /// Bits of an IPv4 address that count.
        v4: u8,
        /// Bits of an IPv6 address that count.
        v6: u8,
    },
    /// Always the same.
    GenericKey {
        /// Key of the entry.
        key: Arc<str>,
        /// Its value.
        value: Arc<str>,
    },
    /// The same for all requests whose headers fit.
    HeaderMatch {
        /// Key of the entry.
        key: Arc<str>,
        /// Its value.
        value: Arc<str>,
        /// They must fit, or must not.
        expect: bool,
        /// All of these.
        headers: Vec<HeaderMatcher>,
    },
    /// The same for all requests whose query parameters fit.
    QueryMatch {
        /// Key of the entry.
        key: Arc<str>,
        /// Its value.
        value: Arc<str>,
        /// They must fit, or must not.
        expect: bool,
        /// All of these.
        parameters: Vec<QueryMatcher>,
    },
    /// The same for all clients whose addresses fit.
    AddressMatch {
        /// Key of the entry.
        key: Arc<str>,
        /// Its value.
        value: Arc<str>,
        /// Any of these.
        ranges: Vec<IpNet>,
        /// None of them.
        invert: bool,
    },
    /// A string in metadata.
    Metadata {
        /// Key of the entry.
        key: Arc<str>,
        /// Where.
        path: MetadataPath,
        /// Of the route; else the request's dynamic metadata.
        of_route: bool,
        /// Its value where there is none; may be empty.
        default: Arc<str>,
        /// Without either the entry is left out, not the descriptor.
        skip_if_absent: bool,
    },
}

/// A key, or the one Envoy uses where none is given.
fn key_or(key: String, default: &str) -> Arc<str> {
    if key.is_empty() {
        default.into()
    } else {
        key.into()
    }
}

fn required(field: &str, text: String, cx: &Cx) -> Result<Arc<str>, Invalid> {
    if text.is_empty() {
        return Err(cx.invalid(field, "is required"));
    }
    Ok(text.into())
}

fn prefix_length(
    field: &str,
    wire: Option<google::UInt32Value>,
    max: u8,
    cx: &Cx,
) -> Result<u8, Invalid> {
    let Some(length) = wire else { return Ok(max) };
    u8::try_from(length.value)
        .ok()
        .filter(|length| *length <= max)
        .ok_or_else(|| cx.invalid(field, format!("{} is not from 0 to {max}", length.value)))
}

fn flag(wire: Option<google::BoolValue>) -> bool {
    wire.is_none_or(|value| value.value)
}

impl Action {
    pub(super) fn parse(wire: pb::rate_limit::Action, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::rate_limit::action::{
            ActionSpecifier as Wire, DestinationCluster, RemoteAddress, SourceCluster,
        };
        match cx.required("action_specifier", wire.action_specifier)? {
            Wire::SourceCluster(SourceCluster {}) => Ok(Self::SourceCluster),
            Wire::DestinationCluster(DestinationCluster {}) => Ok(Self::DestinationCluster),
            Wire::RemoteAddress(RemoteAddress {}) => Ok(Self::RemoteAddress),
            Wire::RequestHeaders(wire) => {
                cx.field("request_headers", |cx| request_header(wire, cx))
            }
            Wire::QueryParameters(wire) => {
                cx.field("query_parameters", |cx| query_parameter(wire, cx))
            }
            Wire::GenericKey(wire) => cx.field("generic_key", |cx| generic_key(wire, cx)),
            Wire::HeaderValueMatch(wire) => {
                cx.field("header_value_match", |cx| header_match(wire, cx))
            }
            Wire::QueryParameterValueMatch(wire) => {
                cx.field("query_parameter_value_match", |cx| query_match(wire, cx))
            }
            Wire::RemoteAddressMatch(wire) => {
                cx.field("remote_address_match", |cx| address_match(wire, cx))
            }
            Wire::DynamicMetadata(wire) => {
                cx.field("dynamic_metadata", |cx| dynamic_metadata(wire, cx))
            }
            Wire::Metadata(wire) => cx.field("metadata", |cx| metadata(wire, cx)),
            Wire::MaskedRemoteAddress(wire) => cx.field("masked_remote_address", |cx| {
                let pb::rate_limit::action::MaskedRemoteAddress {
                    v4_prefix_mask_len,
                    v6_prefix_mask_len,
                } = wire;
                Ok(Self::MaskedRemoteAddress {
                    v4: prefix_length("v4_prefix_mask_len", v4_prefix_mask_len, 32, cx)?,
                    v6: prefix_length("v6_prefix_mask_len", v6_prefix_mask_len, 128, cx)?,
                })
            }),
            Wire::Extension(extension) => {
                let kind = extension.typed_config.as_ref().map(type_name);
                let kind = kind.unwrap_or(extension.name);
                Err(cx.invalid(
                    "extension",
                    format!("{kind} is not supported by this proxy"),
                ))
            }
        }
    }
}

fn request_header(
    wire: pb::rate_limit::action::RequestHeaders,
    cx: &mut Cx,
) -> Result<Action, Invalid> {
    let pb::rate_limit::action::RequestHeaders {
        header_name,
        descriptor_key,
        skip_if_absent,
    } = wire;
    let name = crate::format::Field::parse(&header_name)
        .map_err(|reason| cx.invalid("header_name", reason))?;
    Ok(Action::RequestHeader {
        name,
        key: required("descriptor_key", descriptor_key, cx)?,
        skip_if_absent,
    })
}

fn query_parameter(
    wire: pb::rate_limit::action::QueryParameters,
    cx: &mut Cx,
) -> Result<Action, Invalid> {
    let pb::rate_limit::action::QueryParameters {
        query_parameter_name,
        descriptor_key,
        skip_if_absent,
    } = wire;
    if query_parameter_name.is_empty() {
        return Err(cx.invalid("query_parameter_name", "is required"));
    }
    Ok(Action::QueryParameter {
        name: query_parameter_name,
        key: required("descriptor_key", descriptor_key, cx)?,
        skip_if_absent,
    })
}

fn generic_key(wire: pb::rate_limit::action::GenericKey, cx: &mut Cx) -> Result<Action, Invalid> {
    let pb::rate_limit::action::GenericKey {
        descriptor_value,
        default_value,
        descriptor_key,
    } = wire;
    refuse!(cx; default_value);
    Ok(Action::GenericKey {
        key: key_or(descriptor_key, "generic_key"),
        value: required("descriptor_value", descriptor_value, cx)?,
    })
}

fn header_match(
    wire: pb::rate_limit::action::HeaderValueMatch,
    cx: &mut Cx,
) -> Result<Action, Invalid> {
    let pb::rate_limit::action::HeaderValueMatch {
        descriptor_value,
        default_value,
        descriptor_key,
        expect_match,
        headers,
    } = wire;
    refuse!(cx; default_value);
    if headers.is_empty() {
        return Err(cx.invalid("headers", "at least one is required"));
    }
    Ok(Action::HeaderMatch {
        key: key_or(descriptor_key, "header_match"),
        value: required("descriptor_value", descriptor_value, cx)?,
        expect: flag(expect_match),
        headers: cx.each("headers", headers, HeaderMatcher::parse)?,
    })
}

fn query_match(
    wire: pb::rate_limit::action::QueryParameterValueMatch,
    cx: &mut Cx,
) -> Result<Action, Invalid> {
    let pb::rate_limit::action::QueryParameterValueMatch {
        descriptor_value,
        default_value,
        descriptor_key,
        expect_match,
        query_parameters,
    } = wire;
    refuse!(cx; default_value);
    if query_parameters.is_empty() {
        return Err(cx.invalid("query_parameters", "at least one is required"));
    }
    Ok(Action::QueryMatch {
        key: key_or(descriptor_key, "query_match"),
        value: required("descriptor_value", descriptor_value, cx)?,
        expect: flag(expect_match),
        parameters: cx.each("query_parameters", query_parameters, QueryMatcher::parse)?,
    })
}

fn address_match(
    wire: pb::rate_limit::action::RemoteAddressMatch,
    cx: &mut Cx,
) -> Result<Action, Invalid> {
    let pb::rate_limit::action::RemoteAddressMatch {
        descriptor_value,
        descriptor_key,
        default_value,
        address_matcher,
    } = wire;
    refuse!(cx; default_value);
    let crate::pb::matcher::AddressMatcher {
        ranges,
        invert_match,
    } = cx.required("address_matcher", address_matcher)?;
    let range = |range: crate::pb::xds_core::CidrRange, cx: &mut Cx| {
        let crate::pb::xds_core::CidrRange {
            address_prefix,
            prefix_len,
        } = range;
        cidr(
            crate::pb::core::CidrRange {
                address_prefix,
                prefix_len,
            },
            cx,
        )
    };
    Ok(Action::AddressMatch {
        key: key_or(descriptor_key, "remote_address_match"),
        value: required("descriptor_value", descriptor_value, cx)?,
        ranges: cx.field("address_matcher", |cx| cx.each("ranges", ranges, range))?,
        invert: invert_match,
    })
}

fn dynamic_metadata(
    wire: pb::rate_limit::action::DynamicMetaData,
    cx: &mut Cx,
) -> Result<Action, Invalid> {
    let pb::rate_limit::action::DynamicMetaData {
        descriptor_key,
        metadata_key,
        default_value,
    } = wire;
    let path = cx.required("metadata_key", metadata_key)?;
    Ok(Action::Metadata {
        key: required("descriptor_key", descriptor_key, cx)?,
        path: cx.field("metadata_key", |cx| MetadataPath::parse(path, cx))?,
        of_route: false,
        default: default_value.into(),
        skip_if_absent: false,
    })
}

fn metadata(wire: pb::rate_limit::action::MetaData, cx: &mut Cx) -> Result<Action, Invalid> {
    use pb::rate_limit::action::meta_data::Source;
    let pb::rate_limit::action::MetaData {
        descriptor_key,
        metadata_key,
        default_value,
        source,
        skip_if_absent,
    } = wire;
    let path = cx.required("metadata_key", metadata_key)?;
    Ok(Action::Metadata {
        key: required("descriptor_key", descriptor_key, cx)?,
        path: cx.field("metadata_key", |cx| MetadataPath::parse(path, cx))?,
        of_route: cx.enumeration::<Source>("source", source)? == Source::RouteEntry,
        default: default_value.into(),
        skip_if_absent,
    })
}

#[cfg(test)]
mod tests {
    use malla_xds_proto::json;
    use serde_json::{Value, json};

    use crate::checked::Cx;
    use crate::rate_limit::RateLimits;

    fn parse(rate_limits: Value) -> Result<RateLimits, String> {
        let any = json::any_from_value(json!({
            "@type": "type.googleapis.com/envoy.config.route.v3.VirtualHost",
            "name": "any",
            "rate_limits": rate_limits,
        }));
        let host: crate::pb::route::VirtualHost =
            malla_xds_proto::any::unpack(&any.unwrap()).unwrap();
        Cx::check(|cx| RateLimits::parse(host.rate_limits, cx))
            .map(|checked| checked.value)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn mistakes_are_named() {
        let check = |limit: Value, want: &str| assert_eq!(parse(json!([limit])).unwrap_err(), want);
        check(
            json!({}),
            "rate_limits[0].actions: at least one is required",
        );
        check(
            json!({"stage": 11, "actions": [{"remote_address": {}}]}),
            "rate_limits[0].stage: 11 is not from 0 to 10",
        );
        check(
            json!({"actions": [{"generic_key": {}}]}),
            "rate_limits[0].actions[0].generic_key.descriptor_value: is required",
        );
        check(
            json!({"actions": [{"masked_remote_address": {"v4_prefix_mask_len": 33}}]}),
            "rate_limits[0].actions[0].masked_remote_address.v4_prefix_mask_len: 33 is not from 0 to 32",
        );
        check(
            json!({"actions": [{"remote_address": {}}], "apply_on_stream_done": true}),
            "rate_limits[0].apply_on_stream_done: not supported by this proxy; remove the field",
        );
    }
}
