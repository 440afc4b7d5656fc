//! Header changes of a route or of one of its destinations.

use malla_model::route::{HeaderEdit, HeaderOps};
use malla_xds_proto::core::header_value_option::HeaderAppendAction;
use malla_xds_proto::core::{HeaderValue, HeaderValueOption};

/// Header changes in Envoy's terms.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    pub(crate) request_add: Vec<HeaderValueOption>,
    pub(crate) request_remove: Vec<String>,
    pub(crate) response_add: Vec<HeaderValueOption>,
    pub(crate) response_remove: Vec<String>,
    /// Setting `Host` is a rewrite of the authority.
    pub(crate) authority: Option<String>,
}

pub(crate) fn edits(ops: &HeaderOps) -> Edits {
    let (request_add, authority) = values(&ops.request);
    // A response has no authority, so setting one there is dropped, as Istio does.
    let (response_add, _) = values(&ops.response);
    let names = |edit: &HeaderEdit| {
        let plain = |name: &&std::sync::Arc<str>| !is_authority(name);
        edit.remove
            .iter()
            .filter(plain)
            .map(ToString::to_string)
            .collect()
    };
    Edits {
        request_add,
        request_remove: names(&ops.request),
        response_add,
        response_remove: names(&ops.response),
        authority,
    }
}

fn values(edit: &HeaderEdit) -> (Vec<HeaderValueOption>, Option<String>) {
    let mut options = Vec::new();
    let mut authority = None;
    let set = edit
        .set
        .iter()
        .map(|pair| (pair, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = edit
        .add
        .iter()
        .map(|pair| (pair, HeaderAppendAction::AppendIfExistsOrAdd));
    for ((key, value), action) in set.chain(add) {
        if is_authority(key) {
            authority = Some(value.to_string());
            continue;
        }
        options.push(HeaderValueOption {
            header: Some(HeaderValue {
                key: key.to_string(),
                value: value.to_string(),
                ..HeaderValue::default()
            }),
            append_action: action.into(),
            ..HeaderValueOption::default()
        });
    }
    (options, authority)
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name == ":authority"
}
