//! Changes to headers and queries, by filter and by route.

use std::collections::BTreeMap;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, StatusCode, Uri};
use malla_proxy_config::headers::{AppendAction, HeaderText};
use malla_proxy_config::http_filter::{
    FilterOverride, HeaderEdit, HeaderMutation, Mutations, QueryEdit,
};
use malla_proxy_config::request::split_path;

use super::query::decoded;
use crate::http::exchange::Exchange;
use crate::http::rewrite;
use crate::http::selected::Selected;
use crate::telemetry::access_log;
use crate::upstream::Upstreams;

/// Changes a request: first as the filter says, then as each level of routing does.
pub(super) fn request<U: Upstreams>(
    x: &mut Exchange<U>,
    config: &HeaderMutation,
    selected: Option<&Selected>,
    name: &str,
) {
    mutate_request(x, &config.mutations);
    for mutations in levels(config, selected, name) {
        mutate_request(x, mutations);
    }
}

/// Changes an answer, likewise.
pub(super) fn response<U: Upstreams>(
    x: &Exchange<U>,
    config: &HeaderMutation,
    selected: Option<&Selected>,
    name: &str,
    headers: &mut HeaderMap,
) {
    let status = x.observer.record().status.unwrap_or(StatusCode::OK);
    let all = std::iter::once(&config.mutations).chain(levels(config, selected, name));
    for edit in all.flat_map(|mutations| &mutations.response) {
        match edit {
            HeaderEdit::Add(add) => {
                rewrite::add_headers(x, std::slice::from_ref(add), status, headers);
            }
            edit => remove(headers, edit),
        }
    }
}

/// True if something that is added to answers is not always the same.
pub(super) fn reads_request(
    config: &HeaderMutation,
    selected: Option<&Selected>,
    name: &str,
) -> bool {
    let all = std::iter::once(&config.mutations).chain(levels(config, selected, name));
    let reads = |edit: &HeaderEdit| match edit {
        HeaderEdit::Add(add) => matches!(add.value, HeaderText::Format(_)),
        HeaderEdit::Remove(_) | HeaderEdit::RemoveMatching(_) => false,
    };
    all.flat_map(|mutations| &mutations.response).any(reads)
}

/// What routing says, in the order it applies.
fn levels<'s>(
    config: &HeaderMutation,
    selected: Option<&'s Selected>,
    name: &str,
) -> Vec<&'s Mutations> {
    let Some(selected) = selected else {
        return Vec::new();
    };
    // From the most specific on, which then has the first word.
    let mut out: Vec<&Mutations> = selected
        .per_filter_levels(name)
        .filter_map(|level| match level {
            FilterOverride::HeaderMutation(mutations) => Some(&**mutations),
            _ => None,
        })
        .collect();
    if config.most_specific_wins {
        out.reverse();
    }
    out
}

fn mutate_request<U: Upstreams>(x: &mut Exchange<U>, mutations: &Mutations) {
    for edit in &mutations.request {
        match edit {
            HeaderEdit::Add(add) => rewrite::add_request_headers(x, std::slice::from_ref(add)),
            edit => remove(&mut x.head.headers, edit),
        }
    }
    if !mutations.query.is_empty() {
        mutate_query(x, &mutations.query);
    }
}

/// Takes away what the edit names, if it takes away.
pub(crate) fn remove(headers: &mut HeaderMap, edit: &HeaderEdit) {
    match edit {
        HeaderEdit::Remove(name) => {
            headers.remove(name);
        }
        HeaderEdit::RemoveMatching(matcher) => {
            let names = headers
                .keys()
                .filter(|name| **name != http::header::HOST && matcher.is_match(name.as_str()));
            let names: Vec<HeaderName> = names.cloned().collect();
            for name in names {
                headers.remove(name);
            }
        }
        HeaderEdit::Add(_) => {}
    }
}

/// Parameters as they are written, by their decoded names, as Envoy sorts them.
type Query = BTreeMap<String, Vec<String>>;

fn mutate_query<U: Upstreams>(x: &mut Exchange<U>, edits: &[QueryEdit]) {
    let Some(whole) = x.head.uri.path_and_query().cloned() else {
        return;
    };
    let mut query = Query::new();
    for pair in x.view().query().split('&').filter(|pair| !pair.is_empty()) {
        // Those that nobody changes stay as they were sent.
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let values = query.entry(decoded(name).into_owned()).or_default();
        values.push(format!("{name}={value}"));
    }
    for edit in edits {
        let (name, value, action) = match edit {
            QueryEdit::Remove(name) => {
                query.remove(name);
                continue;
            }
            QueryEdit::Add {
                name,
                value,
                action,
            } => (name, value, *action),
        };
        let mut out = Vec::new();
        access_log::write_text(value, &x.source(), b"", &mut out);
        let value = written(name, &String::from_utf8_lossy(&out));
        match (action, query.get_mut(name)) {
            (AppendAction::Overwrite | AppendAction::OverwriteIfExists, Some(values)) => {
                *values = vec![value];
            }
            (AppendAction::Append, Some(values)) => values.push(value),
            (AppendAction::AddIfAbsent, Some(_)) | (AppendAction::OverwriteIfExists, None) => {}
            (_, None) => {
                query.insert(name.clone(), vec![value]);
            }
        }
    }
    let path = split_path(whole.as_str()).0;
    let mut text = path.to_owned();
    for (index, pair) in query.values().flatten().enumerate() {
        text.push(if index == 0 { '?' } else { '&' });
        text.push_str(pair);
    }
    if let Ok(path) = PathAndQuery::from_maybe_shared(bytes::Bytes::from(text)) {
        x.head.uri = Uri::from(path.clone());
        x.record().path = Some(path);
    }
}

fn written(name: &str, value: &str) -> String {
    let mut out = String::new();
    encode(name, &mut out);
    out.push('=');
    encode(value, &mut out);
    out
}

/// Percent-encodes all but what RFC 3986 leaves unreserved.
fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
}
