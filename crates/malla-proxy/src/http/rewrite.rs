//! Phases 4 and 6: what changes in a request before it goes upstream, and in a response before it goes back.

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{StatusCode, Uri};
use malla_proxy_config::format::Format;
use malla_proxy_config::headers::{AppendAction, HeaderAdd, HeaderEdits, HeaderText};
use malla_proxy_config::http_manager::{HttpManager, ServerHeaderMode};
use malla_proxy_config::request::split_path;
use malla_proxy_config::route::RequireTls;
use malla_proxy_config::route::action::{Action, HostRewrite, PathRewrite};
use malla_proxy_config::route::redirect::{Redirect, RedirectPath};
use smallvec::SmallVec;

use super::error::ProxyError;
use super::exchange::Exchange;
use super::forwarded::FORWARDED_PROTO;
use super::forwarded::REQUEST_ID;
use super::selected::Selected;
use crate::telemetry::access_log::{self, Source};
use crate::upstream::Upstreams;

const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Answers of the route itself: redirects and direct responses.
pub(super) fn answer_of_route<U: Upstreams>(x: &mut Exchange<U>) -> Result<(), ProxyError> {
    let Some(selected) = x.selected.clone() else {
        x.cx.manager.stats.no_route.inc();
        return Err(ProxyError::NoRoute);
    };
    // Not the scheme an HTTP/2 client writes: this header was set by us, or by a trusted proxy.
    let proto = x.head.headers.get(&FORWARDED_PROTO);
    let plain = proto.is_none_or(|proto| proto != "https");
    let must_be_tls = match selected.vhost().require_tls {
        RequireTls::None => false,
        RequireTls::ExternalOnly => !x.internal,
        RequireTls::All => true,
    };
    if plain && must_be_tls {
        x.cx.manager.stats.rq_redirect.inc();
        let target = format!("https://{}{}", x.view().authority(), x.view().path);
        let location = HeaderValue::from_str(&target).map_err(|_| ProxyError::BadPath)?;
        return Err(ProxyError::Redirect {
            status: StatusCode::MOVED_PERMANENTLY,
            location,
        });
    }
    match &selected.route().action {
        Action::Forward(_) => Ok(()),
        Action::Direct(direct) => {
            x.cx.manager.stats.rq_direct_response.inc();
            Err(ProxyError::Direct {
                status: direct.status,
                body: direct.body.clone(),
            })
        }
        Action::Redirect(redirect) => {
            x.cx.manager.stats.rq_redirect.inc();
            let location = redirect_target(x, redirect);
            let location = HeaderValue::from_str(&location).map_err(|_| ProxyError::BadPath)?;
            Err(ProxyError::Redirect {
                status: redirect.status,
                location,
            })
        }
        Action::NonForwarding => Err(ProxyError::NonForwarding),
    }
}

fn redirect_target<U: Upstreams>(x: &Exchange<U>, redirect: &Redirect) -> String {
    let view = x.view();
    let scheme = redirect.scheme.as_deref().unwrap_or(view.scheme);
    let authority = view.authority();
    let bare = malla_proxy_config::route::without_port(authority);
    let kept = authority.get(bare.len()..).unwrap_or("");
    let host = redirect.host.as_deref().unwrap_or(bare);
    let port = match redirect.port {
        Some(port) => format!(":{port}"),
        // A default port of the old scheme means nothing under the new one.
        None if redirect.scheme.is_some()
            && matches!((view.scheme, kept), ("http", ":80") | ("https", ":443")) =>
        {
            String::new()
        }
        None if redirect.host.is_some() => String::new(),
        None => kept.to_owned(),
    };
    let (path, query) = split_path(view.path);
    let query = if redirect.strip_query { "" } else { query };
    let target = match &redirect.path {
        RedirectPath::Keep => format!("{path}{query}"),
        RedirectPath::Literal(literal) if literal.contains('?') => {
            if redirect.strip_query {
                split_path(literal).0.to_owned()
            } else {
                literal.clone()
            }
        }
        RedirectPath::Literal(literal) => format!("{literal}{query}"),
        RedirectPath::Rewrite(rewrite) => {
            let whole = format!("{path}{query}");
            rewritten(rewrite, &whole).map_or(whole.clone(), Cow::into_owned)
        }
    };
    format!("{scheme}://{host}{port}{target}")
}

/// The path after a rewrite; `None` if there is none.
pub(super) fn rewritten<'a>(rewrite: &'a PathRewrite, whole: &'a str) -> Option<Cow<'a, str>> {
    let (path, query) = split_path(whole);
    match rewrite {
        PathRewrite::Keep => None,
        PathRewrite::Prefix { matched, by } => {
            let rest = path
                .get(matched.unwrap_or(path.len()).min(path.len())..)
                .unwrap_or("");
            Some(Cow::Owned(format!("{by}{rest}{query}")))
        }
        PathRewrite::Regex(replace) => {
            Some(Cow::Owned(format!("{}{query}", replace.replace_all(path))))
        }
    }
}

/// Phase 4: header edits, host and path of the route.
pub(super) fn rewrite_request<U: Upstreams>(x: &mut Exchange<U>, selected: &Selected) {
    let Some(forward) = selected.forward() else {
        return;
    };
    edit_request(x, selected);
    let weighted_host = selected.weighted().and_then(|cluster| cluster.host.clone());
    let host = match (weighted_host, &forward.host) {
        (Some(host), _) => Some(host),
        (None, HostRewrite::Literal(host)) => Some(host.clone()),
        (None, HostRewrite::Header(name)) => x.head.headers.get(name).cloned(),
        (None, HostRewrite::PathRegex(replace)) => {
            HeaderValue::from_str(&replace.replace_all(x.view().path_only())).ok()
        }
        (None, HostRewrite::Keep | HostRewrite::Auto) => None,
    };
    let insert_original = !x.cx.manager.config.router.suppress_envoy_headers;
    if let Some(host) = host.filter(|host| !host.is_empty()) {
        let old = x.head.headers.insert(header::HOST, host);
        if let Some(old) = old {
            if forward.append_forwarded_host {
                x.head.headers.append(FORWARDED_HOST, old.clone());
            }
            if insert_original && !x.head.headers.contains_key(&ORIGINAL_HOST) {
                x.head.headers.insert(ORIGINAL_HOST, old);
            }
        }
    }
    rewrite_path(x, &forward.path, insert_original);
}

fn rewrite_path<U: Upstreams>(x: &mut Exchange<U>, rewrite: &PathRewrite, insert_original: bool) {
    let Some(old) = x.head.uri.path_and_query().cloned() else {
        return;
    };
    let Some(path) = rewritten(rewrite, old.as_str()) else {
        return;
    };
    let Ok(path) = PathAndQuery::from_maybe_shared(bytes::Bytes::from(path.into_owned())) else {
        return;
    };
    x.head.uri = Uri::from(path.clone());
    if insert_original
        && !x.head.headers.contains_key(&ORIGINAL_PATH)
        && let Ok(value) = HeaderValue::from_str(old.as_str())
    {
        x.head.headers.insert(ORIGINAL_PATH, value);
    }
    let record = x.record();
    record.path = Some(path);
    record.original_path = Some(old);
}

/// The levels of a route in the order their edits apply.
fn levels<'s>(
    selected: &'s Selected,
    pick: impl Fn(Level<'s>) -> &'s HeaderEdits,
) -> Vec<&'s HeaderEdits> {
    let mut out: Vec<&HeaderEdits> = vec![
        pick(Level::Config(selected)),
        pick(Level::Vhost(selected)),
        pick(Level::Route(selected)),
    ];
    if !selected.config().most_specific_wins {
        out.reverse();
    }
    if let Some(cluster) = selected.weighted() {
        out.insert(0, pick(Level::Weighted(cluster)));
    }
    out.retain(|edits| !edits.is_empty());
    out
}

enum Level<'s> {
    Config(&'s Selected),
    Vhost(&'s Selected),
    Route(&'s Selected),
    Weighted(&'s malla_proxy_config::route::action::WeightedCluster),
}

impl<'s> Level<'s> {
    fn request(self) -> &'s HeaderEdits {
        match self {
            Self::Config(selected) => &selected.config().request_headers,
            Self::Vhost(selected) => &selected.vhost().request_headers,
            Self::Route(selected) => &selected.route().request_headers,
            Self::Weighted(cluster) => &cluster.request_headers,
        }
    }

    fn response(self) -> &'s HeaderEdits {
        match self {
            Self::Config(selected) => &selected.config().response_headers,
            Self::Vhost(selected) => &selected.vhost().response_headers,
            Self::Route(selected) => &selected.route().response_headers,
            Self::Weighted(cluster) => &cluster.response_headers,
        }
    }
}

/// True if no level of the route edits headers: the common case, checked without allocating.
fn nothing_to_edit(selected: &Selected, pick: impl Fn(Level<'_>) -> bool) -> bool {
    pick(Level::Config(selected))
        && pick(Level::Vhost(selected))
        && pick(Level::Route(selected))
        && selected
            .weighted()
            .is_none_or(|cluster| pick(Level::Weighted(cluster)))
}

fn edit_request<U: Upstreams>(x: &mut Exchange<U>, selected: &Selected) {
    if nothing_to_edit(selected, |level| level.request().is_empty()) {
        return;
    }
    for edits in levels(selected, Level::request) {
        for name in &edits.remove {
            x.head.headers.remove(name);
        }
        add_request_headers(x, &edits.add);
    }
}

/// Adds headers to the request.
pub(crate) fn add_request_headers<U: Upstreams>(x: &mut Exchange<U>, list: &[HeaderAdd]) {
    let headers = &x.head.headers;
    let edits = list.iter().filter_map(|add| {
        Edit::of(headers, add, |format| {
            access_log::header_value(format, &x.source())
        })
    });
    let edits: SmallVec<[Edit<'_>; 4]> = edits.collect();
    put(&mut x.head.headers, edits);
}

/// Edits of the response by the route.
pub(super) fn edit_response<U: Upstreams>(
    x: &Exchange<U>,
    selected: &Selected,
    status: StatusCode,
    headers: &mut HeaderMap,
) {
    if nothing_to_edit(selected, |level| level.response().is_empty()) {
        return;
    }
    for edits in levels(selected, Level::response) {
        for name in &edits.remove {
            headers.remove(name);
        }
        add_headers(x, &edits.add, status, headers);
    }
}

/// Adds headers to a response.
pub(crate) fn add_headers<U: Upstreams>(
    x: &Exchange<U>,
    list: &[HeaderAdd],
    status: StatusCode,
    headers: &mut HeaderMap,
) {
    edit(headers, list, |headers, format| {
        let source = Source {
            record: x.observer.record(),
            environment: &x.cx.worker.process.environment,
            request: None,
            response: Some((headers, status)),
        };
        access_log::header_value(format, &source)
    });
}

/// Adds headers whose formats `value` fills in; it sees the headers as they are before all of these.
pub(crate) fn edit<'a>(
    headers: &mut HeaderMap,
    list: impl IntoIterator<Item = &'a HeaderAdd>,
    value: impl Fn(&HeaderMap, &Format) -> Option<HeaderValue>,
) {
    let before = &*headers;
    let list = list.into_iter();
    let edits = list.filter_map(|add| Edit::of(before, add, |format| value(before, format)));
    let edits: SmallVec<[Edit<'_>; 4]> = edits.collect();
    put(headers, edits);
}

/// One header of a list that is to be added.
struct Edit<'a> {
    name: &'a HeaderName,
    value: HeaderValue,
    replaces: bool,
}

impl<'a> Edit<'a> {
    /// What comes of `add`, given the headers as they are before the whole list.
    fn of(
        headers: &HeaderMap,
        add: &'a HeaderAdd,
        value: impl FnOnce(&Format) -> Option<HeaderValue>,
    ) -> Option<Self> {
        let is_there = headers.contains_key(&add.name);
        let replaces = match add.action {
            // There is one authority, whatever the wish.
            AppendAction::Append => add.name == header::HOST,
            AppendAction::AddIfAbsent if is_there => return None,
            AppendAction::AddIfAbsent => false,
            AppendAction::Overwrite => true,
            AppendAction::OverwriteIfExists if is_there => true,
            AppendAction::OverwriteIfExists => return None,
        };
        let value = match &add.value {
            HeaderText::Fixed(value) => Some(value.clone()),
            HeaderText::Format(format) => value(format),
        };
        let value = value.filter(|value| add.keep_empty || !value.is_empty())?;
        Some(Self {
            name: &add.name,
            value,
            replaces,
        })
    }
}

/// What replaces comes before what is added, as in Envoy.
fn put(headers: &mut HeaderMap, edits: SmallVec<[Edit<'_>; 4]>) {
    let (first, then): (Vec<_>, Vec<_>) = edits.into_iter().partition(|edit| edit.replaces);
    for edit in first {
        headers.insert(edit.name.clone(), edit.value);
    }
    for edit in then {
        headers.append(edit.name.clone(), edit.value);
    }
}

/// What the connection manager says on every answer.
pub(super) fn manager_headers(
    headers: &mut HeaderMap,
    config: &HttpManager,
    request_id: Option<HeaderValue>,
) {
    match config.server.mode {
        ServerHeaderMode::Overwrite => {
            headers.insert(header::SERVER, config.server.name.clone());
        }
        ServerHeaderMode::AppendIfAbsent => {
            headers
                .entry(header::SERVER)
                .or_insert_with(|| config.server.name.clone());
        }
        ServerHeaderMode::PassThrough => {}
    }
    if let Some(via) = &config.via {
        headers.append(header::VIA, via.clone());
    }
    if config.request_id.in_response
        && let Some(id) = request_id
    {
        headers.insert(REQUEST_ID, id);
    }
}
