//! Parsers that only `http` uses, for `fuzz/`; compiled with `--cfg fuzzing` alone.

use std::net::IpAddr;

use http::HeaderMap;
use malla_proxy_config::route::action::PathRewrite;

use super::{forwarded, normalise, path, rewrite};

pub fn canonical(text: &str) -> Option<String> {
    path::canonical(text).map(std::borrow::Cow::into_owned)
}

pub fn merge_slashes(text: &str) -> String {
    path::merge_slashes(text).into_owned()
}

pub fn unescape_slashes(text: &str) -> Option<String> {
    path::unescape_slashes(text)
}

pub fn rewritten(rewrite: &PathRewrite, target: &str) -> Option<String> {
    rewrite::rewritten(rewrite, target).map(std::borrow::Cow::into_owned)
}

pub fn last_forwarded(headers: &HeaderMap, skip: u32) -> Option<IpAddr> {
    forwarded::last_forwarded(headers, skip).map(|(address, _)| address.ip())
}

pub fn append_forwarded_for(headers: &mut HeaderMap, peer: IpAddr) {
    forwarded::append_forwarded_for(headers, peer, None);
}

pub fn hop_by_hop(headers: &mut HeaderMap, upgrade: bool) {
    normalise::hop_by_hop(headers, upgrade);
}
