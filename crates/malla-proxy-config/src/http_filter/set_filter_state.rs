//! Notes about requests and connections, made of formats (`set_filter_state`).
//!
//! Keys that steer Envoy itself are refused, but the cluster of a TCP proxy: a note that nobody acts on would be a lie.

use std::sync::Arc;

use crate::checked::{Cx, Invalid, ignorable};
use crate::format::Layout;
use crate::pb::extensions::filters::common::set_filter_state::v3 as pb;
use crate::pb::extensions::filters::http::set_filter_state::v3 as http;
use crate::pb::extensions::filters::network::set_filter_state::v3 as network;

/// The cluster that a TCP proxy passes bytes to.
pub const TCP_CLUSTER: &str = "envoy.tcp_proxy.cluster";
/// Factories of plain texts.
const TEXTS: [&str; 2] = ["envoy.string", "envoy.hashable_string"];

/// One note.
#[derive(Debug, Clone, PartialEq)]
pub struct StateNote {
    /// Its name.
    pub key: Arc<str>,
    /// What it says.
    pub text: Layout,
    /// Not made where it would be empty.
    pub skip_if_empty: bool,
}

/// `envoy.filters.http.set_filter_state`.
#[derive(Debug, Clone, PartialEq)]
pub struct SetFilterState {
    /// Made when the filter sees the request.
    pub notes: Vec<StateNote>,
    /// The request is routed anew.
    pub clear_route_cache: bool,
}

impl SetFilterState {
    pub(super) fn parse(wire: http::Config, cx: &mut Cx) -> Result<Self, Invalid> {
        let http::Config {
            on_request_headers,
            clear_route_cache,
        } = wire;
        let parse = |wire, cx: &mut Cx| StateNote::parse(wire, false, cx);
        Ok(Self {
            notes: cx.each("on_request_headers", on_request_headers, parse)?,
            clear_route_cache,
        })
    }
}

impl StateNote {
    /// Those of `envoy.filters.network.set_filter_state`.
    pub(crate) fn of_connection(wire: network::Config, cx: &mut Cx) -> Result<Vec<Self>, Invalid> {
        let network::Config {
            on_new_connection,
            on_downstream_tls_handshake,
            on_downstream_data,
        } = wire;
        cx.unset("on_downstream_data", &on_downstream_data)?;
        let parse = |wire, cx: &mut Cx| Self::parse(wire, true, cx);
        let mut notes: Vec<Self> = cx.each("on_new_connection", on_new_connection, parse)?;
        let later: Vec<Self> = cx.each(
            "on_downstream_tls_handshake",
            on_downstream_tls_handshake,
            parse,
        )?;
        notes.extend(later);
        Ok(notes)
    }

    fn parse(wire: pb::FilterStateValue, tcp: bool, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::FilterStateValue {
            factory_key,
            read_only,
            shared_with_upstream,
            skip_if_empty,
            key,
            value,
        } = wire;
        // Nothing here writes a key twice, and upstream connections have no such notes.
        ignorable!(cx; read_only, shared_with_upstream);
        let pb::filter_state_value::Key::ObjectKey(key) = cx.required("object_key", key)?;
        if key.is_empty() {
            return Err(cx.invalid("object_key", "is required"));
        }
        let factory = match factory_key.is_empty() {
            true => &key,
            false => &factory_key,
        };
        let steers = key.starts_with("envoy.") && !TEXTS.contains(&key.as_str());
        let known = TEXTS.contains(&factory.as_str()) && !steers;
        let named = tcp && key == TCP_CLUSTER && *factory == key;
        if !(known || named) {
            let reason = format!(
                "`{key}` made by `{factory}` is not supported by this proxy; use factory_key envoy.string"
            );
            return Err(cx.invalid("object_key", reason));
        }
        let pb::filter_state_value::Value::FormatString(format) =
            cx.required("format_string", value)?;
        let layout = cx.field("format_string", |cx| Layout::parse(format, cx))?;
        Ok(Self {
            key: key.into(),
            text: layout,
            skip_if_empty,
        })
    }
}

#[cfg(test)]
mod tests {
    use malla_xds_proto::json;

    use super::StateNote;
    use crate::checked::Cx;
    use crate::pb::extensions::filters::common::set_filter_state::v3 as pb;

    fn parse(yaml: &str, tcp: bool) -> Result<StateNote, String> {
        let wire: pb::FilterStateValue = json::from_yaml(yaml).unwrap();
        Cx::check(|cx| StateNote::parse(wire, tcp, cx))
            .map(|checked| checked.value)
            .map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn notes_are_texts_and_what_steers_is_refused() {
        let text = "format_string: { text_format_source: { inline_string: x } }";
        let note = parse(
            &format!("{{ object_key: mine, factory_key: envoy.string, {text} }}"),
            false,
        );
        assert_eq!(&*note.unwrap().key, "mine");
        let cluster = format!("{{ object_key: envoy.tcp_proxy.cluster, {text} }}");
        assert!(parse(&cluster, true).is_ok());
        for (yaml, part) in [
            (cluster.as_str(), "envoy.tcp_proxy.cluster"),
            (
                "{ object_key: envoy.network.upstream_server_name, format_string: { text_format_source: { inline_string: x } } }",
                "not supported",
            ),
            (
                "{ object_key: mine, format_string: { text_format_source: { inline_string: x } } }",
                "use factory_key",
            ),
            (
                "{ object_key: mine, factory_key: envoy.string }",
                "format_string: is required",
            ),
        ] {
            let error = parse(yaml, false).unwrap_err();
            assert!(error.contains(part), "{yaml}: {error}");
        }
    }
}
