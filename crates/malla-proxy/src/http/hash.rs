//! The hash of a request for ring hash and Maglev: Envoy's policies, Envoy's xxHash64, so both proxies agree.

use std::borrow::Cow;

use http::HeaderValue;
use malla_proxy_config::cluster::{BalancePolicy, Cluster};
use malla_proxy_config::format::Field;
use malla_proxy_config::request::{RequestView, text};
use malla_proxy_config::route::hash::{HashCookie, HashOver, HashPolicy};
use xxhash_rust::xxh64::xxh64;

use crate::connection::Connection;

/// The hash, and a `set-cookie` for the client where a cookie had to be made.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Hashed {
    pub(super) hash: Option<u64>,
    pub(super) cookie: Option<HeaderValue>,
}

/// True if the cluster looks at hashes at all.
pub(super) fn wanted(cluster: &Cluster) -> bool {
    matches!(
        cluster.balance.policy,
        BalancePolicy::RingHash { .. } | BalancePolicy::Maglev { .. }
    )
}

/// Combines the policies in order: each hash is mixed into the rotated one before.
pub(super) fn of(
    policies: &[HashPolicy],
    request: &RequestView<'_>,
    connection: &Connection,
) -> Hashed {
    let mut out = Hashed::default();
    for policy in policies {
        let hash = match &policy.over {
            HashOver::Header(field, rewrite) => header(field, request).map(|value| {
                let value = rewrite.as_ref().map_or(Cow::Borrowed(&*value), |rewrite| {
                    rewrite.replace_all(&value)
                });
                xxh64(value.as_bytes(), 0)
            }),
            HashOver::Cookie(cookie) => match request
                .cookie(&cookie.name)
                .filter(|value| !value.is_empty())
            {
                Some(value) => Some(xxh64(value.as_bytes(), 0)),
                None => cookie.ttl.map(|_| {
                    let (value, header) = make_cookie(cookie, connection);
                    out.cookie = header;
                    xxh64(value.as_bytes(), 0)
                }),
            },
            HashOver::SourceIp => source_ip(connection),
            HashOver::Query(name) => request
                .query_param(name)
                .map(|value| xxh64(value.as_bytes(), 0)),
        };
        if let Some(hash) = hash {
            out.hash = Some(out.hash.map_or(hash, |before| before.rotate_left(1) ^ hash));
            if policy.terminal {
                break;
            }
        }
    }
    out
}

/// The hash of who asks; of a Unix socket nothing is told.
pub(crate) fn source_ip(connection: &Connection) -> Option<u64> {
    let ip = connection.remote.ip()?;
    Some(xxh64(ip.to_string().as_bytes(), 0))
}

fn header<'a>(field: &Field, request: &RequestView<'a>) -> Option<Cow<'a, str>> {
    request.get(field)
}

/// The value of a new cookie is a hash of the connection's two ends, so it is the same for all its requests.
fn make_cookie(cookie: &HashCookie, connection: &Connection) -> (String, Option<HeaderValue>) {
    let ends = format!("{}{}", connection.remote, connection.local);
    let value = format!("{:016x}", xxh64(ends.as_bytes(), 0));
    let mut line = format!("{}=\"{value}\"", cookie.name);
    if let Some(ttl) = cookie.ttl.filter(|ttl| !ttl.is_zero()) {
        line.push_str(&format!("; Max-Age={}", ttl.as_secs()));
    }
    if !cookie.path.is_empty() {
        line.push_str("; Path=");
        line.push_str(&cookie.path);
    }
    for (name, value) in &cookie.attributes {
        line.push_str("; ");
        line.push_str(name);
        if !value.is_empty() {
            line.push('=');
            line.push_str(value);
        }
    }
    line.push_str("; HttpOnly");
    (value, HeaderValue::from_str(&line).ok())
}

/// The cluster a header names.
pub(super) fn cluster_name<'a>(
    request: &RequestView<'a>,
    name: &http::HeaderName,
) -> Option<&'a str> {
    request
        .headers
        .get(name)
        .map(text)
        .filter(|name| !name.is_empty())
}
