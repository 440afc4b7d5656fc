//! Who the client is: `x-forwarded-for`, `x-forwarded-proto`, client certificate, internal or external, request id.
//!
//! The rules are Envoy's `ConnectionManagerUtility::mutateRequestHeaders`, in its order.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use http::Version;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use malla_proxy_config::http_manager::{ClientCertMode, HttpManager, RemoteAddress};
use malla_proxy_config::request::text;

use super::exchange::Exchange;
use crate::connection::{Connection, End};
use crate::telemetry::trace::decide::{Reason, set_reason};
use crate::upstream::Upstreams;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// How the client spoke, by the word of a trusted peer or our own.
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const ENVOY_INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
const ENVOY_EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");
/// Name of the header that ties logs together.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What only trusted peers may say; removed from external requests.
const INTERNAL_ONLY: [&str; 14] = [
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-ip-tags",
    "x-envoy-original-url",
    "x-envoy-hedge-on-per-try-timeout",
];
const EDGE_ONLY: [&str; 5] = [
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-original-host",
    "x-envoy-original-path",
];

/// Sets the family of headers and the record's view of the client.
pub(super) fn mutate<U: Upstreams>(x: &mut Exchange<U>, config: &HttpManager) {
    let connection = Rc::clone(&x.cx.connection);
    let local = x.cx.worker.process.local_address;
    let headers = &mut x.head.headers;
    let (remote, may_be_internal) = client(headers, &connection, &config.remote);
    if config.remote.use_connection
        && !config.remote.skip_append
        && let Some(peer) = connection.remote.ip()
    {
        append_forwarded_for(headers, peer, local);
    }
    let tls = connection.tls.is_some();
    let trusted = !config.remote.use_connection || config.remote.trusted_hops > 0;
    if !trusted || !headers.contains_key(&FORWARDED_PROTO) {
        headers.insert(
            FORWARDED_PROTO,
            HeaderValue::from_static(if tls { "https" } else { "http" }),
        );
    }
    if config.append_forwarded_port
        && (!trusted || !headers.contains_key(&FORWARDED_PORT))
        && let Some(port) = connection.local.port()
    {
        headers.insert(FORWARDED_PORT, HeaderValue::from(port));
    }
    if x.head.version != Version::HTTP_2 {
        // HTTP/1 does not say; HTTP/2 did.
        x.observer.record_mut().scheme =
            match headers.get(&FORWARDED_PROTO).map(HeaderValue::as_bytes) {
                Some(b"https") => "https",
                Some(b"http") => "http",
                _ if tls => "https",
                _ => "http",
            };
    }
    if let Some(scheme) = config.scheme_overwrite {
        x.observer.record_mut().scheme = scheme;
    }
    x.internal = may_be_internal
        && remote
            .ip()
            .is_some_and(|ip| is_internal(ip, &config.remote));
    let edge = !x.internal && config.remote.use_connection;
    let headers = &mut x.head.headers;
    // What a client writes here is never believed.
    if headers.contains_key(&ENVOY_INTERNAL) {
        headers.remove(&ENVOY_INTERNAL);
    }
    if x.internal {
        headers.insert(ENVOY_INTERNAL, HeaderValue::from_static("true"));
    } else {
        remove_untrusted(headers, edge);
    }
    if edge
        && let Some(ip) = remote.ip()
        && let Ok(address) = HeaderValue::from_str(&ip.to_string())
    {
        headers.insert(ENVOY_EXTERNAL_ADDRESS, address);
    }
    if let Some(via) = &config.via {
        headers.append(http::header::VIA, via.clone());
    }
    if !config.proxy_100_continue {
        // Answered here, as soon as the body is wanted.
        let expected = headers.get(http::header::EXPECT);
        if expected.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
            headers.remove(http::header::EXPECT);
        }
    }
    request_id(headers, config, edge);
    client_cert(headers, &connection, config);
    x.observer.record_mut().remote = remote;
}

/// The client's address, and whether the request may count as internal at all.
fn client(headers: &HeaderMap, connection: &Connection, config: &RemoteAddress) -> (End, bool) {
    let peer = || connection.remote.clone();
    if config.use_connection {
        let single = !headers.contains_key(&FORWARDED_FOR);
        let from_header = match config.trusted_hops.checked_sub(1) {
            Some(skip) => last_forwarded(headers, skip).map(|(address, _)| address),
            None => None,
        };
        return (from_header.map_or_else(peer, End::Ip), single);
    }
    match last_forwarded(headers, config.trusted_hops) {
        Some((address, single)) => (End::Ip(address), single),
        None => (peer(), false),
    }
}

/// The address `skip` places from the right of `x-forwarded-for`, and whether it is the only one.
pub(super) fn last_forwarded(headers: &HeaderMap, skip: u32) -> Option<(SocketAddr, bool)> {
    let mut values = headers.get_all(&FORWARDED_FOR).iter();
    let first = values.next()?;
    let joined;
    let all = match values.next() {
        None => text(first),
        Some(second) => {
            let rest = [first, second].into_iter().chain(values).map(text);
            joined = rest.collect::<Vec<_>>().join(",");
            &joined
        }
    };
    let single = !all.contains(',');
    let wanted = all.rsplit(',').nth(skip as usize)?.trim();
    let address = wanted
        .parse()
        .map(|ip| SocketAddr::new(ip, 0))
        .or_else(|_| wanted.parse());
    address.ok().map(|address| (address, single))
}

/// Appends `peer`, or `local` in its stead where the peer is on this very host.
pub(super) fn append_forwarded_for(headers: &mut HeaderMap, peer: IpAddr, local: Option<IpAddr>) {
    let peer = if peer.is_loopback() {
        local.unwrap_or(peer)
    } else {
        peer
    };
    let value = match headers.get(&FORWARDED_FOR) {
        None => peer.to_string(),
        Some(_) => {
            let so_far: Vec<&str> = headers.get_all(&FORWARDED_FOR).iter().map(text).collect();
            format!("{},{peer}", so_far.join(","))
        }
    };
    if let Ok(value) = HeaderValue::from_str(&value) {
        headers.insert(FORWARDED_FOR, value);
    }
}

/// Nobody is, unless configured (Envoy's default since its 1.33).
fn is_internal(address: IpAddr, config: &RemoteAddress) -> bool {
    match (&config.internal, address) {
        (Some(ranges), address) => ranges.iter().any(|range| range.contains(&address)),
        (None, _) => false,
    }
}

fn remove_untrusted(headers: &mut HeaderMap, edge: bool) {
    // One pass over the names there are beats a look-up of every name there could be.
    if !headers
        .keys()
        .any(|name| name.as_str().starts_with("x-envoy-"))
    {
        return;
    }
    for name in INTERNAL_ONLY {
        headers.remove(name);
    }
    if edge {
        for name in EDGE_ONLY {
            headers.remove(name);
        }
    }
}

fn request_id(headers: &mut HeaderMap, config: &HttpManager, edge: bool) {
    if !config.request_id.generate {
        return;
    }
    let replace = edge && !config.request_id.preserve_external;
    if !replace && headers.contains_key(&REQUEST_ID) {
        if edge && config.request_id.packs_trace_reason {
            // Outsiders do not decide what is traced.
            set_reason(headers, Reason::NotTraceable);
        }
        return;
    }
    let mut buffer = uuid::Uuid::encode_buffer();
    let id = uuid::Uuid::new_v4();
    if let Ok(value) = HeaderValue::from_str(id.hyphenated().encode_lower(&mut buffer)) {
        headers.insert(REQUEST_ID, value);
    }
}

/// `x-forwarded-client-cert`.
fn client_cert(headers: &mut HeaderMap, connection: &Connection, config: &HttpManager) {
    let wanted = &config.client_cert;
    if wanted.mode == ClientCertMode::AlwaysForwardOnly {
        return;
    }
    let tls = connection.tls.as_ref();
    let Some((tls, peer)) = tls.and_then(|tls| Some((tls, tls.peer.as_ref()?))) else {
        headers.remove(&FORWARDED_CLIENT_CERT);
        return;
    };
    match wanted.mode {
        ClientCertMode::Sanitize => {
            headers.remove(&FORWARDED_CLIENT_CERT);
            return;
        }
        ClientCertMode::ForwardOnly | ClientCertMode::AlwaysForwardOnly => return,
        ClientCertMode::AppendForward | ClientCertMode::SanitizeSet => {}
    }
    let mut fields: Vec<String> = tls
        .local_uri_sans
        .iter()
        .map(|san| format!("By={san}"))
        .collect();
    if !peer.sha256.is_empty() {
        fields.push(format!("Hash={}", peer.sha256));
    }
    if wanted.cert && !peer.pem.is_empty() {
        fields.push(format!("Cert=\"{}\"", peer.pem));
    }
    if wanted.chain && !peer.chain_pem.is_empty() {
        fields.push(format!("Chain=\"{}\"", peer.chain_pem));
    }
    if wanted.subject {
        fields.push(format!("Subject=\"{}\"", peer.subject));
    }
    if wanted.uri {
        if peer.uri_sans.is_empty() {
            fields.push("URI=".into());
        }
        fields.extend(peer.uri_sans.iter().map(|san| format!("URI={san}")));
    }
    if wanted.dns {
        fields.extend(peer.dns_sans.iter().map(|san| format!("DNS={san}")));
    }
    let mut value = fields.join(";");
    if wanted.mode == ClientCertMode::AppendForward {
        let before: Vec<&str> = headers
            .get_all(&FORWARDED_CLIENT_CERT)
            .iter()
            .map(text)
            .collect();
        if !before.is_empty() {
            value = format!("{},{value}", before.join(","));
        }
    }
    if let Ok(value) = HeaderValue::from_str(&value) {
        headers.insert(FORWARDED_CLIENT_CERT, value);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::{FORWARDED_FOR, append_forwarded_for, last_forwarded, remove_untrusted};

    #[test]
    fn outsiders_cannot_say_what_only_proxies_say() {
        let names = ["x-envoy-retry-on", "x-envoy-original-path", "x-other"];
        let sent =
            HeaderMap::from_iter(names.map(|name| (name.parse().unwrap(), "1".parse().unwrap())));
        let left = |edge: bool| {
            let mut headers = sent.clone();
            remove_untrusted(&mut headers, edge);
            names.map(|name| headers.contains_key(name))
        };
        assert_eq!(left(true), [false, false, true]);
        // The hop before us may have rewritten the path.
        assert_eq!(left(false), [false, true, true]);
    }

    #[test]
    fn hops_are_counted_from_the_right() {
        let mut headers = HeaderMap::new();
        headers.append(&FORWARDED_FOR, "1.1.1.1, 2.2.2.2".parse().unwrap());
        headers.append(&FORWARDED_FOR, "3.3.3.3".parse().unwrap());
        let check = |skip: u32, want: Option<(&str, bool)>| {
            let have = last_forwarded(&headers, skip)
                .map(|(address, single)| (address.ip().to_string(), single));
            assert_eq!(
                have,
                want.map(|(address, single)| (address.to_owned(), single))
            );
        };
        check(0, Some(("3.3.3.3", false)));
        check(2, Some(("1.1.1.1", false)));
        check(3, None);
    }

    #[test]
    fn the_peer_is_appended() {
        let mut headers = HeaderMap::new();
        append_forwarded_for(
            &mut headers,
            "127.0.0.1".parse().unwrap(),
            Some("10.0.0.9".parse().unwrap()),
        );
        append_forwarded_for(&mut headers, "192.168.1.1".parse().unwrap(), None);
        assert_eq!(headers[&FORWARDED_FOR], "10.0.0.9,192.168.1.1");
    }
}
