//! What a request counts against, by the entries of its route and virtual host.

use std::borrow::Cow;
use std::net::IpAddr;

use ipnet::IpNet;
use malla_proxy_config::format::Field;
use malla_proxy_config::metadata::{Metadata, Value};
use malla_proxy_config::rate_limit::action::Action;
use malla_proxy_config::rate_limit::{
    DescriptorEntry, HitCount, LimitOverride, RateLimit, RateLimits, VhostLimits,
};
use malla_proxy_config::request::{RequestView, text};
use malla_proxy_config::route::action::Target;
use malla_xds_proto::envoy_type::RateLimitUnit;

use crate::http::exchange::Exchange;
use crate::policy::limiter::Descriptor;
use crate::telemetry::access_log;
use crate::upstream::Upstreams;

/// The most hits that a format may come to.
const MOST_HITS: u64 = 1_000_000_000;

/// Which entries count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Which {
    /// Those of this stage; `None` is all.
    pub(super) stage: Option<u32>,
    /// Those that a runtime key can switch off do not.
    pub(super) without_disable_key: bool,
    /// With what they say of hits and of headers, which Envoy reads in filters alone.
    pub(super) in_full: bool,
}

/// Those of a request's route and virtual host.
pub(super) fn of_route<U: Upstreams>(
    x: &Exchange<U>,
    which: Which,
    vhost: VhostLimits,
) -> Vec<Descriptor> {
    let mut out = Vec::new();
    let Some(selected) = x.selected.as_deref() else {
        return out;
    };
    let Some(forward) = selected.forward() else {
        return out;
    };
    gather(x, &forward.rate_limits, which, &mut out);
    let vhost = match forward.include_vhost_rate_limits {
        true => VhostLimits::Include,
        false => vhost,
    };
    let also = match vhost {
        VhostLimits::Ignore => false,
        VhostLimits::Include => true,
        VhostLimits::Override => forward.rate_limits.is_empty(),
    };
    if also {
        gather(x, &selected.vhost().rate_limits, which, &mut out);
    }
    out
}

/// Those that some entries make.
pub(super) fn gather<U: Upstreams>(
    x: &Exchange<U>,
    limits: &RateLimits,
    which: Which,
    out: &mut Vec<Descriptor>,
) {
    let counts = |limit: &&RateLimit| {
        which.stage.is_none_or(|stage| stage == limit.stage)
            && !(which.without_disable_key && limit.has_disable_key)
    };
    out.extend(
        limits
            .0
            .iter()
            .filter(counts)
            .filter_map(|limit| make(x, limit, which.in_full)),
    );
}

fn make<U: Upstreams>(x: &Exchange<U>, limit: &RateLimit, in_full: bool) -> Option<Descriptor> {
    let view = x.view();
    let mut entries = Vec::with_capacity(limit.actions.len());
    for action in &limit.actions {
        if let Some(entry) = entry(x, &view, action)? {
            entries.push(entry);
        }
    }
    if entries.is_empty() {
        return None;
    }
    let hits = limit.hits.as_ref().filter(|_| in_full);
    Some(Descriptor {
        entries,
        limit: limit.limit.as_ref().and_then(|limit| override_of(x, limit)),
        hits: hits.and_then(|hits| match &hits.count {
            HitCount::Fixed(count) => Some(*count),
            HitCount::Format(format) => {
                let mut out = Vec::new();
                access_log::write_text(format, &x.source(), b"", &mut out);
                let count: Option<u64> = std::str::from_utf8(&out).ok()?.trim().parse().ok();
                count.filter(|count| *count <= MOST_HITS)
            }
        }),
        negative: hits.is_some_and(|hits| hits.negative),
        headers: limit.headers.filter(|_| in_full),
    })
}

fn dynamic<U: Upstreams>(x: &Exchange<U>) -> Option<&Metadata> {
    let state = x.observer.record().state.as_deref();
    state.map(|state| &state.metadata)
}

fn override_of<U: Upstreams>(x: &Exchange<U>, limit: &LimitOverride) -> Option<(u32, i32)> {
    match limit {
        LimitOverride::Fixed { requests, unit } => Some((*requests, *unit)),
        LimitOverride::Metadata(path) => {
            let Value::Object(fields) = path.find(dynamic(x)?)? else {
                return None;
            };
            match (fields.get("requests_per_unit")?, fields.get("unit")?) {
                (Value::Number(requests), Value::String(unit)) => {
                    let unit = RateLimitUnit::from_str_name(unit)?;
                    // Out of range becomes the nearest that is in it.
                    Some((*requests as u32, unit as i32))
                }
                _ => None,
            }
        }
    }
}

/// What one action adds: `Some(None)` is nothing, `None` gives the descriptor up.
fn entry<U: Upstreams>(
    x: &Exchange<U>,
    view: &RequestView<'_>,
    action: &Action,
) -> Option<Option<DescriptorEntry>> {
    let some = |key: &str, value: Cow<'_, str>| {
        Some(Some(DescriptorEntry {
            key: key.to_owned(),
            value: value.into_owned(),
        }))
    };
    let skip = |skip_if_absent: bool| skip_if_absent.then_some(None);
    // A client of a Unix socket has none, and so no such descriptor.
    let remote = x.observer.record().remote.ip();
    match action {
        Action::SourceCluster => some(
            "source_cluster",
            Cow::Borrowed(&*x.cx.worker.process.node.cluster),
        ),
        Action::DestinationCluster => some("destination_cluster", destination(x)?),
        Action::RequestHeader {
            name,
            key,
            skip_if_absent,
        } => match header(view, name) {
            Some(value) => some(key, value),
            None => skip(*skip_if_absent),
        },
        Action::QueryParameter {
            name,
            key,
            skip_if_absent,
        } => match view.query_param(name) {
            Some(value) => some(key, super::query::decoded(value)),
            None => skip(*skip_if_absent),
        },
        Action::RemoteAddress => some("remote_address", Cow::Owned(remote?.to_string())),
        Action::MaskedRemoteAddress { v4, v6 } => {
            let remote = remote?;
            let length = match remote {
                IpAddr::V4(_) => *v4,
                IpAddr::V6(_) => *v6,
            };
            let network = IpNet::new(remote, length).ok()?.trunc();
            some("masked_remote_address", Cow::Owned(network.to_string()))
        }
        Action::GenericKey { key, value } => some(key, Cow::Borrowed(value)),
        Action::HeaderMatch {
            key,
            value,
            expect,
            headers,
        } => match headers.iter().all(|matcher| matcher.is_match(view)) == *expect {
            true => some(key, Cow::Borrowed(value)),
            false => None,
        },
        Action::QueryMatch {
            key,
            value,
            expect,
            parameters,
        } => match parameters.iter().all(|matcher| matcher.is_match(view)) == *expect {
            true => some(key, Cow::Borrowed(value)),
            false => None,
        },
        Action::AddressMatch {
            key,
            value,
            ranges,
            invert,
        } => match is_within(ranges, remote) != *invert {
            true => some(key, Cow::Borrowed(value)),
            false => None,
        },
        Action::Metadata {
            key,
            path,
            of_route,
            default,
            skip_if_absent,
        } => {
            let metadata = match of_route {
                true => x.selected.as_ref().map(|it| &it.route().metadata),
                false => dynamic(x),
            };
            match metadata.and_then(|metadata| path.find(metadata)) {
                Some(Value::String(value)) if !value.is_empty() => some(key, Cow::Borrowed(value)),
                _ if !default.is_empty() => some(key, Cow::Borrowed(default)),
                _ => skip(*skip_if_absent),
            }
        }
    }
}

/// The first line of a header, or a pseudo-header.
fn header<'v>(view: &RequestView<'v>, name: &Field) -> Option<Cow<'v, str>> {
    match name {
        Field::Header(name) => view
            .headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes())),
        field => view.get(field),
    }
}

/// The cluster that the route names, whether or not it is there.
fn destination<U: Upstreams>(x: &Exchange<U>) -> Option<Cow<'_, str>> {
    let record = x.observer.record();
    if let Some(cluster) = &record.cluster {
        return Some(Cow::Borrowed(&*cluster.name));
    }
    let selected = x.selected.as_deref()?;
    let of_header = |name| {
        x.head
            .headers
            .get(name)
            .map(|value| Cow::Borrowed(text(value)))
    };
    match &selected.forward()?.target {
        Target::Cluster(name) => Some(Cow::Borrowed(&**name)),
        Target::Header(name) => of_header(name),
        Target::Weighted(_) => match &selected.weighted()?.cluster {
            Ok(name) => Some(Cow::Borrowed(&**name)),
            Err(name) => of_header(name),
        },
    }
}
fn is_within(ranges: &[IpNet], remote: Option<IpAddr>) -> bool {
    remote.is_some_and(|ip| ranges.iter().any(|range| range.contains(&ip)))
}
