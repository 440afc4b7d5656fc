//! Parsers that only `http` uses, for `fuzz/`; compiled with `--cfg fuzzing` alone.

use std::net::IpAddr;

use bytes::Bytes;
use http::HeaderMap;
use malla_proxy_config::route::action::PathRewrite;

use super::adaptor::Adaptor;
use super::{forwarded, guard, normalise, path, rewrite};
use crate::filter::grpc_web::{Decoded, Encoded};
use crate::filter::query;

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

/// The bytes of a body in base64, cut into these pieces.
pub fn grpc_web_decoded(pieces: &[&[u8]]) -> Option<Vec<u8>> {
    adapted(&mut Decoded::default(), pieces)
}

/// A body of gRPC in base64, its messages cut into these pieces.
pub fn grpc_web_encoded(pieces: &[&[u8]]) -> Vec<u8> {
    adapted(&mut Encoded::new(true), pieces).unwrap_or_default()
}

fn adapted(adaptor: &mut dyn Adaptor, pieces: &[&[u8]]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for piece in pieces {
        out.extend(adaptor.data(Bytes::copy_from_slice(piece)).ok()?);
    }
    out.extend(adaptor.end(&mut None).ok()?);
    Some(out)
}

pub fn query_decoded(text: &str) -> String {
    query::decoded(text).into_owned()
}

pub fn cleared(bytes: &[u8], pieces: &[u8]) -> (usize, bool) {
    guard::cleared(bytes, pieces)
}

pub use crate::filter::ext_authz::decided as authz_decided;
pub use crate::filter::rate_limit::told as limiter_told;
pub use crate::transport::frames::found as http2_frames;
