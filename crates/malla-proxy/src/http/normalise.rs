//! Phase 1: makes one kind of request out of what protocols and clients send, or refuses it.
//!
//! Afterwards the target is in origin form, the authority is in `Host` alone, hop-by-hop fields are gone and the
//! forwarded-for family is set.

use http::header::{self, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Uri, Version};
use malla_proxy_config::cluster::Underscores;
use malla_proxy_config::http_manager::{EscapedSlashes, HttpManager, StripPort};
use malla_proxy_config::request::split_path;
use malla_proxy_config::route::without_port;

use super::error::ProxyError;
use super::exchange::Exchange;
use super::guard::is_authority_byte;
use super::{forwarded, path};
use crate::upstream::Upstreams;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

pub(super) fn normalise<U: Upstreams>(x: &mut Exchange<U>) -> Result<(), ProxyError> {
    let manager = std::rc::Rc::clone(&x.cx.manager);
    let config = &*manager.config;
    check_version(x, config)?;
    limit_headers(x, config)?;
    take_authority(x, config)?;
    underscores(&mut x.head.headers, config.common.underscores)?;
    normalise_path(x, config)?;
    normalise_host(x, config);
    hop_by_hop(&mut x.head.headers, x.upgrade.is_some());
    forwarded::mutate(x, config);
    let path = x.head.uri.path_and_query().cloned();
    x.record().path = path;
    Ok(())
}

/// HTTP/1.0 is answered 426 unless configured.
fn check_version<U: Upstreams>(
    x: &mut Exchange<U>,
    config: &HttpManager,
) -> Result<(), ProxyError> {
    if x.head.version != Version::HTTP_10 && x.head.version != Version::HTTP_09 {
        return Ok(());
    }
    if !config.http1.accept_http_10 {
        return Err(ProxyError::LowVersion);
    }
    if let Some(host) = &config.http1.default_host_for_http_10
        && !x.head.headers.contains_key(header::HOST)
        && let Ok(host) = HeaderValue::from_str(host)
    {
        x.head.headers.insert(header::HOST, host);
    }
    Ok(())
}

/// Fields of the head; its bytes were limited by the codec.
fn limit_headers<U: Upstreams>(
    x: &mut Exchange<U>,
    config: &HttpManager,
) -> Result<(), ProxyError> {
    if x.head.headers.len() > config.common.max_headers as usize {
        x.cx.manager.stats.downstream_rq_too_large.inc();
        return Err(ProxyError::HeadersTooLarge);
    }
    Ok(())
}

/// The authority from an absolute target or `:authority` beats `Host` (RFC 9112 §3.2.2, RFC 9113 §8.3.1).
fn take_authority<U: Upstreams>(
    x: &mut Exchange<U>,
    config: &HttpManager,
) -> Result<(), ProxyError> {
    let http1 = x.head.version != Version::HTTP_2;
    if !http1 {
        join_cookies(&mut x.head.headers);
        match x.head.uri.scheme_str() {
            Some("https") => x.record().scheme = "https",
            Some(_) => x.record().scheme = "http",
            None => {}
        }
    }
    // Whoever is behind might take the other one.
    if x.head.headers.get_all(header::HOST).iter().nth(1).is_some() {
        return Err(ProxyError::InvalidHost);
    }
    if let Some(authority) = x.head.uri.authority() {
        let connect = x.head.method == Method::CONNECT;
        if http1 && !connect && !config.http1.allow_absolute_url {
            return Err(ProxyError::AbsolutePath);
        }
        if !http1 && authority.as_str().contains('@') {
            return Err(ProxyError::InvalidHost);
        }
        // Userinfo never travels on.
        let host = authority
            .as_str()
            .rsplit_once('@')
            .map_or(authority.as_str(), |(_, host)| host);
        let host = HeaderValue::from_str(host).map_err(|_| ProxyError::InvalidHost)?;
        x.head.headers.insert(header::HOST, host);
        if !connect || x.head.uri.path_and_query().is_some() {
            let path = x
                .head
                .uri
                .path_and_query()
                .cloned()
                .unwrap_or_else(|| PathAndQuery::from_static("/"));
            x.head.uri = if connect && x.head.extensions.get::<hyper::ext::Protocol>().is_none() {
                Uri::default()
            } else {
                Uri::from(path)
            };
        }
    }
    match x.head.headers.get(header::HOST) {
        None => Err(ProxyError::MissingHost),
        Some(host) if !host.as_bytes().iter().all(|byte| is_authority_byte(*byte)) => {
            Err(ProxyError::InvalidHost)
        }
        Some(_) => Ok(()),
    }
}

/// HTTP/2 may cut the cookie into several fields; anything behind it may not know that (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else {
        return;
    };
    let all = [first, second].into_iter().chain(crumbs);
    let joined = all
        .map(HeaderValue::as_bytes)
        .collect::<Vec<_>>()
        .join(&b"; "[..]);
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, joined);
    }
}

fn underscores(headers: &mut HeaderMap, action: Underscores) -> Result<(), ProxyError> {
    if action == Underscores::Allow {
        return Ok(());
    }
    let with: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().contains('_'))
        .cloned()
        .collect();
    if !with.is_empty() && action == Underscores::Reject {
        return Err(ProxyError::Underscore);
    }
    for name in with {
        headers.remove(name);
    }
    Ok(())
}

fn normalise_path<U: Upstreams>(
    x: &mut Exchange<U>,
    config: &HttpManager,
) -> Result<(), ProxyError> {
    if x.head.method == Method::CONNECT && x.head.extensions.get::<hyper::ext::Protocol>().is_none()
    {
        return Ok(());
    }
    let full = x.head.uri.path_and_query().map_or("", PathAndQuery::as_str);
    if !full.starts_with('/') {
        x.cx.manager.stats.downstream_rq_non_relative_path.inc();
        return Err(ProxyError::AbsolutePath);
    }
    let wanted = &config.normalise;
    if !wanted.path && !wanted.merge_slashes && wanted.escaped_slashes == EscapedSlashes::Keep {
        return Ok(());
    }
    let (path, query) = split_path(full);
    let mut redirect = false;
    let mut now = std::borrow::Cow::Borrowed(path);
    if wanted.escaped_slashes != EscapedSlashes::Keep
        && let Some(unescaped) = path::unescape_slashes(path)
    {
        if wanted.escaped_slashes == EscapedSlashes::Reject {
            let read = format!("{unescaped}{query}");
            x.record().path = PathAndQuery::try_from(read).ok();
            return bad_path(x);
        }
        redirect = wanted.escaped_slashes == EscapedSlashes::Redirect;
        now = unescaped.into();
    }
    if wanted.path {
        match path::canonical(&now) {
            Some(canonical) => now = canonical.into_owned().into(),
            None => return bad_path(x),
        }
    }
    if wanted.merge_slashes {
        now = path::merge_slashes(&now).into_owned().into();
    }
    if *now == *path {
        return Ok(());
    }
    let target = format!("{now}{query}");
    if redirect {
        x.record().path = PathAndQuery::try_from(target.as_str()).ok();
        if x.grpc {
            return bad_path(x);
        }
        x.cx.manager
            .stats
            .downstream_rq_redirected_with_normalized_path
            .inc();
        let location = HeaderValue::from_str(&target).map_err(|_| ProxyError::BadPath)?;
        return Err(ProxyError::PathRedirect { location });
    }
    match PathAndQuery::from_maybe_shared(bytes::Bytes::from(target)) {
        Ok(target) => {
            x.head.uri = Uri::from(target);
            Ok(())
        }
        Err(_) => bad_path(x),
    }
}

fn bad_path<U: Upstreams, T>(x: &Exchange<U>) -> Result<T, ProxyError> {
    x.cx.manager
        .stats
        .downstream_rq_failed_path_normalization
        .inc();
    Err(ProxyError::BadPath)
}

fn normalise_host<U: Upstreams>(x: &mut Exchange<U>, config: &HttpManager) {
    let wanted = &config.normalise;
    if wanted.strip_port == StripPort::Never && !wanted.strip_trailing_dot {
        return;
    }
    let Some(host) = x
        .head
        .headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
    else {
        return;
    };
    let bare = without_port(host);
    let port = host.get(bare.len()..).unwrap_or("");
    let own = x.cx.connection.local.port().map(|port| port.to_string());
    let keep_port = match wanted.strip_port {
        StripPort::Never => true,
        StripPort::Matching => own.is_none() || port.strip_prefix(':') != own.as_deref(),
        StripPort::Any => x.head.method == Method::CONNECT,
    };
    let bare = if wanted.strip_trailing_dot {
        bare.strip_suffix('.').unwrap_or(bare)
    } else {
        bare
    };
    let now = format!("{bare}{}", if keep_port { port } else { "" });
    if now != host
        && let Ok(now) = HeaderValue::from_str(&now)
    {
        x.head.headers.insert(header::HOST, now);
    }
}

/// Removes what concerns one connection only (RFC 9110 §7.6.1): the listed fields and those `Connection` names.
pub(super) fn hop_by_hop(headers: &mut HeaderMap, upgrade: bool) {
    // One look at the names there are beats a look-up of each there could be.
    if !headers.keys().any(concerns_one_hop) {
        return;
    }
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .filter(|name: &HeaderName| may_be_named(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
        if !upgrade {
            headers.remove(header::CONNECTION);
        }
    }
    if !upgrade {
        headers.remove(header::UPGRADE);
    }
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(HTTP2_SETTINGS);
    if let Some(te) = headers.get(header::TE) {
        let trailers = te.to_str().is_ok_and(|te| {
            te.split(',')
                .any(|word| word.trim().eq_ignore_ascii_case("trailers"))
        });
        if trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(header::TE);
        }
    }
}

fn concerns_one_hop(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION | header::TE | header::TRANSFER_ENCODING | header::UPGRADE
    ) || matches!(
        name.as_str(),
        "keep-alive" | "proxy-connection" | "http2-settings"
    )
}

/// `Connection` must not take away what routing and identity rest on.
fn may_be_named(name: &HeaderName) -> bool {
    !matches!(
        name.as_str(),
        "connection"
            | "upgrade"
            | "host"
            | "te"
            | "content-length"
            | "authorization"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-proto"
            | "x-forwarded-client-cert"
            | "x-request-id"
    ) && !name.as_str().starts_with("x-envoy-")
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::hop_by_hop;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| (name.parse().unwrap(), value.parse().unwrap());
        pairs
            .iter()
            .map(pair)
            .collect::<Vec<(http::HeaderName, http::HeaderValue)>>()
            .into_iter()
            .collect()
    }

    #[test]
    fn hop_by_hop_fields_stay_on_their_hop() {
        let mut map = headers(&[
            ("connection", "close, x-mine, x-forwarded-for"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip, trailers"),
            ("upgrade", "websocket"),
            ("x-mine", "1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-other", "2"),
        ]);
        hop_by_hop(&mut map, false);
        let mut left: Vec<_> = map.keys().map(|name| name.as_str()).collect();
        left.sort_unstable();
        assert_eq!(left, ["te", "x-forwarded-for", "x-other"]);
        assert_eq!(map["te"], "trailers");
    }
}
